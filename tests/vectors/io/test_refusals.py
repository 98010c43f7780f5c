"""Files that are no vectors say what they are."""

import gzip
import io
import pickle
import tarfile

import pytest

from embkeras.errors import VectorFileError
from embkeras.vectors.io.registry import load_vectors


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
    "a Git LFS pointer and not the file: run git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a tar archive: unpack it first": _tar(),
    "a pickle, which can run any code and is not opened": pickle.dumps({"a": [1.5]}),
    "a 7z archive: unpack it first": b"7z\xbc\xaf\x27\x1c" + bytes(30),
    "a rar archive: unpack it first": b"Rar!\x1a\x07\x00" + bytes(30),
    "compressed with zstd: unpack it first": b"\x28\xb5\x2f\xfd" + bytes(30),
    "a PDF document": b"%PDF-1.4\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(30),
    "a parquet table": b"PAR1" + bytes(30),
    "an SQLite database": b"SQLite format 3\x00" + bytes(30),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("what", FILES)
def test_what_it_is(tmp_path, what, packed):
    """By its first bytes, whatever it is called, also inside a compressed file."""
    path = tmp_path / "vectors.txt"
    path.write_bytes(gzip.compress(FILES[what]) if packed else FILES[what])
    with pytest.raises(VectorFileError, match=rf"vectors\.txt' holds no word vectors: it is {what}"):
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
    with pytest.raises(VectorFileError, match=r"is a pickle, .* convert it once: python -c"):
        load_vectors(tmp_path / "v.kv")
    assert not target.exists()


@pytest.mark.parametrize("first", [b"<html", b"<s>", b"version", b"PAR1"])
def test_words_that_look_like_it(tmp_path, first):
    """A vector file may begin with such a word, if it is one."""
    (tmp_path / "v.txt").write_bytes(first + b" 0.5 1.5\nb 1.0 2.0\n")
    if first in (b"<html", b"PAR1"):
        with pytest.raises(VectorFileError, match="holds no word vectors"):
            load_vectors(tmp_path / "v.txt")
    else:
        assert load_vectors(tmp_path / "v.txt").words == [first.decode(), "b"]
