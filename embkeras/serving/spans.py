"""Questions to an export of `build_span_model`: windows over the context, for a client and for a model in this process."""

from collections.abc import Mapping
from typing import Any

from embkeras._checks import shown, whole_number
from embkeras.encoders.spans import LENGTH, SPAN_OUTPUTS, SpanExample, SpanWindows, encode_spans
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.names import IDS
from embkeras.text.vocabulary import Vocabulary


def answers_questions(card: Mapping[str, Any] | None) -> bool:
    """Whether an export's outputs are `start` and `end`, a number each for each token of its only input."""
    if card is None or {each["name"] for each in card["answers"]} != set(SPAN_OUTPUTS):
        return False
    taken = [(each["kind"], len(each["shape"])) for each in card["inputs"]]
    return taken == [(IDS, 2)] and all(each["of"] is not None and len(each["shape"]) == 2 for each in card["answers"])


def question_windows(
    question: str, context: str, card: Mapping[str, Any], encoding: Any, source: str, length: Any, stride: Any
) -> SpanWindows:
    """The rows of ids that ask a question about a context.

    Args:
        question: the question.
        context: the text that may answer it.
        card: of the export.
        encoding: of its ids, or None where it isn't there.
        source: what messages call the export.
        length: the most pieces of a window, or None.
        stride: as for `encode_spans`.

    Raises:
        SavedModelError: the export doesn't answer questions, or its encoding isn't there.
        ArgumentError: not texts, or a `length` that is more than the model takes.
    """
    if not answers_questions(card):
        raise SavedModelError(
            f"{source} answers no questions: its outputs are {', '.join(card['outputs'])}, and not start and end for each "
            f"token. Export a model from build_span_model."
        )
    if not isinstance(encoding, Vocabulary):
        raise SavedModelError(f"{source} doesn't contain the vocabulary of its encoder. Received: {shown(encoding)}.")
    most = card["inputs"][0]["max_length"]
    if length is None:
        length = LENGTH if most is None else min(LENGTH, most)
    length = whole_number(length, "length", least=1, most=most)
    example = SpanExample(question, context)
    try:
        return encode_spans(encoding, [example], length, stride)
    except ArgumentError as error:
        raise ArgumentError(str(error).replace(" of example 0", "").replace(" for example 0", "")) from None
