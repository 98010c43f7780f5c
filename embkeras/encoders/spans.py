"""Answers to questions as spans of a context: examples, windows over long contexts, and the best span. Without TensorFlow."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from embkeras._checks import number, sequence, shown, whole_number
from embkeras.errors import ArgumentError, EmbkerasWarning, VocabularyError
from embkeras.text.pieces import PieceTokenizer
from embkeras.text.tokenizer import check_unicode
from embkeras.text.vocabulary import Vocabulary

SPAN_OUTPUTS = ("start", "end")  # of the model
LENGTH, QUESTION, LONGEST = 384, 64, 30  # pieces of a window, of a question and of an answer
_BLOCK = 1024  # windows whose spans are compared at once
_Row: TypeAlias = tuple[np.ndarray, np.ndarray, int, int]


@dataclass(frozen=True)
class SpanExample:
    """A question and the text that may answer it.

    Args:
        question: the question.
        context: the text.
        answers: (text, start) of each known answer: the characters from `start` on are the text. None if the context has no
            answer, or it isn't known.
        key: what a file calls the question.

    Raises:
        ArgumentError: not strings, an empty answer, or one that isn't in the context where it says.

    Examples:
        >>> SpanExample("Who slept?", "Ann slept.", [("Ann", 0)]).answers
        (('Ann', 0),)
    """

    question: str
    context: str
    answers: Sequence[tuple[str, int]] = ()
    key: str = ""

    def __post_init__(self) -> None:
        for name in ("question", "context", "key"):
            _check_text(getattr(self, name), name)
        listed = []
        for place, answer in enumerate(sequence(self.answers, "answers")):
            if not isinstance(answer, list | tuple) or len(answer) != 2:
                raise ArgumentError(f"answers must be pairs of text and start. Received: {shown(answer)} at {place}.")
            text, start = answer
            _check_text(text, f"answers[{place}]")
            start = whole_number(start, f"the start of answers[{place}]", least=0)
            found = self.context[start : start + len(text)]
            if not text or found != text:
                elsewhere = self.context.find(text) if text else -1
                advice = f" It is at {elsewhere}." if elsewhere >= 0 else ""
                raise ArgumentError(
                    f"The context must have the answer {shown(text)} at character {start}. Received: {shown(found)} there."
                    f"{advice}"
                )
            listed.append((text, start))
        object.__setattr__(self, "answers", tuple(listed))


@dataclass(frozen=True, eq=False)
class SpanWindows:
    """Questions with their contexts as rows of ids; a long context has several rows, which overlap.

    Attributes:
        examples: what they were made from.
        ids: int64 (windows, time), as `build_span_model` takes them.
        offsets: int32 (windows, time, 2): the characters of the context, from start to end, that each piece stands for; -1
            where a piece is no part of the context, or white space alone.
        example: int64 (windows,): the place of each window's example.
        start, end: int64 (windows,): the first and last piece of the first known answer; 0, the place of "no answer here",
            where the window doesn't contain all of it.
        lost: the places of examples whose first answer no window contains: the windows are too short for it, or
            the tokenizer drops all of its characters. They would be trained as if they had no answer, so there is a warning.
    """

    examples: tuple[SpanExample, ...]
    ids: np.ndarray
    offsets: np.ndarray
    example: np.ndarray
    start: np.ndarray
    end: np.ndarray
    lost: tuple[int, ...] = ()

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """`start` and `end` by the names of the model's outputs, for `fit`."""
        return {"start": self.start, "end": self.end}

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class SpanAnswer:
    """An answer.

    Attributes:
        text: the characters of the context from `start` to `end`; "" for no answer.
        score: the probability of this span in the window that contains it; for no answer, that of no answer.
        start, end: characters of the context, the end excluded.
        no_answer: from 0 to 1, how much more probable no answer is than the best span: 0.5 if equally so.
    """

    text: str
    score: float
    start: int
    end: int
    no_answer: float = 0.0


class PairFrame:
    """The ids around the two texts of a pair.

    Attributes:
        before, between, behind: the ids in front of the first text, between the two and behind the second.
        special: all of them and the padding. In a text, such a piece is an unknown one.

    Raises:
        VocabularyError: not the vocabulary of an encoder with padding and unknown pieces, or one whose tokenizer doesn't mark
            where the second text begins.
    """

    def __init__(self, vocabulary: Any):
        tokenizer = vocabulary.tokenizer if isinstance(vocabulary, Vocabulary) else None
        if not isinstance(tokenizer, PieceTokenizer) or vocabulary.padding_id is None or vocabulary.oov_id is None:
            raise VocabularyError(
                f"Questions need the vocabulary of an encoder, from Vocabulary.from_tokenizer, with padding and unknown "
                f"pieces. Received: {shown(vocabulary)}."
            )
        self.vocabulary, self.tokenizer, self._known = vocabulary, tokenizer, vocabulary.token_to_id
        frame = tokenizer.pair_frame
        self.before, self.between, self.behind = ([self._id(piece) for piece in part] for part in frame)
        if not self.before or not self.between or self.between[0] in self.before:
            raise VocabularyError(
                f"Questions need a tokenizer with a piece in front of a pair of texts and another one between the two. "
                f"Received one with {frame[0]} in front and {frame[1]} between."
            )
        self.special = {*self.before, *self.between, *self.behind, int(vocabulary.padding_id)}

    def _id(self, piece: str) -> int:
        return self._known.get(piece, self.vocabulary.oov_id)

    def pieces(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text, int64 (pieces,), and their characters, int32 (pieces, 2); -1 for pieces of white space alone."""
        pieces, places = self.tokenizer.with_places(text)
        ids = np.array([self._id(piece) for piece in pieces], np.int64)
        ids[np.isin(ids, list(self.special))] = self.vocabulary.oov_id
        seen = [(begin, end) if text[begin:end].strip() else (-1, -1) for begin, end in places]
        return ids, np.array(seen, np.int32).reshape(-1, 2)


def encode_spans(
    vocabulary: Vocabulary,
    examples: Sequence[SpanExample],
    length: int = LENGTH,
    stride: int | None = None,
    *,
    question_length: int = QUESTION,
) -> SpanWindows:
    """Ids and labels of questions and their contexts, in as many windows as a context needs.

    Args:
        vocabulary: that of an encoder, `read.tokenizer`.
        examples: questions and contexts, from `load_squad` or made by hand.
        length: the most pieces of a window, special ones included; at most `read.max_length`.
        stride: pieces from the start of one window's part of the context to that of the next. By default half of what fits
            into a window. An answer that is longer than what two windows share may be in neither: see `SpanWindows.lost`.
        question_length: the most pieces of a question; longer ones lose their end.

    Returns:
        Ids of shape (windows, time) and the places of the answers, one or more windows for each example.

    Raises:
        VocabularyError: another vocabulary, or what `Vocabulary.encode` raises for a text.
        ArgumentError: not SpanExamples, a `length` that leaves no room for the context, or a `stride` that would skip pieces.

    Examples:
        >>> example = SpanExample("Who slept?", "Ann slept.", [("Ann", 0)])  # doctest: +SKIP
        >>> windows = encode_spans(read.tokenizer, [example], 128)  # doctest: +SKIP
        >>> model.fit(windows.ids, windows.labels)  # doctest: +SKIP
    """
    frame = PairFrame(vocabulary)
    length = whole_number(length, "length", least=1)
    question_length = whole_number(question_length, "question_length", least=1)
    stride = None if stride is None else whole_number(stride, "stride", least=1)
    listed = tuple(sequence(examples, "examples"))
    rows: list[_Row] = []
    example_of, lost, known = [], [], {}
    for place, example in enumerate(listed):
        if not isinstance(example, SpanExample):
            raise ArgumentError(f"examples must be SpanExamples. Received: {shown(example)} at {place}.")
        question = frame.pieces(example.question)[0][:question_length]
        if example.context not in known:
            known = {example.context: frame.pieces(example.context)}  # questions on a context follow each other
        head = np.array([*frame.before, *question, *frame.between], np.int64)
        room = length - len(head) - len(frame.behind)
        if room < 1:
            raise ArgumentError(
                f"A window must have room for the context beside the question's {len(question)} pieces and "
                f"{len(head) + len(frame.behind) - len(question)} special ones: ask a shorter question, or give a larger "
                f"length. Received: length={length} for example {place}."
            )
        if (stride or 1) > room:
            raise ArgumentError(
                f"A window of {length} pieces has room for {room} of the context of example {place} beside the question, so a "
                f"window can't begin every {stride}. Received: stride={stride}."
            )
        own = _rows_of(example, *known[example.context], head, frame.behind, room, stride or -(-room // 2))
        rows += own
        example_of += [place] * len(own)
        if example.answers and not any(end for _, _, _, end in own):
            lost.append(place)
    if lost:
        warnings.warn(
            f"The first answers of {len(lost)} of {len(listed)} examples are in no window of {length} pieces, and would be "
            f"trained as if there were none; the first is example {lost[0]}: {shown(listed[lost[0]].answers[0][0])}.",
            EmbkerasWarning,
            stacklevel=2,
        )
    width = max([1, *(len(ids) for ids, *_ in rows)])
    batch = np.full((len(rows), width), vocabulary.padding_id, np.int64)
    offsets = np.full((len(rows), width, 2), -1, np.int32)
    for place, (ids, characters, *_) in enumerate(rows):
        batch[place, : len(ids)] = ids
        offsets[place, : len(ids)] = characters
    start, end = (np.array([row[side] for row in rows], np.int64) for side in (2, 3))
    return SpanWindows(listed, batch, offsets, np.array(example_of, np.int64), start, end, tuple(lost))


def _rows_of(
    example: SpanExample,
    ids: np.ndarray,
    characters: np.ndarray,
    head: np.ndarray,
    behind: Sequence[int],
    room: int,
    stride: int,
) -> list[_Row]:
    """The windows of an example: ids, characters, and the first and last piece of the answer."""
    first, last = _gold(example, characters)
    rows: list[_Row] = []
    for begin in range(0, max(len(ids) - room, 0) + stride, stride):
        part = slice(begin, begin + room)
        row = np.concatenate([head, ids[part], np.array(behind, np.int64)])
        own = np.pad(characters[part], ((len(head), len(behind)), (0, 0)), constant_values=-1)
        whole = first >= begin and 0 <= last < begin + room
        start, end = (place - begin + len(head) if whole else 0 for place in (first, last))
        rows.append((row, own, start, end))
    return rows


def _gold(example: SpanExample, characters: np.ndarray) -> tuple[int, int]:
    """The first and last piece of an example's first answer; -1 twice without one."""
    if not example.answers:
        return -1, -1
    text, start = example.answers[0]
    found = np.flatnonzero((characters[:, 1] > start) & (characters[:, 0] < start + len(text)))
    return (int(found[0]), int(found[-1])) if len(found) else (-1, -1)


def decode_spans(
    scores: Mapping[str, Any], windows: SpanWindows, *, max_pieces: int = LONGEST, threshold: float | None = None
) -> list[SpanAnswer]:
    """The best answer to each question, over all windows of its context.

    A span begins and ends with a piece of the context, ends where it begins or behind, and has up to `max_pieces` pieces. Its
    score is the product of the two probabilities. No answer counts as much as in the window where it is least probable.

    Args:
        scores: `start` and `end`, (windows, time) each: what `model.predict(windows.ids)` returns.
        windows: what `encode_spans` returned.
        max_pieces: the most pieces of an answer.
        threshold: the answer is "" where its `no_answer` is above: 0.5 to choose what is more probable, or the best
            threshold that `squad_scores` finds. By default every question is answered that has a span.

    Returns:
        One answer for each example, in the order of `windows.examples`.

    Raises:
        ArgumentError: not SpanWindows, scores of another shape, or that aren't probabilities.

    Examples:
        >>> answers = decode_spans(model.predict(windows.ids), windows)  # doctest: +SKIP
    """
    if not isinstance(windows, SpanWindows):
        raise ArgumentError(f"decode_spans takes what encode_spans returns. Received: {shown(windows)}.")
    max_pieces = whole_number(max_pieces, "max_pieces", least=1)
    threshold = None if threshold is None else number(threshold, "threshold", least=0, most=1)
    start, end = (_probabilities(scores, name, windows.ids.shape) for name in SPAN_OUTPUTS)
    nothing = (start[:, 0] * end[:, 0]) if len(windows) else np.zeros(0)
    legal = windows.offsets[..., 0] >= 0
    best, first, last = (np.zeros(len(windows), kind) for kind in (np.float64, np.int64, np.int64))
    for block in (slice(begin, begin + _BLOCK) for begin in range(0, len(windows), _BLOCK)):
        found = _best_spans(np.where(legal[block], start[block], 0), np.where(legal[block], end[block], 0), max_pieces)
        best[block], first[block], last[block] = found
    by_example: list[list[int]] = [[] for _ in windows.examples]
    for window, place in enumerate(windows.example):
        by_example[place].append(window)
    answers = []
    for example, own in zip(windows.examples, by_example, strict=True):
        chosen = max(own, key=lambda window: best[window])
        none, score = float(nothing[own].min()), float(best[chosen])
        no_answer = none / (none + score) if score > 0 else 1.0
        if score == 0 or (threshold is not None and no_answer > threshold):
            answers.append(SpanAnswer("", none, 0, 0, no_answer))
            continue
        begin, stop = int(windows.offsets[chosen, first[chosen], 0]), int(windows.offsets[chosen, last[chosen], 1])
        text = example.context[begin:stop]
        begin, stop = begin + len(text) - len(text.lstrip()), stop - len(text) + len(text.rstrip())
        answers.append(SpanAnswer(example.context[begin:stop], score, begin, stop, no_answer))
    return answers


def _best_spans(start: np.ndarray, end: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest start[i] * end[j] of each row, i <= j < i + most, with i and j; of equal ones the shortest, then the first."""
    rows, width = start.shape
    best, first, last = np.zeros(rows), np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for longer in range(min(most, width)):
        products = start[:, : width - longer] * end[:, longer:]
        place = products.argmax(axis=1)
        value = products[np.arange(rows), place]
        better = value > best
        best[better], first[better], last[better] = value[better], place[better], place[better] + longer
    return best, first, last


def _probabilities(scores: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One output as float64 (windows, time)."""
    if not isinstance(scores, Mapping) or name not in scores:
        raise ArgumentError(f"scores must be a dictionary with start and end. Received: {shown(scores)}.")
    try:
        array = np.asarray(scores[name], np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} must be numbers (windows, time). Received: {error}.") from None
    if array.shape != shape:
        raise ArgumentError(f"{name} must be one number for each piece, {shape}. Received: shape {array.shape}.")
    outside = ~((array >= 0) & (array <= 1 + 1e-3))  # NaN too
    if outside.any():
        raise ArgumentError(
            f"{name} must be probabilities. Received: {array[outside][0]} in window {outside.nonzero()[0][0]}."
        )
    return array


def _check_text(text: Any, name: str) -> None:
    if not isinstance(text, str):
        raise ArgumentError(f"{name} must be a str. Received: {shown(text)}.")
    try:
        check_unicode(text)
    except VocabularyError as error:
        raise ArgumentError(f"{name}: {error}") from None
