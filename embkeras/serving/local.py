"""Querying an exported model without a server, in this process or another one, and the size of a request."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from embkeras._checks import flag, whole_number
from embkeras._progress import progress
from embkeras.encoders.spans import LONGEST, SPAN_OUTPUTS, SpanAnswer, decode_spans
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import names
from embkeras.serving.batches import in_batches
from embkeras.serving.columns import (
    asked_tower,
    encoded_inputs,
    named_inputs,
    only_token_ids,
    part_of_card,
    request_arrays,
    row_lengths,
    rows_at,
    tower_of,
)
from embkeras.serving.predictions import Threshold, no_scores, outputs_of, prediction_table
from embkeras.serving.reasons import reason
from embkeras.serving.spans import question_windows
from embkeras.serving.text_encoder import card_class_names, exported_encodings, id_rows
from embkeras.serving.trust import VALUE, check_operations, stored_sha256
from embkeras.text.encoding import Encoding

_SAME = 1e-5
_ROWS = 256  # of a request to a tower
_WINDOWS = 32  # of a context that are asked together


class ExportedModel:
    """A model that `export_saved_model` wrote, with the vocabulary and class names from its assets.

    Args:
        path: the model's folder (its highest version is taken) or the folder of one version.
        vocabulary: the Encoding that the model was exported with, if it isn't a `Vocabulary`: only those are in the assets.
            Without it, such an export still takes ids.
        trusted: whether you trust whoever wrote the export. A SavedModel can hold any operation, some of which read and
            write files. With False, one with operations that could touch files, the network or Python is refused before
            TensorFlow loads it, and so is one whose graph, variables and card are not from one export.

    Attributes:
        folder: the folder of the version.
        vocabulary: what the ids of the first input mean, or None if the export doesn't contain it.
        vocabularies: the same for each input of ids, by its name.
        class_names: tuple of str, or None.
        card: the description of the export: outputs, policy for ids out of range, tables with their SHA-256.

    Raises:
        SavedModelError: there is no export, or it is damaged, or its vocabulary is not the one it was exported with,
            or it is not trusted and holds an operation that our exports don't.
        ArgumentError: not a path, not an Encoding, or a `trusted` other than True and False.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        vocabulary: Encoding | Mapping[str, Encoding] | None = None,
        trusted: bool = True,
    ):
        self.folder, self.trusted = names.saved_model_folder(path), flag(trusted, "trusted")
        if not self.trusted:
            check_operations(self.folder)
        assets = self.folder / "assets"
        self.card = names.read_card(assets)
        self.class_names = card_class_names(self.card)
        self.vocabularies = exported_encodings(assets, self.card, vocabulary)
        self.vocabulary = next(iter(self.vocabularies.values()))
        if not self.trusted:
            self.check_parts()

    def check_parts(self) -> None:
        """Refuse an export whose graph, variables and card are not from one export.

        The graph returns its card, which must be the one in the assets, and the card has the SHA-256 of the variables.

        Raises:
            SavedModelError: they differ.
        """
        if stored_sha256(self.folder) != self.card["weights_sha256"]:
            raise SavedModelError(
                f"The variables of {str(self.folder)!r} are not those that its card names (weights_sha256): they were "
                f"damaged, or come from another export."
            )
        served = json.loads(self.ask(names.CARD, request=np.zeros(1, np.int32))[names.CARD][0])
        keys = {*served, *self.card} - {names.CARD_SHA256}
        wrong = sorted(key for key in keys if served.get(key) != self.card.get(key))
        if wrong:
            raise SavedModelError(
                f"The graph and the card of {str(self.folder)!r} are not from one export: {names.CARD_FILE} and the "
                f"signature {names.CARD!r} differ in {', '.join(wrong)}."
            )

    @cached_property
    def signatures(self) -> dict[str, Any]:
        """The functions that TensorFlow Serving would offer, by name."""
        try:
            self._loaded = tf.saved_model.load(str(self.folder))  # a signature doesn't keep it alive
            return dict(self._loaded.signatures)
        except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
            why = reason(str(error)) or type(error).__name__
            raise SavedModelError(f"Can't load {str(self.folder)!r}: {why}") from error

    def ask(self, signature: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The answers of one signature, as NumPy arrays.

        Args:
            signature: its name, one of `signatures`.
            **inputs: an array for each input of the signature, by its name, of the type that the signature takes.

        Returns:
            An array for each output, by its name.

        Raises:
            SavedModelError: there is no such signature, or the export refuses the request.
        """
        if signature not in self.signatures:
            raise SavedModelError(
                f"{str(self.folder)!r} has no signature {signature!r}, only {', '.join(sorted(self.signatures))}."
            )
        try:
            answers = self.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            shapes = ", ".join(f"{name} of shape {np.shape(value)}" for name, value in inputs.items())
            raise SavedModelError(f"{str(self.folder)!r} refuses {shapes}: {reason(error.message)}") from error
        return {name: answer.numpy() for name, answer in answers.items()}

    def variables(self) -> list[tuple[tuple[int, ...], tf.DType]]:
        """Shape and type of every stored variable."""
        reader = tf.train.load_checkpoint(str(self.folder / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        types = reader.get_variable_to_dtype_map().items()
        return [(tuple(shapes[name]), dtype) for name, dtype in types if dtype != tf.string]

    def variable(self, name: str) -> np.ndarray:
        """The value of a stored variable that is an attribute of the export."""
        reader = tf.train.load_checkpoint(str(self.folder / "variables" / "variables"))
        return np.asarray(reader.get_tensor(f"{name}{VALUE}"))

    def scores(self, token_ids: Any, *, output: str = "scores") -> np.ndarray:
        """The scores of token ids.

        Args:
            token_ids: integers of shape (batch, time); for a model with several inputs, or one of another shape, a dictionary
                of arrays by input.
            output: which output of a model with several.

        Returns:
            Shape (batch, classes), in the order of the ids.

        Raises:
            ArgumentError: ids that are not integers, or of another shape.
            SavedModelError: the model has no such output, or refuses the ids.
        """
        if isinstance(token_ids, Mapping) or not only_token_ids(self.card):
            return self._scores_of_inputs(token_ids, output)
        rows = id_rows(token_ids)
        lengths = {len(row) for row in rows}
        if len(lengths) > 1:
            raise ArgumentError(
                f"token_ids must be integers (batch, time). Received: rows of {min(lengths)} to {max(lengths)} ids."
            )
        ids = np.stack(rows) if rows else np.zeros((0, 1), np.int64)
        return self._asked({names.TOKEN_IDS: ids}, [output])[output]

    def _scores_of_inputs(self, inputs: Any, output: str) -> np.ndarray:
        """Scores for a dictionary of inputs."""
        if not isinstance(inputs, Mapping):
            listed = ", ".join(each["name"] for each in self.card["inputs"])
            raise ArgumentError(f"{str(self.folder)!r} takes {listed}: pass scores() a dictionary of arrays by input.")
        return self._asked(request_arrays(inputs, self.card), [output])[output]

    def _asked(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Some outputs for inputs with a batch."""
        answers = self.ask(names.SERVING, **inputs)
        for output in outputs:
            if output not in answers:
                raise SavedModelError(
                    f"{str(self.folder)!r} has no output {output!r}, only {', '.join(sorted(answers))}: output= chooses one."
                )
        return {output: answers[output] for output in outputs}

    def tower_vectors(self, tower: str, inputs: Any) -> np.ndarray:
        """The vectors of a tower.

        Args:
            tower: its name in the export.
            inputs: a dictionary of the inputs that it reads, ids or texts, one for each row; what it takes alone needs no name.

        Returns:
            float32 of shape (batch, width), in the order of the inputs.

        Raises:
            ArgumentError: there is no such tower, or inputs that it doesn't take.
            SavedModelError: the export refuses the inputs, or doesn't contain the vocabulary for texts.
        """
        described = tower_of(self.card, tower, repr(str(self.folder)))
        answers = self._asked_of_tower(tower, described, inputs)
        return np.concatenate(
            [np.zeros((0, described["width"]), np.float32), *(each[names.VECTORS] for each in answers)]
        )

    def nearest(self, inputs: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The k vectors of the last tower that are most similar to each row's, best first: a recommendation, or a search.

        All of them are compared. Of equal ones, the lower row comes first.

        Args:
            inputs: those of the first tower, as for `tower_vectors`.
            k: how many.

        Returns:
            int64 ids (batch, k): ids of the last tower's input, or rows of the candidates that were given at export; and
            float32 scores (batch, k).

        Raises:
            ArgumentError: k outside [1, number of candidates], or inputs that the tower doesn't take.
            SavedModelError: the export has nothing to search, or as for `tower_vectors`.

        Examples:
            >>> ids, scores = export.nearest({"user": ["ann"], "age": [31]}, k=5)  # doctest: +SKIP
            >>> [export.vocabularies["item"].tokens[id_] for id_ in ids[0]]  # doctest: +SKIP
        """
        described, k = asked_tower(self.card, k, repr(str(self.folder)))
        answers = list(self._asked_of_tower(names.NEAREST, described, inputs, k))
        found = [np.zeros((0, k), np.int64), *(each[names.NEIGHBOURS] for each in answers)]
        scores = [np.zeros((0, k), np.float32), *(each[names.SCORES] for each in answers)]
        return np.concatenate(found), np.concatenate(scores)

    def _asked_of_tower(
        self, signature: str, tower: Mapping[str, Any], inputs: Any, k: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Answers of a signature that takes a tower's inputs, so many rows at a time that memory stays bounded."""
        card = part_of_card(self.card, tower["inputs"])
        arrays = request_arrays(encoded_inputs(inputs, card, self.vocabularies, self.card["long_texts"]), card)
        count = len(next(iter(arrays.values())))
        for start in range(0, count, _ROWS):
            part = {name: array[start : start + _ROWS] for name, array in arrays.items()}
            if k is not None:
                part[names.K] = np.full(min(_ROWS, count - start), k, np.int32)
            yield self.ask(signature, **part)

    def predict(
        self,
        texts: Sequence[str] | Mapping[str, Any],
        *,
        output: str | None = None,
        batch_size: int = 256,
        long_texts: str | None = None,
        threshold: Threshold = None,
    ) -> pd.DataFrame:
        """One row per text: `text`, `label`, `probability` of the best class.

        Texts of similar length run together; their scores are those of each text alone. Labels of a multi-label model
        are a list for each text, and so are their probabilities. With several inputs, the table begins with a column for
        each; with several outputs, it has NAME_label and NAME_probability of each, or NAME for one that is a number.

        Args:
            texts: the texts; for a model with several inputs, a dictionary by input of texts, single tokens, ids or numbers,
                one for each row.
            output: which output of a model with several; by default all.
            batch_size: the most texts that run together.
            long_texts: what happens to a text of more tokens than the model takes: "cut" drops its end (or its beginning,
                with padding in front), "error" refuses it. By default as the model was exported.
            threshold: the probability from which a label counts, where a sigmoid makes one for each: a number in [0, 1] for
                all, a sequence with one for each label, or a dictionary by label, 0.5 for those that it doesn't name. For
                two classes of one sigmoid, a number: the second class counts from there.

        Returns:
            A table with one row per text, in their order.

        Raises:
            ArgumentError: not a sequence of strings, a text that is too long, an input that is missing or unknown, or another
                argument outside its range.
            SavedModelError: the model doesn't return one score per class, or the export doesn't contain its vocabulary.
            VocabularyError: the vocabulary was saved without a tokenizer, or a text is not valid Unicode.
        """
        shown_inputs, named = named_inputs(texts, self.card)
        whole_number(batch_size, "batch_size", least=1)
        long_texts = names.long_texts_of(self.card, long_texts)
        if len(self.vocabularies) == 1 and self.vocabulary is None:
            raise SavedModelError(
                f"{str(self.folder)!r} doesn't contain its encoding, {self.card['encoding']}. "
                f"Pass it: ExportedModel(path, vocabulary=...)."
            )
        outputs = outputs_of(self.card, output)
        inputs = encoded_inputs(named, self.card, self.vocabularies, long_texts)
        scores = no_scores(self.card, outputs)
        if any(len(values) for values in inputs.values()):
            scores = self._scores_of(inputs, batch_size, outputs)
        return prediction_table(shown_inputs, scores, self.card, repr(str(self.folder)), threshold)

    def answer(
        self,
        question: str,
        context: str,
        *,
        length: int | None = None,
        stride: int | None = None,
        max_pieces: int = LONGEST,
        threshold: float | None = None,
    ) -> SpanAnswer:
        """The answer to a question as a span of a context: `text`, `score`, and its characters from `start` to `end`.

        Args:
            question: as for `ServingClient.answer`.
            context: as for `ServingClient.answer`.
            length: as for `ServingClient.answer`.
            stride: as for `ServingClient.answer`.
            max_pieces: as for `ServingClient.answer`.
            threshold: as for `ServingClient.answer`.

        Returns:
            The answer; its `text` is "" if the context has none.

        Raises:
            ArgumentError: not texts, or another argument outside its range.
            SavedModelError: the export wasn't made from `build_span_model`, or doesn't contain its vocabulary.

        Examples:
            >>> ExportedModel("saved_models/facts").answer("Who slept?", "Ann slept.").text  # doctest: +SKIP
            'Ann'
        """
        source = repr(str(self.folder))
        windows = question_windows(question, context, self.card, self.vocabulary, source, length, stride)
        parts = [windows.ids[start : start + _WINDOWS] for start in range(0, len(windows), _WINDOWS)]
        answers = [self._asked({names.TOKEN_IDS: part}, SPAN_OUTPUTS) for part in parts]
        scores = {name: np.concatenate([each[name] for each in answers]) for name in SPAN_OUTPUTS}
        return decode_spans(scores, windows, max_pieces=max_pieces, threshold=threshold)[0]

    def _scores_of(self, inputs: Mapping[str, Any], batch_size: int, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Outputs for rows of any lengths, in their order."""
        lengths = row_lengths(inputs, self.card)
        padding = [
            each["padding_id"] for each in self.card["inputs"] if each["kind"] == names.IDS and len(each["shape"]) > 1
        ]
        pads = None not in padding or len(padding) == 1
        mixed = None not in padding and batch_size > 1 and self._may_mix(inputs, lengths, outputs)
        batches = list(in_batches(lengths, batch_size if pads else 1, mixed=mixed, alike=True))
        answers: list[dict[str, np.ndarray]] = []
        with progress("predicting") as report:
            for places in batches:
                answers.append(self._asked_for(inputs, places, outputs))
                report(sum(len(next(iter(each.values()))) for each in answers), len(lengths))
                if any(scores.ndim != 2 for scores in answers[-1].values()):  # they are no predictions
                    return answers[-1]
        order = np.argsort(np.concatenate(batches))
        return {name: np.concatenate([each[name] for each in answers])[order] for name in outputs}

    def _asked_for(
        self, inputs: Mapping[str, Any], places: Sequence[int] | np.ndarray, outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Outputs for some rows, in one request."""
        return self._asked(request_arrays(rows_at(inputs, places), self.card), outputs)

    def _may_mix(self, inputs: Mapping[str, Any], lengths: Sequence[np.ndarray], outputs: Sequence[str]) -> bool:
        """Whether rows of different lengths have their own scores in one batch.

        They don't in an export that skipped the check and reads padding as words.
        """
        sizes = [len(row) for row in lengths]
        ends = [int(np.argmin(sizes)), int(np.argmax(sizes))]
        if sizes[ends[0]] == sizes[ends[1]]:
            return True
        alone, beside = self._asked_for(inputs, ends[:1], outputs), self._asked_for(inputs, ends, outputs)
        return all(
            alone[name].ndim != 2 or np.allclose(alone[name][0], beside[name][0], rtol=_SAME, atol=_SAME)
            for name in outputs
        )


def ask_in_new_process(folder: Path, requests: Sequence[Sequence[int]]) -> tuple[np.ndarray, dict[str, bool]]:
    """Scores (requests, classes) from a process that imports only TensorFlow, and which packages it had loaded."""
    lines = "".join(json.dumps(row.tolist()) + "\n" for row in id_rows(list(requests)))
    command = [sys.executable, "-P", str(Path(__file__).with_name("ask.py")), str(folder)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    answers = done.stdout.splitlines()
    if done.returncode or len(answers) != len(requests) + 1:
        raise SavedModelError(
            f"The process that asked {str(folder)!r} failed: {''.join(done.stderr.strip().splitlines()[-1:])}"
        )
    return np.array([json.loads(answer) for answer in answers[:-1]]), json.loads(answers[-1])


def request_bytes(token_ids: np.ndarray, vectors: np.ndarray) -> pd.DataFrame:
    """The size of one request in bytes: as ids (batch, time), and as float vectors (batch, time, D).

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
