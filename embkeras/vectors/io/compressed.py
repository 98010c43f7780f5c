"""Writing files that are compressed if their name ends so."""

import bz2
import contextlib
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMPRESSED = (".gz", ".bz2", ".xz", ".zip")


@contextlib.contextmanager
def opened(beside: Path, path: Path) -> Iterator[Any]:
    """A file to write bytes to. No time stamp is written, so the same vectors give the same bytes.

    Args:
        beside: the file.
        path: the name that it will have.
    """
    suffix = path.suffix.lower()
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(beside.open("wb"))
        if suffix == ".zip":  # x.vec.zip contains x.vec
            archive = stack.enter_context(zipfile.ZipFile(file, "w"))
            member = zipfile.ZipInfo(path.stem)  # dated 1980
            member.compress_type = zipfile.ZIP_DEFLATED
            file = stack.enter_context(archive.open(member, "w", force_zip64=True))
        elif suffix == ".gz":
            file = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        elif suffix == ".bz2":
            file = stack.enter_context(bz2.BZ2File(file, "wb"))
        elif suffix == ".xz":
            file = stack.enter_context(lzma.LZMAFile(file, "wb"))
        yield file


@contextlib.contextmanager
def written(beside: Path, path: Path) -> Iterator[io.TextIOWrapper]:
    """The same for text in UTF-8, whose newlines stay as they are."""
    with opened(beside, path) as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
        yield text
        text.flush()
