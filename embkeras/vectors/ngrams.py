"""Character n-grams as fastText cuts and hashes them, for many words at once, and the means of the rows they stand for.

The order of the n-grams and of the sums is fastText's own, so that the results equal its results bit for bit.
"""

from collections.abc import Sequence

import numpy as np

_OFFSET, _PRIME = np.uint32(2166136261), np.uint32(16777619)  # FNV-1a, 32 bits
_HASHES = 1 << 20  # worked on at once
_SUMS = 1 << 16  # numbers summed at once: 256 KB, which stay in the processor's cache
END_OF_SENTENCE = b"</s>"


def ngram_rows(
    words: Sequence[bytes], *, min_n: int, max_n: int, buckets: int, whole: bytes | None = END_OF_SENTENCE
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the n-grams of words, one an n-gram: by word, then by first character, then by length.

    A character is a byte and the bytes 0x80 to 0xBF behind it, as in UTF-8, whatever encoding the words are in.

    Args:
        words: as fastText saw them in its training text, without the marks "<" and ">".
        min_n: shortest n-gram, in characters, the marks counted.
        max_n: longest one.
        buckets: the rows are in [0, buckets).
        whole: the one word of which no n-grams are made; None for models of the first releases, which made them of all.

    Returns:
        Rows, int64 of shape (n-grams,), and how many of them belong to each word, int64 of shape (words,).
    """
    marked = [b"" if word == whole else b"<%b>" % word for word in words]
    hashed, counts, start = [np.empty(0, np.uint32)], [np.empty(0, np.int64)], 0
    while start < len(marked):
        size, stop = len(marked[start]), start + 1
        while stop < len(marked) and (size + len(marked[stop])) * max_n <= _HASHES:
            size, stop = size + len(marked[stop]), stop + 1
        some = _hashes(marked[start:stop], min_n, max_n)
        hashed.append(some[0] % np.uint32(buckets))
        counts.append(some[1])
        start = stop
    return np.concatenate(hashed).astype(np.int64), np.concatenate(counts)


def _hashes(marked: list[bytes], min_n: int, max_n: int) -> tuple[np.ndarray, np.ndarray]:
    """FNV-1a of every n-gram of the words, which carry their marks, and the number of n-grams a word."""
    text = np.frombuffer(b"".join(marked), np.uint8)
    begins = np.flatnonzero((text & 0xC0) != 0x80)  # of the characters
    widths = np.diff(begins, append=len(text))
    word = np.repeat(np.arange(len(marked)), [len(one) for one in marked])[begins]
    first, last = np.diff(word, prepend=-1) > 0, np.diff(word, append=len(marked)) > 0  # characters of their words
    ends = np.cumsum(np.bincount(word, minlength=len(marked)))[word]
    # fastText takes bytes as *signed* chars: from 128 on, the sign fills the upper 24 bits.
    signed = text.view(np.int8).astype(np.int32).view(np.uint32)
    longest = min(max_n, int(np.bincount(word).max(initial=0)))
    hashes = np.zeros((len(begins), max(0, longest - min_n + 1)), np.uint32)
    valid = np.zeros(hashes.shape, bool)
    at, value = np.arange(len(begins)), np.full(len(begins), _OFFSET)  # the n-grams that go on: first character, hash
    for length in range(1, longest + 1):
        inside = at + length <= ends[at]
        at, value = at[inside], value[inside]
        value = _with_character(value, signed, begins[at + length - 1], widths[at + length - 1])
        if length >= min_n:
            hashes[at, length - min_n] = value
            valid[at, length - min_n] = ~(first[at] | last[at]) if length == 1 else True  # a mark alone is no n-gram
    return hashes[valid], np.bincount(word, valid.sum(axis=1), minlength=len(marked)).astype(np.int64)


def _with_character(value: np.ndarray, signed: np.ndarray, begins: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The hashes with one more character each, of `widths` bytes from `begins` on."""
    value = (value ^ signed[begins]) * _PRIME
    for byte in range(1, int(widths.max(initial=0))):
        more = np.flatnonzero(widths > byte)
        value[more] = (value[more] ^ signed[begins[more] + byte]) * _PRIME
    return value


def mean_rows(matrix: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The means of groups of rows, summed in float32 and in the order given, as fastText does; zeros for an empty group.

    Args:
        matrix: (any, width), floats; may be memory-mapped.
        rows: of the matrix, group after group.
        counts: rows a group.

    Returns:
        float32 of shape (groups, width).
    """
    width = matrix.shape[1]
    means = np.zeros((len(counts), width), np.float32)
    starts = np.cumsum(counts) - counts
    order = np.argsort(-counts, kind="stable")  # the longest first: then those that go on are always the first of them
    step = max(1, _SUMS // width)
    for groups in (order[first : first + step] for first in range(0, len(order), step)):
        sums = np.zeros((len(groups), width), np.float32)
        begins, lengths = starts[groups], counts[groups]
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what is not finite is the caller's to refuse, with the place
            for i in range(int(lengths[0])):  # np.add.reduceat adds in another order, and is no faster
                left = np.count_nonzero(lengths > i)
                sums[:left] += gathered(matrix, rows[begins[:left] + i])
            means[groups] = sums * (1 / np.maximum(lengths, 1)).astype(np.float32)[:, None]
    return means


def gathered(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`matrix[rows]`. A matrix inside a file need not start at a multiple of 4 bytes; copied as bytes it is twice as fast."""
    plain = np.asarray(matrix)
    if not plain.flags.c_contiguous:
        return plain[rows]
    return plain.view(np.uint8).take(rows, axis=0).view(plain.dtype)
