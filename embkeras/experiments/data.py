"""Data: what every run of a comparison trains, validates and is tested on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._arrays import as_array
from embkeras._checks import number, shown, whole_number
from embkeras._mapped import FilePart, file_part
from embkeras.errors import ArgumentError

PARTS = ("train", "validation", "test")
_BATCH = 256  # test examples scored at once
_LEAST_VALIDATION = 50


@dataclass(frozen=True, eq=False)
class Data:
    """Encoded examples in three parts, each as Keras' `fit` takes them.

    A part is a pair (inputs, labels) or, with a weight for each example, (inputs, labels, sample_weight). Inputs are an
    array or a tensor, or a dictionary or list of them. Instead, a part can be a `tf.data.Dataset` or a `PyDataset` of
    such batches. An array that is mapped from a file is pickled as its path.

    Attributes:
        train, validation: trained on, and watched in training.
        test: scored at the end; one class number for each example. Weights of test examples are not allowed.
        unseen: which test texts have words that no training text has: a bool array of shape (examples,), to see how each
            strategy does on them. By default the ids say it (`unseen_texts`).

    Raises:
        ArgumentError: a part of another kind, inputs and labels of different lengths, a dataset that never ends, test
            labels that are not one class number per example, or `unseen` of another form.
    """

    train: Any
    validation: Any
    test: Any
    unseen: np.ndarray | None = None

    def __post_init__(self) -> None:
        parts = {name: getattr(self, name) for name in PARTS}
        for name, part in parts.items():
            _check_part(part, name)
        _check_alike({name: part[0] for name, part in parts.items() if not is_dataset(part)})
        if not is_dataset(self.test) and len(self.test) > 2:
            raise ArgumentError("The test part takes no sample_weight: every text counts alike. Received: three items.")
        examples, labels = sum(_length(inputs, "data.test") for inputs in self.test_batches()), self.labels
        whole = labels.dtype.kind in "iuf" and not (labels % 1).any()
        if labels.shape != (examples,) or not examples or not whole:
            raise ArgumentError(
                f"The test part needs at least one text, and one class number per text. "
                f"Received: {examples} texts, labels of shape {labels.shape} and dtype {labels.dtype}."
            )
        if self.unseen is not None:
            mask = as_array(self.unseen, "unseen")
            if mask.dtype != bool or mask.shape != labels.shape:
                raise ArgumentError(
                    f"unseen must be a bool array of shape {labels.shape}, one value for each test text. "
                    f"Received: shape {mask.shape}, dtype {mask.dtype}."
                )
            object.__setattr__(self, "unseen", mask)

    def __getstate__(self) -> dict[str, Any]:
        """The parts, with parts of files in place of arrays that are mapped from them."""
        parts = {name: getattr(self, name) for name in PARTS}
        mapped = {name: part if is_dataset(part) else _each(part, _packed) for name, part in parts.items()}
        return {**mapped, "unseen": self.unseen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = {name: part if is_dataset(part) else _each(part, _opened) for name, part in state.items()}
        self.__dict__.update(parts)

    @cached_property
    def labels(self) -> np.ndarray:
        """The classes of the test examples, shape (examples,)."""
        if not is_dataset(self.test):
            return as_array(self.test[1], "The test labels")
        parts = [as_array(labels, "The test labels") for _, labels in self._batches_of_test]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    @cached_property
    def training_examples(self) -> int | None:
        """How many there are; None of a dataset, which would have to be read."""
        return None if is_dataset(self.train) else _length(self.train[1], "data.train")

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
        parts: dict[str, Any] = {}
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

    def fold(self, place: int, of: int, seed: int) -> "Data":
        """All examples, dealt anew: one of `of` equal parts tests, the next one validates, and the others train.

        The parts have about the same share of each class. From the same seed, each example tests once.

        Args:
            place: which part tests, from 0.
            of: how many parts, at least 3.
            seed: of the deal.

        Raises:
            ArgumentError: a number out of range, fewer than two examples for each part, datasets, sample weights (the test
                part has none), or parts of different shapes.
        """
        of = whole_number(of, "folds", least=3)
        place = whole_number(place, "place", least=0, most=of - 1)
        everything = self._pooled()
        labels = everything[1]
        if len(labels) < 2 * of:
            raise ArgumentError(f"{of} folds need at least {2 * of} examples. Received: {len(labels)}.")
        order = np.random.default_rng(whole_number(seed, "seed", least=0)).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]  # so that the parts share the classes evenly
        dealt = np.empty(len(labels), int)
        dealt[order] = np.arange(len(labels)) % of
        holders = {"test": dealt == place, "validation": dealt == (place + 1) % of}
        holders["train"] = ~(holders["test"] | holders["validation"])
        parts: dict[str, Any] = {
            name: tuple(_rows(each, np.flatnonzero(mask)) for each in everything) for name, mask in holders.items()
        }
        return Data(**parts)

    def _pooled(self) -> tuple[Any, np.ndarray]:
        """Inputs and labels of all three parts."""
        parts = {name: getattr(self, name) for name in PARTS}
        for name, part in parts.items():
            if is_dataset(part):
                raise ArgumentError(
                    f"Folds can be dealt from arrays, not from a dataset. Received: data.{name}, {shown(part)}."
                )
            if len(part) > 2:
                raise ArgumentError(
                    f"Folds can't be dealt with sample_weight, which a test part lacks. Received: data.{name}."
                )
        try:
            inputs = keras.tree.map_structure(
                lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]),
                *(part[0] for part in parts.values()),
            )
            labels = np.concatenate([np.asarray(part[1]) for part in parts.values()])
        except ValueError as error:
            raise ArgumentError(
                f"Folds need parts of one shape: pad the texts of all parts to one length, and give all labels as class "
                f"numbers. Received: {error}."
            ) from None
        return inputs, labels

    @cached_property
    def unseen_texts(self) -> np.ndarray | None:
        """`unseen`, or else which test texts have an id (0 aside) that no training text has; None if inputs aren't ids."""
        if self.unseen is not None or is_dataset(self.train) or is_dataset(self.test):
            return self.unseen
        read, asked = self.train[0], self.test[0]
        if not all(hasattr(ids, "dtype") and np.asarray(ids).dtype.kind in "iu" for ids in (read, asked)):
            return None
        read, asked = np.asarray(read), np.asarray(asked)
        new: np.ndarray = (asked != 0) & ~np.isin(asked, read)
        return np.asarray(new.reshape(len(asked), -1).any(axis=1))

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


def _each(part: Any, change: Callable[[Any], Any]) -> Any:
    return keras.tree.map_structure(change, part)


def _packed(leaf: Any) -> Any:
    return file_part(leaf) or leaf if isinstance(leaf, np.ndarray) else leaf


def _opened(leaf: Any) -> Any:
    return leaf.open() if isinstance(leaf, FilePart) else leaf


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
