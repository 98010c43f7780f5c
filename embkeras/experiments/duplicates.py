"""Texts that occur twice, exactly or nearly: MinHash over shingles of five characters, in time linear in the texts.

Two texts resemble each other by the share of their shingles that both have (Broder 1997, On the Resemblance and Containment
of Documents). The smallest hash of a text's shingles is that of another text with this share as its probability, so 126
hashes estimate it. Pairs are looked for among texts that agree in six hashes at once.
"""

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from embkeras._progress import progress

_WIDTH = 5  # characters of a shingle
_BANDS, _ROWS = 21, 6  # a pair that resembles by 0.8 shares one of the bands in 99.8% of cases, one by 0.2 in 0.1%
_WINDOW = 8  # texts of the same band that each is compared with
_BLOCK = 1 << 15  # shingles hashed together
_MIX = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio in 64 bits, as in Knuth's multiplicative hashing


def duplicates(texts: Sequence[str], parts: Sequence[int], near: float) -> pd.DataFrame:
    """For each text and part, the text of this part that it repeats, if there is one before it.

    In a group of many near-duplicates not every pair is compared, but each text with some of the others.

    Args:
        texts: the texts.
        parts: the number of the part that each is in, in ascending order: a text is a duplicate of an earlier one.
        near: resemblance from which on two texts are near-duplicates, above 0, up to 1.

    Returns:
        `text` and `of` (places in `texts`), `of_part`, `resemblance` (0 to 1, an estimate with a standard deviation of at
        most 0.045) and `exact`: equal but for case, white space and the forms of Unicode.

    Examples:
        >>> duplicates(["A cat.", "a  CAT.", "dogs"], [0, 1, 1], 0.8)[["text", "of", "exact"]].values.tolist()
        [[1, 0, True]]
    """
    unique, distinct = pd.factorize(np.array([_normalised(text) for text in texts], object))
    pairs = _pairs(list(distinct), near)
    everyone = np.arange(len(distinct))
    both = pd.DataFrame(
        {
            "unique": np.concatenate([everyone, pairs["first"], pairs["second"]]),
            "other": np.concatenate([everyone, pairs["second"], pairs["first"]]),
            "resemblance": np.concatenate([np.ones(len(distinct)), pairs["resemblance"], pairs["resemblance"]]),
        }
    )
    both["exact"] = both["unique"] == both["other"]
    own = pd.DataFrame({"text": np.arange(len(texts)), "unique": unique, "of_part": parts})
    first = own.drop_duplicates(["unique", "of_part"]).rename(columns={"text": "of", "unique": "other"})
    found = own[["text", "unique"]].merge(both, on="unique").merge(first, on="other")
    found = found[found["of"] < found["text"]]
    # The most similar first, an exact one before a near one, then the earliest.
    found = found.sort_values(
        ["text", "of_part", "exact", "resemblance", "of"], ascending=[True, True, False, False, True]
    )
    found = found.drop_duplicates(["text", "of_part"])
    return found[["text", "of", "of_part", "resemblance", "exact"]].reset_index(drop=True)


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _pairs(texts: list[str], near: float) -> pd.DataFrame:
    """Places of near-duplicates among different texts, and their resemblance."""
    hashes = _hashes(texts)
    found = _candidates(hashes)
    first, second = found // max(len(texts), 1), found % max(len(texts), 1)
    blocks = range(0, len(found), _BLOCK)
    same = [(hashes[first[at : at + _BLOCK]] == hashes[second[at : at + _BLOCK]]).mean(axis=1) for at in blocks]
    resemblance = np.concatenate([np.zeros(0), *same])
    kept = resemblance >= near
    return pd.DataFrame({"first": first[kept], "second": second[kept], "resemblance": resemblance[kept]})


def _candidates(hashes: np.ndarray) -> np.ndarray:
    """Pairs of texts that agree in a band of hashes, as first * number of texts + second, each once."""
    texts, rng = len(hashes), np.random.default_rng(0)
    found = [np.zeros(0, np.int64)]
    for band in range(0, _BANDS * _ROWS, _ROWS):
        key = np.zeros(texts, np.uint64)
        for column in hashes.T[band : band + _ROWS]:
            key = (key ^ column) * _MIX
            key ^= key >> np.uint64(29)
        order = rng.permutation(texts)  # so that a large group is compared with others of it in each band
        order = order[np.argsort(key[order], kind="stable")]
        for step in range(1, _WINDOW + 1):
            place = np.flatnonzero(key[order[step:]] == key[order[:-step]])
            if not len(place):
                break
            one, other = order[place], order[place + step]
            found.append(np.minimum(one, other) * texts + np.maximum(one, other))
    return np.unique(np.concatenate(found))


def _hashes(texts: list[str]) -> np.ndarray:
    """For each text the smallest value of each hash function over its shingles: uint32 of shape (texts, 126)."""
    rng = np.random.default_rng(0)
    shifts, factors = rng.integers(0, 1 << 32, (2, _BANDS * _ROWS), dtype=np.uint32)
    factors |= np.uint32(1)  # odd factors lose nothing
    hashes = np.empty((len(texts), _BANDS * _ROWS), np.uint32)
    with progress("near-duplicates") as report:
        for part in _blocks(texts):
            shingles, starts = _shingles(texts[part])
            for column, (shift, factor) in enumerate(zip(shifts, factors, strict=True)):
                hashes[part, column] = np.minimum.reduceat((shingles ^ shift) * factor, starts)
            report(part.stop, len(texts))
    return hashes


def _blocks(texts: list[str]) -> Iterator[slice]:
    """Slices of texts that have about as many characters as a block together, or of one text."""
    start, size = 0, 0
    for place, text in enumerate(texts):
        if size and size + len(text) > _BLOCK:
            yield slice(start, place)
            start, size = place, 0
        size += max(len(text), _WIDTH)
    if texts:
        yield slice(start, len(texts))


def _shingles(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all shingles of some texts, uint32, and the place of the first of each text."""
    padded = [text.ljust(_WIDTH) for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    counts = np.array([len(text) for text in padded]) - _WIDTH + 1
    ends = np.cumsum(counts + _WIDTH - 1)
    value = np.zeros(len(codes) - _WIDTH + 1, np.uint64)
    for offset in range(_WIDTH):
        value = (value ^ codes[offset : offset + len(value)]) * _MIX
        value ^= value >> np.uint64(29)
    inside = np.ones(len(codes), bool)  # a shingle that begins at the end of a text would reach into the next
    for back in range(1, _WIDTH):
        inside[ends - back] = False
    return (value[inside[: len(value)]] >> np.uint64(32)).astype(np.uint32), np.cumsum(counts) - counts
