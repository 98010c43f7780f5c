"""Reading labelled text (CSV, TSV, JSON Lines) and splitting it."""

import contextlib
import csv
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embkeras.errors import DataError, VocabularyError
from embkeras.text.tokenizer import check_unicode

SENTIMENT140_COLUMNS = ("label", "id", "date", "query", "user", "text")
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_ENDINGS = (".jsonl", ".ndjson")
_MOST_CLASSES = 1000
_OPTIONS = ("--text", "--label")  # by which the columns are named on the command line
_LONGEST_FIELD = 1 << 30  # characters; Python's own limit is 131,072


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their labels.

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


@dataclass(frozen=True)
class Split:
    """One set of labelled texts cut into three."""

    train: LabelledTexts
    validation: LabelledTexts
    test: LabelledTexts


def labelled(
    texts: Sequence[str], labels: Sequence[str], source: str = "the data", *, places: Sequence[str] | None = None
) -> LabelledTexts:
    """Check texts and labels and number the classes; `places` says where each text stands in the source.

    Raises:
        DataError: an empty text, fewer than two classes, or so many that the column can hardly be a label.
    """
    if len(texts) != len(labels):
        raise DataError(f"{source} has {len(texts)} texts, but {len(labels)} labels.")
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        place = places[row] if places else f"text {row + 1}"
        if not text.strip() or not label.strip():
            what = "text" if not text.strip() else "label"
            raise DataError(f"{source}, {place}: empty {what}. Remove it, or pass --skip-empty.")
        try:
            check_unicode(text)
            check_unicode(label)
        except VocabularyError as error:
            raise DataError(f"{source}, {place}: {error}") from None
    names = sorted(set(labels), key=_by_size)
    if len(names) < 2:
        raise DataError(f"{source} has one class only ({names[0]!r} in all {len(labels)} rows): nothing to tell apart.")
    if len(names) > max(2, min(_MOST_CLASSES, len(labels) // 2)):
        raise DataError(
            f"{source} has {len(names):,} different labels in {len(labels):,} rows: is that the label column?"
        )
    number = {name: index for index, name in enumerate(names)}
    return LabelledTexts(tuple(texts), np.array([number[label] for label in labels], np.int64), tuple(names))


def _by_size(label: str) -> tuple[int, float, str]:
    with contextlib.suppress(ValueError):
        if not math.isnan(float(label)):  # NaN has no place among numbers
            return 0, float(label), label
    return 1, 0.0, label


def read_labelled(
    path: str | os.PathLike,
    text: str | None = None,
    label: str | None = None,
    *,
    encoding: str | None = None,
    skip_empty: bool = False,
    quotes: bool = True,
) -> LabelledTexts:
    """Read labelled texts from CSV or TSV with a header line, from JSON Lines, or from Sentiment140's CSV.

    Sentiment140 (Go, Bhayani & Huang 2009) is known by its shape: six columns, no header, Latin-1, the first column
    0, 2 or 4; `text` and `label` need not be given for it.

    Args:
        path: the file; its ending tells the format (.csv, .tsv, .tab, .jsonl, .ndjson).
        text: name of the column with the text.
        label: name of the column with the label.
        encoding: of the file; UTF-8 if not given, Latin-1 for Sentiment140.
        skip_empty: leave out rows whose text or label is empty, instead of refusing them.
        quotes: whether quotation marks in CSV and TSV enclose fields; False takes them for ordinary marks.

    Raises:
        DataError: no such file or column, a row of another width, bytes that are not in the encoding, or whatever
            `labelled` raises; with the line or row.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"Cannot read {str(path)!r}: {'it is a folder' if path.is_dir() else 'there is no such file'}.")
    if path.suffix.lower() in _JSON_ENDINGS:
        rows = _json_rows(path, encoding or "utf-8-sig", text, label)
    elif path.suffix.lower() in _DELIMITERS:
        rows = _delimited_rows(path, encoding, text, label, quotes)
    else:
        endings = ", ".join([*_DELIMITERS, *_JSON_ENDINGS])
        raise DataError(f"{str(path)!r} must end in one of {endings}. Received: {path.suffix!r}.")
    if skip_empty:
        rows = [row for row in rows if row[0].strip() and row[1].strip()]
    if not rows:
        raise DataError(f"{str(path)!r} has no rows.")
    texts, labels, places = zip(*rows, strict=True)
    return labelled(texts, labels, repr(str(path)), places=places)


def read_texts(path: str | os.PathLike, column: str | None = None, *, encoding: str | None = None) -> Iterator[str]:
    """The texts of a corpus, one after the other: a column of a CSV, TSV or JSON Lines file, or else the lines of a file.

    Args:
        path: the file; its ending tells the format, as for `read_labelled`. Any other is read line by line.
        column: name of the column with the text; lines have none.
        encoding: of the file; UTF-8 if not given, Latin-1 for Sentiment140.

    Raises:
        DataError: no such file or column, a column of a file that has none, or bytes that are not in the encoding.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"Cannot read {str(path)!r}: {'it is a folder' if path.is_dir() else 'there is no such file'}.")
    kind, options = path.suffix.lower(), ("--column", "--column")
    if kind in _JSON_ENDINGS:
        yield from (text for text, *_ in _json_rows(path, encoding or "utf-8-sig", column, column, options))
    elif kind in _DELIMITERS:
        yield from (text for text, *_ in _delimited_rows(path, encoding, column, column, True, options))
    elif column is not None:
        raise DataError(f"{str(path)!r} is read line by line and has no columns. Received: --column {column!r}.")
    else:
        encoding = encoding or "utf-8-sig"
        try:
            with path.open(encoding=encoding, newline="\n") as file:
                yield from file
        except (UnicodeError, LookupError) as error:
            raise _undecodable(path, encoding, error) from error


def _delimited_rows(
    path: Path,
    encoding: str | None,
    text: str | None,
    label: str | None,
    quotes: bool,
    options: tuple[str, str] = _OPTIONS,
) -> list[tuple[str, str, str]]:
    delimiter = _DELIMITERS[path.suffix.lower()]
    if delimiter == "," and _is_sentiment140(path):
        header, encoding, first = list(SENTIMENT140_COLUMNS), encoding or "latin-1", 0
        text, label = text or "text", label or "label"
    else:
        header, encoding, first = None, encoding or "utf-8-sig", 1
    pairs, number = [], 0
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(encoding=encoding, newline="") as file:
            quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
            rows = csv.reader(file, delimiter=delimiter, strict=True, quoting=quoting)
            header, number = header or next(rows, []), first
            if not header:
                raise DataError(f"{str(path)!r} is empty: it has no header line.")
            at_text, at_label = _column(path, header, text, options[0]), _column(path, header, label, options[1])
            for number, row in enumerate(rows, start=1 + first):
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{str(path)!r}, row {number} (line {rows.line_num}): expected {len(header)} fields, found {len(row)}."
                    )
                pairs.append((row[at_text], row[at_label], f"row {number} (line {rows.line_num})"))
    except csv.Error as error:  # without strict=True, a quotation mark left open would swallow the rows below it
        raise DataError(
            f"{str(path)!r}, row {number + 1} (up to line {rows.line_num}): {error}. "
            f"Where quotation marks do not enclose fields, pass --no-quotes."
        ) from error
    except (UnicodeError, LookupError) as error:
        raise _undecodable(path, encoding, error) from error
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from error
    return pairs


def _undecodable(path: Path, encoding: str, error: Exception) -> DataError:
    """The error for bytes that are not in the encoding, with their line where lines can be told."""
    place = ""
    if isinstance(error, UnicodeDecodeError):
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as found:
                place = f", line {number}, byte {found.start + 1} of it"
                break
    return DataError(f"{str(path)!r}{place} cannot be read as {encoding}: {error}. Another --encoding?")


def _is_sentiment140(path: Path) -> bool:
    try:
        with path.open(encoding="latin-1", newline="") as file:
            first = next(csv.reader([file.readline()]), [])
    except (OSError, csv.Error):
        return False  # the reader proper says what is wrong
    return len(first) == len(SENTIMENT140_COLUMNS) and first[0] in ("0", "2", "4") and first[1].isdigit()


def _column(path: Path | str, header: list[str], name: str | None, option: str) -> int:
    if name is None:
        raise DataError(
            f"Say which column of {str(path)!r} to read: {option} NAME. Columns: {', '.join(map(repr, header))}."
        )
    if header.count(name) != 1:
        how_many = f"{header.count(name)} columns" if name in header else "no column"
        raise DataError(f"{str(path)!r} has {how_many} {name!r}. Columns: {', '.join(map(repr, header))}.")
    return header.index(name)


def _json_rows(
    path: Path, encoding: str, text: str | None, label: str | None, options: tuple[str, str] = _OPTIONS
) -> list[tuple[str, str, str]]:
    pairs = []
    try:
        lines = path.read_text(encoding).split("\n")
    except (UnicodeError, LookupError) as error:
        raise _undecodable(path, encoding, error) from error
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = (
                f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            )
            raise DataError(f"{str(path)!r}, line {number}: not JSON: {reason}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{str(path)!r}, line {number}: expected an object, found {line[:40]!r}.")
        for name, option in zip((text, label), options, strict=True):
            if name not in row:
                _column(f"{path}, line {number}", list(row), name, option)
        if not isinstance(row[text], str):
            raise DataError(f"{str(path)!r}, line {number}: {text!r} must be a string, found {row[text]!r}.")
        pairs.append((row[text], "" if row[label] is None else str(row[label]), f"line {number}"))
    return pairs


def split(data: LabelledTexts, *, validation: float = 0.15, test: float = 0.15, seed: int = 0) -> Split:
    """Cut labelled texts into training, validation and test, each class in the same shares; fixed by `seed`.

    Raises:
        DataError: shares that leave nothing for training, or a class with fewer than 3 texts.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise DataError(f"validation and test must be shares that leave some training. Received: {validation}, {test}.")
    rng = np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    smallest, count = min(Counter(data.labels.tolist()).items(), key=lambda pair: pair[1])
    if count < 3:
        raise DataError(
            f"Class {data.class_names[smallest]!r} has {count} text(s); each class needs 3, one for each of training, "
            f"validation and test."
        )
    for index in range(len(data.class_names)):
        rows = rng.permutation(np.flatnonzero(data.labels == index))
        first = min(max(1, round(len(rows) * test)), len(rows) - 2)
        second = min(first + max(1, round(len(rows) * validation)), len(rows) - 1)
        for part, piece in zip(parts, (rows[second:], rows[first:second], rows[:first]), strict=True):
            part.append(piece)
    train, held_out, tested = (data.take(rng.permutation(np.concatenate(part))) for part in parts)
    return Split(train, held_out, tested)
