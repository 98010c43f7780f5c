"""Data: what every run of a comparison trains, validates and is tested on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import as_array
from embkeras._checks import number, shown, whole_number
from embkeras.errors import ArgumentError

_BATCH = 256  # test examples scored at once
_LEAST_VALIDATION = 50


@dataclass(frozen=True, eq=False)
class Data:
    """Encoded examples in three parts, each as Keras' `fit` takes them.

    A part is a pair (inputs, labels) or, with a weight for each example, (inputs, labels, sample_weight). Inputs are an
    array or a tensor, or a dictionary or list of them. Instead, a part can be a `tf.data.Dataset` or a `PyDataset` of
    such batches.

    Attributes:
        train, validation: trained on, and watched in training.
        test: scored at the end; one class number for each example. Weights of test examples are not allowed.

    Raises:
        ArgumentError: a part of another kind, inputs and labels of different lengths, a dataset that never ends, or test
            labels that are not one class number per example.
    """

    train: Any
    validation: Any
    test: Any

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            _check_part(part, name)
        _check_alike({name: part[0] for name, part in vars(self).items() if not is_dataset(part)})
        if not is_dataset(self.test) and len(self.test) > 2:
            raise ArgumentError("The test part takes no sample_weight: every text counts alike. Received: three items.")
        examples, labels = sum(_length(inputs, "data.test") for inputs in self.test_batches()), self.labels
        whole = labels.dtype.kind in "iuf" and not (labels % 1).any()
        if labels.shape != (examples,) or not examples or not whole:
            raise ArgumentError(
                f"The test part needs at least one text, and one class number per text. "
                f"Received: {examples} texts, labels of shape {labels.shape} and dtype {labels.dtype}."
            )

    @cached_property
    def labels(self) -> np.ndarray:
        """The classes of the test examples, shape (examples,)."""
        if not is_dataset(self.test):
            return as_array(self.test[1], "The test labels")
        parts = [as_array(labels, "The test labels") for _, labels in self._batches_of_test]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def test_batches(self) -> Iterator[Any]:
        """The inputs of the test examples, in the order of `labels`, some at a time."""
        if is_dataset(self.test):
            yield from (inputs for inputs, _ in self._batches_of_test)
            return
        for start in range(0, _length(self.test[0], "data.test"), _BATCH):
            yield _rows(self.test[0], slice(start, start + _BATCH))

    @cached_property
    def _batches_of_test(self) -> list[tuple[Any, Any]]:
        """A dataset's batches, read once: one that shuffles returns another order each time."""
        dataset = self.test
        batches = (
            (dataset[place] for place in range(len(dataset))) if isinstance(dataset, keras.utils.PyDataset) else dataset
        )
        read = []
        for batch in batches:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise ArgumentError(f"data.test must have batches (inputs, labels). Received: {shown(batch)}.")
            read.append((batch[0], keras.ops.convert_to_numpy(batch[1])))
        return read

    def some(self, share: float, seed: int) -> "Data":
        """The same test part, with a share of the training examples, and of those for validation, drawn at random.

        A larger share from the same seed contains the smaller. At least 50 examples, or all, validate.

        Args:
            share: above 0, up to 1; at least one example trains.
            seed: of the draw.

        Raises:
            ArgumentError: a share or seed out of range, or a training or validation part that is a dataset.
        """
        share = number(share, "share", above=0)
        if share > 1:
            raise ArgumentError(f"share must be at most 1. Received: {share}.")
        parts = {}
        for name, least in (("train", 1), ("validation", _LEAST_VALIDATION)):
            part = getattr(self, name)
            if is_dataset(part):
                raise ArgumentError(
                    f"A share of the examples can be drawn from arrays, not from a dataset. Received: data.{name}, {shown(part)}."
                )
            total = _length(part[1], f"data.{name}")
            count = min(total, max(least, round(share * total)))
            rows = np.random.default_rng(whole_number(seed, "seed", least=0)).permutation(total)[:count]
            parts[name] = tuple(_rows(each, rows) for each in part)
        return replace(self, **parts)

    def fit_arguments(self, batch_size: int) -> dict[str, Any]:
        """The arguments of `fit` that say what to train on."""
        if is_dataset(self.train):
            # Keras warns that it can't shuffle a tf.data.Dataset, unless it is told not to.
            order = {"shuffle": False} if isinstance(self.train, tf.data.Dataset) else {}
            return {"x": self.train, "validation_data": self.validation, **order}
        names = ("x", "y", "sample_weight")
        validation = self.validation if is_dataset(self.validation) else tuple(self.validation)
        return dict(zip(names, self.train, strict=False)) | {"validation_data": validation, "batch_size": batch_size}


def is_dataset(part: Any) -> bool:
    """Whether a part makes its batches itself, as often as it is asked."""
    return isinstance(part, tf.data.Dataset | keras.utils.PyDataset)


def _check_part(part: Any, name: str) -> None:
    if is_dataset(part):
        batches = part.num_batches if isinstance(part, keras.utils.PyDataset) else int(part.cardinality())
        if batches is None or batches == tf.data.INFINITE_CARDINALITY:
            raise ArgumentError(f"data.{name} must end: a dataset without repeat(). Received: {shown(part)}.")
        return
    if not isinstance(part, tuple | list) or len(part) not in (2, 3):
        raise ArgumentError(
            f"data.{name} must be a pair (inputs, labels), with sample_weight as the third item if there are weights, or "
            f"a tf.data.Dataset or PyDataset. Received: {shown(part)}."
        )
    if name == "test":
        return
    lengths = {
        what: _length(each, f"data.{name}") for what, each in zip(("inputs", "labels", "weights"), part, strict=False)
    }
    if len(set(lengths.values())) > 1:
        received = ", ".join(f"{length} {what}" for what, length in lengths.items())
        raise ArgumentError(f"data.{name} must have one label for each example. Received: {received}.")


def _check_alike(inputs: dict[str, Any]) -> None:
    """Refuse parts of different structures, which the model would find out after the first epoch, or after all."""
    places = {name: [path for path, _ in _named(structure)] for name, structure in inputs.items()}
    first = next(iter(places), "")
    for name in places:
        if places[name] != places[first]:
            received = "; ".join(
                f"data.{each} has inputs{','.join(places[each]) or ' in one array'}" for each in (first, name)
            )
            raise ArgumentError(f"The inputs of all parts must have the same structure. Received: {received}.")


def _length(structure: Any, name: str) -> int:
    """How many examples an array, or each array of a structure, has."""
    lengths = {}
    for path, leaf in _named(structure):
        shape = getattr(leaf, "shape", None)
        if shape is None or len(shape) == 0:
            raise ArgumentError(
                f"{name} must hold arrays, or dictionaries or lists of arrays, one row for each example. "
                f"Received: {shown(leaf)}{path}."
            )
        lengths[path] = int(shape[0])
    if len(set(lengths.values())) != 1:
        received = ", ".join(f"{length}{path}" for path, length in lengths.items()) or "no array"
        raise ArgumentError(f"All inputs of {name} must have the same number of examples. Received: {received}.")
    return next(iter(lengths.values()))


def _named(structure: Any) -> list[tuple[str, Any]]:
    """The arrays of a structure, each with its place in words."""
    flat = keras.tree.flatten_with_path(structure) if isinstance(structure, dict | list | tuple) else [((), structure)]
    return [(f" at {'/'.join(map(str, path))!r}" if path else "", leaf) for path, leaf in flat]


def _rows(structure: Any, rows: slice | np.ndarray) -> Any:
    """Some examples of each array; of a DataFrame as an array."""

    def cut(leaf: Any) -> Any:
        if isinstance(rows, np.ndarray):
            return np.asarray(leaf)[rows]
        part = leaf[rows]
        return part.to_numpy() if hasattr(part, "to_numpy") else part

    return keras.tree.map_structure(cut, structure)
