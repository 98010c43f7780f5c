"""The hash with which Keras chooses among several OOV ids, in plain Python, so that `encode` needs no TensorFlow.

`StringLookup(num_oov_indices=k)` hashes an unknown token with `tf.strings.to_hash_bucket_fast`, which is FarmHash's
Fingerprint64 modulo k. Its authors guarantee that a fingerprint never changes: it is the same on every machine and in
every version. With `salt=` the layer uses another hash (SipHash), which is not implemented here.
"""

# The constants and rotations below are those of FarmHash (G. Pike, https://github.com/google/farmhash, farmhashna).
_K0, _K1, _K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F
_SEED = 81
_MASK = (1 << 64) - 1
_State = tuple[int, int, int, tuple[int, int], tuple[int, int]]


def hash_bucket(token: str, buckets: int) -> int:
    """The bucket, from 0 to `buckets` - 1, into which Keras hashes a token.

    Examples:
        >>> hash_bucket("bird", 10), hash_bucket("oiseau", 10)
        (2, 3)
    """
    return fingerprint64(token.encode("utf-8")) % buckets


def fingerprint64(data: bytes) -> int:
    """FarmHash's Fingerprint64 of some bytes, from 0 to 2**64 - 1."""
    if len(data) <= 16:
        return _up_to_16(data)
    if len(data) <= 32:
        factor = _K2 + len(data) * 2
        return _mix(*_halves(data, _word(data, 0) * _K1, factor), factor)
    if len(data) <= 64:
        return _up_to_64(data)
    return _longer(data)


def _word(data: bytes, start: int, size: int = 8) -> int:
    """`size` bytes as a little-endian number; `start` may count from the end."""
    start = start if start >= 0 else len(data) + start
    return int.from_bytes(data[start : start + size], "little")


def _rotate(value: int, bits: int) -> int:
    value &= _MASK  # sums may exceed 64 bits, and are masked where it matters
    return (value >> bits | value << 64 - bits) & _MASK


def _shift_mix(value: int) -> int:
    value &= _MASK
    return value ^ value >> 47


def _mix(first: int, second: int, factor: int) -> int:
    """Two 64-bit numbers into one."""
    mixed = _shift_mix((first ^ second) * factor)
    return _shift_mix((second ^ mixed) * factor) * factor & _MASK


def _up_to_16(data: bytes) -> int:
    size = len(data)
    factor = _K2 + size * 2
    if size >= 8:
        a, b = _word(data, 0) + _K2, _word(data, -8)
        return _mix((_rotate(b, 37) * factor + a) & _MASK, (_rotate(a, 25) + b) * factor & _MASK, factor)
    if size >= 4:
        return _mix(size + (_word(data, 0, 4) << 3), _word(data, -4, 4), factor)
    if size:
        y = data[0] + (data[size >> 1] << 8)
        z = size + (data[-1] << 2)
        return _shift_mix(y * _K2 & _MASK ^ z * _K0 & _MASK) * _K2 & _MASK
    return _K2


def _up_to_64(data: bytes) -> int:
    factor = _K2 + len(data) * 2
    a = _word(data, 0) * _K2
    y, rest = _halves(data, a, factor)
    z = _mix(y, rest, factor)
    e, f = _word(data, 16) * factor, _word(data, 24)
    g, h = (y + _word(data, -32)) * factor, (z + _word(data, -24)) * factor
    return _mix(_rotate(e + f, 43) + _rotate(g, 30) + h & _MASK, e + _rotate(f + a, 18) + g & _MASK, factor)


def _halves(data: bytes, a: int, factor: int) -> tuple[int, int]:
    """Two numbers from the first and the last 16 bytes; `a` comes from the first eight."""
    b, c, d = _word(data, 8), _word(data, -8) * factor, _word(data, -16) * _K2
    return _rotate(a + b, 43) + _rotate(c, 30) + d & _MASK, a + _rotate(b + _K2, 18) + c & _MASK


def _weak(data: bytes, start: int, a: int, b: int) -> tuple[int, int]:
    """32 bytes and two seeds into two numbers."""
    w, x, y, z = (_word(data, start + offset) for offset in (0, 8, 16, 24))
    a += w
    b = _rotate(b + a + z, 21)
    total = a + x + y
    return total + z & _MASK, b + _rotate(total, 44) + a & _MASK


def _longer(data: bytes) -> int:
    """Rounds of 64 bytes, and one more over the last 64, which may overlap the previous round."""
    last = len(data) - 1
    x, y = _SEED * _K2 + _word(data, 0), _SEED * _K1 + 113
    z = _shift_mix(y * _K2 + 113) * _K2
    v, w = (0, 0), (0, 0)
    for start in range(0, last // 64 * 64, 64):
        x, y, z, v, w = _round(data, start, (x, y, z, v, w), _K1, 1)
    factor = _K1 + ((z & 0xFF) << 1)
    w = (w[0] + (last & 63), w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    x, y, z, v, w = _round(data, len(data) - 64, (x, y, z, v, w), factor, 9)
    low = _mix(v[0], w[0], factor) + _shift_mix(y) * _K0 + z
    return _mix(low & _MASK, _mix(v[1], w[1], factor) + x & _MASK, factor)


def _round(data: bytes, start: int, state: _State, factor: int, weight: int) -> _State:
    x, y, z, v, w = state
    x = _rotate(x + y + v[0] + _word(data, start + 8), 37) * factor
    y = _rotate(y + v[1] + _word(data, start + 48), 42) * factor
    x = (x ^ w[1] * weight) & _MASK
    y = y + v[0] * weight + _word(data, start + 40) & _MASK
    z = _rotate(z + w[0], 33) * factor & _MASK
    v = _weak(data, start, v[1] * factor, x + w[0])
    w = _weak(data, start + 32, z + w[1], y + _word(data, start + 16))
    return z, y, x, v, w
