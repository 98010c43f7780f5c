"""What soft prompts begin as: pieces of words, or pieces drawn at random."""

from collections.abc import Sequence

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
    if start is None:
        special = _special(tokenizer)
        pieces = [id_ for id_ in range(len(tokenizer)) if id_ not in special]
        return np.random.default_rng(seed).choice(pieces, count, replace=len(pieces) < count)
    found: list[int] = []
    for word in strings([start] if isinstance(start, str) else start, "start"):
        ids = pieces_of(tokenizer, word)
        if not ids:
            raise ArgumentError(
                f"start must be words that the tokenizer knows. Received: {shown(word)}, of which it knows no piece. Leave it "
                f"out, or take another word in its place."
            )
        found += ids
    if not found:
        raise ArgumentError(f"start must be one word or more. Received: {shown(start)}.")
    return np.resize(found, count)


def pieces_of(tokenizer: Vocabulary, word: str) -> list[int]:
    """The ids of the pieces of a word that the tokenizer knows; none if it knows no piece of it."""
    special = _special(tokenizer)
    return [int(id_) for id_ in tokenizer.encode(word) if id_ not in special]


def _special(tokenizer: Vocabulary) -> set[int]:
    """Ids that are no pieces of words: padding, what is unknown, and what stands around each text."""
    return {*tokenizer.special_ids, *map(int, tokenizer.encode(""))}
