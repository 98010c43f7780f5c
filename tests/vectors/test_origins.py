"""Origins: pairs of strings for each id, in two bytes."""

import pickle

from embkeras import Vocabulary
from embkeras.vectors.origins import EXACT, Origins

VOCABULARY = Vocabulary(["", "[UNK]", "cat", "Dog", "cow"])


def _some():
    origins = Origins(VOCABULARY)
    origins.mark([False, True, True, False, False], EXACT)
    origins.spelled(3, "dog", "lower")
    return origins


def test_is_a_sequence_of_pairs():
    """Special ids stay special, and what is not said is out of the vocabulary."""
    pairs = (("", "special"), ("", "special"), ("cat", "exact"), ("dog", "lower"), ("", "oov"))
    origins = _some()
    assert tuple(origins) == origins[:] == pairs and origins == pairs and list(reversed(origins)) == [*reversed(pairs)]
    assert (origins[-2], len(origins)) == (("dog", "lower"), 5)
    assert pickle.loads(pickle.dumps(origins)) == pairs


def test_others_differ():
    """In a pair, in length, and from what is no sequence."""
    assert _some() == _some() != Origins(VOCABULARY)
    assert _some() != tuple(_some())[:4] and _some() != "abcde" and _some() != 5
    for size, word in (([True] * 5, "subwords"), ([3], "title")):
        other = _some()
        other.mark(size, word)
        assert other != _some()
