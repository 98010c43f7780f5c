"""The words of a matrix in a file of their own: lines of text, a JSON list, or a column of a parquet table."""

import json
from collections.abc import Iterable
from pathlib import Path

from embkeras.errors import EmbkerasError, MissingDependencyError, VectorFileError

_ENDINGS = (".txt", ".json", ".parquet")


def words_file_of(path: Path) -> Path:
    """The file of the same stem as a matrix that holds its words.

    Raises:
        VectorFileError: there is none, or several.
    """
    beside = [path.with_suffix(ending) for ending in _ENDINGS]
    there = [candidate for candidate in beside if candidate.is_file()]
    if path.with_suffix(".json") in there:  # what save_vectors writes; a .txt beside it is likely its source
        return path.with_suffix(".json")
    if len(there) != 1:
        found = ", ".join(candidate.name for candidate in there) or "none of them"
        names = ", ".join(candidate.name for candidate in beside)
        raise VectorFileError(
            f"The words of {str(path)!r} should stand in one of {names}; found {found}. Give words_file=."
        )
    return there[0]


def read_words(path: Path) -> list[str]:
    """The words in a `.json` list, in the first column of strings of a `.parquet`, or else one a line.

    Raises:
        VectorFileError: the file cannot be read, or holds no list of words.
        MissingDependencyError: a parquet table, without pyarrow.
    """
    try:
        if path.suffix == ".parquet":
            words = _parquet_words(path)
        elif path.suffix == ".json":
            words = json.loads(path.read_text("utf-8-sig"))
        else:
            # By bytes: reading as text would end lines at a lone carriage return, too. A byte order mark is no word.
            words = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except EmbkerasError:
        raise
    except OSError as error:
        raise VectorFileError(f"Cannot read the words {str(path)!r}: {error.strerror or error}.") from error
    except (ValueError, TypeError, NotImplementedError, RecursionError) as error:
        raise VectorFileError(f"{str(path)!r} is not a readable list of words: {error}") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise VectorFileError(f"{str(path)!r} must hold a list of strings.")
    return words


def _parquet_words(path: Path) -> list[str]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            f'Reading {str(path)!r} needs pyarrow: python -m pip install "embkeras[demo]".'
        ) from None
    table = pyarrow.parquet.read_table(path)
    strings = [name for name, kind in zip(table.schema.names, table.schema.types, strict=True) if "string" in str(kind)]
    if not strings:
        raise VectorFileError(f"{str(path)!r} has no column of strings; columns: {table.schema.names}.")
    return table.column(strings[0]).to_pylist()


def check_utf8(words: Iterable[str], what: str, path: Path) -> None:
    """Refuse words that UTF-8 cannot hold: lone surrogates.

    Raises:
        VectorFileError: naming the word, its row, and `what` cannot hold it.
    """
    for row, word in enumerate(words):
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise VectorFileError(f"{what} cannot hold the word {word!r} (row {row}) in {str(path)!r}.") from None
