"""check_saved_model: does an export answer as it should, whatever it is asked?"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import names
from embkeras.serving.local import ExportedModel
from embkeras.serving.warm_up import read_warm_up, warm_up_ids, warm_up_records
from embkeras.tables.addresses import walk

# Of the largest score, or of 1: sums in another order differ by less. By the coarsest type in which a layer computes.
_TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
# The same for a table that is stored in fewer bytes, beside the model's own: enough to tell another model.
_STORED_TOLERANCE = {"float32": 0.0, "float16": 1e-2, "int8": 0.1}
_LENGTHS = (1, 2, 3, 7, 18, 40)
_OUTSIDE = (-1, 2**31, 2**40, -(2**63))
_SLACK, _SLACK_BYTES = 1.01, 200_000  # of variables/ over the bytes of the variables: its index and names


def check_saved_model(path: str | os.PathLike, *, model: keras.Model | None = None) -> None:
    """Ask an export in many ways, and raise what is wrong.

    Checked are: the card and the vocabulary's fingerprint; the signatures and their types; that a text has the same
    scores alone, padded, in a batch and with zeros in front, as int32 and as text; that an empty one is one "[UNK]";
    that ids outside the table are read as "[UNK]" or refused, as the export says; that `variables/` holds each variable
    once; and, with `model`, that the scores are the model's.

    Args:
        path: the model's folder (its highest version is taken) or the folder of one version.
        model: the model in memory that was exported.

    Raises:
        SavedModelError: the first thing that is wrong, with ids for which it shows.
        ArgumentError: something else than a Keras model.
    """
    if model is not None and not isinstance(model, keras.Model):
        raise ArgumentError(f"check_saved_model takes a keras.Model. Received: {type(model).__name__}.")
    export = ExportedModel(path)
    asked = _Asked(export, _way_out(model))
    asked.check_signatures()
    asked.check_padding()
    asked.check_other_signatures()
    asked.check_outside()
    asked.check_class_names()
    asked.check_card()
    asked.check_warm_up()
    _check_size(export)
    if model is not None:
        asked.check_model(model)


class _Asked:
    """An export, and texts of several lengths to ask it for."""

    def __init__(self, export: ExportedModel, way_out: str):
        self.export, self.card, self.folder, self.way_out = export, export.card, export.folder, way_out
        rng = np.random.default_rng(0)
        words = sorted(set(range(len(export.vocabulary))) - export.vocabulary.special_ids)
        longest = self.card["most"] or max(_LENGTHS)
        lengths = [length for length in _LENGTHS if length <= longest]
        self.texts = [rng.choice(words, length) for length in lengths]
        self.padding = export.vocabulary.padding_id

    def check_signatures(self) -> None:
        """All there, with the types that the card says."""
        wanted = {names.SERVING: tf.int64, names.SERVING_INT32: tf.int32, names.ABOUT: tf.int32}
        wanted |= {names.TEXT: tf.string} if self.card["no_texts"] is None else {}
        wanted |= {names.EMBED: tf.int64} if self.card["embed"] else {}
        there = self.export.signatures
        for name, dtype in wanted.items():
            if name not in there:
                raise self._wrong(f"it has no signature {name!r}, but {', '.join(sorted(there))}")
            (spec,) = there[name].structured_input_signature[1].values()
            if spec.dtype != dtype:
                raise self._wrong(f"the signature {name!r} takes {spec.dtype.name} and not {dtype.name}")

    def check_card(self) -> None:
        """The card is the one that the model gives itself."""
        said = json.loads(self.export.ask(names.ABOUT, asked=np.zeros(1, np.int32))["card"][0])
        wrong = sorted(key for key in {*said, *self.card} if said.get(key) != self.card.get(key))
        if wrong:
            raise self._wrong(f"{names.CARD_FILE} and the signature {names.ABOUT!r} differ in {', '.join(wrong)}")

    def check_class_names(self) -> None:
        """The asset and the output `classes` have the names of the card."""
        wanted = self.card["class_names"]
        if wanted is None:
            return
        file = self.folder / "assets" / names.CLASSES_FILE
        if not file.is_file() or file.read_bytes() != "".join(f"{name}\n" for name in wanted).encode(errors="replace"):
            raise self._wrong(f"{names.CLASSES_FILE} does not hold the class names {', '.join(wanted)}")
        answers = self.export.ask(names.SERVING, token_ids=self.texts[0][None].astype(np.int64))
        given = [name.decode("utf-8", "replace") for name in answers.get("classes", np.empty((1, 0)))[0].tolist()]
        if given != wanted:
            raise self._wrong(f"its output 'classes' gives {given} and not {wanted}")

    def check_warm_up(self) -> None:
        """A server answers these requests before it takes others, and does not load a model that cannot."""
        if "warm_up" not in self.card:  # exports of before do not tell
            return
        try:
            right = read_warm_up(self.folder) == list(warm_up_records(self.card))
        except tf.errors.OpError:
            right = False
        if not right:
            raise self._wrong("its warm-up requests are missing, damaged or others than those it was exported with")
        for ids in warm_up_ids(self.card):
            self._ask(ids)

    def check_padding(self) -> None:
        """The same scores however a text comes."""
        for ids, alone in zip(self.texts, map(self._scores, self.texts), strict=True):
            if not all(np.isfinite(scores).all() for scores in alone.values()):
                raise self._wrong(f"its scores are not finite for token_ids {ids.tolist()}")
            for how, row in self._padded(ids):
                self._compare(alone, self._scores(row), ids, f"scores depend on padding ({how})", self.way_out)
        if self.padding is not None:
            longest = max(map(len, self.texts))
            batch = np.array([np.pad(ids, (0, longest - len(ids)), constant_values=self.padding) for ids in self.texts])
            together = self._ask(batch)
            for place, ids in enumerate(self.texts):
                row = {name: scores[place : place + 1] for name, scores in together.items()}
                what = "scores depend on padding (beside longer texts of a batch)"
                self._compare(self._scores(ids), row, ids, what, self.way_out)
            unknown = self._scores(np.array(self.export.vocabulary.oov_ids[:1]))
            for ids in (np.full(3, self.padding), np.empty(0, np.int64)):
                self._compare(unknown, self._scores(ids), ids, 'an empty text is not scored as one "[UNK]"')

    def _padded(self, ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        if self.padding is None:
            return
        for behind in (1, 7, 40):
            yield f"{behind} behind", np.pad(ids, (0, behind), constant_values=self.padding)
        yield "one in front", np.pad(ids, (1, 0), constant_values=self.padding)
        yield "3 in front, 5 behind", np.pad(ids, (3, 5), constant_values=self.padding)

    def check_other_signatures(self) -> None:
        """int32 ids and texts give the scores of the same int64 ids."""
        for ids in self.texts:
            wanted = self._scores(ids)
            answers = self.export.ask(names.SERVING_INT32, token_ids=ids[None].astype(np.int32))
            self._compare(wanted, answers, ids, "int32 ids give other scores than int64")
        if self.card["no_texts"] is None:
            for text in self._texts():
                ids = self.export.vocabulary.encode(text)
                answers = self.export.ask(names.TEXT, text=np.array([text.encode("utf-8")]))
                self._compare(self._scores(ids), answers, ids, f"the text {text!r} gives other scores than its ids")

    def _texts(self) -> Iterator[str]:
        """Words of the vocabulary, an unknown one, and nothing."""
        tokens = self.export.vocabulary.tokens
        for ids in self.texts:
            text = " ".join(tokens[id_] for id_ in ids)
            if self.card["most"] is None or len(self.export.vocabulary.encode(text)) <= self.card["most"]:
                yield text
        yield from ("zzqqxx", "", " \t ")

    def check_outside(self) -> None:
        """Ids outside the table, at the edges and far away."""
        known = np.array(self.export.vocabulary.oov_ids[:1])
        for outside in (*_OUTSIDE, len(self.export.vocabulary)):
            asked = np.array([outside])
            if self.card["bad_ids"] == "oov":
                self._compare(
                    self._scores(known), self._scores(asked), asked, f'the id {outside} is not read as "[UNK]"'
                )
                continue
            try:
                self._scores(asked)
            except tf.errors.InvalidArgumentError:
                continue
            raise self._wrong(f"the id {outside} is not refused")

    def check_model(self, model: keras.Model) -> None:
        """The model in memory gives the same scores, or nearly so if the table is stored in fewer bytes."""
        near = _STORED_TOLERANCE[self.card["dtype"]]
        least, most = self.card["least"], self.card["most"]
        for ids in self.texts:
            fill = self.padding if self.padding is not None else self.export.vocabulary.oov_ids[0]
            row = np.pad(ids, (0, max(0, (most or least) - len(ids))), constant_values=fill)
            answers = model(tf.constant(row[None], tf.int64), training=False)
            if not isinstance(answers, dict):
                parts = answers if isinstance(answers, list | tuple) else [answers]
                answers = dict(zip(self.card["outputs"], parts, strict=True))
            answers = {name: np.array(answers[name]) for name in self.card["outputs"]}
            self._compare(
                answers, self._scores(ids), ids, f"its scores are not those of model {model.name!r}", near=near
            )

    def _scores(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return self._ask(ids[None])

    def _ask(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        try:
            answers = self.export.ask(names.SERVING, token_ids=ids.astype(np.int64))
        except tf.errors.InvalidArgumentError as error:
            if self.card["bad_ids"] == "error" and ((ids < 0) | (ids >= len(self.export.vocabulary))).any():
                raise
            reason = names.first_line(error.message)
            raise self._wrong(f"it does not answer token_ids of shape {ids.shape}: {reason}") from error
        for name in self.card["outputs"]:
            if name not in answers:
                raise self._wrong(f"it has no output {name!r}, but {', '.join(sorted(answers))}")
        return {name: answers[name] for name in self.card["outputs"]}

    def _compare(
        self,
        wanted: dict[str, np.ndarray],
        got: dict[str, np.ndarray],
        ids: np.ndarray,
        what: str,
        way_out: str = "",
        *,
        near: float = 0.0,
    ) -> None:
        tolerance = max(near, _TOLERANCE[self.card.get("precision", "float32")])
        for name, scores in wanted.items():
            apart = float(np.abs(scores.astype(np.float64) - got[name]).max())
            if not apart <= tolerance * max(1.0, float(np.abs(scores).max())):
                raise self._wrong(f"{what}: {name!r} is {apart:.2g} apart for token_ids {ids.tolist()[:20]}.{way_out}")

    def _wrong(self, what: str) -> SavedModelError:
        return SavedModelError(
            f"The export {str(self.folder)!r} is not right: {what}" + ("" if what[-1] == "." else ".")
        )


def _way_out(model: keras.Model | None) -> str:
    """What to do where padding is read as words; with the model, which layers do."""
    layers = walk(model) if model is not None else ()
    named = [
        path for path, layer in layers if not (layer.supports_masking or isinstance(layer, keras.layers.InputLayer))
    ]
    which = f", without regard to the mask: {', '.join(named)}" if named else ""
    return (
        f" A layer reads padding as words{which}. Give the embedding a mask (mask_zero=True) and put a layer that heeds it in "
        f"its place (build_classifier does; keras.layers.Add keeps a mask that x + y loses), or fix the length of the input. "
        f"Or export with check=False, if all requests have one length."
    )


def _check_size(export: ExportedModel) -> None:
    """Each variable is stored once."""
    folder = Path(export.folder, "variables")
    stored = sum(file.stat().st_size for file in folder.iterdir())
    held = sum(np.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in export.variables())
    if stored > _SLACK * held + _SLACK_BYTES:
        raise SavedModelError(
            f"The export {str(export.folder)!r} is not right: variables/ takes {stored:,} bytes for variables of {int(held):,}."
        )
