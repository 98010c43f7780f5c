"""The vocabulary folder of a spaCy pipeline: `vectors`, a NumPy matrix; `key2row`, the row of each key; `strings.json`.

A key is the MurmurHash64A of a word's UTF-8, with the seed 1 (https://github.com/aappleby/smhasher). Several words may have
the same row. `key2row` is a map of whole numbers in MessagePack (https://github.com/msgpack/msgpack). Words that spaCy has as
symbols of its own, such as "ORG", have small numbers as keys and are not in `strings.json`; they are left out, with a warning.
See https://spacy.io/api/vocab and https://spacy.io/api/vectors.
"""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from embkeras.errors import EmbkerasWarning, VectorFileError
from embkeras.vectors.io.numpy_files import recognises_npy
from embkeras.vectors.io.rows import Kept, Request, keep_listed, keyed_vectors, take
from embkeras.vectors.io.source import Source, contents_of
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import encoded

_KEYS, _WORDS, _SETTINGS = "key2row", "strings.json", "vectors.cfg"
_SEED, _FACTOR, _SHIFT = np.uint64(1), np.uint64(0xC6A4A7935BD1E995), np.uint64(47)
_BLOCK = 8  # bytes that are hashed at once
_SIZES = {
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}  # bytes of whole numbers in MessagePack
_SIGNED = 0xD0
_ROWS = 1 << 14  # rows copied at once


def recognises(source: Source) -> bool:
    """Whether the file is a NumPy matrix beside spaCy's keys."""
    return recognises_npy(source) and source.shown.name == "vectors" and source.shown.with_name(_KEYS).is_file()


def read(source: Source, request: Request) -> KeyedVectors:
    """Map the matrix, and copy the rows of the wanted words, in the order of the rows.

    Raises:
        VectorFileError: a damaged or missing file, or vectors of floret, which have no words.
    """
    folder = source.shown.parent
    _refuse_floret(folder / _SETTINGS)
    try:
        matrix = np.load(source.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, OverflowError, TypeError) as error:
        raise VectorFileError(f"{source.name} is not a complete matrix of NumPy: {error}") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.shape[1]:
        raise VectorFileError(
            f"{source.name} must contain floats of shape (words, width). Received: {matrix.dtype} {matrix.shape}."
        )
    keys, rows = _keys(folder / _KEYS)
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(matrix):
        rule = f"{str(folder / _KEYS)!r} must have rows from 0 to {len(matrix) - 1:,}, those of {source.name}"
        raise VectorFileError(f"{rule}. Received: {rows.min()} to {rows.max()}.")
    order = np.argsort(rows, kind="stable")
    keys, rows = keys[order], rows[order]
    words = _words(folder / _WORDS, keys)
    missing = sum(word is None for word in words)
    if missing:
        warnings.warn(
            f"{str(folder)!r} has {missing:,} keys without a word in {_WORDS}, such as spaCy's own symbols; they were left out.",
            EmbkerasWarning,
            stacklevel=4,
        )
    kept = keep_listed(words, request)

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(kept.rows), _ROWS):
            yield start, matrix[rows[kept.rows[start : start + _ROWS]]]
            if request.progress is not None:
                request.progress(start, len(kept.rows))

    taken = take(Kept(kept.words, np.arange(len(kept.rows))), matrix.shape[1], blocks(), source, request)
    return keyed_vectors(kept.words, taken, source, "spacy", request, **kept.counts)


def _refuse_floret(path: Path) -> None:
    try:
        settings = json.loads(contents_of(path)) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise VectorFileError(f"Cannot read the settings in {str(path)!r}: {error}.") from error
    mode = settings.get("mode", "default") if isinstance(settings, dict) else settings
    if mode != "default":
        raise VectorFileError(
            f"{str(path)!r}: expected vectors of words (mode 'default'), found the mode {mode!r}, whose rows are for hashes. "
            f"Write the vectors of your words in Python: KeyedVectors(words, [nlp.vocab[word].vector for word in words])."
        )


def _words(path: Path, keys: np.ndarray) -> list[str | None]:
    """The word of each key; None for a key without one."""
    try:
        strings = json.loads(contents_of(path))
    except OSError as error:
        raise VectorFileError(f"Cannot read the words in {str(path)!r}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise VectorFileError(f"{str(path)!r} is not a readable list of words: {error}") from error
    if not isinstance(strings, list) or not all(isinstance(word, str) for word in strings):
        raise VectorFileError(f"{str(path)!r} must contain a list of strings.")
    strings = [word for word in strings if encoded(word)]
    word_of = dict(zip(hashes_of([word.encode() for word in strings]).tolist(), strings, strict=True))
    return [word_of.get(key) for key in keys.tolist()]


def hashes_of(raws: list[bytes]) -> np.ndarray:
    """The keys of words that are not empty, uint64: those of the same number of blocks are hashed together."""
    lengths = np.fromiter(map(len, raws), np.uint64, len(raws))
    hashes = _SEED ^ lengths * _FACTOR
    counts = (lengths // np.uint64(_BLOCK)).astype(np.int64)
    for count in np.unique(counts).tolist():
        places = np.flatnonzero(counts == count)
        padded = b"".join(raws[place].ljust(_BLOCK * (count + 1), b"\0") for place in places.tolist())
        blocks = np.frombuffer(padded, "<u8").reshape(len(places), count + 1)
        found = hashes[places]
        for block in blocks[:, :count].T:
            block = block * _FACTOR
            block ^= block >> _SHIFT
            found = (found ^ block * _FACTOR) * _FACTOR
        ended = lengths[places] % np.uint64(_BLOCK) == 0  # no bytes after the last block
        found = np.where(ended, found, (found ^ blocks[:, count]) * _FACTOR)
        found = (found ^ found >> _SHIFT) * _FACTOR
        hashes[places] = found ^ found >> _SHIFT
    return hashes


def _keys(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The keys (uint64) and rows (int64) of a map in MessagePack, in its order."""
    try:
        raw = contents_of(path)
    except OSError as error:
        raise VectorFileError(f"Cannot read the keys in {str(path)!r}: {error.strerror or error}.") from error
    at = 0
    numbers: list[int] = []

    def damaged(expected: str) -> VectorFileError:
        return VectorFileError(f"{str(path)!r}, byte {at}: expected {expected}, found {raw[at : at + 9]!r}.")

    length = {0xDE: 2, 0xDF: 4}.get(raw[0] if raw else 0)
    if not raw or (length is None and raw[0] >> 4 != 8) or len(raw) <= (length or 0):
        raise damaged("a map of whole numbers in MessagePack")
    count = raw[0] & 15 if length is None else int.from_bytes(raw[1 : 1 + length], "big")
    at = 1 + (length or 0)
    while at < len(raw) and len(numbers) < 2 * count:
        kind = raw[at]
        size = _SIZES.get(kind)
        if (size is None and 0x80 <= kind < 0xE0) or at + (size or 0) >= len(raw):
            raise damaged("a whole number")
        if size is None:
            numbers.append(kind if kind < 0x80 else kind - 256)
        else:
            numbers.append(int.from_bytes(raw[at + 1 : at + 1 + size], "big", signed=kind >= _SIGNED))
        at += 1 + (size or 0)
    if len(numbers) != 2 * count or at != len(raw):
        raise damaged(f"{count:,} keys and rows, and then the end")
    if min(numbers[::2], default=0) < 0 or max(numbers[1::2], default=0) >= 1 << 63:
        raise damaged("keys >= 0 and rows below 2**63")
    return np.array(numbers[::2], np.uint64), np.array(numbers[1::2], np.int64)
