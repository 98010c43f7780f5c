"""Files as their readers see them: compressed or not, whole or not."""

import bz2
import gzip
import lzma
import zipfile

import pytest

from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.io.registry import load_vectors
from embkeras.vectors.io.source import Source, members

CONTENTS = b"".join(b"word%d 0.5 %d.25\n" % (row, row) for row in range(5000))
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "none": bytes}


def _zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in files.items():
            archive.writestr(name, contents)
    return path


@pytest.fixture(params=[*PACKERS, "zip"])
def path(request, tmp_path):
    """The same contents in each packing, under a name that does not tell it."""
    path = tmp_path / "vectors.dat"
    if request.param == "zip":
        return _zip(path, {"inside": CONTENTS})
    path.write_bytes(PACKERS[request.param](CONTENTS))
    return path


def test_contents(path):
    """Whatever the packing, in reads of any size."""
    source = Source(path)
    assert source.head == CONTENTS[: 1 << 16]
    with source.open() as stream:
        assert stream.read(7) == CONTENTS[:7]
        buffer = bytearray(1000)
        assert stream.readinto(buffer) == 1000 and bytes(buffer) == CONTENTS[7:1007]
        assert stream.position == 1007 and stream.buffered().readline() == CONTENTS[1007:].split(b"\n")[0] + b"\n"


def test_the_end(path):
    """The last read is short, and then there is nothing."""
    with Source(path).open() as stream:
        assert len(stream.read(1 << 30)) == len(CONTENTS) and stream.read(1) == b""


def test_loaded(path):
    """load_vectors knows the packing by the contents."""
    vectors = load_vectors(path)
    assert len(vectors) == 5000 and vectors["word4999"].tolist() == [0.5, 4999.25]


def test_progress_ends_at_the_size_of_the_file(path):
    """It counts bytes on disk, and never goes back."""
    seen = []
    with Source(path).open(lambda done, size: seen.append((done, size))) as stream:
        while stream.read(10_000):
            pass
    assert seen == sorted(seen) and seen[-1][0] >= 0.9 * path.stat().st_size


def test_truncated_archives_are_refused(path):
    """Never returned as if whole, wherever they are cut."""
    contents = path.read_bytes()
    if contents == CONTENTS:
        pytest.skip("cutting plain text is the text reader's business")
    for end in (12, len(contents) // 2, len(contents) - 6, len(contents) - 1):
        path.write_bytes(contents[:end])
        with pytest.raises(VectorFileError, match=r"vectors\.dat'.* is not a whole \.(gz|bz2|xz|zip) file"):
            load_vectors(path)


def test_damaged_archives_are_refused(path):
    """A flipped byte in the middle is found by the checksum, if not before."""
    contents = bytearray(path.read_bytes())
    if bytes(contents) == CONTENTS:
        pytest.skip("plain text has no checksum")
    contents[len(contents) // 2] ^= 0x55
    path.write_bytes(contents)
    with pytest.raises(VectorFileError, match=r"vectors\.dat'"):
        load_vectors(path)


def test_a_member_of_several(tmp_path):
    """It has to be named, if there are several; folders and hidden files do not count."""
    path = _zip(tmp_path / "v.zip", {"small/": b"", "small/a.txt": b"a 1.5\n", "b.txt": b"b 2.5\n", "__MACOSX/x": b""})
    assert members(path) == ["small/a.txt", "b.txt"]
    assert load_vectors(path, member="small/a.txt").words == ["a"]
    with pytest.raises(
        ArgumentError, match=r"archive of 2 files: member= says which .* None; there are small/a\.txt, b\.txt"
    ):
        load_vectors(path)
    with pytest.raises(ArgumentError, match="Received: 'c'; there are"):
        load_vectors(path, member="c")


def test_member_of_no_archive(tmp_path):
    """A file that holds no members has none to choose."""
    (tmp_path / "v.txt").write_bytes(b"a 1.5\n")
    with pytest.raises(ArgumentError, match=r"member= names a file in a \.zip .* Received: 'a'"):
        load_vectors(tmp_path / "v.txt", member="a")
