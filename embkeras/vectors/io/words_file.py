"""The words of a matrix in a file of their own: lines of text, JSON, a column of a parquet table, or a tokenizer.json.

`save_vectors` writes such a file beside a `.npy` matrix, as JSON: {"matrix_crc32": ..., "words": [...]}. The checksum is that
of all bytes of the matrix file, because the two files can't be renamed into place at once: a process that is killed between
the two leaves one file of a pair beside the other file of an older pair. A sample of the bytes would not do, since two
matrices may differ in a few rows only. CRC-32 runs at about 2 GB/s, so checking it adds about a quarter to the time of
reading a matrix. Files without a checksum, such as a plain list, are used as they are.

A tokenizer.json is what Hugging Face's tokenizers save: see https://huggingface.co/docs/tokenizers.
"""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embkeras.errors import EmbkerasError, MissingDependencyError, VectorFileError
from embkeras.vectors.io.other_files import not_vectors
from embkeras.vectors.io.source import Source, contents_of

_ENDINGS = (".txt", ".json", ".parquet")
_GENSIM = (
    ".wv.vectors.npy",
    ".vectors.npy",
    ".wv.vectors_vocab.npy",
    ".vectors_vocab.npy",
)  # after the name of the pickle
_TOKENIZER = "tokenizer.json"
_UNKNOWN = ("[UNK]", "<unk>")
_CHUNK = 1 << 20  # bytes


def words_file_of(path: Path) -> Path:
    """The file with the words of a matrix: the one with the same stem.

    Raises:
        VectorFileError: there is none, or several.
    """
    candidates = [path.with_suffix(ending) for ending in _ENDINGS]
    spelled = [*candidates, *(path.with_suffix(ending.upper()) for ending in _ENDINGS)]
    found = {os.path.normcase(file): file for file in spelled if file.is_file()}
    if own := [file for file in found.values() if file.suffix.lower() == ".json"]:  # what save_vectors writes;
        return own[0]  # a .txt beside it is likely its source
    if len(found) != 1:
        names = ", ".join(candidate.name for candidate in candidates)
        there = ", ".join(file.name for file in found.values()) or "none of them"
        raise VectorFileError(
            f"The words of {str(path)!r} must be in one of {names}, in the same folder; found {there}. "
            f"{_of_gensim(path) or 'Pass words_file=.'}"
        )
    return next(iter(found.values()))


def _of_gensim(path: Path) -> str | None:
    """What to do with a matrix that gensim wrote beside one of its pickles, which has the words."""
    owner = path.with_name(path.name.partition(".vectors")[0].removesuffix(".wv"))
    attribute = path.name.removeprefix(owner.name)
    if attribute not in _GENSIM or not owner.is_file():
        return None
    reason = not_vectors(Source(owner))
    return f"The matrix belongs to {owner.name!r}, {reason}" if reason and "gensim" in reason else None


def read_words(path: Path, rows: int, source: Source, *, written_with: Path | None = None) -> Sequence[str | None]:
    """The words in a `.json` file, in the first column of strings of a `.parquet` file, or else one per line.

    JSON may be a list of words, what `save_vectors` wrote, or the `word_index` of a Keras Tokenizer: {word: id}.

    Args:
        path: the file.
        rows: the number of words it must have.
        source: the file with the vectors, named in error messages.
        written_with: the matrix that a checksum in the file, if there is one, must belong to; None to ignore it.

    Returns:
        The word of each row; None for a row without one, such as the padding row of a word_index.

    Raises:
        VectorFileError: the file can't be read, contains no list of words or another number of them, or belongs to
            another matrix.
        MissingDependencyError: a parquet table, and pyarrow is not installed.
    """
    ending = path.suffix.lower()
    try:
        raw = contents_of(path)
        if ending == ".parquet" or raw.startswith(b"PAR1"):
            words = _parquet_words(raw, path)
        elif ending == ".json":
            words = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_distinct)
        else:
            # As bytes: text mode would also end lines at a lone carriage return. A byte order mark is not part of a word.
            words = raw.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except EmbkerasError:
        raise
    except OSError as error:
        raise VectorFileError(f"Cannot read the words in {str(path)!r}: {error.strerror or error}.") from error
    except (ValueError, TypeError, NotImplementedError, RecursionError) as error:
        raise VectorFileError(f"{str(path)!r} is not a readable list of words: {error}") from error
    crc = None
    if isinstance(words, dict) and {"words", "matrix_crc32"} <= set(words):
        crc, words = words["matrix_crc32"], words["words"]
        if type(crc) is not int:
            raise VectorFileError(f"{str(path)!r}: matrix_crc32 must be an integer. Received: {crc!r}.")
    if isinstance(words, dict) and words and all(type(id_) is int for id_ in words.values()):
        return _by_row(words, rows, path, source)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise VectorFileError(f"{str(path)!r} must contain a list of strings, or a word_index: {{word: id}}.")
    check_count(len(words), rows, repr(str(path)), source)
    if written_with is not None and crc is not None and crc != crc32_of(written_with):
        raise VectorFileError(
            f"The words in {path.name} were written with another matrix than {str(written_with)!r} (the checksums "
            f"differ). Write both files again, or pass words_file= if the words do belong to this matrix."
        )
    return words


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, if no key occurs twice: of two, json would keep the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found


def _by_row(index: dict[str, int], rows: int, path: Path, source: Source) -> list[str | None]:
    """The words of a word_index by row: a word for every row but the first, which is the padding's if no word has id 0."""
    words: list[str | None] = [None] * rows
    rule = f"{str(path)!r} must have one word for each row of {source.name}, from 0 or 1 to {rows - 1:,}"
    for word, id_ in index.items():
        if not 0 <= id_ < rows:
            raise VectorFileError(f"{rule}. Received: {word!r} with the id {id_}.")
        if words[id_] is not None:
            raise VectorFileError(f"{rule}. Received: {words[id_]!r} and {word!r} with the id {id_}.")
        words[id_] = word
    if None in words[1:]:
        raise VectorFileError(f"{rule}. Received: no word with the id {words.index(None, 1)}.")
    return words


def check_count(words: int, rows: int, where: str, source: Source) -> None:
    """Refuse a list of words that is not as long as the table of vectors."""
    if words != rows:
        raise VectorFileError(f"{source.name} has {rows:,} rows, but {where} has {words:,} words.")


def write_words(path: Path, words: Sequence[str], matrix: Path) -> None:
    """Write the words of a matrix file, with the checksum of that file."""
    path.write_text(json.dumps({"matrix_crc32": crc32_of(matrix), "words": list(words)}), encoding="ascii")


def crc32_of(path: Path) -> int:
    """The CRC-32 of a file, as zlib computes it."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def _parquet_words(raw: bytes, path: Path) -> list[str]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            f'Reading {str(path)!r} needs pyarrow: python -m pip install "embkeras[demo]".'
        ) from None
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(raw))
    strings = [name for name, kind in zip(table.schema.names, table.schema.types, strict=True) if "string" in str(kind)]
    if not strings:
        raise VectorFileError(f"{str(path)!r} has no column of strings; its columns are {table.schema.names}.")
    return table.column(strings[0]).to_pylist()


def tokenizer_of(path: Path) -> Path:
    """Where the tokens of a table are written: `tokenizer.json` for `model.safetensors`, `x.tokenizer.json` for others."""
    return path.with_name(_TOKENIZER if path.stem == "model" else f"{path.stem}.{_TOKENIZER}")


def tokenizer_beside(path: Path) -> Path:
    """The tokenizer of a table; one that has the table's name is preferred to `tokenizer.json`.

    Raises:
        VectorFileError: there is none.
    """
    candidates = dict.fromkeys([tokenizer_of(path), path.with_name(_TOKENIZER)])
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise VectorFileError(
            f"The words of {str(path)!r} must be in {' or '.join(candidate.name for candidate in candidates)}, in the same "
            f"folder, but there is no such file. Pass words_file=."
        )
    return found


def read_tokens(path: Path, count: int) -> list[str]:
    """The tokens of the ids 0 to `count` - 1: those of the tokenizer's model, of any kind, and its added tokens.

    Raises:
        VectorFileError: not a tokenizer, an id without a token or with two, or another number of ids.
    """
    try:
        contents = json.loads(path.read_text("utf-8"))
        vocabulary = contents["model"]["vocab"]
        if isinstance(vocabulary, list):
            pairs = [(entry[0], id_) for id_, entry in enumerate(vocabulary)]
        else:
            pairs = list(vocabulary.items())
        pairs += [(entry["content"], entry["id"]) for entry in contents.get("added_tokens") or []]
    except OSError as error:
        raise VectorFileError(f"Cannot read the words in {str(path)!r}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise VectorFileError(
            f"{str(path)!r} is not a tokenizer with the tokens of a model: {type(error).__name__} {error}"
        ) from error
    return _by_id(pairs, count, path)


def _by_id(pairs: list[tuple[Any, Any]], count: int, path: Path) -> list[str]:
    rule = f"{str(path)!r} must have one token for each id from 0 to {count - 1:,}, the rows of the table"
    tokens: list[Any] = [None] * count
    for token, id_ in pairs:
        if not isinstance(token, str) or type(id_) is not int or not 0 <= id_ < count:
            raise VectorFileError(f"{rule}. Received: the token {token!r} for the id {id_!r}.")
        if tokens[id_] not in (None, token):
            raise VectorFileError(f"{rule}. Received: two tokens for the id {id_}, {tokens[id_]!r} and {token!r}.")
        tokens[id_] = token
    if None in tokens:
        raise VectorFileError(f"{rule}. Received: no token for the id {tokens.index(None)}.")
    return tokens


def write_tokenizer(path: Path, words: Sequence[str]) -> None:
    """Write the smallest tokenizer with these words as tokens: it splits text at white space.

    It encodes texts with unknown words only if "[UNK]" or "<unk>" is among the words.
    """
    unknown = next((word for word in _UNKNOWN if word in words), _UNKNOWN[0])
    contents: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    contents |= {"normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None}
    vocabulary = {word: id_ for id_, word in enumerate(words)}
    contents |= {"decoder": None, "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown}}
    path.write_text(json.dumps(contents, ensure_ascii=False), encoding="utf-8")
