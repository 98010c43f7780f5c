"""Tables of words by dimensions in Parquet and Feather, as pandas and Hugging Face's datasets write them, read by pyarrow.

The numbers are in numbered columns, as in a CSV, or in one column of lists, all of the same length. A table is read in
batches, of which the wanted rows are kept.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._arrays import row_slices
from embkeras.errors import EmbkerasError, MissingDependencyError, VectorFileError
from embkeras.vectors.io.delimited import WORD, columns_of, word_column
from embkeras.vectors.io.rows import Request, keep_listed, keyed_vectors, take
from embkeras.vectors.io.source import Source
from embkeras.vectors.store import KeyedVectors
from embkeras.vectors.words import encoded

_PARQUET, _FEATHER, _FEATHER_1 = b"PAR1", b"ARROW1", b"FEA1"
_BATCH = 1 << 22  # bytes of numbers at once


def recognises_parquet(source: Source) -> bool:
    """Whether the contents begin like a Parquet file."""
    return source.head.startswith(_PARQUET)


def recognises_feather(source: Source) -> bool:
    """Whether the contents begin like a Feather file, or what Arrow calls an IPC file."""
    return source.head.startswith((_FEATHER, _FEATHER_1))


def read_parquet(source: Source, request: Request) -> KeyedVectors:
    """Read the words, then the wanted rows, batch by batch.

    Raises:
        VectorFileError: a damaged file, or a table without words or numbered columns.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = _package(source)

    def batches(names: list[str], rows: int) -> Iterator[Any]:
        with arrow.parquet.ParquetFile(source.path) as file:
            yield from file.iter_batches(rows, columns=names)

    with _readable(source, "Parquet", arrow), arrow.parquet.ParquetFile(source.path) as file:
        return _read(file.schema_arrow, batches, source, request, "parquet", arrow)


def read_feather(source: Source, request: Request) -> KeyedVectors:
    """The same for Feather."""
    arrow = _package(source)

    def batches(names: list[str], rows: int) -> Iterator[Any]:
        with arrow.memory_map(str(source.path)) as file:
            reader = arrow.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                batch.validate(full=True)  # damaged offsets would be followed anywhere
                batch = batch.select(names)
                yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))

    with _readable(source, "Feather", arrow):
        if source.head.startswith(_FEATHER_1):
            raise VectorFileError(f"{source.name} is a Feather file of version 1: write it again with a newer pandas.")
        with arrow.memory_map(str(source.path)) as file:
            schema = arrow.ipc.open_file(file).schema
        return _read(schema, batches, source, request, "feather", arrow)


@contextlib.contextmanager
def _readable(source: Source, what: str, arrow: Any) -> Iterator[None]:
    source.refuse_compression(f"a {what} file")
    try:
        yield
    except EmbkerasError:
        raise
    except (
        arrow.ArrowException,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
        MemoryError,
    ) as error:
        raise VectorFileError(
            f"{source.name} is not a complete {what} file: {error or type(error).__name__}"
        ) from error


def _package(source: Source) -> Any:
    try:
        import pyarrow
        import pyarrow.feather
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(f'{source.name} needs pyarrow: python -m pip install "embkeras[demo]".') from None
    return pyarrow


def _read(
    schema: Any,
    batches: Callable[[list[str], int], Iterator[Any]],
    source: Source,
    request: Request,
    format: str,
    arrow: Any,
) -> KeyedVectors:
    words, numbers, listed = _columns(schema, source, arrow)
    width = 1 if listed else len(numbers)
    found: list[str | None] = []
    for batch in batches([words], 1 << 16):
        found += batch.column(0).cast(arrow.string()).to_pylist()
    if not found:
        raise VectorFileError(f"{source.name} contains no vectors.")
    if None in found:
        raise VectorFileError(f"{source.name} has no word in row {found.index(None)} of the column {words!r}.")
    kept = keep_listed(found, request)
    if listed:
        first = next((batch for batch in batches(numbers, 1) if batch.num_rows), None)
        width = len(first.column(0)[0].as_py() or ()) if first is not None else 1
        if not width:
            raise VectorFileError(f"{source.name} has an empty list in row 0 of the column {numbers[0]!r}.")

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        row = 0
        for batch in batches(numbers, max(1, _BATCH // (8 * width))):
            if len(kept.rows) and row <= kept.rows[-1]:
                yield row, _values(batch, width, listed, row, source, arrow)
            row += batch.num_rows
            if request.progress is not None:
                request.progress(row, len(found))

    matrix = take(kept, width, blocks(), source, request)
    return keyed_vectors(kept.words, matrix, source, format, request, **kept.counts)


def _columns(schema: Any, source: Source, arrow: Any) -> tuple[str, list[str], bool]:
    """The column of words, those of numbers, and whether it is one column of lists."""
    types, names = arrow.types, list(schema.names)
    if len(set(names)) != len(names):
        raise VectorFileError(f"{source.name} has two columns of the same name: {', '.join(map(repr, names[:10]))}.")
    values = [each.value_type if types.is_dictionary(each) else each for each in schema.types]
    texts = [place for place, each in enumerate(values) if types.is_string(each) or types.is_large_string(each)]
    texts = texts or [
        place for place, each in enumerate(values) if types.is_null(each)
    ]  # strings of a table without rows
    lists = [
        name
        for name, each in zip(names, schema.types, strict=True)
        if (types.is_list(each) or types.is_large_list(each) or types.is_fixed_size_list(each))
        and (types.is_floating(each.value_type) or types.is_integer(each.value_type))
    ]
    if len(lists) == 1:  # columns beside it don't matter, but for the words
        named = [names[place] for place in texts]
        return named[word_column(named, range(len(named)), f"{source.name}, beside {lists[0]!r},")], lists, True
    if not texts:
        raise VectorFileError(
            f"{source.name} has no column of strings; its columns are {', '.join(map(repr, names[:10]))}. "
            f"Words that are numbers must be strings: in pandas, frame.astype({{'word': str}})."
        )
    if len(texts) == len(names):
        raise VectorFileError(
            f"{source.name} has words and no numbers: pass it as words_file= with the file of their vectors."
        )
    indices = _pandas_index(schema)
    kept = [name for place, name in enumerate(names) if name not in indices or place in texts]
    columns = columns_of(kept, [kept.index(names[place]) for place in texts], source.name)
    numbers = [kept[place] for place in columns.numbers]
    for name in numbers:
        kind = schema.field(name).type
        if not types.is_floating(kind) and not types.is_integer(kind):
            raise VectorFileError(f"{source.name}, column {name!r}: expected numbers, found {kind}.")
    return kept[columns.words], numbers, False


def _pandas_index(schema: Any) -> set[str]:
    """The columns that pandas wrote as the index of a frame."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError):
        return set()
    return {name for name in stored if isinstance(name, str)} if isinstance(stored, list) else set()


def _values(batch: Any, width: int, listed: bool, start: int, source: Source, arrow: Any) -> np.ndarray:
    if not listed:
        with np.errstate(over="ignore"):
            return np.stack(
                [column.to_numpy(zero_copy_only=False).astype(np.float64) for column in batch.columns], axis=1
            )
    column = batch.column(0)
    lengths = [len(each) if each is not None else 0 for each in column.to_pylist()]
    if set(lengths) - {width}:
        row = next(row for row, length in enumerate(lengths) if length != width)
        raise VectorFileError(
            f"{source.name}, row {start + row}: expected {width} numbers, as in row 0, found {lengths[row]}."
        )
    return column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, width)


def can_hold(word: str, row: int) -> bool:
    """Whether UTF-8 can hold a word."""
    return encoded(word) is not None


def write_parquet(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """Write a column of words and a column for each dimension, "0" to the last, as pandas reads them."""
    arrow = _package(Source(path))
    with arrow.parquet.ParquetWriter(beside, _schema(vectors, arrow)) as writer:
        for table in _tables(vectors, arrow):
            writer.write_table(table)


def write_feather(vectors: KeyedVectors, beside: Path, path: Path) -> None:
    """The same for Feather."""
    arrow = _package(Source(path))
    with arrow.ipc.new_file(str(beside), _schema(vectors, arrow)) as writer:
        for table in _tables(vectors, arrow):
            writer.write_table(table)


def _schema(vectors: KeyedVectors, arrow: Any) -> Any:
    numbers = [(str(place), arrow.float32()) for place in range(vectors.vector_size)]
    return arrow.schema([(WORD, arrow.string()), *numbers])


def _tables(vectors: KeyedVectors, arrow: Any) -> Iterator[Any]:
    schema = _schema(vectors, arrow)
    for part in row_slices(vectors.matrix.shape):
        block = np.asarray(vectors.matrix[part], np.float32)
        yield arrow.table([arrow.array(vectors.words[part], arrow.string()), *map(arrow.array, block.T)], schema)
