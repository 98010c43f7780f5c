"""Asking an exported model: in this process, in another one, and what a request weighs."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.names import first_line, latest_version, read_card
from embkeras.serving.text_encoder import Encoder, labelled

# What every card says.
_CARD = (
    "vocabulary_fingerprint",
    "class_names",
    "outputs",
    "bad_ids",
    "least",
    "most",
    "embed",
    "no_texts",
    "dtype",
    "tables",
)


class ExportedModel:
    """A model that `export_saved_model` wrote, with the vocabulary and class names from its assets.

    Args:
        path: the model's folder (its highest version is taken) or the folder of one version.

    Attributes:
        folder: the folder of the version.
        vocabulary: what its ids mean.
        class_names: tuple of str, or None.
        card: what the export says of itself: outputs, policy for bad ids, tables with their SHA-256.

    Raises:
        SavedModelError: there is no export, or it is damaged, or its vocabulary is not the one it was exported with.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        version = latest_version(path)
        self.folder = path / str(version) if version is not None else path
        if not (self.folder / "saved_model.pb").is_file():
            raise SavedModelError(f"There is no exported model in {str(path)!r}: no saved_model.pb.")
        self.card = read_card(self.folder / "assets", _CARD)
        encoder = Encoder(self.folder)
        self.vocabulary, self.class_names = encoder.vocabulary, encoder.class_names

    @cached_property
    def signatures(self) -> dict[str, Any]:
        """The functions that TensorFlow Serving would offer, by name."""
        try:
            self._loaded = tf.saved_model.load(str(self.folder))  # a signature does not keep it alive
            return dict(self._loaded.signatures)
        except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SavedModelError(f"Cannot load {str(self.folder)!r}: {reason}") from error

    def ask(self, signature: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The answers of one signature, as NumPy.

        Raises:
            SavedModelError: there is no such signature.
            tf.errors.InvalidArgumentError: the export refuses the request.
        """
        if signature not in self.signatures:
            raise SavedModelError(
                f"{str(self.folder)!r} has no signature {signature!r}, but {', '.join(sorted(self.signatures))}."
            )
        answers = self.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: answer.numpy() for name, answer in answers.items()}

    def variables(self) -> list[tuple[tuple[int, ...], tf.DType]]:
        """Shape and type of every variable that is stored."""
        reader = tf.train.load_checkpoint(str(self.folder / "variables" / "variables"))
        types = reader.get_variable_to_dtype_map()
        shapes = reader.get_variable_to_shape_map()
        return [(tuple(shape), types[name]) for name, shape in shapes.items() if types[name] != tf.string]

    def scores(self, token_ids: Any) -> np.ndarray:
        """Scores of shape (batch, classes) for integer ids of shape (batch, time).

        Raises:
            ArgumentError: ids that are not integers, or of another shape.
            SavedModelError: the model has no output `scores`, or refuses the ids.
        """
        ids = np.asarray(token_ids)
        if ids.ndim != 2 or (ids.size and ids.dtype.kind not in "iu"):
            raise ArgumentError(f"token_ids must be integers (batch, time). Received: {ids.dtype}, shape {ids.shape}.")
        try:
            answers = self.ask("serving_default", token_ids=ids.astype(np.int64))
        except tf.errors.InvalidArgumentError as error:
            reason = first_line(error.message)
            raise SavedModelError(f"{str(self.folder)!r} refuses token_ids of shape {ids.shape}: {reason}") from error
        if "scores" not in answers:
            raise SavedModelError(f"{str(self.folder)!r} has no output 'scores', but {', '.join(sorted(answers))}.")
        return answers["scores"]

    def predict(self, texts: Sequence[str]) -> pd.DataFrame:
        """One row a text: `text`, `label`, `probability` of the best class.

        Raises:
            ArgumentError: a single string.
            SavedModelError: the model does not give one score a class.
            VocabularyError: the vocabulary was saved without a tokenizer, or a text is not valid Unicode.
        """
        if isinstance(texts, str):
            raise ArgumentError(f"texts must be a sequence of texts. Received the string {texts[:40]!r}.")
        if not len(texts):
            return pd.DataFrame({"text": [], "label": [], "probability": []})
        scores = np.concatenate([self.scores(self.vocabulary.encode(text)[None]) for text in texts])
        return labelled(texts, scores, self.class_names, repr(str(self.folder)))


def ask_in_new_process(folder: Path, requests: Sequence[Sequence[int]]) -> tuple[np.ndarray, dict[str, bool]]:
    """Scores (requests, classes) from a process that imports only TensorFlow, and which packages it had loaded.

    Raises:
        SavedModelError: the process failed; the last line of what it said is quoted.
    """
    lines = "".join(json.dumps([int(id_) for id_ in request]) + "\n" for request in requests)
    command = [sys.executable, "-P", str(Path(__file__).with_name("ask.py")), str(folder)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    answers = done.stdout.splitlines()
    if done.returncode or len(answers) != len(requests) + 1:
        raise SavedModelError(
            f"The process that asked {str(folder)!r} failed: {''.join(done.stderr.strip().splitlines()[-1:])}"
        )
    return np.array([json.loads(answer) for answer in answers[:-1]]), json.loads(answers[-1])


def request_bytes(token_ids: np.ndarray, vectors: np.ndarray) -> pd.DataFrame:
    """What one request weighs in bytes: as ids (batch, time), and as float vectors (batch, time, D).

    JSON is the body of TensorFlow Serving's REST interface; protobuf is the tensor of its gRPC interface, int64 ids
    and float32 vectors as raw content.

    Returns:
        rows "JSON" and "protobuf", columns `ids`, `vectors`, `ratio`.
    """
    ids, floats = np.asarray(token_ids, np.int64), np.asarray(vectors, np.float32)
    weights = {
        "JSON": [len(json.dumps({"instances": array.tolist()}).encode()) for array in (ids, floats)],
        "protobuf": [tf.make_tensor_proto(array).ByteSize() for array in (ids, floats)],
    }
    table = pd.DataFrame.from_dict(weights, orient="index", columns=["ids", "vectors"])
    table["ratio"] = table["vectors"] / table["ids"]
    return table
