"""Answers for a whole file of texts, a block at a time."""

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from embkeras._checks import flag
from embkeras._checks import path as checked_path
from embkeras._files import check_writable, written_beside
from embkeras._progress import progress, shown
from embkeras.errors import (
    ArgumentError,
    DataError,
    EmbkerasError,
    MissingDependencyError,
    OutputError,
    VocabularyError,
)
from embkeras.text.labelled import read_columns, read_texts
from embkeras.text.tokenizer import check_unicode

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 8192  # texts in memory at once
Write = Callable[["pd.DataFrame"], None]


def predict_file(
    predict: Callable[[Any], "pd.DataFrame"],
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    column: str | Mapping[str, str] | None = None,
    encoding: str | None = None,
    overwrite: bool = False,
    total: int | None = None,
) -> int:
    """Write one row for each text of a file, in the order of the file: what `predict` returns for it.

    The file is read twice: first to the end, so that a row that can't be read is refused before any text is asked. A
    block of texts at a time is in memory. The result appears complete or not at all.

    Args:
        predict: texts -> a table with a row for each: `ExportedModel.predict`, `ServingClient.predict`, a `BatchScorer`. With
            several columns it is called with a dictionary of texts by input.
        path: CSV, TSV, JSON Lines, Parquet, or any other file, which is read line by line.
        out: the file to write: .csv, .tsv, .jsonl, .ndjson or .parquet.
        column: name of the column with the text, for a format with columns; for a model with several inputs, a dictionary of
            columns by input.
        encoding: of the file that is read; by default UTF-8.
        overwrite: replace `out` if it exists.
        total: what `check_bulk` returned for the file; without it, it is called.

    Returns:
        The number of texts.

    Raises:
        DataError: a file without rows, a row that can't be read, or a text that is not valid Unicode.
        ArgumentError: another ending of `out`, or arguments of the wrong type.
        OutputError: `out` can't be written, or exists.
        MissingDependencyError: Parquet, and pyarrow is not installed.
        EmbkerasError: what `predict` raises, with the rows that it was asked for.
    """
    if not callable(predict):
        raise ArgumentError(f"predict must be a function of texts. Received: {type(predict).__name__}.")
    out, done = checked_path(out, "out"), 0
    total = check_bulk(path, out, column=column, encoding=encoding, overwrite=overwrite) if total is None else total
    texts = _read(path, column, encoding)
    with (
        progress("predicting") as report,
        written_beside(out, overwrite=overwrite) as beside,
        _WRITERS[out.suffix.lower()](beside) as write,
        shown(False),
    ):
        while block := list(islice(texts, BLOCK)):
            try:
                table = predict(_by_input(block, column))
            except EmbkerasError as error:
                raise type(error)(f"{str(path)!r}, texts {done} to {done + len(block) - 1}: {error}") from error
            write(table)
            done += len(block)
            report(done, total)
    return done


def check_bulk(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    column: str | Mapping[str, str] | None = None,
    encoding: str | None = None,
    overwrite: bool = False,
) -> int:
    """The number of texts in a file; refuses what `predict_file` would refuse after the work. The arguments are the same.

    Raises:
        DataError, ArgumentError, OutputError, MissingDependencyError: as for `predict_file`.
    """
    out = checked_path(out, "out")
    if out.suffix.lower() not in _WRITERS:
        raise ArgumentError(f"out must end in one of {', '.join(_WRITERS)}. Received: {out.suffix!r}.")
    if out.suffix.lower() == ".parquet":
        _pyarrow(out)
    if not flag(overwrite, "overwrite") and os.path.lexists(out):
        raise OutputError(f"Cannot write {str(out)!r}: it already exists. Pass overwrite=True to replace it.")
    check_writable(out.parent)
    count = 0
    for row in _read(path, column, encoding):
        try:
            for text in row:
                check_unicode(text)
        except VocabularyError as error:
            raise DataError(f"{str(path)!r}, text {count}: {error}") from None
        count += 1
    if not count:
        raise DataError(f"{str(path)!r} has no rows.")
    return count


def _read(
    path: str | os.PathLike[str], column: str | Mapping[str, str] | None, encoding: str | None
) -> Iterator[list[str]]:
    """The values of each row."""
    if isinstance(column, Mapping):
        return (values for values, _ in read_columns(path, column, encoding=encoding))
    return ([text] for text in read_texts(path, column, encoding=encoding))


def _by_input(rows: list[list[str]], column: str | Mapping[str, str] | None) -> list[str] | dict[str, list[str]]:
    """Rows as `predict` takes them."""
    if not isinstance(column, Mapping):
        return [row[0] for row in rows]
    return {name: [row[place] for row in rows] for place, name in enumerate(column)}


@contextlib.contextmanager
def _delimited(path: Path) -> Iterator[Write]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open("w", encoding="utf-8", newline="") as file:
        # Some versions of Python leave a "\r" without quotes unless lines end in "\r\n".
        lines = SimpleNamespace(write=lambda line: file.write(line.removesuffix("\r\n") + "\n"))
        rows = csv.writer(lines, delimiter=delimiter)
        names: list[str] = []

        def write(table: "pd.DataFrame") -> None:
            if not names:
                names.extend(table.columns)
                rows.writerow(names)
            rows.writerows(table.itertuples(index=False))

        yield write


@contextlib.contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield lambda table: file.writelines(
            json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_dict("records")
        )


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    arrow = _pyarrow(path)

    def typed(field: Any) -> Any:
        """The column of a multi-label model, where no text of the block has a label."""
        if field.type != arrow.list_(arrow.null()):
            return field
        return field.with_type(arrow.list_(arrow.string() if field.name.endswith("label") else arrow.float64()))

    with contextlib.ExitStack() as stack:
        writers: list[Any] = []

        def write(table: "pd.DataFrame") -> None:
            schema = writers[0].schema if writers else arrow.Schema.from_pandas(table, preserve_index=False)
            block = arrow.Table.from_pandas(table, arrow.schema(map(typed, schema)), preserve_index=False)
            if not writers:
                writers.append(stack.enter_context(arrow.parquet.ParquetWriter(path, block.schema)))
            writers[0].write_table(block)

        yield write


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            f'Writing {str(path)!r} needs pyarrow: python -m pip install "embkeras[demo]".'
        ) from None
    return pyarrow


_WRITERS = {".csv": _delimited, ".tsv": _delimited, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
