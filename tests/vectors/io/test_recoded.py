"""Text in encodings whose bytes are not those of ASCII, read as UTF-8."""

import pytest

from embkeras import load_vectors
from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.io import recoded
from embkeras.vectors.io.recoded import Recoded, is_recoded
from embkeras.vectors.io.rows import Request
from embkeras.vectors.io.source import Source


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "cp037", "utf-8-sig"])
def test_these_are_decoded_first(encoding):
    """Spaces and digits are other bytes there, or a mark comes first."""
    assert is_recoded(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "cp852", "euc_jp", "gb18030", "koi8-r"])
def test_these_are_not(encoding):
    """Rows are found in their bytes."""
    assert not is_recoded(encoding)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 18])
def test_contents_whatever_is_read_at_once(tmp_path, monkeypatch, size):
    """A character may lie across two reads, of the file and of the user."""
    monkeypatch.setattr(recoded, "_READ", size)
    text = "the 1\nна\u00efve 2\n\U0001f600 3\n"
    (tmp_path / "v").write_text(text, encoding="utf-16")
    source = Source(tmp_path / "v")
    for at_once in (1, 5, 1000):
        pieces = []
        with Recoded(source.open(), Request(encoding="utf-16"), source) as stream:
            while piece := stream.read(at_once):
                pieces.append(piece)
        assert b"".join(pieces).decode() == text


def test_invalid_bytes_are_refused_or_replaced(tmp_path):
    """The message names file, place and encoding; a file cut within a character is invalid, too."""
    (tmp_path / "v").write_bytes("a 1 2\nb 3 4\n".encode("utf-16-le") + b"\x00\xd8c\x00")
    with pytest.raises(VectorFileError, match=r"v' is not valid utf-16-le, .*before byte 28 .*errors=\"replace\""):
        load_vectors(tmp_path / "v", encoding="utf-16-le")
    (tmp_path / "v").write_bytes("a 1 2\n".encode("utf-16-le") + b"\x00\xd8" + "b 3 4\n".encode("utf-16-le"))
    assert load_vectors(tmp_path / "v", encoding="utf-16-le", errors="replace").words == ["a", "\ufffdb"]


def test_rows_can_not_be_skipped(tmp_path):
    """They would have to be found before they are decoded; the message names what can be passed."""
    (tmp_path / "v").write_text("a 1 2\n", encoding="utf-16")
    with pytest.raises(ArgumentError, match=r'errors="skip".*"replace".*utf-16'):
        load_vectors(tmp_path / "v", encoding="utf-16", errors="skip")
