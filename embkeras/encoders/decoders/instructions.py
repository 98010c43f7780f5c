"""Instruction tuning: rows of instruction, input and answer as packed batches whose loss is that of the answers alone."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from embkeras._checks import one_of, sequence, shown, whole_number
from embkeras.encoders.decoders.reading import PretrainedDecoder
from embkeras.encoders.decoders.stepping import Steps
from embkeras.errors import ArgumentError, DataError, EncoderError

_OPEN = 32  # rows of a batch that are looked through for a place
_LONG = ("error", "leave_out")


class PackedRows(NamedTuple):
    """What `encode_instructions` returns: `model.fit(packed.inputs, packed.labels, sample_weight=packed.weights)`.

    Attributes:
        inputs: "token_ids", int64 (batch, length), and "segment_ids", int32 of the same shape: 1, 2, ... for the texts in a
            row, and 0 for padding.
        labels: the next token of each, int64 (batch, length); 0 where the weight is 0.
        weights: 1 where the next token belongs to an answer, else 0; float32 (batch, length).
        left_out: places of the rows that were longer than `length`.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    weights: np.ndarray
    left_out: list[int]


def encode_instructions(
    read: PretrainedDecoder,
    rows: Iterable[Mapping[str, Any]] | pd.DataFrame,
    length: int,
    *,
    long_rows: str = "error",
) -> PackedRows:
    """Rows of instruction, input and answer as the chat template writes them, several in each row of a batch.

    Each is a message of the user, the instruction and below it the input, and the answer up to the token that ends it. Only
    the answer's tokens have a weight. No token has a part of both prompt and answer, as none has when `generate` continues a
    prompt. `read.model(packed=True)` lets no token see one of another text.

    Compile the model with a loss that takes logits and is divided by the weights:
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")`.

    Args:
        read: what `load_decoder` returned; its file must have a chat template.
        rows: dictionaries of "instruction" and "answer", and if there is one "input"; or a DataFrame with these columns.
        length: tokens in a row of the batch.
        long_rows: of texts of more tokens: "error", or "leave_out".

    Returns:
        What `fit` takes, each of shape (rows of the batch, length), and the places of the rows that were left out.

    Raises:
        ArgumentError: not a PretrainedDecoder, or a `length` beyond `read.max_length`.
        DataError: no rows, one without instruction or answer, one that spells out a token that ends texts, or is longer than
            `length`; or all of them are.
        EncoderError: the file has no chat template, or one that ends an answer with no token that ends texts.

    Examples:
        >>> rows = [{"instruction": "Name the capital.", "input": "France", "answer": "Paris"}]
        >>> packed = encode_instructions(read, rows, 256)  # doctest: +SKIP
        >>> model = read.model(packed=True)  # doctest: +SKIP
        >>> enable_lora(model, 8, [f"{block}/**" for block in read.blocks])  # doctest: +SKIP
    """
    if not isinstance(read, PretrainedDecoder):
        raise ArgumentError(f"encode_instructions takes what load_decoder(path) returned. Received: {shown(read)}.")
    length = whole_number(length, "length", least=2, most=read.max_length)
    one_of(long_rows, "long_rows", _LONG)
    listed = (
        rows.to_dict("records") if isinstance(rows, pd.DataFrame) else list(sequence(rows, "rows", error=DataError))
    )
    texts, left_out = [], []
    for place, row in enumerate(listed):
        prompt, answer = _texts(read, row, place)
        if len(prompt) + len(answer) <= length:
            texts.append((prompt, answer))
        elif long_rows == "leave_out":
            left_out.append(place)
        else:
            raise DataError(
                f"Row {place} has {len(prompt)} tokens of a prompt and {len(answer)} of an answer, more than length={length}. "
                f'Give a larger length, or long_rows="leave_out".'
            )
    if not texts:
        raise DataError(f"No row is left to train on. Received: {len(listed)} rows, {len(left_out)} of them too long.")
    return _packed(texts, length, int(read.tokenizer.padding_id or 0), left_out)


def perplexity(model: keras.Model, packed: PackedRows, *, batch_size: int = 8) -> float:
    """The perplexity of the answers: e to the power of their mean loss a token. 1 is a model that knows each next token.

    Args:
        model: from `read.model(packed=True)`.
        packed: what `encode_instructions` returned.
        batch_size: rows computed at a time; their scores take batch_size * length * V * 4 bytes.

    Returns:
        A number from 1 up.

    Raises:
        ArgumentError: another model, not a PackedRows, or a `batch_size` below 1.

    Examples:
        >>> perplexity(model, encode_instructions(read, held_out, 256))  # doctest: +SKIP
        3.2
    """
    if not isinstance(packed, PackedRows):
        raise ArgumentError(f"perplexity takes what encode_instructions returned. Received: {shown(packed)}.")
    Steps.of(model)
    if len(model.inputs) != 2:
        raise ArgumentError("perplexity takes a model from read.model(packed=True): this one has no segment_ids.")
    batch_size = whole_number(batch_size, "batch_size", least=1)
    total = 0.0
    for start in range(0, len(packed.labels), batch_size):
        part = slice(start, start + batch_size)
        scores = model({name: value[part] for name, value in packed.inputs.items()}, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(packed.labels[part], scores)
        total += float(tf.reduce_sum(tf.cast(losses, tf.float64) * packed.weights[part]))
    return float(np.exp(total / packed.weights.sum(dtype=np.float64)))


def _texts(read: PretrainedDecoder, row: Any, place: int) -> tuple[list[int], list[int]]:
    """The ids of a row's prompt and of its answer."""
    if not isinstance(row, Mapping):
        raise DataError(f"Row {place} must be a dictionary of instruction, input and answer. Received: {shown(row)}.")
    instruction, answer = row.get("instruction"), row.get("answer")
    added = row.get("input")
    added = "" if added is None or (isinstance(added, float) and np.isnan(added)) else added
    for name, value in (("instruction", instruction), ("input", added), ("answer", answer)):
        if not isinstance(value, str) or (name != "input" and not value):
            raise DataError(
                f"Row {place} must have a text as its {name}. Received: {shown(value)}, in a row of {sorted(map(str, row))}."
            )
        if not set(read.stop_ids).isdisjoint(read.encode(value)):
            raise DataError(f"Row {place} spells out a token that ends texts, in its {name}. Received: {shown(value)}.")
    messages = [{"role": "user", "content": f"{instruction}\n\n{added}" if added else str(instruction)}]
    prompt = read.chat(messages)
    whole = read.chat([*messages, {"role": "assistant", "content": str(answer)}], prompt=False)
    ids = read.encode(prompt)
    ends = read.encode(whole)
    joined = ends[: len(ids)] != ids  # the end of the prompt and the beginning of the answer would be one token
    ends = read.encode(whole.removeprefix(prompt), inside=True) if joined else ends[len(ids) :]
    stop = next((at for at, id_ in enumerate(ends) if id_ in read.stop_ids), None)
    if not whole.startswith(prompt) or stop is None:
        raise EncoderError(
            f"The chat template of {str(read.path)!r} must write an answer behind its prompt, and then one of the ids "
            f"{read.stop_ids}, or the decoder would never learn to stop. Received for row {place}: {shown(whole)}."
        )
    return ids, ends[: stop + 1]


def _packed(texts: list[tuple[list[int], list[int]]], length: int, padding_id: int, left_out: list[int]) -> PackedRows:
    """The texts in as few rows as a look at the last open ones finds."""
    filled: list[list[tuple[list[int], list[int]]]] = []
    room: list[int] = []
    for prompt, answer in texts:
        needed = len(prompt) + len(answer)
        first = max(0, len(room) - _OPEN)
        place = next((at for at in range(first, len(room)) if room[at] >= needed), len(room))
        if place == len(room):
            filled.append([])
            room.append(length)
        filled[place].append((prompt, answer))
        room[place] -= needed
    ids = np.full((len(filled), length), padding_id, np.int64)
    segments, labels = np.zeros(ids.shape, np.int32), np.zeros(ids.shape, np.int64)
    weights = np.zeros(ids.shape, np.float32)
    for row, inside in enumerate(filled):
        start = 0
        for number, (prompt, answer) in enumerate(inside, 1):
            answered, end = start + len(prompt), start + len(prompt) + len(answer)
            ids[row, start:end] = prompt + answer
            segments[row, start:end] = number
            labels[row, answered - 1 : end - 1] = answer
            weights[row, answered - 1 : end - 1] = 1
            start = end
    return PackedRows({"token_ids": ids, "segment_ids": segments}, labels, weights, left_out)
