"""Post-processing of a table: each function against the same in a few lines of NumPy."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given

from embkeras import _arrays
from embkeras.errors import ArgumentError
from embkeras.vectors.postprocess import (
    centre,
    reduce_width,
    remove_components,
    rescale,
    standard_deviation,
    transform,
    unit_norm,
    weight_by_frequency,
    weight_by_rank,
)
from tests.properties import PROPERTY, finite_bits

RNG = np.random.default_rng(3)
# Ten rows whose columns vary unlike each other and together, so that the components are well apart.
MATRIX = (RNG.normal(size=(10, 4)) @ RNG.normal(size=(4, 4)) * [5, 2, 1, 0.5] + [3, -1, 0, 2]).astype("float32")
COUNTS = np.array([9, 0, 3, 1, 1, 1, 5, 2, 4, 4])
FUNCTIONS = {
    "centre": centre,
    "remove_components": partial(remove_components, count=2),
    "reduce_width": partial(reduce_width, width=3),
    "weight_by_frequency": partial(weight_by_frequency, counts=COUNTS),
    "weight_by_rank": weight_by_rank,
    "rescale": rescale,
    "unit_norm": unit_norm,
}
STATISTICAL = ["centre", "remove_components", "reduce_width", "rescale"]
every = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
statistical = pytest.mark.parametrize("function", [FUNCTIONS[name] for name in STATISTICAL], ids=STATISTICAL)


def principal(matrix):
    """The centred rows in float64, and the directions of variance, by a singular value decomposition."""
    centred = matrix - matrix.mean(axis=0, dtype=np.float64)
    return centred, np.linalg.svd(centred, full_matrices=False)[2]


def with_zeros(matrix):
    """Rows of zeros before the third row and at the end."""
    return np.insert(matrix, [2, len(matrix)], 0, axis=0)


def test_centre_subtracts_the_mean():
    """The columns' means are 0 afterwards."""
    np.testing.assert_allclose(centre(MATRIX), MATRIX - MATRIX.mean(axis=0, dtype=np.float64), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_remove_components_takes_out_the_top(count):
    """The centred rows less their projections on the first directions."""
    centred, directions = principal(MATRIX)
    expected = centred - centred @ directions[:count].T @ directions[:count]
    np.testing.assert_allclose(remove_components(MATRIX, count=count), expected, atol=1e-5)


@pytest.mark.parametrize(("width", "count"), [(4, 1), (149, 1), (151, 2), (300, 3)])
def test_remove_components_counts_with_the_width(width, count):
    """About D / 100 by default, at least 1: so much rank is lost."""
    left = remove_components(RNG.normal(size=(400, width)))
    assert np.linalg.matrix_rank(left.astype(np.float64), tol=1e-3) == width - count


@pytest.mark.parametrize("width", [1, 2, 4])
def test_reduce_width_keeps_the_directions_of_most_variance(width):
    """The first columns of the principal components, up to the sign of each."""
    centred, directions = principal(MATRIX)
    expected = centred @ directions[:width].T
    reduced = reduce_width(MATRIX, width)
    signs = np.sign((reduced * expected).sum(axis=0))
    np.testing.assert_allclose(reduced, expected * signs, atol=1e-5)


def test_reduce_width_to_the_full_width_keeps_all_distances():
    """A rotation about the mean."""
    reduced = reduce_width(MATRIX, 4)
    centred, _ = principal(MATRIX)
    np.testing.assert_allclose(reduced @ reduced.T, centred @ centred.T, rtol=1e-4, atol=1e-4)


def test_reduce_width_does_not_hang_on_the_sign_of_a_direction(monkeypatch):
    """The result is the same with a linear algebra library that flips the directions."""
    before = reduce_width(MATRIX, 3)
    stock = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (None, -stock(matrix)[1]))
    np.testing.assert_array_equal(reduce_width(MATRIX, 3), before)


def test_weight_by_frequency_is_sif():
    """a / (a + p), the row of a word that never occurred left as it is."""
    weighted = weight_by_frequency(MATRIX, COUNTS, a=0.01)
    np.testing.assert_allclose(weighted, MATRIX * (0.01 / (0.01 + COUNTS / 30))[:, None], rtol=1e-6)
    np.testing.assert_array_equal(weighted[1], MATRIX[1])


def test_weight_by_frequency_has_the_papers_constant():
    """a is 1e-3 by default."""
    np.testing.assert_array_equal(weight_by_frequency(MATRIX, COUNTS), weight_by_frequency(MATRIX, COUNTS, a=1e-3))


def test_weight_by_rank_is_zipf():
    """log(1 + rank) with ranks from 1, so that no row becomes zeros."""
    np.testing.assert_allclose(weight_by_rank(MATRIX), MATRIX * np.log(np.arange(2, 12))[:, None], rtol=1e-6)


@pytest.mark.parametrize(("std", "more"), [(0.1, {}), (0.2, {"std": 0.2}), (1e-30, {"std": 1e-30}), (7.0, {"std": 7})])
def test_rescale_sets_the_standard_deviation(std, more):
    """Of all entries about their mean, 0.1 by default; the rows keep their directions and ratios."""
    result = rescale(MATRIX, **more)
    assert result.std(dtype=np.float64) == pytest.approx(std, rel=1e-6)
    np.testing.assert_allclose(result / MATRIX, np.full_like(MATRIX, result[0, 0] / MATRIX[0, 0]), rtol=1e-5)


@PROPERTY
@given(finite_bits())
def test_rescale_of_any_matrix(matrix):
    """Its entries have the standard deviation asked for, or the matrix is refused; nothing becomes infinite."""
    taken = matrix[matrix.any(axis=1)].astype(np.float64)
    try:
        result = rescale(matrix, 0.5)
    except ArgumentError:
        spread = np.ptp(taken) if taken.size else 0
        assert spread < 1e-37 or spread <= 1e-8 * np.abs(taken).max()
    else:
        assert result[matrix.any(axis=1)].std(dtype=np.float64) == pytest.approx(0.5, rel=1e-5)
        assert ((result > 0) <= (matrix > 0)).all() and np.isfinite(result).all()


def test_standard_deviation_is_numpys():
    """Of the rows that count; large and small numbers too; NaN where no row counts."""
    assert standard_deviation(MATRIX) == pytest.approx(MATRIX.std(dtype=np.float64))
    assert standard_deviation(with_zeros(MATRIX)) == pytest.approx(MATRIX.std(dtype=np.float64))
    assert standard_deviation(MATRIX, rows=np.arange(10) < 3) == pytest.approx(MATRIX[:3].std(dtype=np.float64))
    for unit in (1e-300, 1e300):
        assert standard_deviation(MATRIX.astype(np.float64) * unit) == pytest.approx(standard_deviation(MATRIX) * unit)
    assert np.isnan(standard_deviation(np.zeros((3, 2)))) and np.isnan(standard_deviation(np.zeros((0, 2))))


@pytest.mark.parametrize("std", [0, -0.1, np.nan, np.inf, "0.1", None, True])
def test_rescale_refuses_standard_deviations(std):
    """The message names the value."""
    with pytest.raises(ArgumentError, match=f"std must be a number > 0. Received: {std!r}"):
        rescale(MATRIX, std)


@pytest.mark.parametrize(
    ("matrix", "rows", "received"),
    [
        (np.zeros((3, 2)), None, "a standard deviation of nan"),
        (MATRIX, np.zeros(10, bool), "a standard deviation of nan"),
        (np.full((3, 2), 0.1), None, r"a standard deviation of [\d.e-]+ "),
        (MATRIX[:, :1], np.arange(10) == 1, "a standard deviation of 0 "),
    ],
)
def test_rescale_refuses_entries_that_are_alike(matrix, rows, received):
    """No factor would give them a standard deviation."""
    with pytest.raises(ArgumentError, match=f"needs entries that differ.* Received: {received}"):
        rescale(matrix, rows=rows)


@PROPERTY
@given(finite_bits())
def test_unit_norm_of_any_row_is_1(matrix):
    """However large or small its numbers are; rows of zeros stay zeros."""
    norms = np.linalg.norm(unit_norm(matrix).astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, matrix.any(axis=1), atol=1e-6)


@every
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_result_is_new_float32(function, dtype):
    """For any float type, the input is unchanged."""
    given = MATRIX.astype(dtype)
    before = given.copy()
    given.flags.writeable = False
    result = function(given)
    assert (result.dtype, result.shape[0], np.shares_memory(result, given)) == (np.float32, 10, False)
    np.testing.assert_array_equal(given, before)


@every
def test_blocks_make_no_difference(monkeypatch, function):
    """Worked on by one or two rows at once."""
    whole = function(MATRIX)
    for block in (1, 9):
        monkeypatch.setattr(_arrays, "BLOCK", block)
        np.testing.assert_allclose(function(MATRIX), whole, atol=1e-5)


@statistical
def test_rows_of_zeros_take_no_part(function):
    """Padding and words without a vector do not change the mean or the components, and stay zeros."""
    result = function(with_zeros(MATRIX))
    np.testing.assert_allclose(np.delete(result, [2, 11], axis=0), function(MATRIX), atol=1e-6)
    assert not result[[2, 11]].any()


@statistical
def test_statistics_are_those_of_the_rows_chosen(function):
    """Other rows are changed in the same way, but change nothing for these."""
    strange = np.vstack([MATRIX, np.full((3, 4), 100, np.float32)])
    result = function(strange, rows=np.arange(13) < 10)
    np.testing.assert_allclose(result[:10], function(MATRIX), atol=1e-6)
    assert result[10:].any()


def test_memory_mapped_matrix(tmp_path):
    """A table in a file is read block by block."""
    np.save(tmp_path / "table.npy", MATRIX)
    mapped = np.load(tmp_path / "table.npy", mmap_mode="r")
    np.testing.assert_array_equal(reduce_width(mapped, 2), reduce_width(MATRIX, 2))


@every
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_matrix_is_refused(function, value):
    """The message names the row."""
    matrix = MATRIX.copy()
    matrix[7, 1] = value
    with pytest.raises(ArgumentError, match=r"must be finite. Received: NaN or infinity in row 7"):
        function(matrix)


@every
def test_other_arrays_are_refused(function):
    """The message names the shape or the type received."""
    with pytest.raises(ArgumentError, match=r"A matrix to post-process must have .* Received: shape \(4,\)"):
        function(np.ones(4))
    with pytest.raises(ArgumentError, match=r"must hold floats. Received: dtype int64"):
        function(np.ones((10, 4), int))


def test_result_that_float32_cannot_hold_is_refused():
    """The message names the row; nothing becomes infinite in silence."""
    matrix = np.array([[3e38, 0], [-3e38, 1], [-3e38, 0]], np.float32)
    with pytest.raises(ArgumentError, match=r"must fit into float32. .* row 0 becomes too large"):
        centre(matrix)


@pytest.mark.parametrize("count", [0, 4, -1, 1.0, True])
def test_remove_components_refuses_counts(count):
    """Fewer than 1, or not below the width."""
    with pytest.raises(ArgumentError, match=rf"count must be an integer from 1 to 3. Received: {count!r}"):
        remove_components(MATRIX, count=count)


def test_remove_components_needs_two_columns():
    """Nothing would be left of one."""
    with pytest.raises(ArgumentError, match="Received: a matrix of width 1"):
        remove_components(MATRIX[:, :1])


@pytest.mark.parametrize("width", [0, 5, 2.0, None])
def test_reduce_width_refuses_widths(width):
    """Fewer than 1, or more than there are."""
    with pytest.raises(ArgumentError, match=rf"width must be an integer from 1 to 4. Received: {width!r}"):
        reduce_width(MATRIX, width)


def test_too_few_rows_are_refused():
    """Directions need more rows than there are directions; a mean needs one."""
    with pytest.raises(ArgumentError, match=r"width=3 needs at least 4 rows that are not zeros. Received: 3"):
        reduce_width(with_zeros(MATRIX[:3]), 3)
    with pytest.raises(ArgumentError, match=r"count=1 needs at least 2 rows that are not zeros. Received: 1"):
        remove_components(MATRIX, count=1, rows=np.arange(10) < 1)
    with pytest.raises(ArgumentError, match=r"a mean needs at least 1 rows that are not zeros. Received: 0"):
        centre(np.zeros((3, 2)))


@pytest.mark.parametrize("rows", [np.ones(9, bool), np.ones(10), [0, 1]])
def test_other_rows_are_refused(rows):
    """The message names the shape and the type received."""
    with pytest.raises(ArgumentError, match=r"rows must be a bool array of shape \(10,\). Received: shape \("):
        centre(MATRIX, rows=rows)


@pytest.mark.parametrize(
    "counts", [COUNTS[:9], -COUNTS, COUNTS * 0, [*COUNTS[:9], np.nan], None, "many", np.ones(10, bool)]
)
def test_weight_by_frequency_refuses_counts(counts):
    """Of the wrong shape, negative, all 0, or not numbers."""
    with pytest.raises(ArgumentError, match=r"counts must .*\. Received: (shape|10 zeros)"):
        weight_by_frequency(MATRIX, counts)


@pytest.mark.parametrize("a", [0, -1e-3, np.nan, np.inf, "1"])
def test_weight_by_frequency_refuses_constants(a):
    """The message names the value."""
    with pytest.raises(ArgumentError, match=f"a must be a number > 0. Received: {a!r}"):
        weight_by_frequency(MATRIX, COUNTS, a=a)


def test_transform_applies_in_turn():
    """Each function receives the result of the previous one, and `rows` is passed to those that take it."""
    rows = np.arange(10) < 8
    result = transform(MATRIX, [centre, lambda matrix: matrix * 2, FUNCTIONS["reduce_width"]], rows=rows)
    np.testing.assert_array_equal(result, reduce_width(centre(MATRIX, rows=rows) * 2, 3, rows=rows))


def test_transform_leaves_rows_that_are_bound():
    """What the caller set with functools.partial is kept."""
    own = np.arange(10) < 5
    result = transform(MATRIX, [partial(centre, rows=own)], rows=np.ones(10, bool))
    np.testing.assert_array_equal(result, centre(MATRIX, rows=own))


def test_transform_copies_even_what_is_new():
    """A function may keep what it returned; it cannot change the result afterwards."""
    kept = MATRIX.copy()
    result = transform(MATRIX, [lambda _: kept], rows=np.ones(10, bool))
    kept[:] = 0
    np.testing.assert_array_equal(result, MATRIX)


def test_transform_takes_functions_without_a_signature():
    """As some built-in ones are."""
    np.testing.assert_array_equal(transform(MATRIX, [np.negative], rows=np.ones(10, bool)), -MATRIX)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("centre", "takes functions. Received: 'centre' at place 0"),
        (len, r"The result of len must have the shape \(rows, width\). Received: shape \(\)"),
        (lambda matrix: matrix[:9], r"The result of <lambda> must have 10 rows. Received: shape \(9, 4\)"),
        (reduce_width, r"functools\.partial\. Received: reduce_width, missing a required argument: 'width'\."),
        (lambda: MATRIX, r"functools\.partial\. Received: <lambda>, too many positional arguments\."),
        (lambda matrix: matrix > 0, "The result of <lambda> must hold floats. Received: dtype bool"),
    ],
)
def test_transform_refuses(function, message):
    """Not a function, one that needs other arguments, or one that returns another kind of array; the message names it."""
    with pytest.raises(ArgumentError, match=message):
        transform(MATRIX, [function], rows=np.ones(10, bool))
