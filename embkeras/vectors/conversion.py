"""convert: a file of vectors in another format."""

import os
from pathlib import Path
from typing import Any

from embkeras.errors import OutputError
from embkeras.vectors.io.registry import load_vectors, save_vectors
from embkeras.vectors.store import KeyedVectors

# What stands beside a file of such a name, and is written with it.
_BESIDE = {
    ".npy": lambda path: path.with_suffix(".json"),
    ".safetensors": lambda path: path.with_name("tokenizer.json"),
}


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    to: str | None = None,
    overwrite: bool = False,
    **arguments: Any,
) -> KeyedVectors:
    """Read vectors from one file and write them to another, of the format that its name or `to` says.

    Args:
        source: a file in any format that `load_vectors` reads.
        target: the file to write; it appears whole or not at all.
        to: its format, if its name's ending does not tell it.
        overwrite: replace `target` where it exists.
        **arguments: as for `load_vectors`: `format`, `words_file`, `limit`, `encoding`, `errors`, `dtype`, `member`,
            `progress`.

    Returns:
        The vectors.

    Raises:
        OutputError: `target`, or the file that is written beside it, exists and `overwrite` is false; it cannot be written.
        VectorFileError: the source is damaged, or has a word that the target's format cannot hold.
        ArgumentError: whatever `load_vectors` and `save_vectors` raise.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = Path(folder, "tiny.txt")
        ...     _ = text.write_text("cat 1.0 0.5\\n")
        ...     convert(text, Path(folder, "tiny.vec")), Path(folder, "tiny.vec").read_text()
        (KeyedVectors(1 words, vector_size=2, dtype=float32), '1 2\\ncat 1 0.5\\n')
    """
    target = Path(target)
    beside = _BESIDE.get(target.suffix)
    for path in (target, *([beside(target)] if beside else [])):
        if not overwrite and os.path.lexists(path):
            raise OutputError(f"{str(path)!r} exists already: say to overwrite it (--overwrite), or give another name.")
    vectors = load_vectors(source, **arguments)
    save_vectors(vectors, target, format=to)
    return vectors
