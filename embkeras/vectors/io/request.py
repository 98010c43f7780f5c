"""What a reader is asked for, and how it collects the rows that it keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embkeras.errors import ArgumentError, VectorFileError
from embkeras.vectors.io.source import Progress, Source
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
    progress: Progress | None = None

    def __post_init__(self):
        try:
            "".encode(self.encoding)  # refuses what is an encoding of bytes, such as base64
        except (LookupError, ValueError, TypeError):
            raise ArgumentError(f"encoding must be the name of one. Received: {self.encoding!r}.") from None

    def in_utf8(self, raw: bytes, place: Callable[[], str]) -> tuple[bytes, bool]:
        """A word in UTF-8, whatever the encoding of the file; and whether it was valid in that.

        Args:
            raw: its bytes in the file.
            place: says for messages where it stands.

        Raises:
            VectorFileError: it was not, under errors="strict".
        """
        try:
            return raw.decode(self.encoding).encode(), True
        except UnicodeError as error:
            if self.errors == "strict":
                raise VectorFileError(
                    f"{place()}: the word {bytes(raw[:40])!r} is not {self.encoding} (byte {getattr(error, 'start', 0)}). "
                    f'Another encoding=, or errors="replace" or "skip"?'
                ) from None
            return raw.decode(self.encoding, "replace").encode(errors="replace"), False


def keyed_vectors(
    words: Sequence[str],
    matrix: Any,
    source: Source,
    format: str,
    request: Request,
    *,
    subwords: Subwords | None = None,
    key_to_index: Mapping[str, int] | None = None,
    **counted: Any,
) -> KeyedVectors:
    """The rows kept, as KeyedVectors, with what was counted on the way.

    Subwords are kept whole whatever `words` and `limit` leave of the rows: they serve the words that have no row.
    """
    if not words and request.wanted is None:
        raise VectorFileError(f"{source.name} holds no vectors.")
    provenance = Provenance(str(source.path), format, wanted=request.wanted, limit=request.limit, **counted)
    return KeyedVectors(
        words, np.asanyarray(matrix), subwords=subwords, provenance=provenance, key_to_index=key_to_index
    )
