"""AlignedMatrix: one row per token id."""

import pickle
from functools import partial

import numpy as np
import pytest

from embkeras import AlignedMatrix, Vocabulary, align
from embkeras._mapped import file_part
from embkeras.errors import AlignmentError, ArgumentError
from embkeras.vectors.postprocess import centre, reduce_width, rescale, unit_norm, weight_by_frequency
from tests.vectors.conftest import MATRIX


def test_coverage_counts_types_and_running_text(vectors, vocabulary):
    """Tokens that never occurred don't count as types; text counted as [UNK] is not covered."""
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


def test_report_of_a_token_with_half_a_surrogate_pair(vectors):
    """Such a token has a row like any other."""
    report = align(vectors, Vocabulary(["", "[UNK]", "cat", "\ud800"])).report()
    assert report["token"].tolist() == ["", "[UNK]", "cat", "\ud800"]


def test_report_says_how_large_the_entries_are(vectors, vocabulary):
    """The standard deviation over the rows found alone, before and after rescaling; NaN where none was found."""
    aligned = align(vectors, vocabulary)
    assert aligned.report().attrs["std"] == aligned.std == pytest.approx(MATRIX[[2, 1]].std(), rel=1e-6)
    rescaled = aligned.transformed(rescale)
    assert rescaled.std == pytest.approx(0.1, rel=1e-6)
    np.testing.assert_allclose(rescaled.values, aligned.values * (0.1 / aligned.std), rtol=1e-5)
    assert np.isnan(AlignedMatrix(aligned.values, vocabulary, found=np.zeros(6, bool)).std)


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
        (None, r"Received: shape \(\)"),
        ("matrix", r"Received: shape \(\)"),
        ([[1.0], [1.0, 2.0]], "must be an array of numbers. Received: a list"),
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
    [
        (np.ones(2, bool), r"\(2,\), dtype bool"),
        ([0, 1, 2, 3, 4, 5], r"\(6,\), dtype int64"),
        ("found", r"\(\), dtype <U5"),
    ],
)
def test_own_found_of_another_kind_is_refused(vocabulary, found, received):
    """The wrong shape, or ids instead of a mask, of which all but 0 would count as found."""
    with pytest.raises(
        AlignmentError, match=rf"found must be a bool array of shape \(6,\)\. Received: shape {received}"
    ):
        AlignedMatrix(np.ones((6, 2)), vocabulary, found=found)


def test_own_matrix_needs_a_vocabulary():
    """A plain list of words is refused; the message says how to make a vocabulary from it."""
    with pytest.raises(
        AlignmentError, match=r"Vocabulary\(words, padding_id=None, oov_ids=\(\)\)\. Received: \['cat', 'dog'\]"
    ):
        AlignedMatrix(np.ones((2, 2)), ["cat", "dog"])


@pytest.mark.parametrize("how", ["exact", [("", "special")], [("", "special", "oov")] * 6, [3] * 6])
def test_own_how_of_another_kind_is_refused(vocabulary, how):
    """`report` could not make a table of it."""
    with pytest.raises(AlignmentError, match=r"how must .*pairs \(spelling, how\)\. Received: "):
        AlignedMatrix(np.ones((6, 2)), vocabulary, how=how)


def test_matrices_compare_by_identity(vectors, vocabulary):
    """`==` has an answer, and an aligned matrix can be in a set."""
    first, second = align(vectors, vocabulary), align(vectors, vocabulary)
    assert first == first and first != second and len({first, second, first}) == 2


def test_callers_array_cannot_change_the_baseline(vocabulary):
    """The matrix given is copied, since drift is measured against it."""
    matrix = np.ones((len(vocabulary), 2), np.float32)
    aligned = AlignedMatrix(matrix, vocabulary)
    matrix[2] = 9
    assert aligned.values.max() == 1


@pytest.mark.parametrize("oov", ["normal", "mean", "zeros"])
def test_transformed_takes_statistics_of_the_rows_found(vectors, vocabulary, oov):
    """Rows of other tokens, however filled, do not shift the mean of those found."""
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
    """At any id, and whatever the function returns for it."""
    aligned = align(vectors, Vocabulary(["cat", "[UNK]", ""], padding_id=2))
    seen = []
    values = aligned.transformed(lambda matrix: seen.append(matrix) or matrix + 1).values
    assert not seen[0][2].any()
    np.testing.assert_array_equal(values[:2], aligned.values[:2] + 1)
    assert not values[2].any()


def test_transformed_keeps_tokens_and_how_they_were_found(vectors, vocabulary):
    """Only the matrix is new, and the original stays as it was."""
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


def test_matrix_over_a_file_travels_as_its_path(aligned, tmp_path):
    """Mapped again where it arrives, read-only, with everything beside it; one in memory travels whole."""
    np.save(tmp_path / "table.npy", np.pad(aligned.values, ((0, 0), (0, 2000))))
    mapped = AlignedMatrix(np.load(tmp_path / "table.npy", mmap_mode="r"), aligned.vocabulary, aligned.found)
    pickled = pickle.dumps(mapped)
    assert len(pickled) < 3000
    found = pickle.loads(pickled)
    assert file_part(found.values) == file_part(mapped.values) is not None
    for given, arrived in ((mapped, found), (aligned, pickle.loads(pickle.dumps(aligned)))):
        assert arrived.values.tobytes() == given.values.tobytes() and arrived.found.tolist() == given.found.tolist()
        assert arrived.vocabulary.tokens == given.vocabulary.tokens and arrived.how == given.how
        assert not arrived.values.flags.writeable and not arrived.found.flags.writeable
        assert arrived.std == given.std and arrived.coverage == given.coverage
    (tmp_path / "table.npy").unlink()
    with pytest.raises(ArgumentError, match=r"table\.npy', which can't be read here"):
        pickle.loads(pickled)
