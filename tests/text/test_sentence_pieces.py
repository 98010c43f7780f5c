"""SentencePiece models, split as SentencePiece splits."""

import json

import numpy as np
import pytest

from embkeras.errors import VocabularyError
from embkeras.text import sentence_pieces as module
from embkeras.text.sentence_pieces import albert_pieces, xlm_roberta_pieces

pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

_SPECIAL = [("<pad>", 0.0, 3), ("<unk>", 0.0, 2), ("[CLS]", 0.0, 3), ("[SEP]", 0.0, 3), ("[MASK]", 0.0, 4)]
_PIECES = [
    ("▁", -2.0, 1),
    ("▁cat", -3.0, 1),
    *((letter, -4.0, 1) for letter in "abcdgot\n"),
    ("do", -3.5, 1),
    ("ca", -3.6, 1),
]


def write_model(path, pieces=(*_SPECIAL, *_PIECES), trainer=None, normalizer=None):
    """A SentencePiece model of pieces, their scores and types."""
    model = module._messages()["Model"]()
    for piece, score, kind in pieces:
        model.pieces.add(piece=piece, score=score, type=kind)
    for part, settings in ((model.trainer_spec, trainer), (model.normalizer_spec, normalizer)):
        for name, value in (settings or {}).items():
            setattr(part, name, value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def file(tmp_path):
    """A model with the special pieces of an ALBERT."""
    return write_model(tmp_path / "vocabulary.spm")


def test_albert_keeps_ids(file):
    """The ids are the places in the model, between [CLS] and [SEP]; the best-scored split wins."""
    pieces = albert_pieces(file)
    assert [pieces.pieces()[piece] for piece, *_ in (*_SPECIAL, *_PIECES)] == list(range(len(_SPECIAL) + len(_PIECES)))
    assert pieces("cat  dog ") == ["[CLS]", "▁cat", "▁", "do", "g", "[SEP]"]
    assert pieces.pair("cat", "dog") == ["[CLS]", "▁cat", "[SEP]", "▁", "do", "g", "[SEP]"]
    assert pieces("a [MASK]")[-2:] == ["[MASK]", "[SEP]"]
    assert json.loads(pieces.definition)["model"]["unk_id"] == 1


def test_xlm_roberta_moves_ids(tmp_path):
    """The first three pieces make room for four, and "<mask>" is last."""
    first = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces = xlm_roberta_pieces(write_model(tmp_path / "model.spm", [*first, *_PIECES]))
    ids = pieces.pieces()
    assert [ids[piece] for piece in ("<s>", "<pad>", "</s>", "<unk>", "▁", "▁cat")] == [0, 1, 2, 3, 4, 5]
    assert ids["<mask>"] == len(_PIECES) + 4
    assert pieces.pair("cat", "cat") == ["<s>", "▁cat", "</s>", "</s>", "▁cat", "</s>"]


def test_equals_sentence_piece(file):
    """Random texts of letters, spaces, lines, signs of spaces and unknown characters are split alike."""
    library = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    wanted, pieces, rng = library.SentencePieceProcessor(model_proto=file.read_bytes()), albert_pieces(file), np.random
    ids, draw = pieces.pieces(), rng.default_rng(5)
    for _ in range(400):
        text = "".join(draw.choice(list("catdog  ▁\n\tzé🙂"), size=draw.integers(0, 12)))
        found = [ids.get(piece, 1) for piece in pieces(text)[1:-1]]
        assert found == wanted.encode(text), repr(text)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"trainer": {"model_type": 2}}, "model_type 2"),
        ({"trainer": {"byte_fallback": True}}, "byte_fallback"),
        ({"trainer": {"treat_whitespace_as_suffix": True}}, "treat_whitespace_as_suffix"),
        ({"normalizer": {"escape_whitespaces": False}}, "escape_whitespaces false"),
        ({"normalizer": {"precompiled_charsmap": b"no"}}, "table of characters.*vocabulary.spm"),
        ({"pieces": [*_SPECIAL, ("old", 0.0, 5)]}, r"types \[5\]"),
        ({"pieces": [*_SPECIAL, ("?", 0.0, 2)]}, "not exactly one unknown piece"),
        ({"pieces": [*_SPECIAL, ("a", 0.0, 1), ("a", 0.0, 1)]}, "the same piece twice"),
        ({"pieces": [each for each in _SPECIAL if each[0] != "[CLS]"]}, r"no piece \[CLS\]"),
        ({"pieces": _SPECIAL[:2]}, "it has 2 pieces"),
    ],
)
def test_what_would_be_split_otherwise_is_refused(given, named, tmp_path):
    """Settings that the library can't follow, by name and file."""
    with pytest.raises(VocabularyError, match=named):
        albert_pieces(write_model(tmp_path / "vocabulary.spm", **given))


def test_another_file_is_refused(file, tmp_path):
    """A file that is cut off, one that isn't there, and an ALBERT's model for an XLM-RoBERTa."""
    with pytest.raises(VocabularyError, match=r"'<pad>' in .*vocabulary\.spm"):
        xlm_roberta_pieces(file)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(VocabularyError, match=r"vocabulary\.spm' is not a SentencePiece model"):
        albert_pieces(file)
    with pytest.raises(VocabularyError, match=r"none\.spm"):
        albert_pieces(tmp_path / "none.spm")
