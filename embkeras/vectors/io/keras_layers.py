"""What a saved Keras model says of its layers: tables and vocabularies in the config, variables in the weights.

Names that Keras writes into its files and documents nowhere: `vars` and the numbers of the variables in it, the
attribute `name`, and of an Embedding the order of its variables. `tests/vectors/formats/test_keras_file.py` saves models
with the installed Keras and fails when one of them changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from embkeras.errors import VectorFileError
from embkeras.vectors.stored_tables import StoredTable

_VARIABLES = "vars"
# Keras' own mark on variables that NumPy has no type for.
_MARK, _BFLOAT16 = "dtype", "bfloat16"


@dataclass(frozen=True)
class EmbeddingLayer:
    """An Embedding layer as the config describes it; `name` is its path, "encoder/embedding" for one in an inner model."""

    name: str
    rows: int
    width: int
    config: dict[str, Any]

    def table(self, file: h5py.File, source: str) -> StoredTable:
        """Its variables in the file of the weights.

        Raises:
            VectorFileError: they are not there, of another shape, or stored in a way that is not read here.
        """
        what = f"The table {self.name!r} of {source}"
        parts = {key: _array(value, what) for key, value in self._group(file, what).items()}
        table = _table(what, parts, self.config)
        if (table.rows, table.width) != (self.rows, self.width):
            raise VectorFileError(
                f"{what} is damaged: expected {self.rows:,} rows of width {self.width}, found {table.rows:,} of {table.width}."
            )
        return table

    def _group(self, file: h5py.File, what: str) -> h5py.Group:
        named, plain = _groups(file)
        if self.name in named:
            return named[self.name]
        # Earlier Keras wrote no names: then a table that is the only one of its shape.
        fitting = [group for group in plain if _shape(group.get("0")) == (self.rows, self.width)]
        if len(fitting) == 1:
            return fitting[0]
        raise VectorFileError(f"{what}: expected its variables in the file of the weights, found none of its name.")


def embedding_layers(config: Any) -> dict[str, EmbeddingLayer]:
    """The layers with a table of rows by id, by their path in the model."""
    found: dict[str, EmbeddingLayer] = {}
    for path, kind, settings in _layers(config):
        rows, width = settings.get("input_dim"), settings.get("output_dim")
        if "Embedding" in kind and _is_size(rows) and _is_size(width):
            found.setdefault(path, EmbeddingLayer(path, rows, width, settings))
    return found


def vocabularies(config: Any) -> list[list[str]]:
    """The words of each TextVectorization and StringLookup whose config holds them: the word of id i is the i-th."""
    found = []
    for _, kind, settings in _layers(config):
        words = settings.get("vocabulary")
        known = kind in ("TextVectorization", "StringLookup") and settings.get("output_mode") == "int"
        if known and isinstance(words, list) and all(isinstance(word, str) for word in words):
            special = ["", "[UNK]"] if kind == "TextVectorization" else _special(settings)
            found.append(words if words[: len(special)] == special else special + words)
    return found


def _special(settings: dict[str, Any]) -> list[str]:
    """What stands before the words of a StringLookup."""
    mask, oov, count = settings.get("mask_token"), settings.get("oov_token"), settings.get("num_oov_indices")
    count = count if isinstance(count, int) and 0 <= count < 1000 else 0
    return ([] if mask is None else [str(mask)]) + [str(oov)] * count


def _layers(config: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, class and settings of everything that the config describes, from the top; the model's own name left out."""
    waiting: list[tuple[str, Any, bool]] = [("", config, True)]
    while waiting:
        path, node, outermost = waiting.pop()
        if isinstance(node, list):
            waiting += [(path, each, outermost) for each in reversed(node)]
        if not isinstance(node, dict):
            continue
        kind, settings = node.get("class_name"), node.get("config")
        if isinstance(kind, str) and isinstance(settings, dict):
            name = settings.get("name")
            if isinstance(name, str) and not outermost:
                path = f"{path}/{name}" if path else name
            yield path, kind, settings
            node, outermost = settings, False
        waiting += [(path, each, outermost) for each in reversed(node.values())]


def _groups(file: h5py.File) -> tuple[dict[str, h5py.Group], list[h5py.Group]]:
    """The groups of variables of layers: those with names by their path, and those without."""
    named: dict[str, h5py.Group] = {}
    plain: list[h5py.Group] = []
    waiting = [("", file["/"])]
    while waiting:
        path, group = waiting.pop()
        own = group.get(_VARIABLES) if _is_inside(group, _VARIABLES) else None
        if isinstance(own, h5py.Group):
            name = own.attrs.get("name")
            if isinstance(name, str):
                path = "" if group.name == "/" else f"{path}/{name}" if path else name
                named.setdefault(path, own)
            else:
                plain.append(own)
        children = [(key, group[key]) for key in group if key != _VARIABLES and _is_inside(group, key)]
        waiting += [(path, child) for _, child in children if isinstance(child, h5py.Group)]
    return named, plain


def _is_inside(group: h5py.Group, key: str) -> bool:
    """Whether an entry lies in this file. (A link could name any file of the machine, or a circle.)"""
    return isinstance(group.get(key, getlink=True), h5py.HardLink)


def _array(value: Any, what: str) -> Any:
    """A variable: large ones as they lie in the file, vectors in memory."""
    inside = isinstance(value, h5py.Dataset) and not value.external and not value.is_virtual
    # What is not all there would be filled with zeros as it is read, whatever size the header claims.
    if not inside or value.id.get_storage_size() != value.size * value.dtype.itemsize:
        raise VectorFileError(f"{what} is damaged, or stored otherwise than Keras does: {value!r}.")
    if value.attrs.get(_MARK) == _BFLOAT16:
        return _Bfloat16(value)
    return value if value.ndim == 2 else value[()]


class _Bfloat16:
    """A dataset of bfloat16, which is the upper half of a float32."""

    dtype = np.dtype(np.float32)

    def __init__(self, dataset: h5py.Dataset):
        self._dataset, self.shape = dataset, dataset.shape

    def __getitem__(self, rows: Any) -> np.ndarray:
        halves = np.ascontiguousarray(self._dataset[rows]).view(np.uint16)
        return (halves.astype(np.uint32) << 16).view(np.float32)


def _table(what: str, parts: dict[str, Any], config: dict[str, Any]) -> StoredTable:
    """The table that the variables of a layer make; which they are follows from its settings."""
    if "0" not in parts:
        raise VectorFileError(f"{what}: the layer was saved before it was built, and has no table.")
    if config.get("stored") is not None:  # embkeras.tables.partial_rows
        names = ("base", "moving", "places", "scales", "shared")
        return StoredTable(what, **{name: parts[str(key)] for key, name in enumerate(names) if str(key) in parts})
    if parts["0"].dtype.name == "int8" and len(parts) == 2 and parts["0"].shape[1:] == (config["output_dim"],):
        return StoredTable(what, parts["0"], scales=parts["1"], divided=True)
    rank = config.get("lora_rank")
    if rank and len(parts) == 3:
        factor = (config.get("lora_alpha") or rank) / rank
        return StoredTable(what, parts["0"], low_rank=(parts["1"], parts["2"][()] * np.float32(factor)))
    if len(parts) > 1:
        raise VectorFileError(f"{what} is stored in {len(parts)} variables in a way that is not read here (int4?).")
    return StoredTable(what, parts["0"])


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _shape(value: Any) -> tuple[int, ...] | None:
    return value.shape if isinstance(value, h5py.Dataset) else None
