"""align: one row a token id."""

import os
import signal
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import AlignedMatrix, KeyedVectors, Vocabulary, align, load_vectors, save_vectors
from embkeras.errors import AlignmentError, ArgumentError, OutputError
from embkeras.vectors import align as alignment
from embkeras.vectors.postprocess import centre, reduce_width, unit_norm, weight_by_frequency
from tests.processes import run_python
from tests.properties import PROPERTY

WORDS = ["cat", "dog", "car", "the"]
MATRIX = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")


@pytest.fixture
def vectors():
    """Four words of width 5."""
    return KeyedVectors(WORDS, MATRIX)


@pytest.fixture
def vocabulary():
    """Padding, [UNK], an exact word, one by a fallback, two without a vector."""
    return Vocabulary(["", "[UNK]", "car", "Dog", "xyz", "zyx"], counts=[0, 2, 4, 1, 3, 0])


def test_rows_are_those_of_the_tokens(vectors, vocabulary):
    """Row i is the vector of token i, bit for bit."""
    aligned = align(vectors, vocabulary)
    np.testing.assert_array_equal(aligned.values[[2, 3]], MATRIX[[2, 1]])
    assert aligned.found.tolist() == [False, False, True, True, False, False]
    assert (aligned.values.dtype, aligned.output_dim) == (np.float32, 5)


@PROPERTY
@given(
    st.permutations(WORDS), st.lists(st.sampled_from([*WORDS, "x", "y"]), unique=True, min_size=1), st.integers(1, 12)
)
def test_rows_are_those_of_the_tokens_in_any_order(words, tokens, block):
    """Whatever the orders and the size of a block."""
    tokens = ["the", *(token for token in tokens if token != "the")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "BLOCK", block)
        aligned = align(KeyedVectors(words, MATRIX), Vocabulary(["", "[UNK]", *tokens]))
    for token, row, found in zip(tokens, aligned.values[2:], aligned.found[2:], strict=True):
        assert found == (token in words)
        assert not found or row.tobytes() == MATRIX[words.index(token)].tobytes()


@pytest.mark.parametrize("oov", ["normal", "mean", "zeros"])
def test_padding_row_is_zero(vectors, oov):
    """Whatever fills the others, and wherever the padding is."""
    aligned = align(vectors, Vocabulary(["cat", "[UNK]", ""], padding_id=2), oov=oov)
    assert not aligned.values[2].any()


def test_padding_that_is_a_word_is_zero(vectors):
    """A padding token spelt like a word of the vectors is not looked up."""
    aligned = align(vectors, Vocabulary(["cat", "[UNK]", "dog"], oov_ids=(1,)))
    assert not aligned.values[0].any()
    assert not aligned.found[0]


def test_oov_zeros(vectors, vocabulary):
    """Rows without a vector are zero."""
    assert not align(vectors, vocabulary, oov="zeros").values[[1, 4, 5]].any()


def test_oov_mean(vectors, vocabulary):
    """Rows without a vector are the mean of those found."""
    values = align(vectors, vocabulary, oov="mean").values
    np.testing.assert_allclose(values[[1, 4, 5]], np.tile(MATRIX[[1, 2]].mean(axis=0), (3, 1)), rtol=1e-6)


def test_oov_normal_has_the_columns_mean_and_deviation(vectors):
    """Drawn rows have the mean and the standard deviation of each column found."""
    tokens = ["", "[UNK]", *WORDS, *(f"x{i}" for i in range(4000))]
    drawn = align(vectors, Vocabulary(tokens)).values[6:]
    np.testing.assert_allclose(drawn.mean(axis=0), MATRIX.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(drawn.std(axis=0), MATRIX.std(axis=0), rtol=0.1)


def test_seed_decides(vectors, vocabulary):
    """The same seed gives the same rows, another one others, and found rows never change."""
    first, again, other = (align(vectors, vocabulary, seed=seed).values for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first[[1, 4, 5]] != other[[1, 4, 5]]).all()
    np.testing.assert_array_equal(first[[0, 2, 3]], other[[0, 2, 3]])


@pytest.mark.parametrize("oov", ["normal", "mean", "zeros"])
def test_memory_mapped_equals_in_memory(tmp_path, vectors, vocabulary, oov):
    """out= gives the same matrix, read from a file."""
    mapped = align(vectors, vocabulary, oov=oov, out=tmp_path / "table.npy")
    np.testing.assert_array_equal(mapped.values, align(vectors, vocabulary, oov=oov).values)
    np.testing.assert_array_equal(np.load(tmp_path / "table.npy"), mapped.values)
    assert os.listdir(tmp_path) == ["table.npy"]


def test_memory_mapped_source(tmp_path, vocabulary):
    """A result may replace the file that the vectors are mapped from."""
    path = tmp_path / "table.npy"
    np.save(path, MATRIX)
    mapped = align(KeyedVectors(WORDS, np.load(path, mmap_mode="r")), vocabulary, oov="zeros", out=path)
    np.testing.assert_array_equal(mapped.values[[2, 3]], MATRIX[[2, 1]])


@pytest.mark.parametrize("out", [None, "table.npy"])
def test_values_are_read_only(tmp_path, vectors, vocabulary, out):
    """Initialiser and baseline of drift at once."""
    aligned = align(vectors, vocabulary, out=out and tmp_path / out)
    with pytest.raises(ValueError, match="read-only"):
        aligned.values[0] = 1


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_other_floats_become_float32(vocabulary, dtype):
    """Each value is the nearest float32."""
    values = align(KeyedVectors(WORDS, MATRIX.astype(dtype)), vocabulary).values
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[2], MATRIX.astype(dtype)[2].astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_vector_is_refused(vocabulary, value):
    """The message names the word and its row."""
    matrix = MATRIX.copy()
    matrix[1, 3] = value
    with pytest.raises(AlignmentError, match=r"NaN or infinity for 'dog' \(row 1 of the vectors\)"):
        align(KeyedVectors(WORDS, matrix), vocabulary)


def test_nonfinite_vector_of_no_token_is_let_be(vocabulary):
    """A row that no token takes does no harm."""
    matrix = MATRIX.copy()
    matrix[3] = np.nan
    assert np.isfinite(align(KeyedVectors(WORDS, matrix), vocabulary).values).all()


def test_vector_that_float32_cannot_hold_is_refused(tmp_path, vocabulary):
    """The message names the token, and the old file stays."""
    matrix = MATRIX.astype("float64")
    matrix[1, 3] = 1e39
    (tmp_path / "table.npy").write_text("before")
    with pytest.raises(AlignmentError, match=r"NaN or infinity.*'[dD]og'"):
        align(KeyedVectors(WORDS, matrix), vocabulary, oov="zeros", out=tmp_path / "table.npy")
    assert (tmp_path / "table.npy").read_text() == "before"


def test_nothing_found_is_refused(vectors):
    """The message shows tokens and words."""
    with pytest.raises(AlignmentError, match=r"None of 3 tokens is among 4 words .*\['xyz'\].*'cat'"):
        align(vectors, Vocabulary(["", "[UNK]", "xyz"]))


def test_unknown_oov_is_refused(vectors, vocabulary):
    """The message names the choices and the value received."""
    with pytest.raises(ArgumentError, match=r"normal, mean, zeros, subwords, or a function. Received: 'random'"):
        align(vectors, vocabulary, oov="random")


def test_unknown_fallback_is_refused(vectors, vocabulary):
    """The message names the value received."""
    with pytest.raises(ArgumentError, match="Received: 'stem'"):
        align(vectors, vocabulary, fallbacks=("stem",))


def test_fallbacks_are_tried_in_order(vectors):
    """The exact token wins, then the first fallback that finds a word."""
    aligned = align(vectors, Vocabulary(["", "[UNK]", "#Cat", "The"]), fallbacks=("lower", "hashtag"))
    assert aligned.how[2:] == (("cat", "lower+hashtag"), ("the", "lower"))


@pytest.fixture
def vector_file(tmp_path, vectors):
    """The four words as GloVe text."""
    return save_vectors(vectors, tmp_path / "vectors.txt")


def test_vectors_loaded_for_the_vocabulary_fit(vector_file, vocabulary):
    """Only the rows needed are read, and the result is that of all."""
    some = align(load_vectors(vector_file, words=vocabulary), vocabulary)
    np.testing.assert_array_equal(some.values, align(load_vectors(vector_file), vocabulary).values)


def test_vectors_loaded_for_other_words_are_refused(vector_file, vocabulary):
    """The message names the spelling that was not asked for, and its token."""
    with pytest.raises(AlignmentError, match=r"did not ask for 'xyz' .*token 'xyz'"):
        align(load_vectors(vector_file, words=["car", "Dog"]), vocabulary)


def test_vectors_loaded_with_fewer_fallbacks_are_refused(vector_file, vocabulary):
    """The message names the spelling, its token and the fallbacks to load with."""
    vectors = load_vectors(vector_file, words=vocabulary, fallbacks=())
    with pytest.raises(AlignmentError, match=r"did not ask for 'dog' .*token 'Dog'.*fallbacks=\('lower',\)"):
        align(vectors, vocabulary)


def test_vectors_loaded_with_more_fallbacks_fit(vector_file, vocabulary):
    """More spellings than needed do no harm."""
    vectors = load_vectors(vector_file, words=vocabulary, fallbacks=("lower", "hashtag"))
    np.testing.assert_array_equal(
        align(vectors, vocabulary).values, align(load_vectors(vector_file), vocabulary).values
    )


def test_out_below_a_file_is_refused(tmp_path, vectors, vocabulary):
    """The message names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write '.*file/table\.npy'"):
        align(vectors, vocabulary, out=tmp_path / "file" / "table.npy")


@pytest.mark.parametrize("before", [None, b"before"])
def test_killed_process_leaves_out_as_it_was(tmp_path, before):
    """kill -9 between the found rows and the others: the old file stays, or none is there."""
    path = tmp_path / "table.npy"
    if before:
        path.write_bytes(before)
    code = """
        import os, signal, sys
        import numpy as np
        from embkeras import KeyedVectors, Vocabulary, align
        from embkeras.vectors import align as alignment
        alignment.fill_oov = lambda *arguments, **more: os.kill(os.getpid(), signal.SIGKILL)
        align(KeyedVectors(["a"], np.ones((1, 2), "float32")), Vocabulary(["", "[UNK]", "a"]), out=sys.argv[1])
    """
    run_python("-c", code, path, returncode=-signal.SIGKILL)
    assert (path.read_bytes() if path.exists() else None) == before


def test_coverage_counts_types_and_running_text(vectors, vocabulary):
    """Tokens that never occurred are no type; what [UNK] stands for is not covered."""
    coverage = align(vectors, vocabulary).coverage
    assert (coverage.types, coverage.tokens) == (2 / 3, 5 / 10)
    assert str(coverage) == "66.7% of the vocabulary, 50.0% of the running text"


def test_coverage_without_counts(vectors):
    """Only the share of the vocabulary is known."""
    coverage = align(vectors, Vocabulary(["", "[UNK]", "cat", "xyz"])).coverage
    assert (coverage.types, coverage.tokens, str(coverage)) == (0.5, None, "50.0% of the vocabulary")


def test_report_has_a_row_an_id(vectors, vocabulary):
    """How each token was found, and under which spelling."""
    report = align(vectors, vocabulary).report()
    assert report["token"].tolist() == list(vocabulary.tokens)
    assert report["how"].tolist() == ["special", "special", "exact", "lower", "oov", "oov"]
    assert report["spelling"].tolist() == ["", "", "car", "dog", "", ""]
    assert report["count"].tolist() == vocabulary.counts.tolist()


def test_own_matrix_counts_as_found(vocabulary):
    """A matrix in the vocabulary's order covers all but the special ids."""
    aligned = AlignedMatrix(np.ones((6, 2)), vocabulary)
    assert aligned.found.tolist() == [False, False, True, True, True, True]
    assert aligned.report()["how"].tolist() == ["special", "special", *["exact"] * 4]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((5, 2)), r"must have 6 rows. Received: shape \(5, 2\)"),
        (np.ones((6, 2), int), "must hold floats. Received: dtype int"),
        (np.ones(6), r"Received: shape \(6,\)"),
        (np.vstack([np.ones((4, 2)), [[0, np.nan], [0, 0]]]), r"NaN or infinity in row 4 \(token 'xyz'\)"),
        (np.vstack([np.ones((4, 2)), [[0, 1e39], [0, 0]]]), r"NaN or infinity in row 4 \(token 'xyz'\)"),
    ],
)
def test_own_matrix_that_does_not_fit_is_refused(vocabulary, matrix, message):
    """The message names the shape, or the row and its token; overflow of float32 counts as infinity."""
    with pytest.raises(AlignmentError, match=message):
        AlignedMatrix(matrix, vocabulary)


@pytest.mark.parametrize(
    ("found", "received"),
    [(np.ones(2, bool), r"\(2,\), dtype bool"), ([0, 1, 2, 3, 4, 5], r"\(6,\), dtype int64")],
)
def test_own_found_of_another_kind_is_refused(vocabulary, found, received):
    """Another shape, or ids where a mask is wanted, of which all but 0 would count as found."""
    with pytest.raises(
        AlignmentError, match=rf"found must be a bool array of shape \(6,\)\. Received: shape {received}"
    ):
        AlignedMatrix(np.ones((6, 2)), vocabulary, found=found)


def test_own_matrix_needs_a_vocabulary():
    """A plain list of words is refused, and the message says how to make one of it."""
    with pytest.raises(AlignmentError, match=r"Vocabulary\(words, padding_id=None, oov_ids=\(\)\)\. Received: list"):
        AlignedMatrix(np.ones((2, 2)), ["cat", "dog"])


def test_callers_array_cannot_change_the_baseline(vocabulary):
    """The matrix given is copied, since drift is measured against it."""
    matrix = np.ones((len(vocabulary), 2), np.float32)
    aligned = AlignedMatrix(matrix, vocabulary)
    matrix[2] = 9
    assert aligned.values.max() == 1


@pytest.mark.parametrize(
    "given", [(np.eye(2), Vocabulary(["", "[UNK]"])), (KeyedVectors(["a"], np.ones((1, 2))), ["a"])]
)
def test_other_types_are_refused(given):
    """Both types received are named."""
    with pytest.raises(ArgumentError, match=r"align takes KeyedVectors and a Vocabulary\. Received: "):
        align(*given)


@pytest.mark.parametrize("oov", ["normal", "mean", "zeros"])
def test_transformed_takes_statistics_of_the_rows_found(vectors, vocabulary, oov):
    """Whatever fills the rows of other tokens, they do not shift the mean of those found."""
    values = align(vectors, vocabulary, oov=oov).transformed(centre).values
    np.testing.assert_array_equal(values[[2, 3]], centre(MATRIX[[2, 1]]))


def test_transformed_changes_drawn_rows_too(vectors, vocabulary):
    """Rows that are not found move along, so that they stay in the cloud of the others."""
    before = align(vectors, vocabulary)
    expected = before.values[[1, 4, 5]] - MATRIX[[1, 2]].mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(before.transformed(centre).values[[1, 4, 5]], expected, atol=1e-6)


def test_transformed_leaves_rows_of_zeros(vectors, vocabulary):
    """With oov="zeros" a token without a vector has none afterwards either."""
    values = align(vectors, vocabulary, oov="zeros").transformed(centre, unit_norm).values
    assert not values[[0, 1, 4, 5]].any()


def test_transformed_keeps_padding_zero(vectors):
    """Wherever it is, and whatever the function makes of it."""
    aligned = align(vectors, Vocabulary(["cat", "[UNK]", ""], padding_id=2))
    seen = []
    values = aligned.transformed(lambda matrix: seen.append(matrix) or matrix + 1).values
    assert not seen[0][2].any()
    np.testing.assert_array_equal(values[:2], aligned.values[:2] + 1)
    assert not values[2].any()


def test_transformed_keeps_tokens_and_how_they_were_found(vectors, vocabulary):
    """Only the matrix is another one, and the one before stays as it was."""
    before = align(vectors, vocabulary)
    kept = before.values.copy()
    after = before.transformed(partial(weight_by_frequency, counts=vocabulary.counts), partial(reduce_width, width=1))
    assert (after.vocabulary, after.how, after.found.tolist()) == (vocabulary, before.how, before.found.tolist())
    assert (after.output_dim, after.values.dtype) == (1, np.float32)
    np.testing.assert_array_equal(before.values, kept)


def test_transformed_by_nothing_is_equal(vectors, vocabulary):
    """Nothing is done by default."""
    before = align(vectors, vocabulary)
    np.testing.assert_array_equal(before.transformed().values, before.values)


def test_transformed_values_are_read_only(vectors, vocabulary):
    """Initialiser and baseline of drift, as before; and no function can write into the matrix it is given."""
    aligned = align(vectors, vocabulary)
    with pytest.raises(ValueError, match="read-only"):
        aligned.transformed(centre).values[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        aligned.transformed(lambda matrix: matrix.fill(0))


def test_transformed_to_nonfinite_values_is_refused(vectors, vocabulary):
    """The message names the token."""
    with pytest.raises(AlignmentError, match=r"NaN or infinity in row 2 \(token 'car'\)"):
        align(vectors, vocabulary, oov="zeros").transformed(lambda matrix: np.where(matrix == 0, 0, np.inf))


def test_transformed_without_a_row_found_is_refused(vocabulary):
    """There is nothing to take a mean of."""
    aligned = AlignedMatrix(np.ones((6, 2)), vocabulary, found=np.zeros(6, bool))
    with pytest.raises(ArgumentError, match="a mean needs at least 1 rows"):
        aligned.transformed(centre)


@pytest.mark.parametrize("at_once", [1, 3])
def test_tokens_are_looked_up_some_at_a_time(monkeypatch, at_once):
    """A million tokens would hold a million iterators; rows and spellings are the same."""
    words = ["cat", "dog", "Straße", "new york"]
    vectors = KeyedVectors(words, np.arange(8.0).reshape(4, 2).astype("float32"))
    vocabulary = Vocabulary(["", "[UNK]", "Dog", "CAT", "x", "Straße", "dog", "new york"])
    expected = align(vectors, vocabulary, oov="zeros")
    monkeypatch.setattr(alignment, "_TOKENS_AT_ONCE", at_once)
    aligned = align(vectors, vocabulary, oov="zeros")
    assert aligned.values.tolist() == expected.values.tolist() and aligned.how == expected.how
