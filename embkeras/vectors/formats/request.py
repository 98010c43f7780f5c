"""What a reader is asked for, and how it collects the rows that it keeps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.store import KeyedVectors, Provenance
from embkeras.vectors.subwords import Subwords


@dataclass(frozen=True)
class Request:
    """The arguments of `load_vectors`, checked. `wanted` holds every spelling to keep, or None for all."""

    wanted: frozenset[str] | None = None
    words_file: Path | None = None
    limit: int | None = None
    encoding: str = "utf-8"
    errors: str = "strict"
    dtype: str = "float32"


def keyed_vectors(
    words: list[str],
    matrix: Any,
    path: Path,
    format: str,
    request: Request,
    *,
    subwords: Subwords | None = None,
    **counted: Any,
) -> KeyedVectors:
    """The rows kept, as KeyedVectors, with what was counted on the way.

    Subwords are kept whole whatever `words` and `limit` leave of the rows: they serve the words that have no row.
    """
    if not words and request.wanted is None:
        raise VectorFileError(f"{str(path)!r} holds no vectors.")
    provenance = Provenance(str(path), format, wanted=request.wanted, limit=request.limit, **counted)
    return KeyedVectors(words, np.asanyarray(matrix), subwords=subwords, provenance=provenance)
