"""Numbers in text without words, which are in another file: vectors.tsv and metadata.tsv of TensorFlow's projector.

Each line has the numbers of one row, separated by tabs, commas or spaces. The metadata have a word per line; with several
columns, a line of names comes first. Other programs write such pairs too, under other names: SENNA, numpy.savetxt.
See https://projector.tensorflow.org.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embkeras import _checks
from embkeras._arrays import first_nonfinite_row
from embkeras._files import written_beside
from embkeras.errors import ArgumentError, OutputError, VectorFileError
from embkeras.vectors.io.compressed import written
from embkeras.vectors.io.pairs import floats_of, is_number, lines_of, read_pairs, text_of
from embkeras.vectors.io.reading import warn_if_cut
from embkeras.vectors.io.rows import Request
from embkeras.vectors.io.source import HEAD, Source, Stream, contents_of
from embkeras.vectors.io.words_file import check_count, read_words
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import encoded

VECTORS, METADATA, CONFIG = "vectors.tsv", "metadata.tsv", "projector_config.pbtxt"
_SAMPLE = 100  # lines by which a file is judged
_WORDS = ("word", "token", "label", "name")  # names of the column of words in metadata with several columns


def recognises(source: Source) -> bool:
    """Whether the first lines are numbers between tabs, and there are metadata beside the file."""
    return is_matrix(source, "\t") and metadata_of(source.shown) is not None


def is_matrix(source: Source, separator: str | None = None) -> bool:
    """Whether each of the first lines is as many numbers as the others; at least two, between these or any separators."""
    lines = _first_lines(source)
    if not lines:
        return False
    separator = separator or _separator(lines[0])
    fields = [_fields(line, separator) for line in lines]
    return len({len(row) for row in fields}) == 1 < len(fields[0]) and all(
        is_number(each) for row in fields for each in row
    )


def metadata_of(path: Path) -> Path | None:
    """The metadata beside a file, such as metadata.tsv or x_metadata.tsv beside x_tensor.tsv; None if there are none."""
    renamed = re.sub("vectors?|tensors?", "metadata", path.name)
    found = (path.with_name(name) for name in (renamed, METADATA))
    return next((file for file in found if file != path and file.is_file()), None)


def read(source: Source, request: Request) -> KeyedVectors:
    """Read the wanted rows, one line after the other.

    Raises:
        VectorFileError: a fault in the file, with its line, or no words that fit.
    """
    beside = metadata_of(source.shown)
    if request.words_file is None and beside is None:
        raise VectorFileError(f"{source.name} has no words, and there is no {METADATA} beside it. Pass words_file=.")
    first = _first_lines(source)
    if not first:
        raise VectorFileError(f"{source.name} contains no vectors: it has no complete line.")
    separator = _separator(first[0])
    width = len(_fields(first[0], separator))
    cut: list[str] = []
    with source.open() as stream:
        rows = sum(1 for _ in _rows(stream, request, source, separator, width, cut.append))
    if request.words_file is None or request.words_file == beside:
        words: Sequence[str | None] = _metadata(beside or source.shown, rows, source, request.encoding)
    else:
        words = read_words(request.words_file, rows, source)
    with source.open(request.progress) as stream:
        pairs = zip(words, _rows(stream, request, source, separator, width), strict=True)
        found = read_pairs(
            pairs,
            lambda fields, row: floats_of(fields, lambda: f"{source.name}, line {row + 1}"),
            width,
            source,
            "projector",
            request,
        )
    if cut:
        warn_if_cut(source, [field.encode(errors="replace") for field in _fields(cut[0], separator)], rows)
    return found


def _rows(
    stream: Stream,
    request: Request,
    source: Source,
    separator: str,
    width: int,
    cut: Callable[[str], None] = lambda line: None,
) -> Iterator[list[str]]:
    """The fields of each line. Blank lines are allowed only at the end."""
    blank = None
    for number, line in enumerate(lines_of(text_of(stream, request), source, cut), start=1):
        if not line.strip("\r\n"):
            blank = blank or number
            continue
        fields = _fields(line, separator)
        if blank or len(fields) != width:
            raise VectorFileError(
                f"{source.name}, line {blank or number}: expected {width} numbers, as in line 1, found "
                f"{'a blank line' if blank else len(fields)}."
            )
        yield fields


def _first_lines(source: Source) -> list[str]:
    """The first lines that the head of a file holds completely."""
    lines = source.head.decode("utf-8-sig", "replace").replace("\r\n", "\n").split("\n")
    return [line for line in (lines[:-1] if len(source.head) == HEAD else lines)[:_SAMPLE] if line]


def _separator(line: str) -> str:
    return next((separator for separator in "\t," if separator in line), " ")


def _fields(line: str, separator: str) -> list[str]:
    return line.split() if separator == " " else line.rstrip("\r\n\t").split(separator)


def _metadata(path: Path, rows: int, source: Source, encoding: str) -> list[str]:
    """The word of each line: of several columns, which have names, the one that is named so, or else the first."""
    try:
        text = contents_of(path).decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except OSError as error:
        raise VectorFileError(f"Cannot read the words in {str(path)!r}: {error.strerror or error}.") from error
    except UnicodeError as error:
        raise VectorFileError(f"{str(path)!r} is not valid {encoding}: {error}. Pass another encoding=.") from error
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    names, column = lines[0].lower().split("\t"), 0
    if len(names) > 1:
        column = next((names.index(name) for name in _WORDS if name in names), 0)
        lines = lines[1:]
    short = next((number for number, line in enumerate(lines) if line.count("\t") != len(names) - 1), None)
    if short is not None:
        raise VectorFileError(
            f"{str(path)!r}, line {short + 1 + (len(names) > 1)}: expected {len(names)} columns, as in line 1, "
            f"found {lines[short][:60]!r}."
        )
    check_count(len(lines), rows, repr(str(path)), source)
    return [line.split("\t")[column] for line in lines]


def export_projector(vectors: KeyedVectors, folder: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Write vectors.tsv and metadata.tsv, which TensorFlow's projector shows, into a folder.

    `load_vectors` reads them again: every number has the 9 digits that restore a float32 bit for bit.
    `DriftReport.export_projector` writes a table before and after training.

    Args:
        vectors: the vectors.
        folder: the folder; other files in it stay as they are.
        overwrite: whether to replace the two files if they exist.

    Returns:
        The folder.

    Raises:
        ArgumentError: an argument of the wrong type.
        VectorFileError: a word with a tab or an end of line, which metadata.tsv can't hold, NaN or infinity.
        OutputError: the folder can't be written, or a file exists and `overwrite` is false.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = export_projector(KeyedVectors(["cat", "dog"], np.eye(2)), folder)
        ...     Path(folder, "vectors.tsv").read_text(), Path(folder, "metadata.tsv").read_text()
        ('1\\t0\\n0\\t1\\n', 'cat\\ndog\\n')
    """
    if not isinstance(vectors, KeyedVectors):
        raise ArgumentError(f"vectors must be KeyedVectors. Received: {_checks.shown(vectors)}.")
    _check_words(vectors.words)
    bad = first_nonfinite_row(vectors.matrix, np.float32)
    if bad is not None or not len(vectors):
        what = "no vectors" if bad is None else f"NaN or infinity in row {bad} (word {vectors.words[bad]!r})"
        raise VectorFileError(f"The projector shows finite vectors. Received: {what}.")
    return _write(
        folder, {VECTORS: _lines(vectors.matrix), METADATA: (f"{word}\n" for word in vectors.words)}, overwrite
    )


def export_states(
    folder: str | os.PathLike[str],
    states: Mapping[str, np.ndarray],
    columns: Mapping[str, Sequence[Any]],
    *,
    overwrite: bool = True,
) -> Path:
    """Write several states of the same rows for TensorBoard's projector, which shows one or another of them.

    Args:
        folder: the folder, which is TensorBoard's logdir; other files in it stay as they are.
        states: name of a state -> finite floats of shape (rows, width); it is the name of its file too.
        columns: name -> what is known of each row, at least two columns; words come first.
        overwrite: whether to replace the files if they exist.

    Returns:
        The folder, with a file NAME.tsv for each state, metadata.tsv and projector_config.pbtxt.

    Raises:
        ArgumentError: an argument of the wrong type.
        VectorFileError: a word with a tab or an end of line, which metadata.tsv can't hold.
        OutputError: the folder can't be written, or a file exists and `overwrite` is false.
    """
    _check_words(next(iter(columns.values())))
    rows = zip(*columns.values(), strict=True)
    metadata = ("\t".join(map(str, row)) + "\n" for row in (tuple(columns), *rows))
    config = (
        f'embeddings {{ tensor_name: "{name}" tensor_path: "{name}.tsv" metadata_path: "{METADATA}" }}\n'
        for name in states
    )
    files: dict[str, Iterable[str]] = {CONFIG: config, METADATA: metadata}
    return _write(folder, files | {f"{name}.tsv": _lines(table) for name, table in states.items()}, overwrite)


def _check_words(words: Sequence[str]) -> None:
    for row, word in enumerate(words):
        if encoded(word) is None or re.search("[\t\r\n]", word) or (not row and word.startswith("\ufeff")):
            raise VectorFileError(f"{METADATA} can't hold the word {_checks.shown(word)} (row {row}): leave it out.")


def _lines(table: np.ndarray) -> Iterator[str]:
    return ("\t".join([f"{x:.9g}" for x in row.tolist()]) + "\n" for row in table)


def _write(folder: str | os.PathLike[str], files: Mapping[str, Iterable[str]], overwrite: bool) -> Path:
    """Write files of lines that belong together; the first one gets its name last."""
    folder = _checks.path(folder, "folder")
    first, *others = paths = [folder / name for name in files]
    if not _checks.flag(overwrite, "overwrite"):
        for each in paths:
            if os.path.lexists(each):
                raise OutputError(
                    f"{str(each)!r} already exists. Pass overwrite=True to replace it, or choose another folder."
                )
    with written_beside(first, sidecars=others, overwrite=overwrite) as beside:
        for path, lines in reversed(list(zip(paths, files.values(), strict=True))):
            with written(beside.with_name(path.name), path) as file:
                file.writelines(lines)
        # Without a checksum, files of which only some were renamed must not look complete.
        first.unlink(missing_ok=True)
    return folder
