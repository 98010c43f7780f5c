"""generate: texts continued by a decoder, token by token, with its keys and values kept."""

import operator
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
import tensorflow as tf

from embkeras._checks import flag, number, sequence, shown, strings, whole_number
from embkeras.encoders.bottlenecks import unread
from embkeras.encoders.decoders.reading import PretrainedDecoder
from embkeras.encoders.decoders.stepping import Steps
from embkeras.errors import ArgumentError

# The graph of each model, with the variables that it read then: tracing costs as much as many tokens.
_graphs: "WeakKeyDictionary[keras.Model, tuple[list[Any], Any]]" = WeakKeyDictionary()
Step = Callable[[np.ndarray], np.ndarray]  # all ids so far, (batch, time) -> scores of the next token, (batch, V + 1)


def generate(
    model: keras.Model,
    read: PretrainedDecoder,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_ids: Sequence[int] | None = None,
    cached: bool = True,
) -> list[str]:
    """Continue texts.

    Each text is continued as it would be alone: shorter prompts are padded, and padding is seen by no token. Sampling draws
    for all texts from one generator, so a text's draws depend on its place in the batch.

    Args:
        model: from `read.model()`, trained or not.
        read: what `load_decoder` returned.
        prompts: the texts; for a question to a decoder that was trained for chats, `read.chat(messages)`.
        max_new_tokens: the most tokens that each text is continued with.
        temperature: 0 takes the best token each time; above, tokens are drawn by softmax(scores / temperature).
        top_k: draw from the k best alone.
        top_p: draw from the best alone that together have this probability.
        seed: of the draws; by default each call draws anew.
        stop_ids: ids that end a text, and aren't part of it; by default `read.stop_ids`.
        cached: keep keys and values. Without, every step computes the whole text: the same tokens, slower.

    Returns:
        The continuation of each text, without the prompt and without special pieces.

    Raises:
        ArgumentError: another model, or one whose scores are NaN or infinity; no prompt, a prompt without a token, prompts and
            new tokens that are longer together than `read.max_length`, or an argument out of range; top_k, top_p or seed without
            a temperature.
        VocabularyError: what `read.encode` raises.

    Examples:
        >>> generate(read.model(), read, ["The capital of France is"], max_new_tokens=2)  # doctest: +SKIP
        [' Paris.']
    """
    if not isinstance(read, PretrainedDecoder):
        raise ArgumentError(f"generate takes what load_decoder(path) returned. Received: {shown(read)}.")
    prompts = strings(prompts, "prompts")
    rows = [read.encode(prompt) for prompt in prompts]
    if not rows or not all(rows):
        raise ArgumentError(f"Each prompt must have at least one token. Received: {shown(prompts)}.")
    max_new_tokens = whole_number(max_new_tokens, "max_new_tokens", least=1)
    longest = max(map(len, rows))
    if longest + max_new_tokens > read.max_length:
        raise ArgumentError(
            f"The decoder was trained for {read.max_length} tokens. Received: a prompt of {longest} with "
            f"max_new_tokens={max_new_tokens}."
        )
    stops = read.stop_ids if stop_ids is None else [
        whole_number(each, "stop_ids", least=0, most=len(read.tokenizer) - 1) for each in sequence(stop_ids, "stop_ids")
    ]  # fmt: skip
    choose = _chooser(temperature, top_k, top_p, seed)
    steps = Steps.of(model, read)
    step = _kept_steps(model, steps) if flag(cached, "cached") else _whole_steps(model, steps)
    made = continue_rows(step, rows, int(read.tokenizer.padding_id or 0), max_new_tokens, stops, choose)
    return [_continuation(read.tokenizer.tokenizer, row, each) for row, each in zip(rows, made, strict=True)]


def continue_rows(
    step: Step,
    rows: Sequence[Sequence[int]],
    padding_id: int,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    choose: Callable[[np.ndarray], np.ndarray],
) -> list[list[int]]:
    """The ids with which each row is continued, by a function of all ids so far; those that end a text are left out.

    Raises:
        ArgumentError: scores that are NaN or infinity.
    """
    ids = np.full((len(rows), max(map(len, rows))), padding_id, np.int64)
    for row, filled in zip(rows, ids, strict=True):
        filled[len(ids[0]) - len(row) :] = row
    made: list[list[int]] = [[] for _ in rows]
    running = np.ones(len(rows), bool)
    for _ in range(max_new_tokens):
        scores = step(ids)
        unusable = np.flatnonzero(running & ~np.isfinite(scores).all(axis=1))
        if len(unusable):
            raise ArgumentError(
                f"The model's scores must be finite: did its training diverge? Received: NaN or infinity behind prompt "
                f"{unusable[0]}."
            )
        chosen = choose(scores)
        running &= ~np.isin(chosen, stop_ids)
        if not running.any():
            break
        for place in np.flatnonzero(running):
            made[place].append(int(chosen[place]))
        ids = np.column_stack([ids, np.where(running, chosen, padding_id)])
    return made


def best(scores: np.ndarray) -> np.ndarray:
    """The best token of each row."""
    return scores.argmax(axis=1)


def _continuation(tokenizer: Any, row: list[int], made: list[int]) -> str:
    """What ids spell behind others: some tokenizers drop the space in front of a text, but not inside of it."""
    before, whole = tokenizer.text_of(row), tokenizer.text_of([*row, *made])
    return str(whole.removeprefix(before) if whole.startswith(before) else tokenizer.text_of(made))


def _chooser(temperature: Any, top_k: Any, top_p: Any, seed: Any) -> Callable[[np.ndarray], np.ndarray]:
    temperature = number(temperature, "temperature", least=0)
    if temperature == 0:
        for name, value in (("top_k", top_k), ("top_p", top_p), ("seed", seed)):
            if value is not None:
                raise ArgumentError(f"{name} is for draws: give a temperature above 0 too. Received: {shown(value)}.")
        return best
    top_k = None if top_k is None else whole_number(top_k, "top_k", least=1)
    top_p = None if top_p is None else number(top_p, "top_p", above=0, most=1)
    seed = None if seed is None else whole_number(seed, "seed", least=0)
    random = np.random.default_rng(seed)

    def draw(scores: np.ndarray) -> np.ndarray:
        chances = likely(scores[:, :-1], top_k, top_p, temperature)  # the padding, the last, is no choice
        return np.array([random.choice(len(row), p=row) for row in chances])

    return draw


def likely(scores: np.ndarray, top_k: int | None, top_p: float | None, temperature: float = 1.0) -> np.ndarray:
    """The probabilities of draws, (batch, V): softmax, of the `top_k` best, of those that reach `top_p` together."""
    scores = scores.astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    with np.errstate(over="ignore"):  # of a temperature near 0, which leaves the best alone
        chances = np.exp((ordered - ordered[:, :1]) / temperature)
    if top_k is not None:
        chances[:, top_k:] = 0
    chances /= chances.sum(axis=1, keepdims=True)
    if top_p is not None:
        before = np.cumsum(chances, axis=1) - chances
        chances[before >= top_p] = 0
        chances /= chances.sum(axis=1, keepdims=True)
    found = np.empty_like(chances)
    np.put_along_axis(found, order, chances, axis=1)
    return found


def _kept_steps(model: keras.Model, steps: Steps) -> Step:
    """Steps that compute the new tokens alone. One graph serves every length."""
    unused = unread(model)
    variables = [each for each in model.variables if id(each) not in unused]
    known = _graphs.get(model)
    if known is None or len(known[0]) != len(variables) or any(map(operator.is_not, known[0], variables)):
        known = _graphs[model] = variables, steps.graph()  # LoRA, merged or not, and adapters change them
    graph = known[1]
    kept: Any = None

    def step(ids: np.ndarray) -> np.ndarray:
        nonlocal kept
        scores, kept = graph(tf.constant(ids), steps.nothing(len(ids)) if kept is None else kept)
        return np.asarray(scores)

    return step


def _whole_steps(model: keras.Model, steps: Steps) -> Step:
    """Steps that compute everything anew, with the model itself."""
    padding_id, packed = steps.places.padding_id, len(model.inputs) == 2

    def step(ids: np.ndarray) -> np.ndarray:
        last = np.array([np.flatnonzero(row != padding_id)[-1] for row in ids])
        scores = np.asarray(model([ids, (ids != padding_id).astype(np.int32)] if packed else ids, training=False))
        return scores[np.arange(len(ids)), last]

    return step
