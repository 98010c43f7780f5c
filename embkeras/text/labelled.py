"""Reading labelled text (CSV, TSV, JSON Lines, Parquet), and splitting it into training, validation and test."""

import contextlib
import csv
import json
import math
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._checks import flag, number, sequence, shown, whole_number
from embkeras._checks import path as checked_path
from embkeras._files import not_a_file
from embkeras.errors import ArgumentError, DataError, MissingDependencyError, VocabularyError
from embkeras.text.tokenizer import check_unicode

SENTIMENT140_COLUMNS = ("label", "id", "date", "query", "user", "text")
_SENTIMENT140_DEFAULTS = {"text": "text", "label": "label", "column": "text"}  # argument -> column
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_ENDINGS = (".jsonl", ".ndjson")
_PARQUET = ".parquet"
_BLOCK = 1024  # rows that are read at once
_MOST_CLASSES = 1000
_LONGEST_FIELD = 1 << 30  # characters; Python's own limit is 131,072
_FIELD_LIMIT = threading.Lock()

Columns = dict[str, str | None]  # argument -> name of the column; the first one has the text
Row = tuple[list[str], str]  # values of the columns, and the place in the file


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts and their labels. Two are equal only if they are the same object.

    Attributes:
        texts: tuple of str.
        labels: int array of shape (texts,), indices into `class_names`.
        class_names: the distinct labels in order, numbers by size and others by the alphabet.
    """

    texts: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "LabelledTexts":
        """Only these rows."""
        return LabelledTexts(tuple(self.texts[row] for row in rows), self.labels[rows], self.class_names)


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled texts in three parts."""

    train: LabelledTexts
    validation: LabelledTexts
    test: LabelledTexts


def labelled(
    texts: Iterable[str], labels: Iterable[str], source: str = "the data", *, places: Sequence[str] | None = None
) -> LabelledTexts:
    """Check texts and labels, and number the classes.

    Args:
        texts: the texts.
        labels: their labels.
        source: what messages call the data.
        places: where each text is in the source, for messages.

    Raises:
        DataError: an empty text, something that is not a string, fewer than two classes, or so many classes that the
            column is most likely not the label.
    """
    texts = list(sequence(texts, "texts", error=DataError))
    labels = list(sequence(labels, "labels", error=DataError))
    if len(texts) != len(labels):
        raise DataError(f"{source} has {len(texts)} texts, but {len(labels)} labels.")
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        place = places[row] if places else f"text {row + 1}"
        for what, value in (("text", text), ("label", label)):
            if not isinstance(value, str):
                raise DataError(f"{source}, {place}: the {what} must be a string. Received: {shown(value)}.")
            if not value.strip():
                raise DataError(f"{source}, {place}: empty {what}. Remove it, or pass skip_empty=True when reading it.")
            try:
                check_unicode(value)
            except VocabularyError as error:
                raise DataError(f"{source}, {place}: {error}") from None
    names = sorted(set(labels), key=_numbers_first)
    if len(names) < 2:
        raise DataError(f"{source} needs at least two classes. Received: {names} in {len(labels)} rows.")
    if len(names) > max(2, min(_MOST_CLASSES, len(labels) // 2)):
        raise DataError(
            f"{source} has {len(names):,} different labels in {len(labels):,} rows: is that the label column?"
        )
    index_of = {name: index for index, name in enumerate(names)}
    return LabelledTexts(tuple(texts), np.array([index_of[label] for label in labels], np.int64), tuple(names))


def _numbers_first(label: str) -> tuple[int, float, str]:
    with contextlib.suppress(ValueError):
        if not math.isnan(float(label)):  # NaN has no place among numbers
            return 0, float(label), label
    return 1, 0.0, label


def read_labelled(
    path: str | os.PathLike[str],
    text: str | None = None,
    label: str | None = None,
    *,
    encoding: str | None = None,
    skip_empty: bool = False,
    quotes: bool = True,
) -> LabelledTexts:
    """Read labelled texts from CSV or TSV with a header line, JSON Lines, Parquet, or Sentiment140's CSV.

    Sentiment140 (Go, Bhayani & Huang 2009) is recognised by its shape: six columns, no header, Latin-1, the first column
    0, 2 or 4; it needs neither `text` nor `label`.

    Args:
        path: the file; its ending decides the format (.csv, .tsv, .tab, .jsonl, .ndjson).
        text: name of the column with the text.
        label: name of the column with the label.
        encoding: of the file; by default UTF-8, or Latin-1 for Sentiment140.
        skip_empty: leave out rows whose text or label is empty, instead of refusing them.
        quotes: whether quotation marks in CSV and TSV enclose fields; False treats them as ordinary characters.

    Raises:
        DataError: no such file or column, a row of the wrong width, bytes that are not in the encoding, or what
            `labelled` raises; with the line or row.
        ArgumentError: arguments of the wrong type.
    """
    path, skip_empty, quotes = checked_path(path, "path"), flag(skip_empty, "skip_empty"), flag(quotes, "quotes")
    rows = _rows(path, {"text": text, "label": label}, encoding, quotes)
    if rows is None:
        endings = ", ".join([*_DELIMITERS, *_JSON_ENDINGS, _PARQUET])
        raise DataError(f"{str(path)!r} must end in one of {endings}. Received: {path.suffix!r}.")
    kept = [row for row in rows if not skip_empty or all(value.strip() for value in row[0])]
    if not kept:
        raise DataError(f"{str(path)!r} has no rows.")
    values, places = zip(*kept, strict=True)
    texts, labels = zip(*values, strict=True)
    return labelled(texts, labels, repr(str(path)), places=places)


def read_texts(
    path: str | os.PathLike[str], column: str | None = None, *, encoding: str | None = None
) -> Iterator[str]:
    """The texts of a corpus, one after the other: a column of a CSV, TSV, JSON Lines or Parquet file, or the lines of any other.

    Args:
        path: the file; its ending decides the format, as in `read_labelled`. Any other file is read line by line.
        column: name of the column with the text, for a format with columns.
        encoding: of the file; by default UTF-8, or Latin-1 for Sentiment140.

    Raises:
        DataError: no such file or column, a column for a file without columns, or bytes that are not in the encoding.
        ArgumentError: arguments of the wrong type.
    """
    path = checked_path(path, "path")
    rows = _rows(path, {"column": column}, encoding)
    if rows is not None:
        yield from (values[0] for values, _ in rows)
    elif column is not None:
        raise DataError(f"{str(path)!r} is read line by line and has no columns. Received: column={column!r}.")
    else:
        with _readable(path, encoding) as encoding, path.open(encoding=encoding, newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")


def read_columns(
    path: str | os.PathLike[str], columns: Mapping[str, str], *, encoding: str | None = None
) -> Iterator[tuple[list[str], str]]:
    """Several columns of a CSV, TSV, JSON Lines or Parquet file, one row after the other, and the place of each.

    What is no text is text as JSON writes it: 2.5, or [1, 2].

    Args:
        path: the file; its ending decides the format.
        columns: what is read -> the name of its column.
        encoding: of the file; by default UTF-8, or Latin-1 for Sentiment140.

    Raises:
        DataError: as for `read_texts`; a file without columns, or a row without a value.
        ArgumentError: arguments of the wrong type.
    """
    path = checked_path(path, "path")
    if not isinstance(columns, Mapping) or not columns or not all(isinstance(each, str) for each in columns.values()):
        raise ArgumentError(f"columns must map what is read to the names of columns. Received: {shown(columns)}.")
    rows = _rows(path, dict(columns), encoding, any_value=True)
    if rows is None:
        raise DataError(f"{str(path)!r} is read line by line and has no columns. Received: {shown(dict(columns))}.")
    yield from rows


def _rows(
    path: Path, columns: Columns, encoding: Any, quotes: bool = True, any_value: bool = False
) -> Iterator[Row] | None:
    """The columns of a file whose ending names a format that has columns; None for any other file."""
    if reason := not_a_file(path):
        raise DataError(f"Cannot read {str(path)!r}: {reason}.")
    for argument, name in columns.items():
        if name is not None and not isinstance(name, str):
            raise ArgumentError(f"{argument} must be the name of a column. Received: {shown(name)}.")
    if encoding is not None and (not isinstance(encoding, str) or "\0" in encoding):
        raise ArgumentError(f"encoding must be the name of an encoding, such as 'utf-8'. Received: {shown(encoding)}.")
    ending = path.suffix.lower()
    if ending in _JSON_ENDINGS:
        return _json_rows(path, columns, encoding, any_value)
    if ending == _PARQUET:
        return _parquet_rows(path, columns, any_value)
    return _delimited_rows(path, columns, encoding, quotes) if ending in _DELIMITERS else None


@contextlib.contextmanager
def _readable(path: Path, encoding: str | None) -> Iterator[str]:
    """The encoding to read with; an error of the file or its encoding then names the file, and the line if possible."""
    encoding = "utf-8-sig" if encoding is None else encoding
    try:
        yield encoding
    except (UnicodeError, LookupError) as error:
        place = ""
        if isinstance(error, UnicodeDecodeError):
            for line_number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
                try:
                    line.decode(encoding)
                except UnicodeDecodeError as found:
                    place = f", line {line_number}, byte {found.start + 1} of it"
                    break
        raise DataError(
            f"{str(path)!r}{place} can't be read as {encoding!r}: {error}. Pass its encoding as encoding=."
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from error


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit, which is one for the whole process, and put it back; one reader at a time."""
    with _FIELD_LIMIT:
        before = csv.field_size_limit(_LONGEST_FIELD)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _delimited_rows(path: Path, columns: Columns, encoding: str | None, quotes: bool) -> Iterator[Row]:
    delimiter, header, header_rows = _DELIMITERS[path.suffix.lower()], [], 1
    if delimiter == "," and _is_sentiment140(path):
        header, encoding, header_rows = list(SENTIMENT140_COLUMNS), "latin-1" if encoding is None else encoding, 0
        columns = {each: _SENTIMENT140_DEFAULTS[each] if name is None else name for each, name in columns.items()}
    with _readable(path, encoding) as encoding, path.open(encoding=encoding, newline="") as file:
        # Without strict=True, a quotation mark left open would swallow the rows below it.
        rows = csv.reader(
            file, delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
        )
        row_number = 0
        try:
            lines = _lines(rows)
            header, row_number = header or next(lines, ([], 0))[0], header_rows
            if not header:
                raise DataError(f"{str(path)!r} is empty: it has no header line.")
            places = [_column(path, header, name, argument) for argument, name in columns.items()]
            for row_number, (row, line) in enumerate(lines, start=1 + header_rows):
                place = f"row {row_number} (line {line})"
                if row and len(row) != len(header):
                    raise DataError(f"{str(path)!r}, {place}: expected {len(header)} fields, found {len(row)}.")
                if row:
                    yield [row[column] for column in places], place
        except csv.Error as error:
            raise DataError(
                f"{str(path)!r}, row {row_number + 1} (up to line {rows.line_num}): {error}. "
                f"If quotation marks do not enclose fields, pass quotes=False."
            ) from error


def _lines(rows: Any) -> Iterator[tuple[list[str], int]]:
    """The rows of a csv.reader and their lines, block by block: the csv module's limit is not lifted in between."""
    while True:
        block: list[tuple[list[str], int]] = []
        wrong = None
        with _long_fields():
            try:
                for row in islice(rows, _BLOCK):
                    block.append((row, rows.line_num))
            except csv.Error as error:
                wrong = error
        yield from block
        if wrong is not None:
            raise wrong
        if len(block) < _BLOCK:
            return


def _is_sentiment140(path: Path) -> bool:
    first: list[str] = []
    with contextlib.suppress(OSError, csv.Error), path.open(encoding="latin-1", newline="") as file:
        first = next(csv.reader([file.readline()]), [])  # the reader below reports what is wrong
    return len(first) == len(SENTIMENT140_COLUMNS) and first[0] in ("0", "2", "4") and first[1].isdigit()


def _column(path: Path | str, header: list[str], name: str | None, argument: str) -> int:
    columns = ", ".join(map(repr, header))
    if name is None:
        raise DataError(f"Name the column of {str(path)!r} to read: {argument}=. Columns: {columns}.")
    if header.count(name) != 1:
        how_many = f"{header.count(name)} columns" if name in header else "no column"
        raise DataError(f"{str(path)!r} has {how_many} {name!r}. Columns: {columns}.")
    return header.index(name)


def _json_rows(path: Path, columns: Columns, encoding: str | None, any_value: bool) -> Iterator[Row]:
    with _readable(path, encoding) as encoding, path.open(encoding=encoding, newline="\n") as file:
        for line_number, line in enumerate(file, start=1):
            if line.strip():
                place = f"line {line_number}"
                yield _values(path, place, _json_object(path, place, line), columns, any_value), place


def _json_object(path: Path, place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{str(path)!r}, {place}: not JSON: {error.msg} at character {error.pos + 1}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(path)!r}, {place}: not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise DataError(f"{str(path)!r}, {place}: expected an object, found {line.rstrip()[:40]!r}.")
    return row


def _values(path: Path, place: str, row: dict[str, Any], columns: Columns, any_value: bool) -> list[str]:
    """The columns of a row; the first must be a string, or with `any_value` anything."""
    for argument, name in columns.items():
        if name not in row:
            _column(f"{path}, {place}", list(row), name, argument)
    if any_value:
        return [_as_text(path, place, name, row[str(name)]) for name in columns.values()]
    text, *more = (row[str(name)] for name in columns.values())
    if not isinstance(text, str):
        column = next(iter(columns.values()))
        raise DataError(f"{str(path)!r}, {place}: {column!r} must be a string, found {text!r}.")
    return [text, *("" if value is None else str(value) for value in more)]


def _as_text(path: Path, place: str, name: str | None, value: Any) -> str:
    """A value as text; of numbers and lists, their JSON."""
    if value is None:
        raise DataError(f"{str(path)!r}, {place}: {name!r} has no value.")
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _parquet_rows(path: Path, columns: Columns, any_value: bool) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            f'Reading {str(path)!r} needs pyarrow: python -m pip install "embkeras[demo]".'
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for argument, name in columns.items():
                _column(path, file.schema_arrow.names, name, argument)
            names = list(dict.fromkeys(str(name) for name in columns.values()))
            row_number = 0
            for batch in file.iter_batches(_BLOCK, columns=names):
                for row in batch.to_pylist():
                    row_number += 1
                    place = f"row {row_number}"
                    yield _values(path, place, row, columns, any_value), place
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"Cannot read {str(path)!r} as Parquet: {error}.") from error


def split(data: LabelledTexts, *, validation: float = 0.15, test: float = 0.15, seed: int = 0) -> Split:
    """Divide labelled texts into training, validation and test, each class in the same shares.

    Args:
        data: the texts.
        validation: share of the texts for validation, between 0 and 1.
        test: share of the texts for the test, between 0 and 1.
        seed: the same seed gives the same parts.

    Raises:
        DataError: shares that leave nothing for training, or a class with fewer than 3 texts.
        ArgumentError: not LabelledTexts, or a seed that is not an integer >= 0.
    """
    if not isinstance(data, LabelledTexts):
        raise ArgumentError(f"split takes LabelledTexts. Received: {shown(data)}.")
    validation = number(validation, "validation", above=0, below=1, error=DataError)
    test = number(test, "test", above=0, below=1, error=DataError)
    if validation + test >= 1:
        raise DataError(f"validation and test must leave a share for training. Received: {validation} and {test}.")
    rng = np.random.default_rng(whole_number(seed, "seed", least=0))
    smallest, count = min(Counter(data.labels.tolist()).items(), key=lambda pair: pair[1])
    if count < 3:
        raise DataError(
            f"Class {data.class_names[smallest]!r} has {count} text(s); each class needs 3, one for each of training, "
            f"validation and test."
        )
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for index in range(len(data.class_names)):
        rows = rng.permutation(np.flatnonzero(data.labels == index))
        tested = min(max(1, round(len(rows) * test)), len(rows) - 2)
        held_out = min(tested + max(1, round(len(rows) * validation)), len(rows) - 1)
        for part, piece in zip(parts, (rows[held_out:], rows[tested:held_out], rows[:tested]), strict=True):
            part.append(piece)
    return Split(*(data.take(rng.permutation(np.concatenate(part))) for part in parts))
