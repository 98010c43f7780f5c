"""A JSON object of lists: {"word": [0.1, 0.2], ...}.

It is read one entry after the other, so only the kept rows are in memory, and a repeated word, of which Python's json would
keep the last, is seen.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embkeras.errors import VectorFileError
from embkeras.vectors.io.compressed import written
from embkeras.vectors.io.lines import LONGEST_LINE
from embkeras.vectors.io.pairs import read_pairs, text_of
from embkeras.vectors.io.rows import Request
from embkeras.vectors.io.source import Source
from embkeras.vectors.store import KeyedVectors

_STRING = r'"(?:[^"\\]|\\.)*+"'
_BEGIN = re.compile(rf"\ufeff?[ \t\r\n]*\{{[ \t\r\n]*(?:{_STRING}[ \t\r\n]*:|\}})", re.DOTALL)
_KEY = re.compile(rf"[ \t\r\n]*({_STRING})[ \t\r\n]*:[ \t\r\n]*(?=[^ \t\r\n])", re.DOTALL)
_LIST = re.compile(r"(\[[^][{}\"]*\])[ \t\r\n]*([,}])")
_OPEN = re.compile(r'[ \t\r\n]*\{[ \t\r\n]*(\}|(?="))')
_END = re.compile(r"[ \t\r\n]*\Z")
_OTHER_JSON = (
    " A list of words, such as Keras's word_index, is passed as words_file= with the file of their vectors. Any other JSON is "
    "loaded with the json module, and KeyedVectors(words, matrix) written with save_vectors."
)
_READ = 1 << 18  # characters at once


def recognises(source: Source) -> bool:
    """Whether the contents begin with an object and its first key."""
    return _BEGIN.match(source.head.decode("utf-8", "replace")) is not None


def read(source: Source, request: Request) -> KeyedVectors:
    """Read the wanted entries.

    Raises:
        VectorFileError: a fault in the file, with the entry, counted from 0.
    """
    with source.open(request.progress) as stream:
        entries = _entries(_Text(text_of(stream, request), source), source)
        first = next(entries, None)
        width = len(_numbers(first[1], 0, None, source)) if first else 1

        def pairs() -> Iterator[tuple[str, str]]:
            if first is not None:
                yield first
                yield from entries

        return read_pairs(pairs(), lambda raw, row: _numbers(raw, row, width, source), width, source, "json", request)


class _Text:
    """The part of a text that is being looked at."""

    def __init__(self, text: io.TextIOWrapper, source: Source):
        self._text, self._source, self._buffer, self._at = text, source, "", 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What matches here, and go past it; None if nothing does, whatever follows."""
        while True:
            found = pattern.match(self._buffer, self._at)
            if found is not None and (found.end() < len(self._buffer) or not self._more()):
                self._at = found.end()
                return found
            if found is None and (len(self._buffer) - self._at > LONGEST_LINE or not self._more()):
                return None

    def shown(self) -> str:
        """The next characters, for an error."""
        return repr(self._buffer[self._at : self._at + 40])

    def _more(self) -> bool:
        try:
            added = self._text.read(max(_READ, len(self._buffer) - self._at))
        except UnicodeError as error:
            raise VectorFileError(f"{self._source.name} is not valid {self._text.encoding}: {error}.") from error
        self._buffer, self._at = self._buffer[self._at :] + added, 0
        return bool(added)


def _entries(text: _Text, source: Source) -> Iterator[tuple[str, str]]:
    """Each word and the list after it, as it is written."""
    begin = text.take(_OPEN)
    row, after = 0, begin and begin[1]
    while after != "}":
        where = f"{source.name}, entry {row}"
        key = text.take(_KEY)
        if key is None:
            raise VectorFileError(f'{where}: expected "word": [...], found {text.shown()}.')
        word = _loaded(key[1], where)
        found = text.take(_LIST)
        if found is None:
            begun = re.match(r"'\[[ \t]*[-0-9]", text.shown())
            advice = " The file may be cut off." if begun else "" if row else _OTHER_JSON
            raise VectorFileError(
                f"{where}: expected a list of numbers for {word[:60]!r}, found {text.shown()}.{advice}"
            )
        after = found[2]
        yield word, found[1]
        row += 1
    if text.take(_END) is None:
        raise VectorFileError(f"{source.name}, after entry {row - 1}: expected the end, found {text.shown()}.")


def _numbers(raw: str, row: int, width: int | None, source: Source) -> list[float]:
    where = f"{source.name}, entry {row}"
    values = _loaded(raw, where)
    if not values or any(type(value) is not float for value in values):
        raise VectorFileError(f"{where}: expected a list of numbers, found {raw[:60]!r}.")
    if width not in (None, len(values)):
        raise VectorFileError(f"{where}: expected {width} numbers, as in entry 0, found {len(values)}.")
    return values


def _loaded(raw: str, where: str) -> Any:
    try:
        return json.loads(raw, parse_int=float)  # an integer too large becomes infinity, which is refused
    except (ValueError, RecursionError) as error:
        raise VectorFileError(f"{where}: {error}, in {raw[:60]!r}.") from error


def can_hold(word: str, row: int) -> bool:
    """JSON holds any word."""
    return True


def write(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write one entry per line, every number with 9 digits, which restore a float32 bit for bit."""
    with written(beside, path) as file:
        begin = "{"
        for word, row in zip(vectors.words, vectors.matrix, strict=True):
            file.write(f"{begin}\n{json.dumps(word)}: [{', '.join([f'{x:.9g}' for x in row.tolist()])}]")
            begin = ","
        file.write("\n}\n" if begin == "," else "{}\n")
