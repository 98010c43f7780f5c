"""How a text file is to be read: where its lines end, whether it has a header, what divides its rows, and their width.

Nothing in a file of text says so, and a wrong guess gives wrong vectors without an error. So every known separator is tried
on the head of the file, its first lines:

1. The width is what `width=` or the header says, or else the count of numbers after the word in most lines.
2. A line agrees if that many numbers follow its word and the word holds no number that looks like one more value. (Words
   that do can be read with `width=`, which is then the user's word for it.)
3. A reading is taken if every line agrees. If two readings are left and they differ in a word or a value, the file is
   refused: the error shows both, and names the argument that decides.
4. If none is left, the one on which most lines agree is returned. The reader applies the same rule to each row, so it raises
   the error at the first line that disagrees.
"""

import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from embkeras.errors import EmbkerasWarning, VectorFileError
from embkeras.vectors.io.lines import LONGEST_LINE
from embkeras.vectors.io.rows import Request
from embkeras.vectors.io.separators import INFERRED, NUMBER, Separator, trailing_numbers
from embkeras.vectors.io.source import HEAD, Source

BOM = b"\xef\xbb\xbf"
_HEADER = re.compile(rb"[ \t]*([0-9]{1,18})[ \t]+([0-9]{1,18})[ \t]*(?:\r?(?:\n|\Z)|\r(?![^\n]*\n))")
_DECIMAL_COMMA = re.compile(rb"[+-]?[0-9]+,[0-9]+(?:[eE][+-]?[0-9]+)?")
_PAIR = re.compile(rb"[ \t]*[+-]?[0-9.]+[ \t]+[+-]?[0-9.]+")  # might be meant as a header
_BLANKS = re.compile(rb"\A[ \t]|\t|  ")
_INTEGER = re.compile(rb"[+-]?[0-9]+")
_WIDE = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32"}  # their marks at the start of a file
_WIDE |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
WORD_NAMES = {"word", "words", "token", "tokens", "term", "terms", "key", "keys", "text", "string", "name", "label"}
INDEX_NAMES = {"", "index", "unnamed: 0"}  # of pandas' index
_FIELD = re.compile(rb"[ \t]*[ \t,;|][ \t]*")
_COUNTED = re.compile(rb'[^ \t,;|]*[ \t,;|]+"?[01]"?(?:[ \t,;|]|\Z)')  # a name, and the first of the numbers that count
_QUOTED = re.compile(rb"([\"']).*\1", re.DOTALL)
_VALUE_LAST = re.compile(rb".* [+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?", re.DOTALL)
_CSV = re.compile(rb'"(?:[^"]|"")*"[,;][+-]?[0-9.]')
_LISTS = re.compile(rb"[,;] +[+-]?[0-9.]|[\[(][ \t]*[+-]?[0-9.]")
_LESS_USUAL = [Separator(*pair) for pair in ((b";", b";"), (b"|", b"|"), (b":", b":"), (b" ", b","), (b"\t", b","))]
_LESS_USUAL += [Separator(*pair) for pair in ((b":", b","), (b"=", b","), (b"\t", b";"), (b" ", b";"))]
_DIGITS = [b"%d" % digit for digit in range(10)]
TABLE = "read the file with pandas, and pass the frame to KeyedVectors.from_dataframe"


class Header(NamedTuple):
    """The first line of word2vec text and word2vec binary: how many rows, their width, and the bytes of the line."""

    rows: int
    width: int
    length: int


def header_of(head: bytes | bytearray) -> Header | None:
    """The header "rows width" at the start of a file; None if it has none.

    Examples:
        >>> header_of(b"2 50\\ncat 0.1")
        Header(rows=2, width=50, length=5)
    """
    mark = len(BOM) if head.startswith(BOM) else 0
    found = _HEADER.match(head, mark)
    return Header(int(found[1]), int(found[2]), found.end()) if found else None


def name_columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first fields of a file name columns, and are no row: a name, and numbers that count from 0 or 1.

    Args:
        names: the fields of the first line.
        rows: those of the next lines.

    Examples:
        >>> name_columns(["token", "0", "1"], []), name_columns(["cat", "0", "1"], [])
        (True, False)
        >>> name_columns(["entity", "0", "1", "2"], [["Paris", "0.5", "1", "2"]])
        True
    """
    first, *numbers = names
    counted = ([str(place + start) for place in range(len(numbers))] for start in (0, 1))
    if not numbers or numbers not in counted:
        return False
    if first.lower() in WORD_NAMES | INDEX_NAMES:
        return True
    return len(numbers) > 2 and any("." in field for row in rows for field in row[1:])


@dataclass(frozen=True)
class Reading:
    """How to read the rows of a file.

    Attributes:
        separator: what divides a row.
        width: numbers per row.
        header: the header; None if the first line is a row, or its header is ignored.
        ignored: the header that is ignored.
        first_line: the number of the first row's line, counted from 1.
        start: the byte at which the rows start.
        line_end: the byte that ends a line.
        checked: whether a word that holds a value is refused. It is not if the user said the width.
    """

    separator: Separator
    width: int
    header: Header | None = None
    ignored: Header | None = None
    first_line: int = 1
    start: int = 0
    line_end: bytes = b"\n"
    checked: bool = True

    def divided(self, line: bytes) -> list[bytes] | None:
        """[word, number, ...] of a row, the numbers unread; None if the row disagrees with this reading."""
        fields = self.separator.divided(line, self.width)
        if fields is None or (self.checked and self.separator.value_in_word.search(fields[0])):
            return None
        return fields

    def agrees(self, line: bytes) -> bool:
        """Whether a word and `width` numbers are in a line, and no other value."""
        fields = self.divided(line)
        return fields is not None and len(fields) > 1 and all(map(NUMBER.fullmatch, fields[1:]))

    @property
    def expected(self) -> str:
        """What a row has, for error messages."""
        return f"a word and {counted(self.width)}"

    @property
    def advice(self) -> str:
        """What to do about a row of another width."""
        if not self.checked:
            return " The width is what width= says."
        words = f"if the word ends in a number, pass width={self.width}"
        if self.header is None:
            return f" The width is that of most of the first lines; {words}."
        return (
            f" The width is what the header says; {words}; if the header is wrong, "
            f'header="ignore"; if line 1 is a row, header=False.'
        )

    def shown(self, line: bytes) -> str:
        """What this reading makes of a line, for error messages."""
        word, *numbers = self.divided(line) or [b""]
        first = ", ".join(number.decode("latin-1") for number in numbers[:3])
        more = ", ..." if len(numbers) > 3 else ""
        return f"separator={self.separator.argument!r} and width={self.width:,} read the word {word[:40]!r} and {first}{more}"


def counted(width: int) -> str:
    """ "1 number", "2 numbers"."""
    return f"{width} number{'' if width == 1 else 's'}"


def unexpected(source: Source, number: int, expected: str, found: bytes, advice: str = "") -> VectorFileError:
    """The error for a line, counted from 1."""
    return VectorFileError(f"{source.name}, line {number}: expected {expected}, found {found[:60]!r}.{advice}")


def wrong_count(source: Source, count: int, rows: int) -> VectorFileError:
    """The error for a header that counts the rows wrong."""
    return VectorFileError(
        f"{source.name}, line 1: the header says {count:,} rows, but the file has {rows:,}. If the file is complete, "
        f'header="ignore" takes the rows that are there.'
    )


def warn_if_cut(source: Source, values: Sequence[bytes], rows: int) -> None:
    """Warn if the last row, which nothing ends, seems cut within its last number, of which nothing else would tell.

    Args:
        source: the file.
        values: the numbers of the row.
        rows: the rows of the file.
    """
    if not all(map(NUMBER.fullmatch, values)):  # of a row that nobody wants
        return
    digits = [sum(map(value.count, _DIGITS)) for value in values]
    if len(digits) > 1 and digits[-1] < min(digits[:-1]):
        warn(
            f"{source.name} doesn't end with a newline, and its last value {values[-1][:40]!r} has fewer digits than "
            f"the others of its row (row {rows:,}): the file may be cut off."
        )


def warn(message: str) -> None:
    """Warn at the first line of the call that is not in this package."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("embkeras."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, EmbkerasWarning, stacklevel=level + 1)


def reading_of(source: Source, stream: Any, request: Request, header: bool | None) -> Reading:
    """The one reading on which the head of a file agrees, or the one that comes closest.

    Args:
        source: named in error messages.
        stream: its contents from the first byte on, with `read`.
        request: the separator, width and header that the user gave.
        header: whether there must be a header; None to look.

    Raises:
        VectorFileError: no vectors, two readings that differ, numbers without words, or no header although one was asked for.
    """
    head, ended = _head(source, stream)
    line_end = b"\r" if b"\n" not in head and b"\r" in head else b"\n"
    mark = len(BOM) if head.startswith(BOM) else 0  # some editors write it; it is not part of the first word
    head = head[mark:]
    lines = _lines(head, line_end, ended)
    if not lines or not lines[0].strip():
        raise VectorFileError(f"{source.name} contains no vectors: its first line is empty.")
    found = _header(source, lines[0], header if request.header is None else request.header)
    named = found is None and request.header is not False and _are_names(lines)
    if named and request.header != "ignore":
        advice = ' header="ignore" skips this line; header=False takes it for a row.'
        table = next((name for mark, name in ((b",", "csv"), (b";", "csv"), (b"\t", "tsv")) if mark in lines[0]), None)
        advice += f' format="{table}" reads the file as a table with names.' if table else ""
        raise unexpected(source, 1, "a row, not the names of columns", lines[0], advice)
    begins = found is None and not named
    skipped = 0 if begins else head.index(line_end) + 1 if line_end in head else len(head)
    rows = lines if begins else lines[1:]
    while rows and not rows[-1]:
        rows.pop()  # blank lines are allowed only at the end; the reader refuses others
    trusted = found if request.header != "ignore" else None
    _check_rows(source, trusted, found, rows)
    first_line, start = 2 - begins, mark + skipped
    widths = {"width": request.width or (trusted.width if trusted else 0), "checked": request.width is None}
    ignored = found if trusted is None else None
    place = {"header": trusted, "ignored": ignored, "first_line": first_line, "start": start, "line_end": line_end}
    separators = _possible(rows) if request.separator is None else [request.separator]
    tried = [_tried(separator, rows, widths | place) for separator in separators]
    if request.separator is None and request.width is None:
        _check_ends_of_words(source, tried, rows)
    others = [] if request.separator is not None else _LESS_USUAL
    return _only(source, tried, (_tried(separator, rows, widths | place) for separator in others), rows)


def _are_names(lines: Sequence[bytes]) -> bool:
    """Whether the first line names columns, whatever divides it."""
    first, *rows = lines[:100]
    if not _COUNTED.match(first):  # nearly always
        return False
    names, *fields = ([field.decode("latin-1").strip('"') for field in _FIELD.split(line)] for line in (first, *rows))
    return name_columns(names, fields)


def _check_ends_of_words(source: Source, tried: Sequence[tuple[int, Reading]], rows: Sequence[bytes]) -> None:
    """Refuse words that all end alike, or are in quotation marks: whether that belongs to the words, the file doesn't say."""
    agreeing, best = max(tried, key=lambda each: (each[0], each[1].width))
    words = [(best.separator.divided(row, best.width) or [b""])[0] for row in rows]
    last = {word[-1:] for word in words if len(word) > 1 or word == b" "}
    marks = len(last) == 1 and last <= {b":", b";", b",", b"|", b"=", b" "} and all(word[-1:] in last for word in words)
    if 1 < len(words) == agreeing and (marks or all(map(_VALUE_LAST.fullmatch, words))):
        found = last.pop() if marks else b"a number"
        raise unexpected(
            source,
            best.first_line,
            f"words that don't all end in {found.decode() if not marks else repr(found.decode())}",
            rows[0],
            f" If that belongs to the words, pass width={best.width}. If not, {TABLE}.",
        )
    place = (
        0
        if len(words) > 1 and all(map(_QUOTED.fullmatch, words))
        else next((i for i, row in enumerate(rows) if _CSV.match(row)), None)
    )
    if place is not None:
        raise unexpected(
            source,
            best.first_line + place,
            "words without quotation marks",
            rows[place],
            f" If the marks belong to the words, pass width={best.width}. If not, read the file with pandas.read_csv(path, "
            f"sep={best.separator.between.decode()!r}, header=None, index_col=0, na_filter=False), and pass the frame to "
            f"KeyedVectors.from_dataframe.",
        )


def _head(source: Source, stream: Any) -> tuple[bytes, bool]:
    """The first bytes, with at least two ends of lines, and whether they are the whole file."""
    head = b""
    while True:
        more = stream.read(max(HEAD, len(head)))
        head += more
        if not more:
            break
        _check_encoding(source, head)
        ends = max(head.count(b"\n"), head.count(b"\r"))
        if len(head) >= HEAD and ends > 1:
            return head, False
        if len(head) >= LONGEST_LINE:
            raise unexpected(source, ends + 1, f"lines of at most {LONGEST_LINE:,} bytes", head[head.find(b"\n") + 1 :])
    return head, True


def _check_encoding(source: Source, head: bytes) -> None:
    """Refuse UTF-16 and UTF-32 that the user did not name; what the user named has been decoded."""
    name = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    if name is None and len(head) > 8 and b"\0" in head[:2]:
        every_other = {head[start:8:2]: place for start, place in ((0, "be"), (1, "le"))}
        name = f"utf-16-{every_other[bytes(4)]}" if bytes(4) in every_other else None
    if name is not None:
        raise VectorFileError(
            f'{source.name} is in {name.upper()}, by its first bytes {head[:2]!r}: pass encoding="{name}".'
        )


def _lines(head: bytes, line_end: bytes, ended: bool) -> list[bytes]:
    """The complete lines, without their ends."""
    lines = head.split(line_end)
    if not lines[-1] or not ended:
        lines.pop()
    return [line.removesuffix(b"\r").rstrip(b" \t") for line in lines]


def _header(source: Source, line: bytes, wanted: bool | str | None) -> Header | None:
    """The header in the first line, if it must or may have one."""
    found = header_of(line)
    if wanted is False:
        return None
    if found is None or found.length < len(line):
        if wanted is True:
            raise unexpected(source, 1, 'a header "rows width"', line, " Without a header, leave out header=True.")
        return None
    if found.width < 1:
        raise unexpected(source, 1, "a width of at least 1", line, _NOT_A_HEADER)
    return found


_NOT_A_HEADER = " If the first line is a row, pass header=False."


def _check_rows(source: Source, header: Header | None, found: Header | None, rows: Sequence[bytes]) -> None:
    """Refuse a file without rows."""
    if rows:
        return
    if header is not None and header.rows:
        raise wrong_count(source, header.rows, 0)
    raise VectorFileError(f"{source.name} contains no vectors.")


def _possible(rows: Sequence[bytes]) -> list[Separator]:
    """The separators worth a try: runs of blanks divide as single spaces do where there are neither tabs nor longer runs."""
    plain = not any(map(_BLANKS.search, rows))
    return [separator for separator in INFERRED if not (plain and separator.runs)]


def _tried(separator: Separator, rows: Sequence[bytes], how: dict[str, Any]) -> tuple[int, Reading]:
    """How many lines agree with a separator, and the reading that it gives."""
    counts = [_numbers_after_word(separator.fields(row)) for row in rows]
    width = how["width"] or Counter(counts).most_common(1)[0][0]
    reading = Reading(separator, **(how | {"width": width}))
    pairs = zip(counts, rows, strict=True)
    return sum(count >= width > 0 and reading.divided(row) is not None for count, row in pairs), reading


def _numbers_after_word(fields: Sequence[bytes]) -> int:
    """The count of trailing numbers, minus one if every field is a number: the first is the word then."""
    return min(trailing_numbers(fields), len(fields) - 1)


def _only(
    source: Source,
    tried: Sequence[tuple[int, Reading]],
    others: Iterable[tuple[int, Reading]],
    rows: Sequence[bytes],
) -> Reading:
    """The reading on which all rows agree; the best one if there is none. `others` are only named in an error."""
    agreed = [reading for count, reading in tried if count == len(rows)]
    for other in agreed[1:]:
        differing = next((row for row in rows if other.divided(row) != agreed[0].divided(row)), None)
        if differing is not None:
            raise VectorFileError(
                f"{source.name}, line {other.first_line + rows.index(differing)}: {differing[:60]!r} can be read in two ways. "
                f"{agreed[0].shown(differing)}; {other.shown(differing)}. Pass the one that is right."
            )
    if agreed:
        _check_words(source, agreed[0], rows)
        return agreed[0]
    count, best = max(tried, key=lambda each: each[0])
    if best.first_line == 1 and _PAIR.fullmatch(rows[0]) and not any(map(best.agrees, rows[1:])):
        raise unexpected(source, 1, 'a header "rows width", or a row as in line 2', rows[0])
    _check_decimal_commas(source, best, rows)
    if not count:
        raise _unreadable(source, best, [other for agreeing, other in others if agreeing == len(rows)], rows)
    return best


def _check_words(source: Source, reading: Reading, rows: Sequence[bytes]) -> None:
    """Refuse rows of numbers alone, unless their first ones are evidently words: whole numbers that differ, as ids do."""
    if not reading.checked or reading.header is not None:
        return
    divided = [reading.separator.divided(row, reading.width) or [] for row in rows]
    words = [fields[0] for fields in divided]
    if not all(NUMBER.fullmatch(word) or _DECIMAL_COMMA.fullmatch(word) for word in words):
        return
    values_are_whole = all(map(_INTEGER.fullmatch, (value for fields in divided for value in fields[1:])))
    if len(set(words)) == len(words) and all(map(_INTEGER.fullmatch, words)) and not values_are_whole:
        return
    raise VectorFileError(
        f"{source.name}, line {reading.first_line}: every field is a number, found {rows[0][:60]!r}. If the first of each line "
        f"is its word, pass width={reading.width}. If the words are in another file, pass words_file=."
    )


def _check_decimal_commas(source: Source, reading: Reading, rows: Sequence[bytes]) -> None:
    """Refuse numbers with a decimal comma, saying that they are."""
    for number, row in enumerate(rows, reading.first_line):
        *others, last = re.split(rb"[ \t;|]+", row)
        several = reading.header is not None or any(
            map(_DECIMAL_COMMA.fullmatch, others)
        )  # of "a 1,2" the comma divides
        if several and _DECIMAL_COMMA.fullmatch(last) and not reading.agrees(row):
            advice = " Replace the decimal commas by points."
            raise unexpected(source, number, "numbers with a decimal point", last, advice)


def _unreadable(source: Source, best: Reading, others: Sequence[Reading], rows: Sequence[bytes]) -> VectorFileError:
    """The error for a file of which no line agrees with any reading."""
    if others:
        advice = f" {others[0].shown(rows[0])}: if that is right, pass that separator=."
        return unexpected(
            source, best.first_line, "a word and its numbers, between spaces, tabs or commas", rows[0], advice
        )
    advice = ""
    if _LISTS.search(rows[0]):
        advice = f" If this is a table with blanks or brackets around its numbers, {TABLE}."
    elif best.first_line == 1 and not any(map(NUMBER.fullmatch, _FIELD.split(rows[0]))):
        advice = f" If the line names columns, {TABLE}."
    if best.width:
        return unexpected(source, best.first_line, best.expected, rows[0], advice or best.advice)
    return unexpected(source, best.first_line, "a word and its numbers", rows[0], advice)
