"""KeyedVectors: words and one vector a word."""

import re
import shlex
import shutil
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pandas
import pytest

from embkeras import KeyedVectors, load_vectors
from embkeras.errors import ArgumentError, UnknownWordError, VectorFileError
from embkeras.vectors.io.rows import Request, keyed_vectors
from embkeras.vectors.io.source import Source
from embkeras.vectors.subwords import Subwords
from tests.processes import run_python

MATRIX = np.array([[1, 0], [0.9, 0.1], [0, 1]], "float32")
TEXTS = [["cat", "sat", "mat", "naïve"], ["the", "cat", "ran"]] * 20


@pytest.fixture
def vectors():
    """Three words."""
    return KeyedVectors(["cat", "dog", "car"], MATRIX)


def test_reads_as_a_mapping(vectors):
    """Length, membership, order and look-up follow the words."""
    assert (len(vectors), "dog" in vectors, "cow" in vectors, list(vectors)) == (3, True, False, ["cat", "dog", "car"])
    np.testing.assert_array_equal(vectors["dog"], MATRIX[1])


def test_keeps_the_matrix_itself(vectors):
    """No copy is made, so it may be memory-mapped."""
    assert vectors.matrix is MATRIX


def test_repr_names_the_sizes(vectors):
    """The repr says how many words, how wide and of which type."""
    assert repr(vectors) == "KeyedVectors(3 words, vector_size=2, dtype=float32)"


def test_unknown_word_is_a_key_error(vectors):
    """The message names the word and is printed as written."""
    with pytest.raises(UnknownWordError, match=r"^No vector for the word 'cow' among 3 words.$"):
        vectors["cow"]


def test_repeated_word_is_refused():
    """The message names the word and its first row."""
    with pytest.raises(ArgumentError, match="Received: 'b' twice, first at row 1"):
        KeyedVectors(["a", "b", "b"], MATRIX)


def test_rows_of_many_words(vectors):
    """In the order of the words, with repetitions; -1 for words without a vector."""
    rows = vectors.rows_of(word for word in ("car", "cow", "cat", "car"))
    assert (rows.dtype, rows.tolist()) == (np.int64, [2, -1, 0, 2])
    assert vectors.rows_of([]).tolist() == []


def test_index_of_a_reader_is_kept():
    """Words and index are used as they are, without a pass over the words."""

    class Unread(Sequence):
        def __len__(self):
            return 3

        def __getitem__(self, row):
            raise AssertionError("read")

    words, index = Unread(), {"dog": 1}
    vectors = KeyedVectors(words, MATRIX, key_to_index=index)
    assert vectors.words is words and vectors.key_to_index is index
    assert ("dog" in vectors, len(vectors)) == (True, 3)
    np.testing.assert_array_equal(vectors["dog"], MATRIX[1])


def test_another_number_of_words_is_refused():
    """The message names both numbers."""
    with pytest.raises(ArgumentError, match=r"must have 2 rows. Received: shape \(3, 2\)"):
        KeyedVectors(["a", "b"], MATRIX)


def test_most_similar_leaves_the_word_out(vectors):
    """The nearest come first, the word itself never."""
    assert [word for word, _ in vectors.most_similar("cat")] == ["dog", "car"]


def test_most_similar_gives_cosines(vectors):
    """The numbers are cosine similarities."""
    (_, similarity), *_ = vectors.most_similar("cat")
    assert similarity == pytest.approx(0.9 / np.hypot(0.9, 0.1))


def test_most_similar_leaves_the_word_out_among_twins():
    """A word whose vector others share still gets `topn` others."""
    vectors = KeyedVectors(list("abcd"), np.ones((4, 2), np.float32))
    assert [word for word, _ in vectors.most_similar("d", topn=2)] == ["a", "b"]


def test_most_similar_refuses_no_neighbours(vectors):
    """The message names the number received."""
    with pytest.raises(ArgumentError, match=r"topn must be an integer >= 1\. Received: 0"):
        vectors.most_similar("cat", topn=0)
    with pytest.raises(ArgumentError, match=r"topn must .* Received: True"):
        vectors.most_similar("cat", topn=True)


@pytest.mark.parametrize("word", [3, None, b"cat", ["cat"], np.int64(1)])
def test_words_are_strings(vectors, word):
    """An int is not read as a row number, and other types are not words; the message says what to write."""
    for call in (vectors.__getitem__, vectors.most_similar, vectors.__contains__):
        with pytest.raises(ArgumentError, match=r"must be a str, such as str\(key\); .*matrix\[i\]\. Received: "):
            call(word)
    with pytest.raises(ArgumentError, match=r"rows_of must be strings: .* at place 1"):
        vectors.rows_of(["cat", word])
    with pytest.raises(ArgumentError, match=r"KeyedVectors must be strings: .* at place 2"):
        KeyedVectors(["cat", "dog", word], MATRIX)


@pytest.mark.parametrize("words", ["cat", b"cat", None, 3])
def test_words_are_a_sequence(vectors, words):
    """A string is not read as a sequence of letters."""
    with pytest.raises(ArgumentError, match=r"The words of rows_of must be a sequence.* Received: "):
        vectors.rows_of(words)
    with pytest.raises(ArgumentError, match=r"The words of KeyedVectors must be a sequence.* Received: "):
        KeyedVectors(words, MATRIX)


@pytest.mark.parametrize("matrix", [None, "matrix", b"bytes", [[1.0], [1.0, 2.0], [1.0]]])
def test_matrix_is_one(matrix):
    """What is not an array of the right shape is refused."""
    with pytest.raises(ArgumentError, match=r"The matrix of KeyedVectors must .* Received: "):
        KeyedVectors(["cat", "dog", "car"], matrix)


def test_most_similar_of_an_unknown_word(vectors):
    """The message names the word."""
    with pytest.raises(UnknownWordError, match="'cow'"):
        vectors.most_similar("cow")


def test_subwords_are_carried():
    """None by default, otherwise those passed."""
    subwords = Subwords(np.ones((5, 2)), min_n=3, max_n=6, buckets=5)
    assert KeyedVectors(["cat", "dog", "car"], MATRIX).subwords is None
    assert KeyedVectors(["cat", "dog", "car"], MATRIX, subwords=subwords).subwords is subwords


@pytest.mark.parametrize("subwords", [Subwords(np.ones((5, 3)), min_n=3, max_n=6, buckets=5), np.ones((5, 2))])
def test_subwords_of_another_kind_are_refused(subwords):
    """Of the wrong width, or a bare matrix."""
    with pytest.raises(ArgumentError, match=r"subwords must be Subwords of vector_size 2\. Received: "):
        KeyedVectors(["cat", "dog", "car"], MATRIX, subwords=subwords)


def test_readers_keep_subwords_whole(tmp_path):
    """Of a part of the rows too: they serve the words that have none."""
    subwords = Subwords(np.ones((5, 2)), min_n=3, max_n=6, buckets=5)
    request = Request(wanted=frozenset(["cat", "xyz"]), limit=1)
    vectors = keyed_vectors(["cat"], MATRIX[:1], Source(tmp_path), "fasttext", request, subwords=subwords, rows=1)
    assert vectors.subwords is subwords


@pytest.fixture(scope="module")
def models():
    """gensim's Word2Vec and FastText, trained a moment."""
    models = pytest.importorskip("gensim.models")
    settings = {"vector_size": 6, "min_count": 1, "workers": 1, "epochs": 1}
    return {
        "Word2Vec": models.Word2Vec(TEXTS, **settings),
        "FastText": models.FastText(TEXTS, bucket=64, min_n=2, max_n=4, **settings),
        "without n-grams": models.FastText(TEXTS, bucket=64, min_n=3, max_n=0, **settings),
    }


@pytest.mark.parametrize("name", ["Word2Vec", "FastText", "without n-grams"])
def test_words_and_vectors(models, name):
    """From the model or from its wv, without a copy."""
    for held in (models[name], models[name].wv):
        read = KeyedVectors.from_gensim(held)
        assert read.words == models[name].wv.index_to_key
        assert np.shares_memory(read.matrix, models[name].wv.vectors)
    assert (read.subwords is not None) == (name == "FastText")


def test_keyed_vectors(models):
    """The method that users call."""
    vectors = KeyedVectors.from_gensim(models["FastText"])
    assert vectors.words == models["FastText"].wv.index_to_key and vectors.subwords.buckets == 64
    np.testing.assert_array_equal(vectors["cat"], models["FastText"].wv["cat"])
    with pytest.raises(ArgumentError, match=r"Received: builtins\.list"):
        KeyedVectors.from_gensim([])


@pytest.mark.parametrize("word", ["dog", "naïf", "catmat", "new", "日本"])
def test_subwords_compose_as_gensim_does(models, word):
    """Words that are not in the vocabulary."""
    composed = KeyedVectors.from_gensim(models["FastText"]).subwords.compose(word)
    np.testing.assert_allclose(composed, models["FastText"].wv[word], rtol=1e-5, atol=1e-7)


def test_only_the_attributes_count():
    """gensim itself is not imported."""
    code = "import sys, embkeras.vectors.store; print('gensim' in sys.modules)"
    assert run_python("-c", code).stdout == "False\n"
    read = KeyedVectors.from_gensim(SimpleNamespace(index_to_key=("a",), vectors=np.ones((1, 2), "float32")))
    assert (read.words, read.matrix.tolist(), read.subwords) == (["a"], [[1, 1]], None)


def like(**changed):
    """What looks like gensim's fastText vectors."""
    good = {"index_to_key": ["a", "b"], "vectors": np.ones((2, 3), "float32"), "bucket": 4, "min_n": 2, "max_n": 3}
    return SimpleNamespace(**{**good, "vectors_ngrams": np.ones((4, 3), "float32"), **changed})


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"cat": [1.0]}, r"takes gensim's KeyedVectors.* Received: builtins\.dict"),
        (SimpleNamespace(index2word=["a"], vectors=np.ones((1, 2))), "gensim 4 or later"),
        (SimpleNamespace(index_to_key=["a"], vectors=None), "takes gensim's KeyedVectors"),
        (like(index_to_key=[], vectors=np.ones((0, 3))), "at least one word. Received: 0 words"),
        (like(index_to_key=["a", 7]), r"strings: .* Received: 7 \(int\) at place 1"),
        (like(index_to_key=["a"]), r"must have 1 rows. Received: shape \(2, 3\)"),
        (
            like(vectors=np.array([[1.0], [np.nan]])),
            "vectors of gensim must be finite. Received: NaN or infinity in row 1",
        ),
        (like(vectors_ngrams=np.full((4, 3), np.inf)), "n-gram vectors of gensim must be finite"),
        (like(vectors_ngrams=np.ones((5, 3))), "n-gram vectors of gensim must have 4 rows"),
        (like(compatible_hash=False), "unlike any other fastText"),
    ],
)
def test_what_it_cannot_be(held, said):
    """The message names what was received."""
    with pytest.raises(ArgumentError, match=said):
        KeyedVectors.from_gensim(held)


def command_of(error):
    """The conversion that a message says to run."""
    return re.search(r'python (-c ".*")', str(error.value))[1]


@pytest.mark.parametrize(("whole_model", "separately"), [(False, False), (False, True), (True, False)])
def test_saved_file_is_refused_with_a_conversion_that_works(models, tmp_path, whole_model, separately):
    """A pickle is not opened; the printed command, run unchanged, writes a file that loads."""
    vectors, path = models["Word2Vec"].wv, tmp_path / "x.kv"
    saved = models["Word2Vec"] if whole_model else vectors
    saved.save(str(path), **({"sep_limit": 1} if separately else {}))
    assert (tmp_path / "x.kv.vectors.npy").exists() == separately
    with pytest.raises(
        VectorFileError, match=r"x\.kv' contains no word vectors: it is a pickle of gensim, .*convert it once"
    ) as error:
        load_vectors(path)
    command = command_of(error)
    run_python(*shlex.split(command))
    loaded = load_vectors(f"{path}.vec")
    assert loaded.words == vectors.index_to_key
    np.testing.assert_array_equal(loaded.matrix, vectors.vectors)


def test_matrix_beside_a_saved_file_has_no_words(models, tmp_path):
    """The .npy that gensim writes beside large files is refused alone, and alone with a word list that is not its own."""
    models["Word2Vec"].wv.save(str(tmp_path / "x.kv"), sep_limit=1)
    matrix = tmp_path / "x.kv.vectors.npy"
    with pytest.raises(
        VectorFileError, match=r"x\.kv\.vectors\.npy' .* The matrix belongs to 'x\.kv', a pickle of gensim"
    ):
        load_vectors(matrix)
    (tmp_path / "words.txt").write_text("one\ntwo")
    with pytest.raises(VectorFileError, match=r"but .*words.txt.* has 2 words"):
        load_vectors(matrix, words_file=tmp_path / "words.txt")


def test_text_that_gensim_writes(tmp_path):
    """save_word2vec_format as text reads back bit for bit."""
    vectors = pytest.importorskip("gensim.models").KeyedVectors(2)
    vectors.add_vectors(["new york", "naïve"], np.array([[0.1, 1 / 3], [2e-30, -7]], "float32"))
    vectors.save_word2vec_format(str(tmp_path / "x.vec"))
    loaded = load_vectors(tmp_path / "x.vec")
    assert loaded.words == vectors.index_to_key
    np.testing.assert_array_equal(loaded.matrix, vectors.vectors)


def test_pickle_by_another_name(models, tmp_path):
    """It is known by its first bytes."""
    models["FastText"].save(str(tmp_path / "model"))
    shutil.move(tmp_path / "model", tmp_path / "model.bin")
    with pytest.raises(
        VectorFileError, match="it is a pickle of gensim's FastText, which can run any code and"
    ) as error:
        load_vectors(tmp_path / "model.bin")
    assert "loses the n-grams" in str(error.value) and "save_facebook_model" in str(error.value)


FRAME = pandas.DataFrame({"word": ["cat", "dog"], "x": [0.5, 1], "y": [2, -3]})


@pytest.mark.parametrize(
    ("frame", "how"),
    [
        (FRAME, {}),
        (FRAME.set_index("word"), {}),
        (FRAME.astype({"word": "string", "x": "Float32", "y": "Int64"}), {}),
        (FRAME.assign(other=["a", "b"]).set_index("other"), {"words": "word"}),
        (FRAME.rename(columns={"word": 0}), {"words": 0}),
        (FRAME.astype({"x": "float32", "y": "float16"}), {}),
    ],
)
def test_from_dataframe(frame, how):
    """The words are the index, the one column of strings, or the column that is named."""
    vectors = KeyedVectors.from_dataframe(frame, **how)
    assert (vectors.words, vectors.matrix.tolist()) == (["cat", "dog"], [[0.5, 2], [1, -3]])
    assert vectors.matrix.dtype == (np.float32 if str(frame.dtypes["x"]) in ("float32",) else np.float64)


def test_to_dataframe(vectors):
    """Words by dimensions, and back."""
    frame = vectors.to_dataframe()
    assert (
        frame.loc["dog"].tolist() == MATRIX[1].tolist() and list(frame.columns) == [0, 1] and frame.index.name == "word"
    )
    again = KeyedVectors.from_dataframe(frame)
    assert again.words == vectors.words and again.matrix.tobytes() == MATRIX.tobytes()


@pytest.mark.parametrize(
    ("frame", "how", "message"),
    [
        ({"a": [1]}, {}, "must be a pandas DataFrame. Received: dict"),
        (
            FRAME.drop(columns="word"),
            {},
            r"index\.astype\(str\).* Received: an index of int64 and 0 columns of strings",
        ),
        (FRAME.assign(other=["a", "b"]), {}, "and 2 columns of strings; the columns are 'word', 'x', 'y', 'other'"),
        (FRAME.assign(z=[True, False]), {}, "Received: 'z' with bool"),
        (FRAME.assign(other=["a", "b"]), {"words": "word"}, "Received: 'other' with"),
        (FRAME[["word"]], {}, "Received: no other column"),
        (FRAME, {"words": "z"}, "words must be the name of one column. Received: 'z'"),
        (FRAME.replace(-3, np.nan), {}, "NaN|finite"),
        (FRAME.astype({"y": "Int64"}).replace(-3, pandas.NA), {}, "NaN|finite"),
        (FRAME.replace("dog", "cat"), {}, "'cat' twice"),
        (FRAME.assign(word=["cat", None]), {"words": "word"}, "at place 1"),
    ],
)
def test_frames_that_are_refused(frame, how, message):
    """The message names the column, and what to do."""
    with pytest.raises(ArgumentError, match=message):
        KeyedVectors.from_dataframe(frame, **how)
