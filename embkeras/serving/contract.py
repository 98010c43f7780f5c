"""The signatures of an export: ids of two widths, texts, and vectors, each a function that TensorFlow traces.

Ids are brought into one form before the model sees them: each text at the front of its row, padding behind it, or at the
end if the encoding's `padding_side` is "start". So a text has the same scores alone, padded, in a batch, and with padding in
front. (TensorFlow Serving pads a batch with the first number of each request, so clients may send the padding id first.)
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.keras_compat.layers import restored_name_scopes
from embkeras.serving.inputs import Input, packed
from embkeras.serving.names import (
    CARD,
    IDS,
    MASK,
    REQUEST,
    TOKEN_IDS,
    K,
    text_inputs,
)
from embkeras.serving.reasons import reason, root_cause
from embkeras.serving.slots import structure_of
from embkeras.serving.text_graphs import TextGraph

Signature: TypeAlias = tf.types.experimental.ConcreteFunction


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
        request = {each.name: each.read(values[each.name]) for each in self.asked}
        rows = tf.shape(request[self.asked[0].name])[:1]
        followed = {each.of for each in self.outputs} - {None}
        seen, places = packed(self.inputs, request, rows=int(self.needs_row), followed=followed)
        named = answers_by_name(scores_of(model, seen), [each.name for each in self.outputs])
        # Half precision as float32, which is exact: NumPy and REST don't know bfloat16.
        named = {
            name: tf.cast(each, tf.float32) if each.dtype.size < 4 and each.dtype.is_floating else each
            for name, each in named.items()
        }
        for output in self.outputs:
            if output.of is not None:
                named[output.name] = places[output.of].back(named[output.name])
        if self.needs_row:
            named = {name: tf.strided_slice(answers, [0], rows) for name, answers in named.items()}
        for each in self.ids:
            if each.out_of_range == "error":  # XLA drops assertions: there, NaN marks a text that must be refused
                outside = each.outside(tf.cast(values[each.name], tf.int64))
                bad = tf.reduce_any(outside, axis=list(range(1, each.rank)))
                named = {name: _nan_where(bad, scores) for name, scores in named.items()}
        if self.class_names is not None:
            named["classes"] = tf.tile(tf.constant([list(self.class_names)]), [rows[0], 1])
        return named


def scores_of(model: Callable[..., Any], values: Mapping[str, Any] | Any) -> Any:
    """What a model returns for its inputs by name, in its own order, in the structure in which it takes them."""
    values = values if isinstance(values, Mapping) else {TOKEN_IDS: values}
    structure = structure_of(model)
    flat = list(values.values())
    if structure is not None and len(keras.tree.flatten(structure)) == len(flat):
        given = keras.tree.pack_sequence_as(structure, flat)
    else:
        given = flat[0] if len(flat) == 1 else dict(values)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "You are using a softmax over axis", UserWarning
        )  # attention to a single token
        return model(given, training=False)


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
            return tf.function(function, autograph=False).get_concrete_function(**{spec.name: spec for spec in specs})
    except Exception as error:  # anything a layer raises
        cause = root_cause(error)
        if isinstance(cause, SavedModelError):
            raise SavedModelError(str(cause)) from error
        raise SavedModelError(
            f"The model can't be traced as a TensorFlow graph: {type(cause).__name__}: {reason(str(cause))}"
        ) from error
