"""The rows that the stored parts of a table make together."""

import numpy as np
import pytest

from embkeras.errors import VectorFileError
from embkeras.tables import stored_tables
from embkeras.tables.stored_tables import StoredTable

BASE = np.arange(12, dtype="float32").reshape(4, 3)
EVERY = np.arange(4)


@pytest.mark.parametrize("block", [1, 3, 7, 1 << 20])
def test_any_rows_in_any_order(monkeypatch, block):
    """Whatever the size of a block: repeated rows, backwards, none."""
    monkeypatch.setattr(stored_tables, "BLOCK", block)
    for ids in ([3, 0, 3, 1], [2], []):
        ids = np.array(ids, np.int64)
        np.testing.assert_array_equal(StoredTable("t", BASE).read(ids), BASE[ids])


def test_scales_are_factors_or_divisors():
    """Ours multiply, those of Keras divide."""
    rows, scales = np.array([[100], [-50]], np.int8), np.array([0.5, 4], "float32")
    assert StoredTable("t", rows, scales).read(np.arange(2)).tolist() == [[50], [-200]]
    assert StoredTable("t", rows, scales, divided=True).read(np.arange(2)).tolist() == [[200], [-12.5]]


def test_shared_rows_and_rows_that_train():
    """The map of the base, and the rows beside it, which win."""
    table = StoredTable(
        "t",
        BASE,
        shared=np.array([3, 0, 0, 2, 1]),
        moving=np.array([[7, 7, 7], [0, 0, 0]], "float32"),
        places=np.array([1, 1, 0, 1, 1]),
    )
    assert table.rows == 5
    assert table.read(np.arange(5))[:, 0].tolist() == [9, 0, 7, 6, 3]


def test_low_rank():
    """A @ B is added, in blocks too."""
    a, b = np.eye(4, 2, dtype="float32"), np.ones((2, 3), "float32")
    np.testing.assert_array_equal(StoredTable("t", BASE, low_rank=(a, b)).read(EVERY), BASE + a @ b)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"base": np.ones(3)}, r"a base of float64 \(3,\)"),
        ({"base": np.ones((3, 0))}, r"\(3, 0\)"),
        ({"base": np.ones((3, 2), int)}, "a base of int64"),
        ({"base": np.ones((3, 2), np.int8)}, "int8 without scales"),
        ({"scales": np.ones(4)}, "float32 with scales"),
        ({"base": np.ones((3, 2), np.int8), "scales": np.ones(2)}, r"3 rows with scales of \(2,\)"),
        ({"places": np.zeros(4, int)}, "a map without them"),
        ({"moving": np.ones((2, 4)), "places": np.zeros(4, int)}, r"width 3 beside such of \(2, 4\)"),
        ({"moving": np.ones((2, 3), int), "places": np.zeros(4, int)}, "rows that train of int64"),
        ({"moving": np.ones((2, 3)), "places": np.zeros(5, int)}, r"a map of int64 \(5,\)"),
        ({"moving": np.ones((2, 3)), "places": np.array([0, 1, 2, 0])}, "the rows 0 to 2 of 2"),
        ({"shared": np.array([0, -1])}, "the rows -1 to 0 of 4"),
        ({"shared": np.ones(2)}, "a map of float64"),
        ({"low_rank": (np.ones((3, 2)), np.ones((2, 3)))}, "for 4 rows of width 3"),
    ],
)
def test_parts_that_do_not_fit(parts, found):
    """The message names the table and what is wrong."""
    with pytest.raises(VectorFileError, match=f"t is damaged: expected parts of one table, found .*{found}"):
        StoredTable("t", **{"base": BASE, **parts})
