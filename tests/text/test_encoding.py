"""The Encoding protocol: what turns texts into token ids."""

import pytest

from embkeras import Tokenizer, Vocabulary
from embkeras.text.encoding import Encoding


def test_vocabulary_is_an_encoding():
    """It has every member of the protocol."""
    assert isinstance(Vocabulary(["", "[UNK]", "a"], tokenizer=Tokenizer()), Encoding)


@pytest.mark.parametrize("other", [Tokenizer(), ["", "[UNK]"], None, "text"], ids=repr)
def test_other_objects_are_no_encoding(other):
    """A tokenizer alone has no ids."""
    assert not isinstance(other, Encoding)


@pytest.mark.parametrize(("oov_ids", "oov_id"), [((), None), ((1,), 1), ((2, 1), 2)])
def test_oov_id_is_the_first(oov_ids, oov_id):
    """None without OOV ids."""
    assert Vocabulary(["", "x", "y", "z"], oov_ids=oov_ids).oov_id == oov_id
