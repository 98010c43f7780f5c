"""check_saved_model: does an export give the right answer to every kind of request?"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from embkeras._checks import one_of
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import names
from embkeras.serving.contract import answers_by_name, scores_of
from embkeras.serving.local import ExportedModel
from embkeras.serving.nearest import all_scores
from embkeras.serving.server_files import read_warm_up, warm_up_inputs, warm_up_records
from embkeras.serving.slots import mask_of
from embkeras.serving.text_encoder import encoded_rows, encoded_tokens
from embkeras.serving.towers import recorded
from embkeras.tables.addresses import match_layer, walk
from embkeras.tables.projection import EXCLUDED
from embkeras.tables.storage import STORAGE
from embkeras.text.encoding import Encoding

# Relative to the largest score, or to 1, by the coarsest type in which a layer computes: another order of sums differs less.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
_LENGTHS = (1, 2, 3, 7, 18, 40)
_PADDINGS = ((0, 1), (0, 7), (0, 40), (1, 0), (3, 5))  # ids in front, behind
_OUTSIDE = (-1, 2**31, 2**40, -(2**63))
_NEAREST, _IDS_ASKED = 10, 1024  # rows found for each request; ids asked at once
_FEATURE_STEPS = 3  # of a feature of any length
_SLACK, _SLACK_BYTES = 1.01, 200_000  # of variables/ over the bytes of the variables: its index and names


def check_saved_model(
    path: str | os.PathLike[str],
    *,
    model: keras.Model | None = None,
    vocabulary: Encoding | Mapping[str, Encoding] | None = None,
) -> None:
    """Send an export many kinds of requests, and raise the first thing that is wrong.

    It checks the card and the vocabulary's fingerprint; the signatures and their types; that a text has the same scores
    alone, padded, in a batch and with padding in front, as int32 and as text; the same of the vectors of towers, and that
    `nearest` finds what a comparison with every vector finds; that an empty text is read as one unknown
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
    check.no_rows()
    check.other_signatures()
    check.ids_outside()
    check.towers()
    check.class_names()
    check.card_signature()
    check.warm_up()
    check.size()
    if model is not None:
        check.scores_of(model)


Request: TypeAlias = dict[str, np.ndarray]  # one row by input, without the batch


def requests_of(export: ExportedModel, narrow: bool = False) -> Iterator[tuple[str, Request]]:
    """Requests with a batch to ask in two places, and what each is: "words", "outside", "long" or "no steps".

    Args:
        export: the export that they are for.
        narrow: ids outside the table are those of int32.
    """
    check = _Check(export, "")
    for request in check.requests:
        yield "words", _rows(request)
        for leader in check.leaders():
            for front, behind in _PADDINGS:
                yield "words", _rows(check.padded(request, leader, front, behind))
    if all(len(each["shape"]) == 1 or each["padding_id"] is not None for each in check.ids.values()):
        yield "words", check.together()
    base = check.requests[0]
    for name, each in check.ids.items():
        row = base[name]
        outside = (-1, 2**31 - 1, -(2**31)) if narrow else _OUTSIDE
        for id_ in (*outside, each["vocabulary_size"]):
            yield "outside", _rows(base | {name: np.full_like(row, id_)})
        if row.ndim and each["padding_id"] is not None and check.group(name) == [name]:
            yield "words", _rows(base | {name: np.full((3,) * row.ndim, each["padding_id"])})
            yield "no steps", _rows(base | {name: np.empty((0,) * row.ndim, np.int64)})
        if each["max_length"] and check.group(name) == [name]:
            wide = (*row.shape[:-1], each["max_length"] + 3)
            yield "long", _rows(base | {name: np.full(wide, each["vocabulary_size"] - 1)})


class _Check:
    """An export, and requests of several lengths to send it."""

    def __init__(self, export: ExportedModel, mask_advice: str):
        self.export, self.card, self.folder, self.mask_advice = export, export.card, export.folder, mask_advice
        for key, choices in (("dtype", STORAGE), ("precision", TOLERANCE)):
            one_of(self.card[key], f"{key} in the card of {str(self.folder)!r}", choices, error=SavedModelError)
        self.inputs = {each["name"]: each for each in self.card["inputs"]}
        self.ids = {name: each for name, each in self.inputs.items() if each["kind"] == names.IDS}
        self.of = {each["name"]: each["of"] for each in self.card["answers"]}
        rng = np.random.default_rng(0)
        variable = any(None in each["shape"][1:] for each in self.inputs.values())
        longest = max(_LENGTHS) if variable else max(each["max_length"] or 1 for each in self.ids.values())
        lengths = [length for length in _LENGTHS if length <= longest]
        self.requests = [self._request(rng, lengths, place) for place in range(len(lengths))]

    def _request(self, rng: np.random.Generator, lengths: list[int], place: int) -> Request:
        """A row of words and random features; each input has another length, but those that share their time steps."""
        request: Request = {}
        for number, each in enumerate(self.ids.values()):
            steps = lengths[(place + number) % len(lengths)]
            steps = min(steps, each["max_length"] or steps)
            if each["beside"] in request:
                steps = len(request[each["beside"]])
            sentences = min(1 + place, 3, each["shape"][1] or 3) if len(each["shape"]) == 3 else 0
            size = ((), (steps,), (sentences, steps))[len(each["shape"]) - 1]
            special = {each["padding_id"], each["oov_id"]}
            words = [id_ for id_ in range(each["vocabulary_size"]) if id_ not in special] or [each["oov_id"]]
            request[each["name"]] = np.asarray(rng.choice(words, size), np.int64)
        for name, each in self.inputs.items():
            if name not in request:
                beside = request.get(each["beside"])
                steps = _FEATURE_STEPS if beside is None else len(beside)
                shape = [steps if size is None else size for size in each["shape"][1:]]
                request[name] = rng.random(shape).astype(tf.as_dtype(each["dtype"]).as_numpy_dtype)
        return {name: request[name] for name in self.inputs}

    def group(self, leader: str) -> list[str]:
        """The inputs that share the time steps of one."""
        return [name for name, each in self.inputs.items() if leader in (name, each["beside"])]

    def leaders(self) -> list[str]:
        """The inputs of ids whose padding may be anywhere."""
        return [
            name
            for name, each in self.ids.items()
            if len(each["shape"]) > 1 and each["beside"] is None and each["padding_id"] is not None
        ]

    def padded(self, request: Request, leader: str, front: int, behind: int) -> Request:
        """A request with padding in one input, and in those that share its time steps; documents get empty sentences too."""
        padded = dict(request)
        for name in self.group(leader):
            each, row = self.inputs[name], request[name]
            axes = 2 if len(each["shape"]) == 3 and each["kind"] == names.IDS else 1
            widths = [(front, behind)] * axes + [(0, 0)] * (row.ndim - axes)
            padded[name] = np.pad(row, widths, constant_values=each.get("padding_id") or 0)
        return padded

    def signatures(self) -> None:
        """All are there, with the types that the card promises."""
        features = {name: tf.as_dtype(each["dtype"]) for name, each in self.inputs.items() if name not in self.ids}
        wanted: dict[str, dict[str, tf.DType]] = {
            names.SERVING: dict.fromkeys(self.ids, tf.int64) | features,
            names.SERVING_INT32: dict.fromkeys(self.ids, tf.int32) | features,
            names.CARD: {names.REQUEST: tf.int32},
        }
        if self.card["no_text_reason"] is None:
            wanted[names.TEXT] = dict.fromkeys(names.text_inputs(list(self.ids)).values(), tf.string) | features
        if self.card["embed"]:
            wanted[names.EMBED] = {names.TOKEN_IDS: tf.int64}
        every = wanted[names.SERVING]
        wanted |= {each["name"]: {key: every[key] for key in each["inputs"]} for each in self.card["towers"]}
        if (near := self.card["nearest"]) is not None:
            wanted[names.NEAREST] = wanted[near["tower"]] | {names.K: tf.int32}
        found = self.export.signatures
        for name, inputs in wanted.items():
            if name not in found:
                raise self._wrong(f"it has no signature {name!r}, only {', '.join(sorted(found))}")
            specs = found[name].structured_input_signature[1]
            if set(specs) != set(inputs):
                raise self._wrong(f"the signature {name!r} takes {', '.join(specs)} instead of {', '.join(inputs)}")
            for key, dtype in inputs.items():
                if specs[key].dtype != dtype:
                    what = f"the signature {name!r} takes {specs[key].dtype.name} instead of {dtype.name}"
                    raise self._wrong(what if len(inputs) == 1 else f"{what} as {key!r}")

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
        answers = self.export.ask(names.SERVING, **_rows(self.requests[0]))
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
        for inputs in warm_up_inputs(self.card):
            self._ask(inputs)

    def padding(self) -> None:
        """The same scores with any padding, and zeros for padding where each token has an answer."""
        for request in self.requests:
            alone = self._scores(request)
            if not all(np.isfinite(scores).all() for scores in alone.values()):
                raise self._wrong(f"its scores are not finite for {self._shown(request)}")
            for leader in self.leaders():
                for front, behind in _PADDINGS:
                    padded = self.padded(request, leader, front, behind)
                    what = f"scores depend on padding ({front} in front, {behind} behind)"
                    if len(self.inputs) > 1:
                        what = f"scores depend on the padding of {leader!r} ({front} in front, {behind} behind)"
                    got = self._scores(padded, {leader: (front, len(request[leader]))})
                    self._compare(alone, got, request, what, self.mask_advice)
        leaders = self.leaders()
        if any(len(each["shape"]) > 1 and each["padding_id"] is None for each in self.ids.values()):
            return
        self._batch()
        for leader in leaders:
            if len(self.group(leader)) == 1:
                self._empty(leader)

    def together(self) -> Request:
        """All requests as one batch, padded behind."""
        batch = []
        for request in self.requests:
            for leader in self.leaders():
                longest = [max(sizes) for sizes in zip(*(other[leader].shape for other in self.requests), strict=True)]
                for name in self.group(leader):
                    row = request[name]
                    ends = [*longest, *row.shape][: len(longest)] + list(row.shape[len(longest) :])
                    ends = ends if name in self.ids else [longest[0], *row.shape[1:]]
                    widths = [(0, end - size) for end, size in zip(ends, row.shape, strict=True)]
                    request = request | {
                        name: np.pad(row, widths, constant_values=self.inputs[name].get("padding_id") or 0)
                    }
            batch.append(request)
        return {name: np.array([request[name] for request in batch]) for name in self.inputs}

    def _batch(self) -> None:
        """The same scores beside longer texts."""
        together = self._ask(self.together())
        for place, request in enumerate(self.requests):
            own = {name: scores[place : place + 1] for name, scores in together.items()}
            own = self._of_tokens(own, request, {})
            what = "scores depend on padding (beside longer texts of a batch)"
            self._compare(self._scores(request), own, request, what, self.mask_advice)

    def _empty(self, leader: str) -> None:
        """A text without tokens has the scores of one unknown token."""
        rank = len(self.inputs[leader]["shape"]) - 1
        fill = self.inputs[leader]["padding_id"]
        base = self.requests[0]
        unknown = self._scores(base | {leader: np.full((1,) * rank, self.inputs[leader]["oov_id"], np.int64)})
        unknown = {name: scores for name, scores in unknown.items() if self.of[name] != leader}
        for ids in (np.full((3,) * rank, fill), np.empty((0,) * rank, np.int64)):
            request = base | {leader: ids}
            what = "an empty text is not scored as one unknown token"
            self._compare(unknown, self._scores(request, {leader: (0, 0)}), request, what)

    def no_rows(self) -> None:
        """A batch without rows is answered by as many."""
        for name, scores in self._ask({name: rows[:0] for name, rows in _rows(self.requests[0]).items()}).items():
            if len(scores):
                raise self._wrong(f"its output {name!r} has {len(scores)} rows for none")

    def other_signatures(self) -> None:
        """int32 ids and texts have the scores of the same int64 ids."""
        for request in self.requests:
            narrow = {name: row.astype(np.int32) if name in self.ids else row for name, row in request.items()}
            answers = self._of_tokens(self.export.ask(names.SERVING_INT32, **_rows(narrow)), request, {})
            self._compare(self._scores(request), answers, request, "int32 ids have other scores than int64 ids")
        encodings = self.export.vocabularies
        if self.card["no_text_reason"] is not None or any(encodings.get(name) is None for name in self.ids):
            return
        asked = names.text_inputs(list(self.ids))
        requests = []
        if all(getattr(encodings[name], "tokens", ()) for name in self.ids):
            requests = [
                {name: " ".join(encodings[name].tokens[id_] for id_ in request[name].ravel()) for name in self.ids}  # type: ignore[union-attr]
                for request in self.requests
            ]
        first = requests[0] if requests else dict.fromkeys(self.ids, "zzqqxx")
        requests += [first | {name: text} for name in self.ids for text in ("zzqqxx", "", " \t ")]
        for number, texts in enumerate(requests):
            features = self.requests[number if number < len(self.requests) else 0]
            request = dict(features)
            for name, text in texts.items():
                each, encoding = self.ids[name], encodings[name]
                if len(each["shape"]) == 1:
                    (request[name],) = encoded_tokens(encoding, [text], each["oov_id"])  # type: ignore[arg-type]
                else:
                    (request[name],) = encoded_rows(encoding, [text])  # type: ignore[arg-type]
            if any(request[name].size > (each["max_length"] or request[name].size) for name, each in self.ids.items()):
                continue
            if len({len(request[name]) for group in map(self.group, self.ids) if len(group) > 1 for name in group}) > 1:
                continue
            sent = {asked[name]: np.array([text.encode("utf-8")]) for name, text in texts.items()}
            sent |= {name: row for name, row in _rows(features).items() if name not in self.ids}
            answers = self._of_tokens(self.export.ask(names.TEXT, **sent), request, {})
            shown = ", ".join(map(repr, texts.values()))
            self._compare(self._scores(request), answers, request, f"the text {shown} has other scores than its ids")

    def ids_outside(self) -> None:
        """Ids outside the table, at the edges and far away."""
        for name, each in self.ids.items():
            base = self.requests[0]
            unknown = self._scores(base | {name: np.full_like(base[name], each["oov_id"])})
            for outside in (*_OUTSIDE, each["vocabulary_size"]):
                request = base | {name: np.full_like(base[name], outside)}
                of = "" if len(self.inputs) == 1 else f" in {name!r}"
                if self.card["out_of_range"] == "oov":
                    what = f"the id {outside}{of} is not read as the OOV id"
                    self._compare(unknown, self._scores(request), request, what)
                    continue
                try:
                    self._scores(request)
                except SavedModelError:
                    continue
                raise self._wrong(f"the id {outside}{of} is not refused")

    def towers(self) -> None:
        """Vectors that don't depend on padding; and the nearest are those that NumPy finds when it compares them all."""
        for tower in self.card["towers"]:
            for request in self.requests:
                alone = self._vectors(tower, _rows(request))
                if not np.isfinite(alone[names.VECTORS]).all():
                    raise self._wrong(f"vectors of tower {tower['name']!r} are not finite for {self._shown(request)}")
                for leader in self.leaders():
                    if leader not in tower["inputs"]:
                        continue
                    for front, behind in _PADDINGS:
                        got = self._vectors(tower, _rows(self.padded(request, leader, front, behind)))
                        what = (
                            f"vectors of tower {tower['name']!r} depend on padding ({front} in front, {behind} behind)"
                        )
                        self._compare(alone, got, request, what, self.mask_advice)
        if self.card["nearest"] is not None:
            self._nearest(self.card["nearest"])

    def _nearest(self, near: Mapping[str, Any]) -> None:
        """Recall 1.0 for every request, in order, and of equal scores the lower row first."""
        towers = {each["name"]: each for each in self.card["towers"]}
        asked, searched = towers[near["tower"]], towers[near["of"]]
        table = self._table(near, searched)
        if table.shape != (near["count"], searched["width"]):
            raise self._wrong(f"the vectors that 'nearest' searches have shape {table.shape}")
        most = near["count"] - len(near["excluded"])
        for request in self.requests:
            own = {name: row for name, row in _rows(request).items() if name in asked["inputs"]}
            vectors = self.export.ask(asked["name"], **own)[names.VECTORS]
            wanted = all_scores(vectors, table, near["similarity"], near["excluded"])[0]
            for k in {1, min(most, _NEAREST)}:
                answers = self.export.ask(names.NEAREST, **own, k=np.array([k], np.int32))
                best = np.argsort(-wanted, kind="stable")[:k]
                got, scores = answers[names.NEIGHBOURS][0], answers[names.SCORES][0]
                # Another library may round a sum the other way: then the score decides, not the row.
                same = got.shape == best.shape and len({*got.tolist(), *near["excluded"]}) == k + len(near["excluded"])
                if not (
                    same
                    and np.allclose(wanted[got], wanted[best], 1e-6, 1e-6)
                    and np.allclose(scores, wanted[got], 1e-6, 1e-6)
                ):
                    raise self._wrong(
                        f"'nearest' finds rows {got.tolist()[:5]} with scores {scores.tolist()[:5]} instead of "
                        f"{best.tolist()[:5]} with {wanted[best].tolist()[:5]} for {self._shown(request)}"
                    )

    def _table(self, near: Mapping[str, Any], searched: Mapping[str, Any]) -> np.ndarray:
        """The vectors that are searched: those in the checkpoint, or a tower's for every id."""
        if near["stored"]:
            table = self.export.variable(names.CANDIDATES)
        if near["ids_of"] is None:
            return table
        ids = np.arange(near["count"])
        parts = [ids[start : start + _IDS_ASKED] for start in range(0, len(ids), _IDS_ASKED)]
        vectors = [self.export.ask(searched["name"], **{near["ids_of"]: part})[names.VECTORS] for part in parts]
        found = np.concatenate(vectors)
        if near["stored"] and not np.allclose(found, table, atol=TOLERANCE[self.card["precision"]]):
            raise self._wrong(f"the vectors that 'nearest' searches are not those of tower {searched['name']!r}")
        return found

    def _vectors(self, tower: Mapping[str, Any], inputs: Request) -> dict[str, np.ndarray]:
        """The vectors of a tower, for inputs with a batch."""
        try:
            return self.export.ask(tower["name"], **{name: inputs[name] for name in tower["inputs"]})
        except SavedModelError as error:
            raise self._wrong(f"tower {tower['name']!r} {self._said(error)}") from error

    def scores_of(self, model: keras.Model) -> None:
        """The model in memory has the same scores, or nearly the same if the table is stored in fewer bytes."""
        for request in self.requests:
            values, fronts = {}, {}
            for name, row in request.items():
                each = self.inputs[name]
                leader = self.inputs[each["beside"] or name]
                if leader["kind"] == names.IDS and row.ndim:
                    wanted = [leader["min_length"]]
                    if len(leader["shape"]) == 3:
                        wanted = [leader["shape"][1] or 1, *wanted]
                    missing = [max(0, most - size) for most, size in zip(wanted, row.shape, strict=False)]
                    missing = missing if each["kind"] == names.IDS else missing[:1]
                    in_front = leader["padding_side"] == "start"
                    widths = [(0, more) for more in missing] + [(0, 0)] * (row.ndim - len(missing))
                    if in_front:
                        widths[len(missing) - 1] = widths[len(missing) - 1][::-1]
                    fill = each.get("padding_id")
                    row = np.pad(row, widths, constant_values=each.get("oov_id", 0) if fill is None else fill)
                    fronts[name] = widths[0][0], len(request[name])
                values[name] = tf.constant(row[None])
            with contextlib.ExitStack() as stack:
                layers = [match_layer(model, tower["layer"]) for tower in self.card["towers"]]
                vectors = [stack.enter_context(recorded(layer)) for layer in layers]
                answers = answers_by_name(scores_of(model, self._with_masks(values)), self.card["outputs"])
            wanted_scores = {name: np.array(scores) for name, scores in answers.items()}
            for name, leader_name in self.of.items():
                if leader_name is not None:
                    front, size = fronts[leader_name]
                    wanted_scores[name] = wanted_scores[name][:, front : front + size]
            what = f"its scores are not those of model {model.name!r}"
            stored = STORAGE[self.card["dtype"]].tolerance
            self._compare(wanted_scores, self._scores(request), request, what, stored=stored)
            for tower, calls in zip(self.card["towers"], vectors, strict=True):
                wanted_vectors = {names.VECTORS: np.array(calls[tower["call"]], np.float32)}
                what = f"its vectors are not those of layer {tower['layer']!r} of model {model.name!r}"
                self._compare(wanted_vectors, self._vectors(tower, _rows(request)), request, what, stored=stored)

    def _with_masks(self, values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What the model takes, in its order: the inputs of requests, and the masks that the export makes."""
        taken = list(values.items())
        for mask in self.card["masks"]:
            ids = values[mask["of"]]
            made = mask_of(ids, self.inputs[mask["of"]]["padding_id"], mask["dtype"])
            taken.insert(mask["place"], (mask["name"], made))
        return dict(taken)

    def size(self) -> None:
        """Each variable is stored once."""
        stored = sum(file.stat().st_size for file in (self.folder / "variables").iterdir())
        held = sum(np.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in self.export.variables())
        if stored > _SLACK * held + _SLACK_BYTES:
            raise self._wrong(f"variables/ takes {stored:,} bytes for variables of {int(held):,} bytes")

    def _scores(self, request: Request, tokens: Mapping[str, tuple[int, int]] | None = None) -> dict[str, np.ndarray]:
        """The answers to one row; of those for each token, only the tokens: where they begin and how many, by input."""
        return self._of_tokens(self._ask(_rows(request)), request, tokens or {})

    def _of_tokens(
        self, answers: Mapping[str, np.ndarray], request: Request, tokens: Mapping[str, tuple[int, int]]
    ) -> dict[str, np.ndarray]:
        """Answers without those on padding, which must be zeros."""
        found = dict(answers)
        for name, leader in self.of.items():
            if leader is None or name not in found:
                continue
            front, size = tokens.get(leader, (0, len(request[leader])))
            own = slice(front, front + size)
            rest = np.delete(found[name], own, axis=1)
            if rest.size and np.abs(rest.astype(np.float64)).max() > 0:
                raise self._wrong(f"its output {name!r} is not zeros on padding for {self._shown(request)}")
            found[name] = found[name][:, own]
        return found

    def _ask(self, inputs: Request) -> dict[str, np.ndarray]:
        """The model's outputs for inputs with a batch."""
        try:
            answers = self.export.ask(names.SERVING, **inputs)
        except SavedModelError as error:
            outside = any(
                ((inputs[name] < 0) | (inputs[name] >= each["vocabulary_size"])).any()
                for name, each in self.ids.items()
            )
            if self.card["out_of_range"] == "error" and outside:
                raise
            raise self._wrong(f"it {self._said(error)}") from error
        for name in self.card["outputs"]:
            if name not in answers:
                raise self._wrong(f"it has no output {name!r}, only {', '.join(sorted(answers))}")
        return {name: answers[name] for name in self.card["outputs"]}

    def _compare(
        self,
        wanted: dict[str, np.ndarray],
        got: dict[str, Any],
        request: Request,
        what: str,
        advice: str = "",
        *,
        stored: float = 0.0,
    ) -> None:
        tolerance = max(stored, TOLERANCE[self.card["precision"]])
        for name, scores in wanted.items():
            if scores.shape != got[name].shape:
                shapes = f"{name!r} has shape {got[name].shape[1:]} instead of {scores.shape[1:]}"
                raise self._wrong(f"{what}: {shapes} for {self._shown(request)}", advice)
            difference = float(np.abs(scores.astype(np.float64) - got[name]).max(initial=0.0))
            largest = float(
                np.abs(scores[scores != EXCLUDED]).max(initial=1.0)
            )  # of tied weights, not that of the padding
            if not difference <= tolerance * largest:
                raise self._wrong(f"{what}: {name!r} differs by {difference:.2g} for {self._shown(request)}", advice)

    def _shown(self, request: Request) -> str:
        """The ids of a request."""
        return ", ".join(f"{name} {np.ravel(request[name]).tolist()[:20]}" for name in self.ids)

    def _said(self, error: SavedModelError) -> str:
        """What the export said, without its folder."""
        return str(error).removeprefix(f"{str(self.export.folder)!r} ").removesuffix(".")

    def _wrong(self, what: str, advice: str = "") -> SavedModelError:
        return SavedModelError(f"The export {str(self.folder)!r} is wrong: {what}.{advice}")


def _rows(request: Request) -> Request:
    """A request as a batch of one."""
    return {name: row[None] for name, row in request.items()}


def _mask_advice(model: keras.Model | None) -> str:
    """What to do if padding is read as words; with the model, which layers do it."""
    paths = [] if model is None else list(_without_masks(model))
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


def _without_masks(model: keras.Model) -> Iterator[str]:
    """Paths of the layers that drop a mask: the outermost ones, not a cell inside a layer that passes the mask on."""
    inside: list[str] = []
    for path, layer in walk(model):
        if any(path.startswith(f"{outer}/") for outer in inside) or isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            continue
        inside.append(path)
        if not layer.supports_masking:
            yield path
