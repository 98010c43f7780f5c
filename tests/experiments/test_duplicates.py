"""duplicates: texts that repeat an earlier one, exactly or nearly."""

import numpy as np
import pytest

from embkeras.experiments import duplicates as module
from embkeras.experiments.duplicates import duplicates

LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz "))


def _texts(count, length=120, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(row) for row in rng.choice(LETTERS, (count, length))]


def _found(texts, parts=None, near=0.8):
    table = duplicates(texts, parts or [0] * len(texts), near)
    return table[["text", "of", "exact"]].values.tolist()


def _resemblance(one, other):
    one, other = ({text[at : at + 5] for at in range(len(text) - 4)} for text in (one, other))
    return len(one & other) / len(one | other)


@pytest.mark.parametrize("again", ["the CAT", " the\tcat\n", "the cat ", "\uff54he cat"])
def test_case_white_space_and_forms_of_unicode_do_not_count(again):
    """Such texts are exact duplicates."""
    assert _found(["a dog", "the cat", again]) == [[2, 1, True]]


@pytest.mark.parametrize("other", ["good :(", "", "\U0001f600", "god :)", "dog"])
def test_other_short_texts_are_no_duplicates(other):
    """A mark, an emoji or a letter is a difference, and an empty text no copy of another."""
    assert _found(["good :)", other]) == []


def test_empty_and_short_texts_repeat_themselves():
    """Texts shorter than a shingle are compared as a whole."""
    assert _found(["", "ab", "", "ab"]) == [[2, 0, True], [3, 1, True]]
    assert _found([]) == []


def test_half_a_surrogate_pair_is_a_character():
    """Such texts are refused elsewhere; here they do no harm."""
    assert _found(["\ud83d text", "\ud83d text"]) == [[1, 0, True]]


def test_resemblance_is_the_share_of_common_shingles():
    """The estimate is near what counting finds, over texts that share a half to all."""
    texts, kept = _texts(1, 1000)[0], range(500, 1000, 50)
    pairs = [(texts, texts[:count] + other) for count, other in zip(kept, _texts(10, 400, seed=1), strict=True)]
    hashes = module._hashes([text for pair in pairs for text in pair])
    errors = [(hashes[2 * row] == hashes[2 * row + 1]).mean() - _resemblance(*pair) for row, pair in enumerate(pairs)]
    assert np.abs(errors).max() < 0.13 and abs(np.mean(errors)) < 0.04


def test_near_duplicates_are_found_and_no_others():
    """Each of 300 texts with a character changed is found beside its original, in blocks smaller than all texts."""
    texts = _texts(300)
    changed = [f"{text[:60]}!{text[61:]}" for text in texts]
    assert _found(texts + changed) == [[row + 300, row, False] for row in range(300)]
    assert _found(texts + changed, near=0.99) == []


def test_near_of_1_is_the_same_shingles():
    """Texts that differ only in how often a shingle occurs."""
    assert _found(["ha" * 10, "ha" * 11, "ho" * 10], near=1) == [[1, 0, False]]


def test_best_of_each_earlier_part_is_named():
    """An exact copy goes before a near one, and the earliest before a later; a leak is seen beside a copy in its own part."""
    text = _texts(1)[0]
    near = text[:-1] + "!"
    table = duplicates([near, text, text, "x", text, text], [0, 0, 0, 1, 1, 2], 0.8)
    rows = table[["text", "of", "of_part", "exact"]].values.tolist()
    assert rows == [
        [1, 0, 0, False],
        [2, 1, 0, True],
        [4, 1, 0, True],
        [5, 1, 0, True],
        [5, 4, 1, True],
    ]


def test_everyone_in_a_large_group_is_found():
    """Near-duplicates of one another, many more than each is compared with: each finds one, and the leaks are found."""
    text = _texts(1, 200)[0]
    group = [f"{text}{number:03}" for number in range(400)]
    table = duplicates(group, [0] * 200 + [1] * 200, 0.8)
    assert set(table["text"]) == set(range(1, 400))
    assert set(table[table["of_part"] == 0]["text"]) == set(range(1, 400))


def test_shingles_stay_inside_their_text():
    """The hashes of a text don't depend on the texts hashed beside it."""
    texts = ["", "a", "abcde", "abcdef", *_texts(3, 20)]
    together = module._hashes(texts)
    for text, hashes in zip(texts, together, strict=True):
        assert module._hashes([text])[0].tolist() == hashes.tolist()
