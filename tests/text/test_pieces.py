"""Vocabularies from an encoder's tokenizer."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import Tokenizer, Vocabulary
from embkeras.errors import VocabularyError
from embkeras.text.pieces import PieceTokenizer
from tests.encoders.folders import PIECES, TEXTS, write_tokenizer
from tests.properties import PROPERTY

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A tokenizer.json that says it truncates to 3 tokens."""
    return write_tokenizer(tmp_path_factory.mktemp("pieces") / "tokenizer.json")


@pytest.fixture(scope="module")
def vocabulary(file):
    """Its vocabulary."""
    return Vocabulary.from_tokenizer(file)


@pytest.fixture(scope="module")
def library(file):
    """The library's own reading of it."""
    made = tokenizers.Tokenizer.from_file(str(file))
    made.no_truncation()
    made.no_padding()
    return made


def test_tokens_and_special_ids(vocabulary):
    """Each piece has its id; padding and unknown are found by what the file says."""
    assert list(vocabulary.tokens) == PIECES
    assert (vocabulary.padding_id, vocabulary.oov_ids) == (0, (1,))


def test_ids_are_the_librarys(vocabulary, library):
    """The same ids, the special pieces included."""
    for text in [*TEXTS, "", "cat [SEP] dog", "a\u0301b", "[UNK]"]:
        assert vocabulary.encode(text).tolist() == library.encode(text).ids


@given(st.text(max_size=30))
@PROPERTY
def test_ids_of_any_text(vocabulary, library, text):
    """Also of hostile texts; a text that spells out the padding has an unknown token there."""
    assert vocabulary.encode(text).tolist() == [id_ or 1 for id_ in library.encode(text).ids]


def test_padding_in_a_text_is_unknown(vocabulary):
    """Nothing in a text is padding."""
    assert vocabulary.encode("[PAD]").tolist() == [2, 1, 3]


def test_cut_between_the_special_pieces(vocabulary):
    """A long text keeps [CLS] and [SEP]."""
    assert vocabulary.encode_batch(["a b c d", "a"], 4).tolist() == [[2, 4, 5, 3], [2, 4, 3, 0]]
    assert vocabulary.encode_batch(["a b c d"], 4, truncate="start").tolist() == [[2, 6, 7, 3]]
    assert vocabulary.encode_batch(["a b"]).tolist() == [[2, 4, 5, 3]]
    with pytest.raises(VocabularyError, match=r"at least 3.*2"):
        vocabulary.encode_batch(["a"], 2)


def test_pairs(vocabulary, library):
    """Two texts in a row; the longer one is cut first, as the library does."""
    firsts, seconds = ["a b c d", "cat", ""], ["dog", "a b", "b"]
    wanted = [library.encode(*pair).ids for pair in zip(firsts, seconds, strict=True)]
    got = vocabulary.encode_pairs(firsts, seconds)
    assert [row[: len(ids)].tolist() for row, ids in zip(got, wanted, strict=True)] == wanted
    assert vocabulary.encode_pairs(firsts, seconds, 6).tolist() == [
        [2, 4, 5, 3, 25, 3],
        [2, 24, 3, 4, 5, 3],
        [2, 3, 5, 3, 0, 0],
    ]
    assert vocabulary.encode_pairs(["a [SEP] b"], ["[CLS] c"]).tolist() == [[2, 4, 1, 5, 3, 1, 6, 3]]
    for arguments, match in (
        ((["a"], ["a", "b"]), "1, 2"),
        ((["a"], [3]), "3 "),
        (("a", "b"), "firsts"),
        ((["a"], ["b"], 4), "at least 5.*4"),
    ):
        with pytest.raises(VocabularyError, match=match):
            vocabulary.encode_pairs(*arguments)
    with pytest.raises(VocabularyError, match="from_tokenizer"):
        Vocabulary(["", "[UNK]"], tokenizer=Tokenizer()).encode_pairs(["a"], ["b"])


@given(st.text("abcdogt ", max_size=20))
@PROPERTY
def test_trimmed(vocabulary, text):
    """The texts are split as before; single characters and special pieces stay, so that other words can be spelled."""
    small = vocabulary.trimmed([text])
    kept = [*PIECES[:-2], *(word for word in ("cat", "dog") if word in vocabulary.tokenizer(text))]
    assert sorted(small.tokens) == sorted(kept) and (small.padding_id, small.oov_ids) == (0, (1,))
    assert small.tokenizer(text) == vocabulary.tokenizer(text)
    assert [small.tokens[id_] for id_ in small.encode("dab")] == ["[CLS]", "d", "##a", "##b", "[SEP]"]


def test_trimmed_templates_and_counts(tmp_path):
    """Ids in a template are those of the kept pieces; a rare piece is left out."""
    file = write_tokenizer(tmp_path / "tokenizer.json", [*"cba", *PIECES[:4], "ab", "##b"])
    template = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 5), ("[SEP]", 6)]
    )
    data = json.loads(file.read_text()) | {"post_processor": json.loads(template.__getstate__())}
    file.write_text(json.dumps(data))
    vocabulary = Vocabulary.from_tokenizer(file)
    assert vocabulary.encode("ab a").tolist() == [5, 7, 2, 6]
    small = vocabulary.trimmed(["ab a c", "a"], min_count=2)
    assert "ab" not in small and small.tokenizer("ab a") == ["[CLS]", "a", "##b", "a", "[SEP]"]
    assert [small.tokens[id_] for id_ in small.encode("ab a")] == small.tokenizer("ab a")
    assert small.counts[small.token_to_id["a"]] == 2


def test_only_word_pieces_are_trimmed(tmp_path):
    """Other kinds are refused."""
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    with pytest.raises(VocabularyError, match="Unigram"):
        Vocabulary.from_tokenizer(tmp_path).trimmed(["a"])
    with pytest.raises(VocabularyError, match="from_tokenizer"):
        Vocabulary(["", "[UNK]"], tokenizer=Tokenizer()).trimmed(["a"])


def test_saved_and_loaded(vocabulary, tmp_path):
    """The tokenizer is in the vocabulary's file."""
    loaded = Vocabulary.load(vocabulary.save(tmp_path / "v.json"))
    assert loaded.fingerprint == vocabulary.fingerprint and loaded.tokenizer == vocabulary.tokenizer
    np.testing.assert_array_equal(loaded.encode_batch(TEXTS), vocabulary.encode_batch(TEXTS))


def test_rows_without_a_piece(file):
    """A table with more rows than pieces, and one with fewer."""
    assert Vocabulary.from_tokenizer(file, size=30).tokens[-1] == "[no piece 29]"
    with pytest.raises(VocabularyError, match=r"up to 25.*10 rows"):
        Vocabulary.from_tokenizer(file, size=10)
    with pytest.raises(VocabularyError, match=r"size .*0"):
        Vocabulary.from_tokenizer(file, size=0)


def test_list_of_pieces(tmp_path, library):
    """BERT's vocab.txt, with the settings beside it."""
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", "utf-8")
    made = Vocabulary.from_tokenizer(tmp_path)
    assert [made.encode(text).tolist() for text in TEXTS] == [library.encode(text).ids for text in TEXTS]
    assert made.encode("Cat").tolist() == [2, PIECES.index("cat"), 3]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "pad_token": {"content": "[PAD]"}}')
    assert Vocabulary.from_tokenizer(tmp_path).encode("Cat").tolist() == [2, 1, 3]
    (tmp_path / "tokenizer_config.json").write_text('{"strip_accents": null, "do_lower_case": "no"}')
    with pytest.raises(VocabularyError, match=r"do_lower_case .*vocab.txt.*'no'"):
        Vocabulary.from_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.txt").write_text("the\nof\n")
    with pytest.raises(VocabularyError, match=r"vocab.txt.*\[UNK\]"):
        Vocabulary.from_tokenizer(tmp_path)


def test_unigram(tmp_path):
    """The unknown piece of a unigram model is the one its file names."""
    pieces = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581a", -1.0], ["b", -2.0]]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(list(map(tuple, pieces)), 3))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    vocabulary = Vocabulary.from_tokenizer(tmp_path)
    assert (vocabulary.padding_id, vocabulary.oov_ids) == (1, (3,))
    assert vocabulary.encode("ab z").tolist() == made.encode("ab z").ids == [4, 5, *made.encode("z").ids]


def test_other_files(tmp_path):
    """Refused with the file and what is wrong with it."""
    with pytest.raises(VocabularyError, match=r"no tokenizer.json"):
        Vocabulary.from_tokenizer(tmp_path)
    with pytest.raises(VocabularyError, match="no such file"):
        Vocabulary.from_tokenizer(tmp_path / "tokenizer.json")
    for text in ("[", "[]", "{}", '{"model": {}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(VocabularyError, match=r"tokenizer.json"):
            Vocabulary.from_tokenizer(tmp_path)


def test_a_padding_that_cannot_be_read(file, tmp_path):
    """A "padding" that is no object is ignored; the padding's name is found elsewhere in the file."""
    data = json.loads(file.read_text("utf-8")) | {"padding": "right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert Vocabulary.from_tokenizer(tmp_path).padding_id == Vocabulary.from_tokenizer(file).padding_id


def test_wrong_definitions(vocabulary):
    """Not a string of JSON, not a tokenizer, and texts that are none."""
    for wrong in (None, 3, "x", "{}", json.dumps([1])):
        with pytest.raises(VocabularyError, match=r"tokenizer.json"):
            PieceTokenizer(wrong)
    for wrong in (None, 3, "\ud83d"):
        with pytest.raises(VocabularyError, match="text"):
            vocabulary.encode(wrong)
