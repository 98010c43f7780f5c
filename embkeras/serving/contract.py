"""The signatures of an export: ids of two widths, texts, and vectors, each a function that TensorFlow traces.

Ids are brought into one form before the model sees them: each text at the front of its row, padding behind it, or at the
end if the encoding's `padding_side` is "start". So a text has the same scores alone, padded, in a batch, and with padding in
front. (TensorFlow Serving pads a batch with the first number of each request, so clients may send the padding id first.)
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.keras_compat.layers import restored_name_scopes
from embkeras.serving.names import (
    CARD,
    FEATURE,
    IDS,
    MASK,
    REQUEST,
    TOKEN_IDS,
    K,
    text_inputs,
)
from embkeras.serving.packing import Packing, empty_texts, lengthened, packing, refused_where
from embkeras.serving.reasons import reason, root_cause
from embkeras.serving.slots import mask_of, structure_of
from embkeras.serving.text_graphs import TextGraph
from embkeras.text.encoding import Encoding

OUT_OF_RANGE = ("oov", "error")
Signature: TypeAlias = tf.types.experimental.ConcreteFunction


@dataclass(frozen=True)
class Input:
    """One input of requests. Signatures, card, warm-up requests and the check follow from these.

    Attributes:
        name: in requests.
        kind: "ids"; "feature", numbers that the model takes as they are; or "mask", which requests don't have: what is
            padding in the ids of its group.
        dtype: of a feature or mask; ids are int64.
        shape: with the batch; None is any size. Of ids: (batch,), (batch, time) or (batch, sentences, time).
        encoding: what the ids mean; None for a feature.
        out_of_range: "oov": ids outside the table are read as the OOV id; "error": they are refused.
        min_length: tokens to which a shorter text is padded.
        max_length: the most tokens that the model takes, the only number if it is `min_length`; or None.
        group: the name of the input whose padding this one shares: its own; that of the ids beside which it has one
            entry for each token, such as parts of speech; None without time steps.
        long_texts: "cut": texts of more tokens than `max_length` are cut where the padding is; "error": they are refused.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...]
    encoding: Encoding | None = None
    out_of_range: str = "oov"
    min_length: int = 1
    max_length: int | None = None
    group: str | None = None
    long_texts: str = "cut"

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """V: ids lie in [0, V)."""
        return 0 if self.encoding is None else len(self.encoding)

    @property
    def padding_id(self) -> int | None:
        """The id that fills short texts; a single id for each row has no padding."""
        return None if self.encoding is None or self.rank == 1 else self.encoding.padding_id

    @property
    def in_front(self) -> bool:
        """Whether the model was trained with padding in front."""
        return padding_in_front(self.encoding)

    @property
    def oov_id(self) -> int:
        """What unknown tokens are read as: the OOV id or, where they are dropped, the padding id."""
        oov_id = None if self.encoding is None else self.encoding.oov_id
        found = self.encoding.padding_id if oov_id is None and self.encoding is not None else oov_id
        if found is None:
            raise SavedModelError("An encoding needs an OOV id or a padding id. Received: neither.")
        return found

    @property
    def oov(self) -> tf.Tensor:
        """`oov_id` as a tensor."""
        return tf.constant(self.oov_id, tf.int64)

    @property
    def fill(self) -> tf.Tensor:
        """What lengthens short texts: the padding id, or the OOV id if there is none; zero for a feature."""
        if self.kind == FEATURE:
            return tf.zeros([], self.dtype)
        return self.oov if self.padding_id is None else tf.constant(self.padding_id, tf.int64)

    def spec(self, dtype: tf.DType) -> tf.TensorSpec:
        """The input of a signature, for ids of this type."""
        if self.kind == FEATURE:
            return tf.TensorSpec(self.shape, self.dtype, name=self.name)
        return tf.TensorSpec((None,) * self.rank, dtype, name=self.name)

    def outside(self, ids: tf.Tensor) -> tf.Tensor:
        """Which ids are not rows of the table."""
        return (ids < 0) | (ids >= self.size)

    def checked(self, values: tf.Tensor) -> tf.Tensor:
        """A feature as it is; int64 ids inside the table: others are refused, or read as the OOV id."""
        # A session of the C API, and so TensorFlow Serving, feeds any shape, whatever the signature says.
        if self.kind == FEATURE:
            return tf.ensure_shape(values, self.shape)
        ids = tf.ensure_shape(tf.cast(values, tf.int64), (None,) * self.rank)
        outside = self.outside(ids)
        if self.out_of_range == "error":
            ids = refused_where(outside, ids, ids, f"{self.name} must lie in [0, {self.size}).")
        return tf.where(outside, self.oov, ids)

    def packed(self, ids: tf.Tensor) -> tf.Tensor:
        """Checked ids with all padding of a row on one side, as wide as the longest text; an empty text is one OOV id."""
        return packed([self], {self.name: ids})[0][self.name]


@dataclass(frozen=True)
class Output:
    """One output of the model.

    Attributes:
        name: in answers.
        kind: "row", one answer for each row of a request; or "token", one for each time step of an input (each sentence of
            a document), in the request's order, zeros on padding.
        of: the name of that input, or None.
        shape: with the batch; None is any size.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]
    of: str | None = None


@dataclass(frozen=True)
class Contract:
    """How requests are read and answered, whatever the model.

    Attributes:
        inputs: in the order in which the model takes them.
        outputs: in the order in which it returns them.
        class_names: for the output `classes`, or None.
        warm_up: lengths of the requests that a server runs when it loads the model.
        needs_row: the model can't take a batch without rows.
    """

    inputs: Sequence[Input]
    outputs: Sequence[Output]
    class_names: Sequence[str] | None = None
    warm_up: Sequence[int] = ()
    needs_row: bool = False

    @property
    def asked(self) -> list[Input]:
        """The inputs that requests have."""
        return [each for each in self.inputs if each.kind != MASK]

    @property
    def ids(self) -> list[Input]:
        """The inputs of ids."""
        return [each for each in self.inputs if each.kind == IDS]

    def answers(self, model: Callable[..., Any], values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The model's answers to a request by name, class names beside scores."""
        seen, packings = packed(self.inputs, {each.name: each.checked(values[each.name]) for each in self.asked})
        read = scores_of_any_rows if self.needs_row else scores_of
        named = answers_by_name(read(model, seen), [each.name for each in self.outputs])
        # Half precision as float32, which is exact: NumPy and REST don't know bfloat16.
        named = {
            name: tf.cast(each, tf.float32) if each.dtype.size < 4 and each.dtype.is_floating else each
            for name, each in named.items()
        }
        for output in self.outputs:
            if output.of is not None:
                named[output.name] = packings[output.of].back(named[output.name])
        for each in self.ids:
            if each.out_of_range == "error":  # XLA drops assertions: there, NaN marks a text that must be refused
                outside = each.outside(tf.cast(values[each.name], tf.int64))
                bad = tf.reduce_any(outside, axis=list(range(1, each.rank)))
                named = {name: _nan_where(bad, scores) for name, scores in named.items()}
        if self.class_names is not None:
            named["classes"] = tf.tile(
                tf.constant([list(self.class_names)]), [tf.shape(values[self.asked[0].name])[0], 1]
            )
        return named


def packed(inputs: Sequence[Input], values: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], dict[str, Packing]]:
    """Checked values as the model sees them, all padding on one side, and how each group of inputs was packed."""
    seen: dict[str, tf.Tensor] = {}
    packings: dict[str, Packing] = {}
    asked = [each for each in inputs if each.kind != MASK]
    for leader in dict.fromkeys(each.group for each in asked):
        group = sorted((each for each in asked if each.group == leader), key=lambda each: each.name != leader)
        if leader is None:
            seen |= {each.name: values[each.name] for each in group}
        elif group[0].rank == 3 and group[0].kind == IDS:
            moved, packings[leader] = _packed_document(group, values)
            seen |= moved
        else:
            moved, packings[leader] = _packed_texts(group, values)
            seen |= moved
    seen |= {
        each.name: mask_of(seen[each.group], each.padding_id, each.dtype)
        for each in inputs
        if each.kind == MASK and each.group is not None
    }
    return {each.name: seen[each.name] for each in inputs}, packings


def _packed_texts(group: Sequence[Input], values: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], Packing]:
    """Inputs with the same time steps: what is padding in all ids is padding."""
    ids = [each for each in group if each.kind == IDS]
    asked = tf.shape(values[ids[0].name])[1]
    least, most, in_front = ids[0].min_length, ids[0].max_length, ids[0].in_front
    moved, padding = {}, None
    for each in group:
        value = values[each.name] if each is ids[0] else _beside(each, ids[0], values, asked)
        moved[each.name] = lengthened(value, least, each.fill)
        if each.padding_id is not None:
            here = moved[each.name] == each.fill
            padding = here if padding is None else padding & here
    what, cut = "texts of up to {} tokens", ids[0].long_texts == "cut"
    found = packing(padding, asked, in_front=in_front, least=least, most=most, what=what, cut=cut)
    if padding is not None:
        empty = empty_texts(padding, in_front)
        moved |= {each.name: tf.where(empty, each.oov, moved[each.name]) for each in ids}
    return {name: found.move(value) for name, value in moved.items()}, found


def _packed_document(group: Sequence[Input], values: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], Packing]:
    """Ids (batch, sentences, time): padding behind the tokens of each sentence, and sentences without tokens at the end.

    A document without tokens is one OOV id. Features with an entry for each sentence move with them.
    """
    first, *others = group
    ids, most = values[first.name], first.shape[1]
    asked = tf.shape(ids)[1]
    ids = lengthened(lengthened(ids, most or 1, first.fill), first.min_length, first.fill, axis=2)
    batch, sentences, time = tf.unstack(tf.shape(ids))
    rows = tf.reshape(ids, [batch * sentences, time])
    what = "sentences of up to {} tokens"
    least, longest, in_front, cut = first.min_length, first.max_length, first.in_front, first.long_texts == "cut"
    tokens = packing(
        rows == first.fill, time, in_front=in_front, least=least, most=longest, what=what, rows=sentences, cut=cut
    )
    rows = tokens.move(rows)
    time = tf.shape(rows)[1] if first.max_length is None else first.max_length
    ids = tf.reshape(rows, [batch, sentences, time])
    padding = tf.reduce_all(ids == first.fill, axis=2)
    place = time - 1 if first.in_front else 0
    empty = empty_texts(padding, False)[:, :, None] & (tf.range(time) == place)
    found = packing(padding, asked, in_front=False, least=most or 1, most=most, what="up to {} sentences", cut=cut)
    moved = {first.name: found.move(tf.where(empty, first.oov, ids))}
    for each in others:
        moved[each.name] = found.move(lengthened(_beside(each, first, values, asked), most or 1, each.fill))
    return moved, found


def _beside(each: Input, first: Input, values: Mapping[str, tf.Tensor], asked: tf.Tensor) -> tf.Tensor:
    """The values of an input that must have the time steps of another."""
    value = values[each.name]
    steps = tf.fill(tf.shape(value)[:1], tf.shape(value)[1])
    return refused_where(steps != asked, steps, value, f"{each.name} must have the time steps of {first.name}.")


def scores_of(model: Callable[..., Any], values: Mapping[str, Any] | Any) -> Any:
    """What a model returns for its inputs by name, in its own order, in the structure in which it takes them."""
    values = values if isinstance(values, Mapping) else {TOKEN_IDS: values}
    structure = structure_of(model)
    flat = list(values.values())
    if structure is not None and len(keras.tree.flatten(structure)) == len(flat):
        return model(keras.tree.pack_sequence_as(structure, flat), training=False)
    return model(flat[0] if len(flat) == 1 else dict(values), training=False)


def scores_of_any_rows(model: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """`scores_of`, also for no rows: the model then reads one of zeros, and its answer is dropped."""
    rows = tf.shape(next(iter(values.values())))[0]
    added = tf.cast(tf.equal(rows, 0), tf.int32)
    filled = {}
    for name, value in values.items():
        filled[name] = tf.pad(value, [[0, added]] + [[0, 0]] * (value.shape.rank - 1))
        filled[name].set_shape([None, *value.shape[1:]])
    return keras.tree.map_structure(lambda answer: answer[:rows], scores_of(model, filled))


def padding_in_front(encoding: Any) -> bool:
    """Whether the model was trained with padding in front of each text."""
    return getattr(encoding, "padding_side", "end") == "start"


def answers_by_name(answers: Any, outputs: Sequence[str]) -> dict[str, Any]:
    """What a model returns (a tensor, several, or a dictionary) as a dictionary of these outputs."""
    if not isinstance(answers, dict):
        answers = dict(zip(outputs, answers if isinstance(answers, list | tuple) else [answers], strict=True))
    return {name: answers[name] for name in outputs}


def ids_signature(model: Callable[..., Any], contract: Contract, dtype: tf.DType) -> Signature:
    """Ids of this type, and features -> the model's outputs."""

    def serve(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        return contract.answers(model, values)

    return _traced(serve, [each.spec(dtype) for each in contract.asked])


def embed_signature(layer: keras.layers.Layer, each: Input) -> Signature:
    """`token_ids` (batch, time) -> `vectors` (batch, time, width), padding as zeros."""
    each = replace(each, name=TOKEN_IDS, shape=(None, None))

    def embed(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"vectors": tf.cast(layer(each.checked(values[TOKEN_IDS])), tf.float32)}

    return _traced(embed, [each.spec(tf.int64)])


def text_signature(model: keras.Model, contract: Contract, graphs: Mapping[str, TextGraph]) -> Signature:
    """Strings (batch,) in place of ids, and features -> the model's outputs. The only ids of a model are asked as `text`.

    A string is a text or, in place of a single id, a token.
    """
    names = text_inputs([each.name for each in contract.ids])

    def serve(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        encoded = {}
        for (name, asked), each in zip(names.items(), contract.ids, strict=True):
            ids = graphs[name].encode(values[asked])
            encoded[name] = ids if each.rank == 1 else ids.to_tensor(each.fill)
        return contract.answers(model, {**values, **encoded})

    specs = [
        tf.TensorSpec((None,), tf.string, name=names[each.name]) if each.kind == IDS else each.spec(tf.int64)
        for each in contract.asked
    ]
    return _traced(serve, specs)


def nearest_signature(
    tower: Callable[..., tf.Tensor], contract: Contract, find: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]
) -> Signature:
    """The inputs of a tower and `k` int32 (batch,) -> what `find` returns for the tower's vectors and k."""

    def serve(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        k = values.pop(K)
        (vectors,) = contract.answers(tower, values).values()
        return find(vectors, k)

    return _traced(serve, [*(each.spec(tf.int64) for each in contract.asked), tf.TensorSpec((None,), tf.int32, name=K)])


def card_signature(card: Mapping[str, Any]) -> Signature:
    """`request` (batch,) -> `card` (batch,): the card as JSON, once for each number; the numbers don't matter.

    TensorFlow Serving's REST interface refuses a signature without an input, and batching one without a row for each.
    """

    def answer(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        return {CARD: tf.fill(tf.shape(values[REQUEST]), json.dumps(card))}

    return _traced(answer, [tf.TensorSpec((None,), tf.int32, name=REQUEST)])


def _nan_where(bad: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    if not scores.dtype.is_floating:
        return scores
    bad = tf.reshape(bad, [-1] + [1] * (scores.shape.rank - 1))
    return tf.where(bad, tf.constant(float("nan"), scores.dtype), scores)


def _traced(function: Callable[..., dict[str, tf.Tensor]], specs: Sequence[tf.TensorSpec]) -> Signature:
    try:
        with restored_name_scopes():
            return tf.function(function).get_concrete_function(**{spec.name: spec for spec in specs})
    except Exception as error:  # anything a layer raises
        cause = root_cause(error)
        if isinstance(cause, SavedModelError):
            raise SavedModelError(str(cause)) from error
        raise SavedModelError(
            f"The model can't be traced as a TensorFlow graph: {type(cause).__name__}: {reason(str(cause))}"
        ) from error
