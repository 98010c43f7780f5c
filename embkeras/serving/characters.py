"""What BERT's normalizer and pre-tokenizer make of each character of Unicode: a table that is asked from the library itself.

Both read a text character by character, with one exception: decomposition (NFD) sorts neighbouring combining marks by their
class. So a table of characters, with a rank for each such mark, says all, and no rule of Unicode is written twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

LETTER, MARK, SPACE, NOTHING = range(4)  # part of a word, a word of its own, between words, removed
POINTS = 0x110000
_REMOVED = "\ud800"  # stands for a removed character that separates combining marks; no text contains it
_BLOCK = 4096  # characters in one call of the library
_BETWEEN = "0"  # no other character becomes it, and it combines with none
_LOWEST, _HIGHEST = "\u0334", "\u0345"  # marks of the first and of the last combining class
_EMPTY = range(0x40000, 0xE0000)  # planes without any character: every 251st is asked


@dataclass(frozen=True, eq=False)
class Characters:
    """What a character becomes: `counts[c]` results from `starts[c]` on.

    Attributes:
        starts: int64, (POINTS,).
        counts: int64, (POINTS,).
        points: the results as code points, int64.
        kinds: of each result: LETTER, MARK, SPACE or NOTHING.
        ranks: of each result: above 0 for a combining mark; of neighbouring ones, the lower rank comes first.
    """

    starts: np.ndarray
    counts: np.ndarray
    points: np.ndarray
    kinds: np.ndarray
    ranks: np.ndarray


@lru_cache(maxsize=4)
def characters(
    clean_text: bool, handle_chinese_chars: bool, strip_accents: bool, lowercase: bool
) -> tuple[Characters | None, str | None]:
    """The characters after `BertNormalizer` with these settings, by the kinds of `BertPreTokenizer`; or None and why not."""
    asked = [*range(0xD800), *range(0xE000, _EMPTY.start), *_EMPTY[::251], *range(_EMPTY.stop, POINTS)]
    known = [chr(point) for point in asked]
    settings = clean_text, handle_chinese_chars, strip_accents, lowercase
    whole = _asked(_normalizer(*settings), known)
    results, ranks = whole, np.zeros(POINTS, np.int64)
    if strip_accents:  # decomposed, sorted, marks removed, lowercase: step by step
        cleaned = _asked(_normalizer(clean_text, handle_chinese_chars, False, False), known)
        apart = _asked(_library().normalizers.NFD().normalize_str, cleaned)
        single = list(set().union(*apart))
        kept = dict(zip(single, _asked(_normalizer(False, False, True, lowercase), single), strict=True))
        combining = _combining(single)
        marks = _ranks([mark for mark in combining if kept[mark]])
        ranks[[ord(mark) for mark in marks]] = list(marks.values())
        results = list(whole)
        for place, text in enumerate(apart):
            if text == known[place] == whole[place]:
                continue
            if "".join(map(kept.__getitem__, text)) != whole[place]:
                return None, f"its normalizer doesn't read U+{ord(known[place]):04X} by itself"
            results[place] = "".join(kept[each] or ("" if each in combining else _REMOVED) for each in text)
        changed = [each for each in single if kept[each] not in ("", each)]
        if wrong := [each for each in changed if each in marks or set(kept[each]) & marks.keys()]:
            return None, f"its normalizer changes the combining mark U+{ord(wrong[0]):04X}"
    kinds = _kinds(known)
    if any(
        whole[place] != known[place] or kinds[point] != LETTER for place, point in enumerate(asked) if point in _EMPTY
    ):
        return None, "its normalizer changes characters that don't exist"
    kinds[_EMPTY] = LETTER
    counts = np.zeros(POINTS, np.int64)
    counts[_EMPTY] = 1
    counts[asked] = np.fromiter(map(len, results), np.int64, len(results))
    start, stop = (np.searchsorted(asked, end) for end in (_EMPTY.start, _EMPTY.stop))
    results = [*results[:start], *map(chr, _EMPTY), *results[stop:]]
    points = np.frombuffer("".join(results).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    return Characters(np.cumsum(counts) - counts, counts, points, kinds[points], ranks[points]), None


def _asked(normalize: Callable[[str], str], texts: Sequence[str]) -> list[str]:
    """What each text becomes alone; many are asked at once, with a character between them."""
    found: list[str] = []
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        results = normalize(_BETWEEN.join(block)).split(_BETWEEN)
        found += results if len(results) == len(block) else map(normalize, block)
    return found


def _combining(single: Sequence[str]) -> set[str]:
    """The combining marks: those that are sorted between the lowest and the highest of them."""
    normalize = _library().normalizers.NFD().normalize_str
    asked = [f"{_HIGHEST}{each}{_LOWEST}" for each in single]
    return {each for each, text, result in zip(single, asked, _asked(normalize, asked), strict=True) if text != result}


def _ranks(marks: Sequence[str]) -> dict[str, int]:
    """Each mark's class, as its place among them, from 1: there are 55 at most."""
    normalize = _library().normalizers.NFD().normalize_str
    lower = {mark: sum(normalize(mark + other) != mark + other for other in marks) for mark in marks}
    order = sorted(set(lower.values()))
    return {mark: 1 + order.index(count) for mark, count in lower.items()}


def _kinds(known: Sequence[str]) -> np.ndarray:
    """The kind of every code point: whether the pre-tokenizer keeps it in a word, makes it one, or drops it."""
    split = _library().pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    kinds = np.full(POINTS, NOTHING)
    for start in range(0, len(known), _BLOCK):
        block = known[start : start + _BLOCK]
        found = np.full(2 * len(block) + 1, SPACE)
        for _, (begin, end) in split(f"{_BETWEEN}{_BETWEEN.join(block)}{_BETWEEN}"):
            found[begin:end] = LETTER if end - begin > 1 or begin % 2 == 0 else MARK
        kinds[[ord(each) for each in block]] = found[1::2]
    return kinds


def _normalizer(*settings: bool) -> Callable[[str], str]:
    return _library().normalizers.BertNormalizer(*settings).normalize_str


def _library() -> Any:
    import tokenizers  # the tokenizer whose settings are asked was made by it

    return tokenizers
