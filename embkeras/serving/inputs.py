"""The inputs of requests, and how they are brought into the one form that the model sees."""

import functools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.serving.names import FEATURE, IDS, MASK
from embkeras.serving.packing import (
    Places,
    cut_to,
    empty_texts,
    lengthened,
    of_length,
    packing,
    refused_where,
    unless,
)
from embkeras.serving.slots import mask_of
from embkeras.tables.pooling import with_steps
from embkeras.text.encoding import Encoding
from embkeras.text.pieces import PieceTokenizer

OUT_OF_RANGE = ("oov", "error")


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
    def frame(self) -> tuple[int, int]:
        """How many special tokens an encoder's text has in front and behind, which it keeps where it is cut."""
        tokenizer = getattr(self.encoding, "tokenizer", None)
        return tokenizer.frame if isinstance(tokenizer, PieceTokenizer) else (0, 0)

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

    def read(self, values: tf.Tensor) -> tf.Tensor:
        """Values of the shape that the signature names, ids as int64."""
        # A session of the C API, and so TensorFlow Serving, feeds any shape, whatever the signature says.
        if self.kind == FEATURE:
            return tf.ensure_shape(values, self.shape)
        return tf.ensure_shape(tf.cast(values, tf.int64), (None,) * self.rank)

    def checked(self, values: tf.Tensor) -> tf.Tensor:
        """A feature as it is; int64 ids inside the table: others are refused, or read as the OOV id."""
        ids = self.read(values)
        if self.kind == FEATURE:
            return ids
        outside = self.outside(ids)
        if self.out_of_range == "error":
            ids = refused_where(outside, ids, ids, f"{self.name} must lie in [0, {self.size}).")
        return tf.where(outside, self.oov, ids)

    def inside(self, ids: tf.Tensor, *, words: bool = False) -> tf.Tensor:
        """Which ids are rows of the table, and with `words` not padding."""
        right = (ids >= (1 if words and self.padding_id == 0 else 0)) & (ids < self.size)
        return right & (ids != self.fill) if words and self.padding_id != 0 else right


def packed(
    inputs: Sequence[Input], values: Mapping[str, tf.Tensor], *, rows: int = 0, followed: Set[str | None] = frozenset()
) -> tuple[dict[str, tf.Tensor], dict[str, Places]]:
    """Values as the model sees them, ids checked and all padding on one side, and where answers for each token belong.

    Args:
        inputs: all of them.
        values: by input, of the shapes and types of `Input.read`.
        rows: the fewest rows that the model reads; a request without any has an empty one instead.
        followed: the inputs, those that others share their padding with, whose tokens have an answer each.
    """
    seen: dict[str, tf.Tensor] = {}
    places: dict[str, Places] = {}
    asked = [each for each in inputs if each.kind != MASK]
    for leader in dict.fromkeys(each.group for each in asked):
        group = sorted((each for each in asked if each.group == leader), key=lambda each: each.name != leader)
        if leader is None:
            seen |= {each.name: lengthened(each.checked(values[each.name]), [rows], each.fill) for each in group}
            continue
        document = group[0].rank == 3 and group[0].kind == IDS
        pack = _packed_document if document else _packed_texts
        moved, places[leader] = pack(group, values, rows, leader in followed)
        seen |= moved
    seen |= {
        each.name: mask_of(seen[each.group], each.padding_id, each.dtype)
        for each in inputs
        if each.kind == MASK and each.group is not None
    }
    return {each.name: seen[each.name] for each in inputs}, places


def _packed_texts(
    group: Sequence[Input], values: Mapping[str, tf.Tensor], rows: int, followed: bool
) -> tuple[dict[str, tf.Tensor], Places]:
    """Inputs with the same time steps: what is padding in all ids is padding.

    Most requests need no change, and it costs more than a small model: it is made only where a request has padding, or ids
    outside the table. Padding behind the words alone is cut off.
    """
    first, *others = group
    asked, least, most = tf.shape(values[first.name])[1], first.min_length, first.max_length
    fixed = most if most == least else None
    values = {first.name: values[first.name]} | {each.name: _beside(each, first, values, asked) for each in others}
    values = {each.name: lengthened(values[each.name], [rows, least], each.fill) for each in group}
    end = tf.shape(values[first.name])[:2]
    ids = [each for each in group if each.kind == IDS]
    marked = [each for each in ids if each.padding_id is not None]
    if not marked:
        seen = {each.name: each.checked(values[each.name]) for each in group}
        if most is not None and first.long_texts == "cut":
            seen = {name: value[:, :most] for name, value in seen.items()}
        if fixed is not None:
            seen = {name: of_length(value, fixed) for name, value in seen.items()}
        return seen, Places(None, None, end[1], asked)

    def fits(end: tf.Tensor) -> list[tf.Tensor]:
        return [] if most is None else [end[1] <= most]

    def kept(end: tf.Tensor, right: tf.Tensor, *tensors: tf.Tensor) -> list[tf.Tensor]:
        return [end, *tensors, *(_in_place(end, end[1]) if followed else [])]

    def cut(end: tf.Tensor, lengths: tf.Tensor, *tensors: tf.Tensor) -> list[tf.Tensor]:
        width = tf.maximum(tf.reduce_max(lengths), least)
        return [tf.stack([end[0], width]), *tensors, *(_in_place(end, lengths[:, None]) if followed else [])]

    def moved(end: tf.Tensor, lengths: tf.Tensor, *tensors: tf.Tensor) -> list[tf.Tensor]:
        checked = {each.name: each.checked(tensor) for each, tensor in zip(group, tensors, strict=True)}
        padding = _all([checked[each.name] == each.fill for each in marked])
        what, shorter = "texts of up to {} tokens", first.long_texts == "cut"
        frame = first.frame
        found = packing(padding, in_front=first.in_front, least=least, most=most, what=what, cut=shorter, frame=frame)
        empty = empty_texts(padding, first.in_front)
        checked |= {each.name: tf.where(empty, each.oov, checked[each.name]) for each in ids}
        places = [padding, found.place] if followed else []
        return [tf.stack([end[0], found.width]), *(found.move(value) for value in checked.values()), *places]

    def changed(end: tf.Tensor, right: tf.Tensor, *tensors: tf.Tensor) -> list[tf.Tensor]:
        lengths = tf.reduce_sum(tf.cast(right, tf.int32), axis=1)
        if first.in_front:
            return moved(end, lengths, *tensors)
        given = list(zip(group, tensors, strict=True))
        padding = _all([tensor == each.fill for each, tensor in given if each.padding_id is not None])
        # As many words as are right, all in front: so every word is right, and padding is behind.
        behind = [tf.reduce_all(padding == (tf.range(end[1]) >= lengths[:, None])), tf.reduce_min(lengths) > 0]
        unmarked = [each for each in given if each[0].kind == IDS and each[0].padding_id is None]
        behind += [tf.reduce_all(each.inside(tensor)) for each, tensor in unmarked]  # they have no id that is padding
        return unless(_all([*behind, *fits(end)]), [end, lengths, *tensors], cut, moved)

    right = _all([each.inside(values[each.name], words=each is marked[0]) for each in ids])
    end, *found = unless(_all([tf.reduce_all(right), *fits(end)]), [end, right, *values.values()], kept, changed)
    seen = {each.name: with_steps(cut_to(moved, end, fixed), least) for each, moved in zip(group, found, strict=False)}
    padding, place = found[-2:] if followed else (None, None)
    return seen, Places(padding, place, end[1], asked)


def _all(conditions: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether all of them are true, element by element."""
    return functools.reduce(tf.logical_and, conditions)


def _in_place(end: tf.Tensor, lengths: tf.Tensor) -> list[tf.Tensor]:
    """What is padding, and the position of each time step, where none moves."""
    steps = tf.range(end[1])
    return [tf.broadcast_to(steps >= lengths, end), tf.broadcast_to(steps, end)]


def _packed_document(
    group: Sequence[Input], values: Mapping[str, tf.Tensor], rows: int, followed: bool
) -> tuple[dict[str, tf.Tensor], Places]:
    """Ids (batch, sentences, time): padding behind the tokens of each sentence, and sentences without tokens at the end.

    A document without tokens is one OOV id. Features with an entry for each sentence move with them.
    """
    first, *others = group
    most, longest, in_front, cut = first.shape[1], first.max_length, first.in_front, first.long_texts == "cut"
    fixed = longest if longest == first.min_length else None
    ids = first.checked(values[first.name])
    asked = tf.shape(ids)[1]
    ids = lengthened(ids, [rows, most or 1, first.min_length], first.fill)
    batch, sentences, time = tf.unstack(tf.shape(ids))
    flat = tf.reshape(ids, [batch * sentences, time])
    what = "sentences of up to {} tokens"
    tokens = packing(
        flat == first.fill, in_front=in_front, least=first.min_length, most=longest, what=what, rows=sentences, cut=cut
    )
    flat = cut_to(tokens.move(flat), tf.stack([batch * sentences, tokens.width]), fixed)
    time = tf.shape(flat)[1] if fixed is None else fixed
    ids = tf.reshape(flat, [batch, sentences, time])
    padding = tf.reduce_all(ids == first.fill, axis=2)
    place = time - 1 if in_front else 0
    empty = empty_texts(padding, False)[:, :, None] & (tf.range(time) == place)
    found = packing(padding, in_front=False, least=most or 1, most=most, what="up to {} sentences", cut=cut)
    moved = {first.name: found.move(tf.where(empty, first.oov, ids))}
    for each in others:
        beside = lengthened(_beside(each, first, values, asked), [rows, most or 1], each.fill)
        moved[each.name] = found.move(beside)
    moved = {name: cut_to(value, tf.stack([batch, found.width]), most) for name, value in moved.items()}
    return moved, Places(padding, found.place, found.width, asked)


def _beside(each: Input, first: Input, values: Mapping[str, tf.Tensor], asked: tf.Tensor) -> tf.Tensor:
    """The values of an input that must have the time steps of another."""
    value = values[each.name]
    steps = tf.fill(tf.shape(value)[:1], tf.shape(value)[1])
    return refused_where(steps != asked, steps, value, f"{each.name} must have the time steps of {first.name}.")


def padding_in_front(encoding: Any) -> bool:
    """Whether the model was trained with padding in front of each text."""
    return getattr(encoding, "padding_side", "end") == "start"
