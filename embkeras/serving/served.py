"""What a server says about a version of a model, and whether its answers are as it said."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embkeras.errors import ArgumentError, SavedModelError, ServingError
from embkeras.serving import names
from embkeras.serving.columns import only_token_ids
from embkeras.serving.text_encoder import TextEncoder

_INT32 = np.iinfo(np.int32)
_TYPES = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "HALF": "float16",
    "STRING": "object",
}  # TensorFlow's names that differ from NumPy's
Shape = tuple[int | None, ...]
Tensor = tuple[str, Shape]  # type and shape


@dataclass(frozen=True)
class Served:
    """A version of a model, as a server describes it.

    Attributes:
        source: the model and its address, for errors.
        version: its number.
        signatures: name -> {"inputs": {...}, "outputs": {...}}, each tensor as (type, shape).
        card: the export's card, or None for an export without one.
    """

    source: str
    version: int
    signatures: Mapping[str, Any]
    card: Mapping[str, Any] | None

    @property
    def padding_id(self) -> int | None:
        """The padding id of the model's only input of ids; None without padding, or without a card."""
        return None if self.card is None else self.card["padding_id"]

    def has_padding(self, name: str) -> bool:
        """Whether an input of ids has padding."""
        inputs = [] if self.card is None else self.card["inputs"]
        return any(each["name"] == name and each["padding_id"] is not None for each in inputs)

    def token_input(self, output: str) -> str | None:
        """The input for each of whose time steps an output has an answer, or None."""
        answers = [] if self.card is None else self.card["answers"]
        return next((each["of"] for each in answers if each["name"] == output), None)

    def output(self, output: str, signature: str = names.SERVING, *, by_input: bool = False) -> tuple[np.dtype, Shape]:
        """Type and shape of an output, as the metadata describe it; float32 for bfloat16, which NumPy doesn't have.

        Raises:
            ArgumentError: the model needs its inputs by name (`by_input`).
            ServingError: no such signature or output, or one of a type that isn't numbers or strings.
        """
        described = self.signatures.get(signature, {"inputs": {}, "outputs": {}})
        if signature == names.SERVING and not by_input and not only_token_ids(self.card):
            listed = ", ".join(described["inputs"])
            raise ArgumentError(f"{self.source} takes {listed}: pass scores() a dictionary of arrays by input.")
        if not by_input and set(described["inputs"]) != {names.TOKEN_IDS}:
            raise ServingError(
                f"{self.source} has no signature {signature!r} that takes only {names.TOKEN_IDS!r}. "
                f"Its signatures: {', '.join(sorted(self.signatures)) or 'none'}."
            )
        outputs = described["outputs"]
        if output not in outputs:
            raise ServingError(f"{self.source} has no output {output!r}, only {', '.join(sorted(outputs))}.")
        dtype, shape = outputs[output]
        try:
            return np.dtype("float32" if dtype == "bfloat16" else dtype), shape
        except TypeError as error:
            raise ServingError(
                f"{self.source} has an output {output!r} of type {dtype}, which is neither numbers nor strings."
            ) from error

    def compacted(self, inputs: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
        """The signature to call, and its ids: int32 where the model takes that and every id fits."""
        inputs_of_card = [] if self.card is None else self.card["inputs"]
        features = {each["name"] for each in inputs_of_card if each["kind"] == names.FEATURE}
        ids = {name: array for name, array in inputs.items() if name not in features}
        fit = all(not each.size or (_INT32.min <= each.min() and each.max() <= _INT32.max) for each in ids.values())
        if fit and names.SERVING_INT32 in self.signatures:
            return names.SERVING_INT32, inputs | {name: array.astype(np.int32) for name, array in ids.items()}
        return names.SERVING, inputs

    def check_encoder(self, encoder: TextEncoder) -> None:
        """Compare the vocabularies and the tokenizer with those of the export.

        Raises:
            SavedModelError: they are not the same, or nothing says which the model has.
        """
        source = f"{self.source}, version {self.version},"
        if self.card is None:
            raise SavedModelError(
                f"{source} doesn't say which vocabulary it uses (no signature {names.CARD!r}): export it again, or ask "
                f"without an encoder."
            )
        fingerprint = self.card["vocabulary_fingerprint"]
        if fingerprint != encoder.fingerprint:
            raise SavedModelError(
                f"{source} has another vocabulary than the encoder: ids would mean other words. Received: "
                f"{self.card['vocabulary_size']} tokens, fingerprint {fingerprint}; the encoder has {encoder.size} "
                f"and {encoder.fingerprint}."
            )
        ours = {each["name"]: each.get("vocabulary_fingerprint") for each in encoder.card["inputs"]}
        for each in self.card["inputs"]:
            if each.get("vocabulary_fingerprint") != ours.get(each["name"]):
                raise SavedModelError(
                    f"{source} has another vocabulary for input {each['name']!r} than the encoder: ids would mean other words."
                )
        fingerprint = self.card["tokenizer_fingerprint"]
        if fingerprint != encoder.tokenizer_fingerprint:
            raise SavedModelError(
                f"{source} has another tokenizer than the encoder: texts would become other ids. Received: fingerprint "
                f"{fingerprint}; the encoder has {encoder.tokenizer_fingerprint}."
            )

    def check_answer(self, answer: np.ndarray, shape: Shape, places: np.ndarray, kinds: str = "fiu") -> None:
        """Refuse an answer of another shape than described (if only (batch,), any), of another type, or with NaN or infinity.

        Args:
            answer: what the server returned.
            shape: the shape that was described.
            places: the places of its texts, for errors.
            kinds: NumPy's letters of the types that fit.

        Raises:
            ServingError: it doesn't fit.
        """
        rank_fits = answer.ndim == len(shape) or (len(shape) == 1 and answer.ndim > 1)
        fits = rank_fits and all(size in (None, got) for got, size in zip(answer.shape, shape, strict=False))
        if answer.dtype.kind not in kinds or not fits:
            promised = ", ".join("any" if size is None else str(size) for size in shape)
            raise ServingError(
                f"{self.source} returned an answer of type {answer.dtype} and shape {answer.shape}, instead of "
                f"{'strings' if kinds == 'U' else 'numbers'} of shape ({promised})."
            )
        if kinds == "U":
            return
        finite = np.isfinite(answer.reshape(len(places), -1))
        if not finite.all():
            first = (~finite).any(axis=1).argmax()
            why = (
                " (Under XLA, this is how an export with out_of_range='error' marks an id outside its table.)"
                if np.isnan(answer[first]).any()
                else ""
            )
            raise ServingError(
                f"{self.source} returned {'NaN' if why else 'infinity'} for text {places[first]}, which is no score.{why}"
            )


def parsed_metadata(metadata: Any, source: str) -> tuple[int, dict[str, dict[str, dict[str, Tensor]]]]:
    """Version and signatures, from the JSON of TensorFlow Serving's metadata.

    Raises:
        ServingError: something else.
    """
    try:
        described = metadata["metadata"]["signature_def"]["signature_def"]
        signatures = {
            name: {
                side: {key: _tensor(info) for key, info in signature.get(side, {}).items()}
                for side in ("inputs", "outputs")
            }
            for name, signature in described.items()
            if not name.startswith("__")  # TensorFlow's own: an operation that initialises tables
        }
        return int(metadata["model_spec"]["version"]), signatures
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(f"{source} returned metadata that can't be read: {error!r}.") from error


def _tensor(info: Mapping[str, Any]) -> Tensor:
    """Type and shape; with an unknown rank, only the batch is known."""
    name = info["dtype"].removeprefix("DT_")
    sizes = [int(dim.get("size", 0)) for dim in info.get("tensor_shape", {}).get("dim", [])]
    return _TYPES.get(name, name.lower()), tuple(None if size < 0 else size for size in sizes) or (None,)
