"""check_saved_model: does an export give the right answer to every kind of request?"""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._checks import one_of
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import names
from embkeras.serving.contract import answers_by_name, padding_in_front, scores_of
from embkeras.serving.local import ExportedModel
from embkeras.serving.reasons import reason
from embkeras.serving.server_files import read_warm_up, warm_up_ids, warm_up_records
from embkeras.serving.text_encoder import encoded_rows
from embkeras.tables.addresses import walk
from embkeras.tables.projection import EXCLUDED
from embkeras.tables.storage import STORAGE
from embkeras.text.encoding import Encoding

# Relative to the largest score, or to 1, by the coarsest type in which a layer computes: another order of sums differs less.
_TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
_LENGTHS = (1, 2, 3, 7, 18, 40)
_PADDINGS = ((0, 1), (0, 7), (0, 40), (1, 0), (3, 5))  # ids in front, behind
_OUTSIDE = (-1, 2**31, 2**40, -(2**63))
_SLACK, _SLACK_BYTES = 1.01, 200_000  # of variables/ over the bytes of the variables: its index and names


def check_saved_model(
    path: str | os.PathLike[str], *, model: keras.Model | None = None, vocabulary: Encoding | None = None
) -> None:
    """Send an export many kinds of requests, and raise the first thing that is wrong.

    It checks the card and the vocabulary's fingerprint; the signatures and their types; that a text has the same scores
    alone, padded, in a batch and with padding in front, as int32 and as text; that an empty text is read as one unknown
    token; that ids outside the table are read as the OOV id or refused, as the card says; that `variables/` contains each
    variable once; and, with `model`, that the scores are the model's.

    Args:
        path: the model's folder (its highest version is taken) or the folder of one version.
        model: the model in memory that was exported.
        vocabulary: the Encoding that the model was exported with, if it isn't a `Vocabulary`: only those are in the assets.

    Raises:
        SavedModelError: the first thing that is wrong, with ids for which it shows.
        ArgumentError: not a Keras model, not a path, or not an Encoding.
    """
    if model is not None and not isinstance(model, keras.Model):
        raise ArgumentError(f"check_saved_model takes a keras.Model. Received: {type(model).__name__}.")
    check = _Check(ExportedModel(path, vocabulary=vocabulary), _mask_advice(model))
    check.signatures()
    check.padding()
    check.other_signatures()
    check.ids_outside()
    check.class_names()
    check.card_signature()
    check.warm_up()
    check.size()
    if model is not None:
        check.scores_of(model)


class _Check:
    """An export, and texts of several lengths to send it."""

    def __init__(self, export: ExportedModel, mask_advice: str):
        self.export, self.card, self.folder, self.mask_advice = export, export.card, export.folder, mask_advice
        for key, choices in (("dtype", STORAGE), ("precision", _TOLERANCE)):
            one_of(self.card[key], f"{key} in the card of {str(self.folder)!r}", choices, error=SavedModelError)
        self.tokens = len(export.vocabulary) if export.vocabulary is not None else self.card["vocabulary_size"]
        self.padding_id, self.oov = self.card["padding_id"], np.array([self.card["oov_id"]])
        special = {self.padding_id, self.card["oov_id"]}
        words = [id_ for id_ in range(self.tokens) if id_ not in special] or self.oov
        rng = np.random.default_rng(0)
        longest = self.card["max_length"] or max(_LENGTHS)
        self.texts = [rng.choice(words, length) for length in _LENGTHS if length <= longest]

    def signatures(self) -> None:
        """All are there, with the types that the card promises."""
        wanted = {names.SERVING: tf.int64, names.SERVING_INT32: tf.int32, names.CARD: tf.int32}
        wanted |= {names.TEXT: tf.string} if self.card["no_text_reason"] is None else {}
        wanted |= {names.EMBED: tf.int64} if self.card["embed"] else {}
        found = self.export.signatures
        for name, dtype in wanted.items():
            if name not in found:
                raise self._wrong(f"it has no signature {name!r}, only {', '.join(sorted(found))}")
            (spec,) = found[name].structured_input_signature[1].values()
            if spec.dtype != dtype:
                raise self._wrong(f"the signature {name!r} takes {spec.dtype.name} instead of {dtype.name}")

    def card_signature(self) -> None:
        """The card, the graph and the variables are from one export."""
        self.export.check_parts()

    def class_names(self) -> None:
        """The asset and the output `classes` have the names of the card."""
        wanted = self.card["class_names"]
        if wanted is None:
            return
        file = self.folder / "assets" / names.CLASSES_FILE
        if not file.is_file() or file.read_bytes() != "".join(f"{name}\n" for name in wanted).encode(errors="replace"):
            raise self._wrong(f"{names.CLASSES_FILE} doesn't contain the class names {', '.join(wanted)}")
        answers = self.export.ask(names.SERVING, token_ids=self.texts[0][None].astype(np.int64))
        served = [name.decode("utf-8", "replace") for name in answers.get("classes", np.empty((1, 0)))[0].tolist()]
        if served != wanted:
            raise self._wrong(f"its output 'classes' is {served} instead of {wanted}")

    def warm_up(self) -> None:
        """A server runs these requests before it takes others, and doesn't load a model that fails on them."""
        try:
            right = read_warm_up(self.folder) == list(warm_up_records(self.card))
        except tf.errors.OpError:
            right = False
        if not right:
            raise self._wrong("its warm-up requests are missing, damaged or not those it was exported with")
        for ids in warm_up_ids(self.card):
            self._ask(ids)

    def padding(self) -> None:
        """The same scores with any padding."""
        for ids in self.texts:
            alone = self._scores(ids)
            if not all(np.isfinite(scores).all() for scores in alone.values()):
                raise self._wrong(f"its scores are not finite for token_ids {ids.tolist()}")
            for front, behind in _PADDINGS if self.padding_id is not None else ():
                padded = np.pad(ids, (front, behind), constant_values=self.padding_id)
                what = f"scores depend on padding ({front} in front, {behind} behind)"
                self._compare(alone, self._scores(padded), ids, what, self.mask_advice)
        if self.padding_id is None:
            return
        longest = max(map(len, self.texts))
        batch = np.array([np.pad(ids, (0, longest - len(ids)), constant_values=self.padding_id) for ids in self.texts])
        together = self._ask(batch)
        what = "scores depend on padding (beside longer texts of a batch)"
        for place, ids in enumerate(self.texts):
            own = {name: scores[place : place + 1] for name, scores in together.items()}
            self._compare(self._scores(ids), own, ids, what, self.mask_advice)
        unknown = self._scores(self.oov)
        for ids in (np.full(3, self.padding_id), np.empty(0, np.int64)):
            self._compare(unknown, self._scores(ids), ids, "an empty text is not scored as one unknown token")

    def other_signatures(self) -> None:
        """int32 ids and texts have the scores of the same int64 ids."""
        for ids in self.texts:
            answers = self.export.ask(names.SERVING_INT32, token_ids=ids[None].astype(np.int32))
            self._compare(self._scores(ids), answers, ids, "int32 ids have other scores than int64 ids")
        encoding = self.export.vocabulary
        if self.card["no_text_reason"] is not None or encoding is None:
            return
        tokens = getattr(encoding, "tokens", ())
        texts = [" ".join(tokens[id_] for id_ in ids) for ids in self.texts if tokens]
        for text in (*texts, "zzqqxx", "", " \t "):
            (ids,) = encoded_rows(encoding, [text])
            if self.card["max_length"] is None or len(ids) <= self.card["max_length"]:
                answers = self.export.ask(names.TEXT, text=np.array([text.encode("utf-8")]))
                self._compare(self._scores(ids), answers, ids, f"the text {text!r} has other scores than its ids")

    def ids_outside(self) -> None:
        """Ids outside the table, at the edges and far away."""
        for outside in (*_OUTSIDE, self.tokens):
            ids = np.array([outside])
            if self.card["out_of_range"] == "oov":
                what = f"the id {outside} is not read as the OOV id"
                self._compare(self._scores(self.oov), self._scores(ids), ids, what)
                continue
            try:
                self._scores(ids)
            except tf.errors.InvalidArgumentError:
                continue
            raise self._wrong(f"the id {outside} is not refused")

    def scores_of(self, model: keras.Model) -> None:
        """The model in memory has the same scores, or nearly the same if the table is stored in fewer bytes."""
        length = self.card["max_length"] or self.card["min_length"]
        fill = self.oov[0] if self.padding_id is None else self.padding_id
        in_front = padding_in_front(self.export.vocabulary)
        for ids in self.texts:
            missing = max(0, length - len(ids))
            row = np.pad(ids, (missing, 0) if in_front else (0, missing), constant_values=fill)
            answers = answers_by_name(scores_of(model, tf.constant(row[None], tf.int64)), self.card["outputs"])
            wanted = {name: np.array(scores) for name, scores in answers.items()}
            what = f"its scores are not those of model {model.name!r}"
            self._compare(wanted, self._scores(ids), ids, what, stored=STORAGE[self.card["dtype"]].tolerance)

    def size(self) -> None:
        """Each variable is stored once."""
        stored = sum(file.stat().st_size for file in (self.folder / "variables").iterdir())
        held = sum(np.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in self.export.variables())
        if stored > _SLACK * held + _SLACK_BYTES:
            raise self._wrong(f"variables/ takes {stored:,} bytes for variables of {int(held):,} bytes")

    def _scores(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return self._ask(ids[None])

    def _ask(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        try:
            answers = self.export.ask(names.SERVING, token_ids=ids.astype(np.int64))
        except tf.errors.InvalidArgumentError as error:
            outside = ((ids < 0) | (ids >= self.tokens)).any()
            if self.card["out_of_range"] == "error" and outside:
                raise
            why = reason(error.message)
            raise self._wrong(f"it refuses token_ids of shape {ids.shape}: {why}") from error
        for name in self.card["outputs"]:
            if name not in answers:
                raise self._wrong(f"it has no output {name!r}, only {', '.join(sorted(answers))}")
        return {name: answers[name] for name in self.card["outputs"]}

    def _compare(
        self,
        wanted: dict[str, np.ndarray],
        got: dict[str, Any],
        ids: np.ndarray,
        what: str,
        advice: str = "",
        *,
        stored: float = 0.0,
    ) -> None:
        tolerance = max(stored, _TOLERANCE[self.card["precision"]])
        for name, scores in wanted.items():
            difference = float(np.abs(scores.astype(np.float64) - got[name]).max())
            largest = float(
                np.abs(scores[scores != EXCLUDED]).max(initial=1.0)
            )  # of tied weights, not that of the padding
            if not difference <= tolerance * largest:
                raise self._wrong(
                    f"{what}: {name!r} differs by {difference:.2g} for token_ids {ids.tolist()[:20]}", advice
                )

    def _wrong(self, what: str, advice: str = "") -> SavedModelError:
        return SavedModelError(f"The export {str(self.folder)!r} is wrong: {what}.{advice}")


def _mask_advice(model: keras.Model | None) -> str:
    """What to do if padding is read as words; with the model, which layers do it."""
    layers = walk(model) if model is not None else ()
    paths = [
        path for path, layer in layers if not (layer.supports_masking or isinstance(layer, keras.layers.InputLayer))
    ]
    which = (
        f"These layers ignore the mask: {', '.join(paths)}."
        if paths
        else "A layer ignores the mask, or the model has none."
    )
    return (
        f" Padding is read as words. {which} Give the embedding a mask (mask_zero=True) and use layers that respect it "
        f"(build_classifier does; keras.layers.Add keeps a mask that x + y loses), or fix the length of the input. Or "
        f"export with check=False, if all requests have the same length."
    )
