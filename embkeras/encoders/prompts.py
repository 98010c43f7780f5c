"""What soft prompts begin as: pieces of words, or pieces drawn at random."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from embkeras._checks import shown, strings
from embkeras.errors import ArgumentError
from embkeras.text.vocabulary import Vocabulary


def prompt_ids(tokenizer: Vocabulary, count: int, start: str | Sequence[str] | None, seed: int) -> np.ndarray:
    """The ids of `count` pieces.

    Args:
        tokenizer: of an encoder.
        count: at least 1.
        start: words whose pieces are taken in turn; None draws pieces at random.
        seed: of the drawing.

    Raises:
        ArgumentError: no words, or one of which the tokenizer knows no piece.
    """
    no_words = {*tokenizer.special_ids, *tokenizer.encode("")}
    if start is None:
        pieces = [id_ for id_ in range(len(tokenizer)) if id_ not in no_words]
        return np.random.default_rng(seed).choice(pieces, count, replace=len(pieces) < count)
    found: list[int] = []
    for word in strings([start] if isinstance(start, str) else start, "start"):
        ids: Any = [id_ for id_ in tokenizer.encode(word) if id_ not in no_words]
        if not ids:
            raise ArgumentError(
                f"start must be words that the tokenizer knows. Received: {shown(word)}, of which it knows no piece."
            )
        found += ids
    if not found:
        raise ArgumentError(f"start must be one word or more. Received: {shown(start)}.")
    return np.resize(found, count)
