"""Words of a vocabulary get the encoder's vectors."""

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras.encoders.words import vectors_from_encoder
from embkeras.errors import AlignmentError, ArgumentError, EncoderError, VocabularyError
from embkeras.vectors.postprocess import reduce_width, weight_by_frequency, weight_by_rank
from tests.encoders.folders import write_folder

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

LONG = "a" + "b" * 40  # the encoder takes 16 pieces, 2 of them special
WORDS = [LONG, "cab", "cat", "Cat", "a-b", "a" * 12]
WITHOUT = ["xyz", "\x00", "  ", "[PAD]", "[CLS]", "Ⓐ"]  # unknown pieces, special ones, or none
TOKENS = ["", "[UNK]", "xyz", *WORDS, *WITHOUT[1:]]
VOCABULARY = ek.Vocabulary(TOKENS, counts=range(len(TOKENS), 0, -1))


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A small BERT."""
    return ek.load_pretrained(write_folder(tmp_path_factory.mktemp("words") / "bert"))


@pytest.fixture(scope="module")
def vectors(read):
    """In several batches."""
    return vectors_from_encoder(read, VOCABULARY, batch_size=4)


def test_means_of_pieces(read, vectors):
    """Each vector is the mean over the word's own pieces, whatever it shared a batch with."""
    model = read.model()
    assert list(vectors.words) == WORDS and vectors.matrix.dtype == np.float32
    for word in WORDS:
        ids = read.tokenizer.encode_batch([word], min(16, len(read.tokenizer.encode(word))))
        inside = np.asarray(model(ids))[0, 1:-1]
        known = ids[0, 1:-1] != read.tokenizer.oov_id
        assert known.all() == (word != "a-b")
        np.testing.assert_allclose(vectors[word], inside[known].mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(vectors["cat"], vectors["Cat"])


def test_they_go_on_as_those_of_a_file(read, vectors):
    """`align` finds the words, draws rows for the others, and refuses words that nobody asked for."""
    aligned = ek.align(vectors, VOCABULARY)
    assert aligned.found.tolist() == [token in WORDS for token in TOKENS]
    assert aligned.values[0].tolist() == [0] * 8 and aligned.values[2].any()
    assert (vectors.provenance.path, vectors.provenance.format) == (str(read.folder), "encoder")
    assert ek.build_embedding(aligned, trainable=False)(np.array([[3, 0]])).shape == (1, 2, 8)
    with pytest.raises(AlignmentError, match="'dog'"):
        ek.align(vectors, ek.Vocabulary(["", "[UNK]", "cat", "dog"]))


def test_reduced_and_weighed(read, vectors, monkeypatch):
    """By principal components first, then by frequency of the words or by rank."""
    monkeypatch.setattr("embkeras.encoders.words._means", lambda *_: vectors.matrix)
    narrow = vectors_from_encoder(read, VOCABULARY, dim=3, weigh="frequency")
    counts = [VOCABULARY.counts[VOCABULARY.token_to_id[word]] for word in WORDS]
    np.testing.assert_array_equal(narrow.matrix, weight_by_frequency(reduce_width(vectors.matrix, 3), counts))
    np.testing.assert_array_equal(
        vectors_from_encoder(read, VOCABULARY, weigh="rank").matrix, weight_by_rank(vectors.matrix)
    )


def test_a_trimmed_encoder_under_mixed_precision(read, vectors):
    """A word that is left whole has the same vector; the result is float32 under every policy."""
    small = read.trimmed(["cat"])
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = vectors_from_encoder(small, ek.Vocabulary(["", "[UNK]", "cat", "cab"]), progress=True)
    finally:
        keras.config.set_dtype_policy(policy)
    assert found.matrix.dtype == np.float32 and list(found.words) == ["cat", "cab"]
    np.testing.assert_allclose(found["cat"], vectors["cat"], atol=0.1)
    assert not np.array_equal(found["cat"], vectors["cat"])


def test_pieces_behind_a_space(tmp_path):
    """A byte-level tokenizer, as RoBERTa's, has other pieces inside a text than at its start: those inside are taken."""
    folder = write_folder(tmp_path / "roberta", "roberta")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *"cat", "Ġ", "at", "cat", "Ġcat"]
    ids = {piece: id_ for id_, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [("a", "t"), ("c", "at"), ("Ġ", "cat")], unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    made.save(str(folder / "tokenizer.json"))
    read = ek.load_pretrained(folder)
    found = vectors_from_encoder(read, ek.Vocabulary(["", "[UNK]", "cat"]))
    wanted = np.asarray(read.model()(np.array([[0, ids["Ġcat"], 2]])))[0, 1]
    np.testing.assert_allclose(found["cat"], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"read": "folder"}, ArgumentError, "load_pretrained.*'folder'"),
        ({"vocabulary": ["cat"]}, ArgumentError, r"\['cat'\]"),
        ({"vocabulary": ek.Vocabulary(["", "[UNK]"])}, VocabularyError, "special"),
        ({"vocabulary": ek.Vocabulary(["", "[UNK]", "\ud800"])}, VocabularyError, "id 2.*Unicode"),
        ({"vocabulary": ek.Vocabulary(["", "[UNK]", "xyz"])}, EncoderError, "1 words.*xyz"),
        ({"dim": 0}, ArgumentError, "dim.*1 to 8.*0"),
        ({"dim": 6}, ArgumentError, "dim.*6 for 6 words"),
        ({"weigh": "tf-idf"}, ArgumentError, "weigh.*frequency, rank.*tf-idf"),
        ({"vocabulary": ek.Vocabulary(["", "[UNK]", "cat"]), "weigh": "frequency"}, ArgumentError, "no counts"),
        ({"batch_size": 0}, ArgumentError, "batch_size.*0"),
        ({"progress": "yes"}, ArgumentError, "progress.*yes"),
    ],
)
def test_what_cannot_work_is_refused(read, arguments, error, named):
    """With the value, before the encoder runs."""
    with pytest.raises(error, match=named):
        vectors_from_encoder(**{"read": read, "vocabulary": VOCABULARY} | arguments)


def test_pieces_are_no_words(read):
    """The vocabulary of an encoder is refused: its pieces aren't words of a text."""
    with pytest.raises(VocabularyError, match="28 tokens"):
        vectors_from_encoder(read, read.tokenizer)
