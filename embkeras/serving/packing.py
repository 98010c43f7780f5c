"""Padding moved to one side of each text, and answers per token moved back to where their tokens are in the request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_OTHER_ROWS = (  # Keras 3.15 takes the size of the batch for the number of time steps there
    "The model must return one row for each token. keras.layers.TimeDistributed doesn't, in a graph, for texts of any "
    "length: use the layer inside it alone, or fix the length of the input."
)


SHORTCUT = "embkeras_shortcut"  # begins the name of each operation that `unless` makes


@dataclass(frozen=True, eq=False)
class Places:
    """Where the answers for each token belong in a request.

    Attributes:
        padding: what is padding, (batch, time), before an empty text became one OOV id; None if nothing is.
        place: for each position of the request, where the model sees it, (batch, time); None if it sees them all in place.
        width: how many positions the model sees.
        asked: the time steps of the request.
    """

    padding: tf.Tensor | None
    place: tf.Tensor | None
    width: tf.Tensor
    asked: tf.Tensor

    def back(self, answers: tf.Tensor) -> tf.Tensor:
        """Answers (batch, width, ...) as rows of the request, (batch, asked, ...), zeros on padding and on what was cut."""
        if self.place is None or self.padding is None:
            missing = tf.maximum(self.asked - tf.shape(answers)[1], 0)
            return tf.pad(answers[:, : self.asked], [[0, 0], [0, missing], *[[0, 0]] * (answers.shape.rank - 2)])
        steps = tf.fill(tf.shape(answers)[:1], tf.shape(answers)[1])
        answers = refused_where(steps != self.width, steps, answers, _OTHER_ROWS)
        inside = self.place < self.width
        found = tf.gather(answers, tf.minimum(self.place, tf.shape(answers)[1] - 1), axis=1, batch_dims=1)
        words = tf.reshape(
            inside & ~self.padding, [*tf.unstack(tf.shape(self.padding)), *[1] * (answers.shape.rank - 2)]
        )
        return tf.where(words, found, tf.zeros([], answers.dtype))[:, : self.asked]


@dataclass(frozen=True, eq=False)
class Packing:
    """The order in which the model sees the positions of a request.

    Attributes:
        padding: what is padding, (batch, time), before an empty text became one OOV id.
        order: the positions, (batch, time), those that the model sees first.
        width: how many of them the model sees.
    """

    padding: tf.Tensor
    order: tf.Tensor
    width: tf.Tensor

    def move(self, values: tf.Tensor) -> tf.Tensor:
        """Values of each time step, (batch, time, ...), in that order."""
        return tf.gather(values, self.order, axis=1, batch_dims=1)

    @property
    def place(self) -> tf.Tensor:
        """For each position where the model sees it, (batch, time)."""
        return tf.argsort(self.order, axis=1)


def packing(
    padding: tf.Tensor,
    *,
    in_front: bool,
    least: int,
    most: int | None,
    what: str,
    rows: Any = 1,
    cut: bool = False,
    frame: tuple[int, int] = (0, 0),
) -> Packing:
    """How to bring all padding of a row to one side, as wide as the longest text.

    Args:
        padding: bool (batch, time), time at least `least`.
        in_front: whether padding goes in front.
        least: the fewest time steps that the model reads.
        most: the most that it reads, the only number if that is `least`; or None.
        what: "texts of up to {} tokens", for the refusal of longer ones.
        rows: how many rows are one text, for the same.
        cut: cut longer texts, where the padding is, instead of refusing them.
        frame: how many tokens at the start and at the end a text that is cut keeps.
    """
    # Counted in the mask, not in the rows moved by it: XLA compiles no slice of that length.
    lengths = tf.reduce_sum(tf.cast(~padding, tf.int32), axis=1)
    behind = padding & ~empty_texts(padding, in_front)
    if most is not None and cut and any(frame):
        behind |= _cut_inside(padding, lengths, most, frame, in_front)
    # A stable sort by whether each is padding: the words keep their order.
    order = tf.argsort(tf.cast(behind ^ in_front, tf.int32), axis=1, stable=True)
    width = tf.maximum(tf.reduce_max(lengths), max(1, least))
    if most is not None and cut:
        width = tf.minimum(width, most)
    elif most is not None:
        order = refused_where(lengths > most, lengths, order, f"The model takes {what.format(most)}.", rows)
    if in_front:  # the last come first
        time = tf.shape(order)[1]
        order = tf.gather(order, (tf.range(time) + time - width) % time, axis=1)
    return Packing(padding, order, width)


def _cut_inside(padding: tf.Tensor, lengths: tf.Tensor, most: int, frame: tuple[int, int], in_front: bool) -> tf.Tensor:
    """The tokens that longer texts lose, (batch, time): those in the middle, up to the last of the frame or from its first."""
    lost = (lengths - most)[:, None]
    first = frame[0] if in_front else most - frame[1]
    place = tf.cumsum(tf.cast(~padding, tf.int32), axis=1) - 1
    return ~padding & (place >= first) & (place < first + lost)


def cut_to(values: tf.Tensor, end: tf.Tensor, fixed: int | None) -> tf.Tensor:
    """The time steps of values (batch, time, ...) that the model sees: `end` is (batch, time) as a tensor, or that many."""
    if fixed is not None:
        return of_length(values[:, :fixed], fixed)
    return tf.strided_slice(values, [0, 0], end, begin_mask=0b11, end_mask=0b01)


def of_length(values: tf.Tensor, fixed: int) -> tf.Tensor:
    """Values of exactly that many time steps; others are refused."""
    return tf.ensure_shape(values, (None, fixed, *values.shape[2:]))


def unless(
    plain: tf.Tensor, values: Sequence[tf.Tensor], keep: Callable[..., Any], change: Callable[..., Any]
) -> list[tf.Tensor]:
    """`keep(*values)` where `plain` is true, else `change(*values)`: tensors of the same types.

    `change` must be right for every request, and `keep` only be faster: runtimes without such a choice take `change`.

    This is one operation. `tf.cond` becomes several for each value, and a session then visits every operation of the branch
    that it doesn't take, which costs as much as a small model.
    """
    specs = [tf.TensorSpec(each.shape, each.dtype) for each in values]
    kept, changed = (tf.function(each, autograph=False).get_concrete_function(*specs) for each in (keep, change))
    refuses = any(each.op_def.is_stateful for each in changed.graph.get_operations())
    choose = tf.raw_ops.If if refuses else tf.raw_ops.StatelessIf
    shapes = [each.shape for each in changed.outputs]
    return choose(
        cond=plain,
        input=list(values),
        Tout=[each.dtype for each in changed.outputs],
        then_branch=kept,
        else_branch=changed,
        output_shapes=shapes,
        name=SHORTCUT,
    )


def empty_texts(padding: tf.Tensor, in_front: bool) -> tf.Tensor:
    """The place in each text without tokens, (batch, time), that an OOV id takes."""
    time = tf.shape(padding)[1]
    place = time - 1 if in_front else 0
    return tf.reduce_all(padding, axis=1, keepdims=True) & (tf.range(time)[None] == place)


def lengthened(values: tf.Tensor, least: Sequence[int], fill: Any) -> tf.Tensor:
    """Values with at least this many entries along each axis, filled behind; no axis is shortened."""
    sizes = [*least, *[0] * (values.shape.rank - len(least))]
    if not any(sizes):
        return values
    missing = tf.maximum(sizes - tf.shape(values), 0)
    filled = tf.pad(values, tf.stack([[0] * len(sizes), missing], axis=1), constant_values=fill)
    filled.set_shape([None if size else known for size, known in zip(sizes, values.shape, strict=True)])
    return filled


def refused_where(bad: tf.Tensor, values: tf.Tensor, kept: tf.Tensor, rule: str, rows: Any = 1) -> tf.Tensor:
    """The tensor to be kept; a request with a bad value is refused with the rule, the first such value, and its text.

    A text has that many rows of values.
    """

    def refuse() -> tf.Tensor:
        place = tf.gather(tf.where(bad), 0)  # [0] fails in XLA where it sees that there is none
        text = place[0] // tf.cast(rows, tf.int64)
        parts = [f"{rule} Received", tf.gather_nd(values, place), "in text", text]  # XLA can't format a string
        with tf.control_dependencies([tf.raw_ops.Assert(condition=False, data=parts, summarize=1)]):
            return tf.constant(False)

    with tf.control_dependencies([tf.cond(tf.reduce_any(bad), refuse, lambda: tf.constant(True))]):
        return tf.identity(kept)
