"""Tags of words become labels of first pieces."""

import numpy as np
import pytest

from embkeras import Vocabulary, encode_tagged
from embkeras.errors import ArgumentError, VocabularyError
from tests.encoders.folders import write_tokenizer

pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """Word pieces."""
    return Vocabulary.from_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tags") / "tokenizer.json"))


def test_first_pieces(vocabulary):
    """The tag is at the first piece; other pieces, special ones and padding weigh nothing."""
    ids, labels, weights = encode_tagged(vocabulary, [["cab", "dog"], ["xyz"], []], [[1, 2], [3], []])
    assert ids[0].tolist() == vocabulary.encode("cab dog").tolist() == [2, 6, 14, 15, 25, 3]
    assert labels.tolist() == [[0, 1, 0, 0, 2, 0], [0, 3, 0, 0, 0, 0], [0] * 6]
    assert weights.tolist() == [[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0] * 6]
    assert ids[1].tolist() == [2, 1, 3, 0, 0, 0]
    assert (ids.dtype, labels.dtype, weights.dtype) == (np.int64, np.int64, np.float32)


def test_a_length(vocabulary):
    """The last words are cut, the special pieces stay; without tags all labels are 0."""
    ids, labels, weights = encode_tagged(vocabulary, [["cab", "dog"]], length=4)
    assert (ids.tolist(), labels.sum(), weights.tolist()) == ([[2, 6, 14, 3]], 0, [[0, 1, 0, 0]])
    ids, _, _ = encode_tagged(vocabulary, [iter(["a"])], length=5)
    assert ids.tolist() == [[2, 4, 3, 0, 0]]


def test_wrong_tags(vocabulary):
    """Refused with the sentence."""
    for tags, match in (
        ([[1]], "2 words of sentence 0"),
        ([[1, -1]], "-1"),
        ([[1, 1.0]], "1.0"),
        ([], "0 for 1"),
        (3, "3"),
    ):
        with pytest.raises(ArgumentError, match=match):
            encode_tagged(vocabulary, [["cab", "dog"]], tags)
    with pytest.raises(VocabularyError, match=r"length .*2"):
        encode_tagged(vocabulary, [["cab"]], length=2)
    with pytest.raises(VocabularyError, match=r"words .*single string"):
        encode_tagged(vocabulary, ["cab"])
    for wrong in (None, 3):
        with pytest.raises(VocabularyError, match=f"words .*Received: {wrong}"):
            encode_tagged(vocabulary, [["cab"], wrong])
    for other in (None, Vocabulary(["", "[UNK]"])):
        with pytest.raises(VocabularyError, match="from_tokenizer"):
            encode_tagged(other, [["cab"]])
