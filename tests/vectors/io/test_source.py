"""Files as their readers see them: compressed or not, complete or not, vectors or not; and the progress bar."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import KeyedVectors, _progress, save_vectors
from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.inspection import inspect_vectors
from embkeras.vectors.io import source as source_module
from embkeras.vectors.io.registry import convert, load_vectors
from embkeras.vectors.io.source import Gunzip, Source
from tests.processes import run_python, started
from tests.properties import PROPERTY

CONTENTS = b"".join(b"word%d 0.5 %d.25\n" % (row, row) for row in range(5000))
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "none": bytes}


def test_archives_with_a_password_are_named(tmp_path):
    """Not called incomplete."""
    path = _zip(tmp_path / "v.zip", {"a.txt": b"a 1.5\n"})
    raw = bytearray(path.read_bytes())
    raw[6] |= 1  # in the member's own header
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # in the directory at the end
    path.write_bytes(raw)
    with pytest.raises(VectorFileError, match=r"'a\.txt' in '.*v\.zip' has a password: unpack it first"):
        load_vectors(path)


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
    """Never returned as if they were complete, wherever they are cut."""
    contents = path.read_bytes()
    if contents == CONTENTS:
        pytest.skip("cutting plain text is the text reader's business")
    for end in (12, len(contents) // 2, len(contents) - 6, len(contents) - 1):
        path.write_bytes(contents[:end])
        with pytest.raises(VectorFileError, match=r"vectors\.dat'.* is not a complete \.(gz|bz2|xz|zip) file"):
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
    assert load_vectors(path, member="small/a.txt").words == ["a"]
    with pytest.raises(ArgumentError, match=r"archive of 2 files: .*member=.* Received: None; .* small/a\.txt, b\.txt"):
        load_vectors(path)
    with pytest.raises(ArgumentError, match="Received: 'c'; "):
        load_vectors(path, member="c")


def test_member_of_no_archive(tmp_path):
    """A file that holds no members has none to choose."""
    (tmp_path / "v.txt").write_bytes(b"a 1.5\n")
    with pytest.raises(ArgumentError, match=r"member= names a file in a \.zip .* Received: 'a'"):
        load_vectors(tmp_path / "v.txt", member="a")


MEMBERS = st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 9), st.integers(0, 5)), max_size=4)
ERRORS = (EOFError, zlib.error)


def packed(members) -> bytes:
    """Members, each followed by zeros."""
    return b"".join(gzip.compress(contents, level) + bytes(zeros) for contents, level, zeros in members)


def unpacked(raw: bytes, size: int) -> bytes:
    """All contents, in reads of one size."""
    file, contents, buffer = Gunzip(io.BytesIO(raw)), b"", bytearray(size)
    while count := file.readinto(buffer):
        contents += buffer[:count]
    return contents


@PROPERTY
@given(MEMBERS, st.integers(1, 400), st.integers(1, 400))
def test_contents_are_those_of_the_gzip_module(monkeypatch, members, size, piece):
    """Several members, zeros after them, reads and pieces of any size."""
    monkeypatch.setattr(source_module, "_GZIP_READ", piece)
    assert unpacked(packed(members), size) == b"".join(contents for contents, _, _ in members)


@PROPERTY
@given(MEMBERS.filter(bool), st.data())
def test_damage_is_found_where_the_gzip_module_finds_it(members, data):
    """A byte changed, or the end cut off: the same contents, or an error in both."""
    raw = bytearray(packed(members))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        expected = gzip.decompress(raw)
    except (*ERRORS, gzip.BadGzipFile):
        expected = None
    try:
        found = unpacked(raw, 100)
    except ERRORS:
        found = None
    # zlib checks two bits of the header that the module does not, and never takes less for a whole file.
    assert found == expected or found is None


def test_empty_file_has_no_contents():
    """As for the gzip module."""
    assert unpacked(b"", 10) == b""


def test_end_that_is_missing():
    """The message is that of the module."""
    with pytest.raises(EOFError, match="ended before the end-of-stream marker"):
        unpacked(gzip.compress(b"abc" * 100)[:-1], 10)


def test_other_bytes_behind_the_end():
    """Only zeros are allowed there."""
    with pytest.raises(zlib.error, match="incorrect header check"):
        unpacked(gzip.compress(b"abc") + b"more", 10)


def test_load_vectors_shows_a_bar(monkeypatch, tmp_path, capsys):
    """Asked for, it shows the file's name and the share, and clears the line."""
    monkeypatch.setattr(_progress, "_AFTER", 0)
    monkeypatch.setattr(_progress, "_EVERY", 0)
    path = tmp_path / "glove.txt"
    path.write_text("a 1.0\nb 2.0\n")
    load_vectors(path, progress=True)
    shown = capsys.readouterr().err
    assert "reading glove.txt" in shown and "100%" in shown and shown.endswith("\x1b[2K")


def test_convert_shows_reading_and_writing(monkeypatch, tmp_path, capsys):
    """Both halves of the work, if asked for; otherwise nothing."""
    monkeypatch.setattr(_progress, "_AFTER", 0)
    path = tmp_path / "glove.txt"
    path.write_text("a 1.0\nb 2.0\n")
    convert(path, tmp_path / "out.vec", progress=True)
    shown = capsys.readouterr().err
    assert "reading glove.txt" in shown and "writing out.vec" in shown
    convert(path, tmp_path / "silent.vec")
    assert capsys.readouterr().err == ""


def _tar():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("v.txt")
        info.size = 6
        archive.addfile(info, io.BytesIO(b"a 1.5\n"))
    return packed.getvalue()


FILES = {
    "an empty file": b"",
    r"a web page \(was the download refused\?\)": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "a Git LFS pointer, not the file itself: run git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a tar archive: unpack it first": _tar(),
    "a pickle, which can run any code and is not opened": pickle.dumps([1.5]),
    "a 7z archive: unpack it first": b"7z\xbc\xaf\x27\x1c" + bytes(30),
    "a rar archive: unpack it first": b"Rar!\x1a\x07\x00" + bytes(30),
    "compressed with zstd: unpack it first": b"\x28\xb5\x2f\xfd" + bytes(30),
    "a PDF document": b"%PDF-1.4\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(30),
    "an SQLite database": b"SQLite format 3\x00" + bytes(30),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("what", FILES)
def test_what_it_is(tmp_path, what, packed):
    """By its first bytes, under any name, also inside a compressed file."""
    path = tmp_path / "vectors.txt"
    path.write_bytes(gzip.compress(FILES[what]) if packed else FILES[what])
    with pytest.raises(VectorFileError, match=rf"vectors\.txt' contains no word vectors: it is {what}"):
        load_vectors(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_not_opened(tmp_path, protocol):
    """Its code does not run."""
    target = tmp_path / "ran"

    class Harmful:
        """Touches a file when it is unpickled."""

        def __reduce__(self):
            return open, (str(target), "w")

    (tmp_path / "v.kv").write_bytes(pickle.dumps(Harmful(), protocol=protocol))
    with pytest.raises(VectorFileError, match=r"is a pickle, which can run any code and is not opened"):
        load_vectors(tmp_path / "v.kv")
    assert not target.exists()


@pytest.mark.parametrize("first", [b"<html", b"<s>", b"version"])
def test_words_that_look_like_it(tmp_path, first):
    """A vector file may begin with such a word, if it is one."""
    (tmp_path / "v.txt").write_bytes(first + b" 0.5 1.5\nb 1.0 2.0\n")
    if first == b"<html":
        with pytest.raises(VectorFileError, match="contains no word vectors"):
            load_vectors(tmp_path / "v.txt")
    else:
        assert load_vectors(tmp_path / "v.txt").words == [first.decode(), "b"]


# --------------------------------------------------------------------------------- pipes, standard input, and what is no file

VECTORS = KeyedVectors(["the", "Cat"], np.array([[0.5, 1], [2, 0.25]], "float32"))
THROUGH_A_PIPE = ["v.txt", "v.vec", "v.bin", "v.h5", "v.npz", "v.txt.gz", "v.vec.zip"]
needs_fifos = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")


@pytest.fixture
def fifo(tmp_path):
    """Makes a named pipe into which another process writes the contents of a file, and returns its path."""
    with contextlib.ExitStack() as writers:

        def make(path):
            os.mkfifo(tmp_path / "pipe")
            writers.enter_context(started("sh", "-c", 'cat "$1" > "$2"', "sh", path, tmp_path / "pipe"))
            return tmp_path / "pipe"

        yield make


@needs_fifos
@pytest.mark.parametrize("name", THROUGH_A_PIPE)
def test_pipes_are_read(tmp_path, fifo, name):
    """Also of formats that are memory-mapped or read twice; errors and provenance name the pipe, and no copy is left."""
    before = set(os.listdir(source_module.tempfile.gettempdir()))
    pipe = fifo(save_vectors(VECTORS, tmp_path / name))
    loaded = load_vectors(pipe)
    assert list(loaded.words) == VECTORS.words and loaded.matrix.tobytes() == VECTORS.matrix.tobytes()
    assert loaded.provenance.path == str(pipe)
    left = set(os.listdir(source_module.tempfile.gettempdir())) - before
    assert not [name for name in left if name.startswith("embkeras-")]


@needs_fifos
def test_inspection_of_a_pipe(tmp_path, fifo):
    """It is read twice, and named as it was given."""
    report = inspect_vectors(fifo(save_vectors(VECTORS, tmp_path / "v.h5")))
    assert (report.path, report.rows, report.format) == (str(tmp_path / "pipe"), 2, "store")


@needs_fifos
def test_words_through_a_pipe(tmp_path, fifo):
    """Beside a matrix in a file."""
    np.save(tmp_path / "m.npy", VECTORS.matrix)
    (tmp_path / "words").write_text("x\ny\n")
    assert load_vectors(tmp_path / "m.npy", words_file=fifo(tmp_path / "words")).words == ["x", "y"]


@needs_fifos
def test_a_matrix_in_a_pipe_has_no_words_beside_it(tmp_path, fifo):
    """The error names the pipe, not the copy."""
    np.save(tmp_path / "m.npy", VECTORS.matrix)
    with pytest.raises(VectorFileError, match=r"words of '.*pipe' must be in .*words_file="):
        load_vectors(fifo(tmp_path / "m.npy"))


@needs_fifos
def test_no_room_for_the_copy(tmp_path, fifo, monkeypatch):
    """The error names the folder, and the variable that changes it."""
    pipe = fifo(save_vectors(VECTORS, tmp_path / "v.txt"))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(source_module.shutil, "copyfileobj", full)
    with pytest.raises(VectorFileError, match=r"Cannot copy .*pipe' to '.*': No space left on device.*TMPDIR"):
        load_vectors(pipe)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("redirected", [False, True])
@pytest.mark.skipif(sys.platform == "win32", reason="no /dev/stdin")
def test_standard_input(tmp_path, name, redirected):
    """A pipe or a file."""
    path = save_vectors(VECTORS, tmp_path / "v.vec")
    code = "import sys; from embkeras import load_vectors; print(load_vectors(sys.argv[1]).matrix.tolist())"
    if redirected:
        with (
            path.open("rb") as file,
            started(sys.executable, "-c", code, name, stdin=file, stdout=subprocess.PIPE) as child,
        ):
            printed = child.communicate(timeout=60)[0]
    else:
        printed = run_python("-c", code, name, stdin=path.read_text()).stdout
    assert printed == "[[0.5, 1.0], [2.0, 0.25]]\n"


def _folder(path):
    path.mkdir()


def _loop(path):
    path.symlink_to(path)


def _dangling(path):
    path.symlink_to(path.with_name("gone"))


def _socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.skipif(sys.platform == "win32", reason="no devices in the file system")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_folder, "it is a folder"),
        (_loop, "it is a link that leads back to itself"),
        (_dangling, r"it is a link to '.*gone', and there is no such file"),
        (_socket, "it is a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.with_name("f").write_text("") or path.symlink_to("f/x"), "Not a directory"),
    ],
)
def test_what_is_no_file(tmp_path, monkeypatch, make, reason):
    """It is named as such, for vectors and for words."""
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    make(tmp_path.__class__("x"))
    with pytest.raises(VectorFileError, match=rf"'x': {reason}"):
        load_vectors("x")
    with pytest.raises(VectorFileError, match=rf"'x': {reason}"):
        inspect_vectors("x")
    np.save("m.npy", VECTORS.matrix)
    with pytest.raises(VectorFileError, match=rf"words in 'x': {reason}"):
        load_vectors("m.npy", words_file="x")


def test_a_model_of_the_hub(tmp_path, monkeypatch):
    """A name that is no path here: the command that fetches it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VectorFileError, match=r"no such file\. .*fetch it first: python -c .*fetch\('org/name'\)"):
        load_vectors("org/name")


def test_home(tmp_path, monkeypatch):
    """~ is the home folder, for vectors and for words."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert save_vectors(VECTORS, "~/m.npy") == tmp_path / "m.npy"
    assert load_vectors("~/m.npy", words_file="~/m.json").words == VECTORS.words
