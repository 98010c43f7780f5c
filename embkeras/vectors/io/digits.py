"""Decimal numbers in a buffer of bytes, thousands at once, each equal to what float() reads.

Nearly every number in a file of vectors looks like ``-0.41942``: an optional minus, one digit, a point, some digits.
These are parsed here with a few NumPy operations over all of them. So are integers of up to eight digits, and numbers with
more digits or an exponent, as ``-4.194199979305267334e-01``, which NumPy writes. What is left (an exponent of three digits,
text that is not a number) is called odd: its index is returned, and float() parses it.

How the digits after the point become a number, with the example ``0.41942``:

1. The eight bytes that end where the number ends are taken as one 64-bit integer: ``?0.41942``. On a little-endian
   machine the first byte is the lowest and the last digit is the highest.
2. XOR with "00000000" turns each digit into its value, 0 to 9. The three bytes before the digits are set to 0:
   ``0 0 0 4 1 9 4 2``. A byte that is above 9 now was not a digit.
3. Neighbours are joined in all lanes at once. In each 16-bit lane, first + 256 * second, multiplied by 2561 = 10 * 256 + 1,
   has 10 * first + second in its upper byte; shifted down, this gives ``00 04 19 42``. The same in 32-bit lanes with
   100 * 2**16 + 1 gives ``0004 1942``, and in the 64-bit lane with 10000 * 2**32 + 1 gives ``41942``.
4. With more than eight digits, the previous eight bytes are treated the same way, times 10**8.

The value is (digit * 10**k + fraction) / 10**k for k digits after the point. Below 2**53 an integer is exact in float64,
and so is 10**k up to k = 22, so the one division rounds once and gives the same as float() (Clinger 1990, How to Read
Floating Point Numbers Accurately). Joining digits in lanes is described in Lemire 2021, Number Parsing at a Gigabyte per
Second. The tests compare with float().

With more digits or an exponent, several operations round, and the result is a few units of 2**-53 off. That changes no
float32 unless the number is that close to the middle between two of them, one number in millions; such numbers are odd too.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

MARGIN = 64  # bytes that the buffer must have before the first number and after the last
_MOST = 16  # digits after the point: two groups of eight
_EXACT = 2.0**53
_MINUS, _POINT, _ZERO = ord("-"), ord("."), ord("0")
# 10**k, followed by -10**k
_SIGNED_POWERS = np.array([sign * 10.0**k for sign in (1, -1) for k in range(_MOST + 1)])
_POWERS = np.array([float(f"1e{k}") for k in range(-99, 100)])
_EXPONENT, _PLUS = ord("e"), ord("+")
_LONGEST = 24  # digits after the point: three groups of eight
_NEAR = 64  # units of 2**-53: more than the operations of `_long` are off
_FEW = 256  # numbers that are left to float() rather than to another way of reading
# For each type: the bits that it drops from float64, and the sizes between which it drops only these.
_DROPPED = {"float32": (29, 2.0**-126, 2.0**127), "float16": (42, 2.0**-14, 2.0**15)}
# _LAST[k] keeps the last k of eight bytes: the upper ones.
_LAST = np.array([(1 << 64) - (1 << 8 * (8 - k)) for k in range(9)], np.uint64)
_ZEROS = np.uint64(0x3030303030303030)
_TO_HIGH_BIT = np.uint64(0x7676767676767676)  # 10 + 0x76 = 0x80: added to a byte above 9, it sets the high bit
_HIGH_BITS = np.uint64(0x8080808080808080)
# Lane, factor and shift of the three joinings of step 3. The types keep NumPy from widening the lanes.
_JOININGS = [
    (np.uint16, np.uint16(10 * 2**8 + 1), np.uint16(8)),
    (np.uint32, np.uint32(100 * 2**16 + 1), np.uint32(16)),
    (np.uint64, np.uint64(10000 * 2**32 + 1), np.uint64(32)),
]
# The types of the scratch arrays. Some memory is used under several names, one after the other.
_SCRATCH = {
    "begin word value": (np.int64, np.int64, np.float64),
    "count": (np.int64,),
    "shift power": (np.uint64, np.float64),
    "low": (np.uint64,),
    "high": (np.uint64,),
    "sign": (np.uint8,),
    "digit": (np.uint8,),
    "other": (np.uint8,),
}


class Digits:
    """Parses numbers in one buffer. It reuses its scratch arrays, so only one thread at a time may use it.

    Args:
        buffer: uint8, of a length that is a multiple of 8. Its contents may change between calls.

    Examples:
        >>> buffer = np.zeros(192, np.uint8)
        >>> buffer[64:76] = list(b"-0.418 1e-05")
        >>> values, odd = Digits(buffer).values(np.array([64, 71]), np.array([70, 76]))
        >>> values[0].item(), odd
        (-0.418, array([1]))
    """

    def __init__(self, buffer: np.ndarray):
        self._bytes = buffer
        self._words = buffer.view(np.uint64)
        self._scratch = _scratch(0)
        self._usual = 0  # the way in which most numbers of the last call were read

    def values(self, starts: np.ndarray, stops: np.ndarray, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        """The numbers at [start, stop) of the buffer, at least MARGIN from its ends.

        Args:
            starts: int64, the first byte of each number.
            stops: int64 of the same length, the byte after each.
            dtype: the type they are for, "float32" or "float16".

        Returns:
            float64 values, overwritten by the next call, and the indices of the odd ones, whose values are meaningless. In
            `dtype`, the others are what float() reads.
        """
        if sys.byteorder != "little":  # the lanes would be reversed
            return np.zeros(len(starts)), np.arange(len(starts))
        ways: list[Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]
        ways = [self._short, self._integers, lambda starts, stops: self._long(starts, stops, dtype)]
        ways.insert(0, ways.pop(self._usual))  # most blocks of a file are alike
        order = [self._usual, *(way for way in range(len(ways)) if way != self._usual)]
        values, odd = ways[0](starts, stops)
        most = len(starts) - len(odd)
        for number, way in zip(order[1:], ways[1:], strict=True):
            if len(odd) <= _FEW:
                break
            values = values.copy() if values.base is not None else values
            found, left = way(starts[odd], stops[odd])
            values[odd] = found
            if len(odd) - len(left) > most:
                most, self._usual = len(odd) - len(left), number
            odd = odd[left]
        return values, odd

    def _short(self, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`values` of numbers with one digit before the point and at most 16 after it, which are exact."""
        scratch = self._sized(len(starts))
        begin, count, sign, digit, other = (scratch[name] for name in ("begin", "count", "sign", "digit", "other"))
        # begin: the digit before the point. count: the digits after it.
        np.take(self._bytes, starts, out=other, mode="clip")
        np.equal(other, _MINUS, out=sign.view(bool))
        np.add(starts, sign, out=begin)
        np.take(self._bytes, begin, out=digit, mode="clip")
        digit -= np.uint8(_ZERO)  # wraps around, so characters below "0" are above 9 too
        np.take(self._bytes[1:], begin, out=other, mode="clip")
        np.subtract(stops, begin, out=count)
        count -= 2
        odd = (count < 1) | (count > _MOST) | (digit > 9) | (other != _POINT)
        if odd.any():
            count[odd] = 1  # a valid index into the tables below; the result is not used
        fractions = self._fractions(stops, count, odd)
        # value = (digit * 10**count + fraction) / 10**count, where the last 10**count has the sign.
        sign *= np.uint8(_MOST + 1)
        count += sign
        value, power = scratch["value"], scratch["power"]
        np.take(_SIGNED_POWERS, count, out=power, mode="clip")
        np.abs(power, out=value)
        value *= digit
        value += fractions
        odd |= value >= _EXACT
        value /= power
        return value, np.flatnonzero(odd)

    def _integers(self, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`values` of integers of at most eight digits, which are exact."""
        scratch = self._sized(len(starts))
        count, sign, digit = (scratch[name] for name in ("count", "sign", "digit"))
        np.take(self._bytes, starts, out=digit, mode="clip")
        np.equal(digit, _MINUS, out=sign.view(bool))
        np.subtract(stops, starts, out=count)
        if count.max(initial=1) == 1:  # such as a matrix of zeros and ones
            digit -= np.uint8(_ZERO)
            return digit.astype(np.float64), np.flatnonzero((digit > 9) | (count < 1))
        count -= sign
        odd = (count < 1) | (count > 8)
        numbers, wrong = self._last_eight(stops, count)
        if wrong is not None:
            odd |= wrong
        values = numbers.astype(np.float64)
        values *= 1.0 - 2.0 * sign
        return values, np.flatnonzero(odd)

    def _long(self, starts: np.ndarray, stops: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """`values` of numbers with many digits or an exponent of two digits, near enough for `dtype`."""
        self._sized(len(starts))
        negative = np.take(self._bytes, starts, mode="clip") == _MINUS
        begin = starts + negative
        tail = self._eight_before(stops)
        scaled = (tail[:, 4] | 0x20) == _EXPONENT
        ends = stops - 4 * scaled
        point, odd = self._points(begin, ends)
        count = np.maximum(ends - point - 1, 0)
        odd |= count > _LONGEST
        whole = point - begin
        if whole.max(initial=1) == 1:
            first = np.take(self._bytes, begin, mode="clip") - np.uint8(_ZERO)
            odd |= first > 9
            values = first.astype(np.float64)
        else:
            integers, wrong = self._last_eight(point, whole)
            odd |= False if wrong is None else wrong
            values = integers.astype(np.float64)
        if count.min(initial=_LONGEST) == count.max(initial=0):  # a table or a constant is looked up once then
            count = count[0]
        for place in (0, 8, 16):  # groups of eight digits after the point, from the first on
            here = np.clip(count - place, 0, 8)
            if not np.any(here):
                break
            digits, wrong = self._last_eight(point + (1 + place + here), here)
            odd |= False if wrong is None else wrong
            values += digits / _POWERS.take(99 + place + here)
        if scaled.any():
            minus, tens, ones = tail[:, 5] == _MINUS, tail[:, 6] - np.uint8(_ZERO), tail[:, 7] - np.uint8(_ZERO)
            odd |= scaled & ((tens > 9) | (ones > 9) | ~(minus | (tail[:, 5] == _PLUS)))
            exponent = (np.minimum(tens * np.uint8(10) + ones, np.uint8(99)) * scaled).astype(np.int16)
            exponent *= np.int16(1) - np.int16(2) * minus
            exponent += np.int16(99)
            values *= _POWERS.take(exponent, mode="clip")
        values *= 1.0 - 2.0 * negative
        odd |= _undecided(values, dtype)
        return values, np.flatnonzero(odd)

    def _points(self, begin: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the point of each number is, or its end if it has none; and which have it where none can be."""
        point = begin + 1
        there = np.take(self._bytes, point, mode="clip") == _POINT
        if there.all():
            return point, point >= ends
        for _ in range(7):  # up to eight digits before it
            later = np.flatnonzero(~there & (point < ends))
            if not len(later):
                break
            point[later] += 1
            there[later] = self._bytes[point[later]] == _POINT
        return point, (point > ends) | (~there & (point < ends))

    def _eight_before(self, stops: np.ndarray) -> np.ndarray:
        """The eight bytes before each stop, (numbers, 8)."""
        place, shift = stops >> 3, ((stops & 7) << 3).view(np.uint64)
        high = np.take(self._words, place, mode="clip") << (np.uint64(64) - shift)
        high |= np.take(self._words, place - 1, mode="clip") >> shift
        return high.view(np.uint8).reshape(-1, 8)

    def _fractions(self, stops: np.ndarray, count: np.ndarray, odd: np.ndarray) -> np.ndarray:
        """The `count` (1 to 16) digits that end at `stops`, as int64; `odd` is set where one of them is not a digit."""
        fractions, wrong = self._last_eight(stops, count)
        if wrong is not None:
            odd |= wrong
        long = np.flatnonzero(count > 8)
        if len(long):
            kept = fractions.copy()  # the scratch array is reused
            upper, wrong = self._last_eight(stops[long] - 8, count[long] - 8)
            kept[long] += upper * 10**8
            if wrong is not None:
                odd[long[wrong]] = True
            return kept
        return fractions

    def _last_eight(self, stops: np.ndarray, count: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """The last `count` bytes, at most eight, before `stops`, as numbers; and which of them contain a non-digit.

        The count is an array, or one number for all.
        """
        word, shift, low, high = (self._scratch[name][: len(stops)] for name in ("word", "shift", "low", "high"))
        # Step 1. The eight bytes span two aligned words: the upper end of the previous one and the lower end of this one.
        np.right_shift(stops, 3, out=word)
        np.take(self._words, word, out=high, mode="clip")
        word -= 1
        np.take(self._words, word, out=low, mode="clip")
        np.bitwise_and(stops, 7, out=shift.view(np.int64))
        shift <<= np.uint64(3)
        low >>= shift
        np.subtract(np.uint64(64), shift, out=shift)
        high <<= shift  # by 64 gives 0 in NumPy, as it should where the eight bytes are one aligned word
        low |= high
        # Step 2. `clip` reduces counts above eight to eight.
        low ^= _ZEROS
        if np.ndim(count):
            np.take(_LAST, count, out=high, mode="clip")
            low &= high
        else:
            low &= _LAST[count]
        np.add(low, _TO_HIGH_BIT, out=high)
        high |= low
        high &= _HIGH_BITS
        wrong = high != 0 if np.bitwise_or.reduce(high) else None
        # Step 3.
        for lane, factor, by in _JOININGS:
            lanes = low.view(lane)
            lanes *= factor
            lanes >>= by
        return low.view(np.int64), wrong

    def _sized(self, count: int) -> dict[str, np.ndarray]:
        """The scratch arrays for `count` numbers; they grow and never shrink."""
        if len(self._scratch["begin"]) < count:
            self._scratch = {}
            self._scratch = _scratch(count + count // 8)
        return {name: array[:count] for name, array in self._scratch.items()}


def _undecided(values: np.ndarray, dtype: str) -> np.ndarray:
    """Which values are so near to the middle between two numbers of a type that the last bits decide."""
    dropped, least, most = _DROPPED[dtype]
    off = (values.view(np.int64) & ((1 << dropped) - 1)) - (1 << dropped - 1)
    sizes = np.abs(values)
    return (np.abs(off) < _NEAR) | ((sizes < least) & (sizes > 0)) | (sizes > most)


def _scratch(size: int) -> dict[str, np.ndarray]:
    scratch: dict[str, np.ndarray] = {}
    for names, types in _SCRATCH.items():
        shared = np.empty(size, types[0])
        scratch |= {name: shared.view(kind) for name, kind in zip(names.split(), types, strict=True)}
    return scratch
