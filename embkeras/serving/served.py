"""What a server says that it serves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras.errors import ServingError
from embkeras.serving import names

_TYPES = {"FLOAT": "float32", "DOUBLE": "float64", "HALF": "float16"}  # TensorFlow's names where NumPy's are others
_CARD = ("vocabulary_fingerprint", "vocabulary_size", "padding_id", "class_names")  # what a client goes by
Tensor = tuple[str, tuple[int | None, ...]]  # type and shape


@dataclass(frozen=True)
class Served:
    """A version of a model, as a server offers it.

    Attributes:
        version: its number.
        signatures: name -> {"inputs": {...}, "outputs": {...}}, each tensor as (type, shape).
        card: what the export says of itself, or None for one that says nothing.
    """

    version: int
    signatures: Mapping[str, Any]
    card: Mapping[str, Any] | None

    @property
    def padding_id(self) -> int | None:
        """The id that fills short texts, as far as that is known."""
        return None if self.card is None else self.card["padding_id"]

    def output(self, signature: str, takes: str, output: str, whose: str) -> tuple[np.dtype, tuple[int | None, ...]]:
        """Type and shape of an output of a signature with one input.

        Raises:
            ServingError: there is no such signature, it takes something else, or has no such output.
        """
        described = self.signatures.get(signature, {"inputs": {}, "outputs": {}})
        if set(described["inputs"]) != {takes}:
            there = ", ".join(sorted(self.signatures)) or "none"
            raise ServingError(
                f"{whose} has no signature {signature!r} that takes {takes!r} alone. Its signatures: {there}."
            )
        if output not in described["outputs"]:
            raise ServingError(f"{whose} has no output {output!r}, but {', '.join(sorted(described['outputs']))}.")
        dtype, shape = described["outputs"][output]
        try:
            return np.dtype(dtype), shape
        except TypeError as error:
            raise ServingError(f"{whose} has an output {output!r} of type {dtype}, which is no number.") from error


def offer_of(metadata: Any, whose: str) -> tuple[int, dict[str, dict[str, dict[str, Tensor]]]]:
    """Version and signatures, from the JSON of TensorFlow Serving's metadata.

    Raises:
        ServingError: it is none.
    """
    try:
        described = metadata["metadata"]["signature_def"]["signature_def"]
        # Names with two underscores are TensorFlow's own: an operation that initialises tables.
        signatures = {name: _signature(each) for name, each in described.items() if not name.startswith("__")}
        return int(metadata["model_spec"]["version"]), signatures
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(f"{whose} gave metadata that cannot be read: {error!r}.") from error


def has_card(signatures: Mapping[str, Any]) -> bool:
    """Whether the export can be asked for its card."""
    return names.ABOUT in signatures and set(signatures[names.ABOUT]["inputs"]) == {names.ASKED}


def parsed_card(answer: np.ndarray, whose: str) -> dict[str, Any]:
    """The card, from the answer of the signature that gives it.

    Raises:
        ServingError: it is none.
    """
    try:
        (text,) = answer.tolist()
        card = json.loads(text)
        return card | {name: card[name] for name in _CARD}
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ServingError(f"{whose} gave a card that cannot be read: {error!r}.") from error


def check_answer(answer: np.ndarray, shape: tuple[int | None, ...], places: np.ndarray, whose: str) -> None:
    """Refuse an answer that does not have the promised shape, holds something else than numbers, or a NaN.

    Args:
        answer: what a server gave.
        shape: what it was to give; (batch,) alone where only that is known.
        places: which texts were asked for, for messages.
        whose: what gave it.

    Raises:
        ServingError: any of these.
    """
    rank_fits = answer.ndim == len(shape) or (len(shape) == 1 and answer.ndim > 1)
    fits = rank_fits and all(size in (None, got) for got, size in zip(answer.shape, shape, strict=False))
    if answer.dtype.kind not in "fiu" or not fits:
        promised = ", ".join("any" if size is None else str(size) for size in shape)
        raise ServingError(
            f"{whose} gave an answer of type {answer.dtype} and shape {answer.shape}, where numbers of shape ({promised}) "
            f"were promised."
        )
    bad = np.isnan(answer.reshape(len(places), -1)).any(axis=1)
    if bad.any():
        raise ServingError(
            f"{whose} gave NaN for text {places[bad.argmax()]}. (Under XLA, an export with bad_ids='error' says so that an "
            f"id lies outside its table.)"
        )


def _signature(described: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Inputs and outputs."""
    sides = ("inputs", "outputs")
    return {side: {name: _tensor(info) for name, info in described.get(side, {}).items()} for side in sides}


def _tensor(info: Mapping[str, Any]) -> Tensor:
    """Type and shape; of an unknown rank, only that there is a batch."""
    name = info["dtype"].removeprefix("DT_")
    sizes = [int(dim.get("size", 0)) for dim in info.get("tensor_shape", {}).get("dim", [])]
    return _TYPES.get(name, name.lower()), tuple(None if size < 0 else size for size in sizes) or (None,)
