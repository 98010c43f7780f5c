"""gensim's vectors: in memory, and its saved files, which are not opened."""

import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from embkeras import KeyedVectors, load_vectors
from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.from_gensim import read_gensim
from tests.processes import run_python

TEXTS = [["cat", "sat", "mat", "naïve"], ["the", "cat", "ran"]] * 20


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
        read = read_gensim(held)
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
    composed = read_gensim(models["FastText"]).subwords.compose(word)
    np.testing.assert_allclose(composed, models["FastText"].wv[word], rtol=1e-5, atol=1e-7)


def test_only_the_attributes_count():
    """gensim itself is not imported."""
    code = "import sys, embkeras.vectors.from_gensim; print('gensim' in sys.modules)"
    assert run_python("-c", code).stdout == "False\n"
    read = read_gensim(SimpleNamespace(index_to_key=("a",), vectors=np.ones((1, 2), "float32")))
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
        (like(index_to_key=[], vectors=np.ones((0, 3))), "at least one word. Received: none"),
        (like(index_to_key=["a", 7]), "must be words. Received: 7 of type int"),
        (like(index_to_key=["a"]), r"must have 1 rows. Received: shape \(2, 3\)"),
        (
            like(vectors=np.array([[1.0], [np.nan]])),
            "vectors of gensim must be finite. Received: NaN or infinity in row 1",
        ),
        (like(vectors_ngrams=np.full((4, 3), np.inf)), "n-gram vectors of gensim must be finite"),
        (like(vectors_ngrams=np.ones((5, 3))), "n-gram vectors of gensim must have 4 rows"),
        (like(compatible_hash=False), "hash as no other fastText does"),
    ],
)
def test_what_it_cannot_be(held, said):
    """The message names what was received."""
    with pytest.raises(ArgumentError, match=said):
        read_gensim(held)


def command_of(error):
    """The conversion that a message says to run."""
    return re.search(r'python (-c ".*")', str(error.value))[1]


@pytest.mark.parametrize(("whole_model", "separately"), [(False, False), (False, True), (True, False)])
def test_saved_file_is_refused_with_a_conversion_that_works(models, tmp_path, whole_model, separately):
    """A pickle is not opened; the printed command, run as it stands, gives a file that loads."""
    vectors, path = models["Word2Vec"].wv, tmp_path / "x.kv"
    saved = models["Word2Vec"] if whole_model else vectors
    saved.save(str(path), **({"sep_limit": 1} if separately else {}))
    assert (tmp_path / "x.kv.vectors.npy").exists() == separately
    with pytest.raises(
        VectorFileError, match=r"x\.kv' holds no word vectors: it is a pickle, .*convert it once"
    ) as error:
        load_vectors(path)
    command = command_of(error).replace("FILE", str(path))
    run_python(*shlex.split(command))
    loaded = load_vectors(f"{path}.vec")
    assert loaded.words == vectors.index_to_key
    np.testing.assert_array_equal(loaded.matrix, vectors.vectors)


def test_matrix_beside_a_saved_file_has_no_words(models, tmp_path):
    """The .npy that gensim writes beside large files is refused alone, and alone with a word list that is not its own."""
    models["Word2Vec"].wv.save(str(tmp_path / "x.kv"), sep_limit=1)
    matrix = tmp_path / "x.kv.vectors.npy"
    with pytest.raises(
        VectorFileError, match=r"The words of '.*x\.kv\.vectors\.npy' should stand in .*Give words_file="
    ):
        load_vectors(matrix)
    (tmp_path / "words.txt").write_text("one\ntwo")
    with pytest.raises(VectorFileError, match=r"but .*words.txt.* 2 words"):
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
    with pytest.raises(VectorFileError, match="it is a pickle, which can run any code and"):
        load_vectors(tmp_path / "model.bin")
