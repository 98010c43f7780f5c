"""Word similarity: how well cosines agree with people's scores of pairs of words, such as WordSim-353 and SimLex-999."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from embkeras import _checks
from embkeras._arrays import unit_rows
from embkeras._files import not_a_file
from embkeras.errors import ArgumentError, DataError

_SEPARATORS = ("\t", ";", ",")


class WordPair(NamedTuple):
    """Two words and the score that people gave them."""

    one: str
    other: str
    score: float


@dataclass(frozen=True)
class WordSimilarity:
    """How well two tables agree with people's scores.

    Attributes:
        before: Spearman's correlation of cosines and scores, -1 to 1, over the pairs found; NaN if one of the two doesn't
            vary.
        after: the same for the table after.
        found: pairs of which both words have a row.
        pairs: pairs in all.
    """

    before: float
    after: float
    found: int
    pairs: int


def read_word_pairs(path: str | os.PathLike[str], *, encoding: str = "utf-8") -> list[WordPair]:
    """Read a file of scored pairs: two words and a score a line, between tabs, semicolons, commas or spaces.

    Blank lines and those that start with "#" are skipped, and so is a first line of column names. The score is the first
    number behind the two words: WordSim-353, SimLex-999 in its own columns, MEN and RG-65 can be read as they are.

    Args:
        path: the file.
        encoding: its text encoding.

    Raises:
        DataError: the file can't be read, has no pairs, or a line without two words and a finite score.
        ArgumentError: an argument of the wrong type, or an unknown encoding.
    """
    path = _checks.path(path, "path")
    if not path.is_fifo() and (reason := not_a_file(path)):
        raise DataError(f"Cannot read {str(path)!r}: {reason}.")
    try:
        text = path.read_text("utf-8-sig" if encoding == "utf-8" else encoding)
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from error
    except UnicodeError as error:
        raise DataError(f"{str(path)!r} is not valid {encoding}: {error}. Pass another encoding=.") from error
    except (LookupError, TypeError, ValueError):
        raise ArgumentError(f"encoding must name a text encoding. Received: {_checks.shown(encoding)}.") from None
    pairs, begun = [], False
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = list(_fields(line))
        score = next((value for field in fields[2:] if (value := _number(field)) is not None), None)
        if len(fields) >= 3 and all(fields[:2]) and score is not None:
            pairs.append(WordPair(fields[0], fields[1], score))
        elif begun or len(fields) < 3:
            raise DataError(
                f"{str(path)!r}, line {number}: expected two words and a score, found {_checks.shown(line.strip()[:80])}."
            )
        begun = True
    if not pairs:
        raise DataError(f"{str(path)!r} contains no pairs of words with a score.")
    return pairs


def _fields(line: str) -> Iterator[str]:
    separator = next((each for each in _SEPARATORS if each in line), None)
    return (field.strip().strip('"') for field in line.split(separator))


def _number(field: str) -> float | None:
    """The field as a finite number."""
    return float(field) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", field, re.ASCII) else None


def word_similarity(
    before: np.ndarray, after: np.ndarray, row_of: Mapping[str, int], pairs: Sequence[WordPair]
) -> WordSimilarity:
    """Spearman's correlation of cosines and scores, over the pairs of which both words have a row.

    A word that has none is looked for in lower case.

    Args:
        before: floats of shape (V, D).
        after: floats of shape (V, D).
        row_of: the row of each token.
        pairs: the pairs.

    Raises:
        ArgumentError: fewer than two pairs are found.
    """
    places = [[row_of.get(word, row_of.get(word.lower(), -1)) for word in pair[:2]] for pair in pairs]
    found = [(rows, pair.score) for rows, pair in zip(places, pairs, strict=True) if min(rows) >= 0]
    if len(found) < 2:
        raise ArgumentError(
            f"A correlation needs two pairs of words with rows. Received: {len(found)} of {len(pairs):,}."
        )
    one, other = np.array([rows for rows, _ in found]).T
    ranks = pd.Series([score for _, score in found]).rank()

    def correlation(table: np.ndarray) -> float:
        cosines = np.einsum("ij,ij->i", unit_rows(table[one]), unit_rows(table[other]))
        return float(ranks.corr(pd.Series(cosines).rank()))

    return WordSimilarity(correlation(before), correlation(after), found=len(found), pairs=len(pairs))
