"""Padding moved to one side of each text, and answers per token moved back to where their tokens are in the request."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_OTHER_ROWS = (  # Keras 3.15 takes the size of the batch for the number of time steps there
    "The model must return one row for each token. keras.layers.TimeDistributed doesn't, in a graph, for texts of any "
    "length: use the layer inside it alone, or fix the length of the input."
)


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the tokens of a request are, and where the model sees them.

    Attributes:
        padding: what is padding, (batch, time), before an empty text became one OOV id.
        order: the positions in the order in which the model sees them, (batch, time), or None if nothing moves.
        width: how many of them the model sees.
        asked: the time steps of the request.
        in_front: whether the model sees padding in front.
        most: the most time steps that the model takes, or None.
        fixed: whether it takes that number alone.
        cut: whether longer texts are cut to it, where the padding is.
    """

    padding: tf.Tensor | None
    order: tf.Tensor | None
    width: tf.Tensor
    asked: tf.Tensor
    in_front: bool
    most: int | None
    cut: bool = False
    fixed: bool = True

    def move(self, values: tf.Tensor) -> tf.Tensor:
        """Values of each time step, (batch, time, ...), in the order in which the model sees them."""
        if self.order is not None:
            values = tf.gather(values, self.order, axis=1, batch_dims=1)
            values = tf.reverse(values, [1]) if self.in_front else values
            values = values[:, : self.width]
            values = tf.reverse(values, [1]) if self.in_front else values
            values = values if self.most is None else values[:, : self.most]
        elif self.cut and self.most is not None:
            values = values[:, : self.most]
        return (
            values
            if self.most is None or not self.fixed
            else tf.ensure_shape(values, (None, self.most, *values.shape[2:]))
        )

    def back(self, answers: tf.Tensor) -> tf.Tensor:
        """Answers (batch, width, ...) as rows of the request, (batch, asked, ...), zeros on padding and on what was cut."""
        if self.order is None or self.padding is None:
            missing = tf.maximum(self.asked - tf.shape(answers)[1], 0)
            return tf.pad(answers[:, : self.asked], [[0, 0], [0, missing], *[[0, 0]] * (answers.shape.rank - 2)])
        steps = tf.fill(tf.shape(answers)[:1], tf.shape(answers)[1])
        answers = refused_where(steps != self.width, steps, answers, _OTHER_ROWS)
        place = tf.argsort(self.order, axis=1)
        if self.in_front:
            place -= tf.shape(self.order)[1] - self.width
        inside = (place >= 0) & (place < self.width)
        place = tf.clip_by_value(place, 0, tf.shape(answers)[1] - 1)
        found = tf.gather(answers, place, axis=1, batch_dims=1)
        words = tf.reshape(
            inside & ~self.padding, [*tf.unstack(tf.shape(self.padding)), *[1] * (answers.shape.rank - 2)]
        )
        return tf.where(words, found, tf.zeros([], answers.dtype))[:, : self.asked]


def packing(
    padding: tf.Tensor | None,
    asked: tf.Tensor,
    *,
    in_front: bool,
    least: int,
    most: int | None,
    what: str,
    rows: Any = 1,
    cut: bool = False,
) -> Packing:
    """How to bring all padding of a row to one side, as wide as the longest text.

    Args:
        padding: bool (batch, time), time at least `least`; None if nothing is padding.
        asked: time steps of the request.
        in_front: whether padding goes in front.
        least: the fewest time steps that the model reads.
        most: the most that it reads, the only number if that is `least`; or None.
        what: "texts of up to {} tokens", for the refusal of longer ones.
        rows: how many rows are one text, for the same.
        cut: cut longer texts, where the padding is, instead of refusing them.
    """
    if padding is None:
        return Packing(None, None, asked, asked, in_front, most, cut, least == most)
    empty = empty_texts(padding, in_front)
    order = tf.argsort(tf.cast((padding & ~empty) ^ in_front, tf.int32), axis=1, stable=True)
    # Counted in the mask, not in the rows moved above: XLA compiles no slice of that length.
    lengths = tf.reduce_sum(tf.cast(~padding, tf.int32), axis=1)
    width = tf.maximum(tf.reduce_max(lengths), max(1, least))
    if most is not None and cut:
        width = tf.minimum(width, most)
    elif most is not None:
        order = refused_where(lengths > most, lengths, order, f"The model takes {what.format(most)}.", rows)
    return Packing(padding, order, width, asked, in_front, most, cut, least == most)


def empty_texts(padding: tf.Tensor, in_front: bool) -> tf.Tensor:
    """The place in each text without tokens, (batch, time), that an OOV id takes."""
    time = tf.shape(padding)[1]
    place = time - 1 if in_front else 0
    return tf.reduce_all(padding, axis=1, keepdims=True) & (tf.range(time)[None] == place)


def lengthened(values: tf.Tensor, least: int, fill: Any, axis: int = 1) -> tf.Tensor:
    """Values with at least this many entries along an axis, filled behind."""
    missing = tf.maximum(least - tf.shape(values)[axis], 0)
    widths = [[0, missing if each == axis else 0] for each in range(values.shape.rank)]
    return tf.pad(values, widths, constant_values=fill)


def refused_where(bad: tf.Tensor, values: tf.Tensor, kept: tf.Tensor, rule: str, rows: Any = 1) -> tf.Tensor:
    """The tensor to be kept; a request with a bad value is refused with the rule, the first such value, and its text.

    A text has that many rows of values.
    """

    def refuse() -> tf.Tensor:
        place = tf.where(bad)[0]
        text = place[0] // tf.cast(rows, tf.int64)
        parts = [f"{rule} Received", tf.gather_nd(values, place), "in text", text]  # XLA can't format a string
        with tf.control_dependencies([tf.raw_ops.Assert(condition=False, data=parts, summarize=1)]):
            return tf.constant(False)

    with tf.control_dependencies([tf.cond(tf.reduce_any(bad), refuse, lambda: tf.constant(True))]):
        return tf.identity(kept)
