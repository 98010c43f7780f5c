"""Arrays over files travel as paths."""

import pickle

import numpy as np
import pytest

from embkeras._mapped import file_part
from embkeras.errors import ArgumentError

TABLE = np.random.default_rng(0).normal(size=(3000, 7)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    """A file of TABLE."""
    np.save(tmp_path / "table.npy", TABLE)
    return tmp_path / "table.npy"


@pytest.mark.parametrize(
    "view",
    [
        lambda table: table,
        lambda table: table.view(),
        lambda table: np.asarray(table),
        lambda table: table[5:],
        lambda table: np.asarray(table)[1000:2000].view(),
        lambda table: table[2900],
        lambda table: table[1:].reshape(-1),
    ],
)
def test_part_of_a_file(path, view):
    """Whatever view of a mapping it is, the same bytes are mapped elsewhere; few travel."""
    array = view(np.load(path, mmap_mode="r"))
    pickled = pickle.dumps(file_part(array))
    assert len(pickled) < 600
    opened = pickle.loads(pickled).open()
    assert opened.dtype == array.dtype and opened.shape == array.shape and not opened.flags.writeable
    assert opened.tobytes() == array.tobytes()


def test_part_that_begins_in_the_middle(tmp_path):
    """Of a file that is mapped from a page of its own on."""
    (tmp_path / "raw").write_bytes(b"x" * 9000 + TABLE.tobytes())
    mapped = np.memmap(tmp_path / "raw", np.float32, "r", 9000, TABLE.shape)
    assert file_part(mapped[17:]).open().tobytes() == TABLE[17:].tobytes()


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_what_may_differ_from_its_file_is_none(path, mode):
    """Numbers that can be changed in memory, columns, reversed rows, and arrays of memory."""
    assert file_part(np.load(path, mmap_mode=mode)) is None
    table = np.load(path, mmap_mode="r")
    assert [file_part(each) for each in (table[:, 1:], table[::-1], table.copy(), table + 1, TABLE)] == [None] * 5


def test_another_file_is_refused(path):
    """One that is missing, shorter, or has other numbers in its middle."""
    part = file_part(np.load(path, mmap_mode="r"))
    changed = TABLE.copy()
    changed[1400:1500] += 1
    np.save(path, changed)
    with pytest.raises(ArgumentError, match=r"table\.npy', which is another file here"):
        part.open()
    path.unlink()
    with pytest.raises(ArgumentError, match=r"table\.npy', which can't be read here: No such file"):
        part.open()
