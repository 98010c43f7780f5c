"""Checks of what a vocabulary is given: its special ids (padding, and tokens out of the vocabulary), and sequences."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from embkeras.errors import VocabularyError

_SPECIAL_NAMES = {"pad", "padding", "mask", "unk", "unknown", "oov"}


def check_sequence(values: Any, what: str) -> None:
    """Refuse a single string, which would be taken for a sequence of its characters.

    Raises:
        VocabularyError: `values` is a string.
    """
    if isinstance(values, str):
        raise VocabularyError(f"{what} must be a sequence of {what}. Received the string {values[:40]!r}.")


def check_special_ids(tokens: Sequence[str], padding_id: int | None, oov_ids: Sequence[int]) -> None:
    """Every special id is the id of a token, and of one purpose only.

    Raises:
        VocabularyError: there are no tokens, an id is outside them, or an id is named twice.
    """
    if not tokens:
        raise VocabularyError("A vocabulary needs at least one token. Received none.")
    named = [("padding_id", padding_id)] if padding_id is not None else []
    for name, id_ in named + [("oov_ids", id_) for id_ in oov_ids]:
        if isinstance(id_, bool) or not isinstance(id_, int | np.integer) or not 0 <= id_ < len(tokens):
            raise VocabularyError(f"{name} must lie in [0, {len(tokens)}). Received: {id_!r}.")
    if len(set(oov_ids)) != len(oov_ids) or padding_id in oov_ids:
        raise VocabularyError(f"Special ids must differ. Received padding_id={padding_id}, oov_ids={oov_ids}.")


def check_special_tokens(tokens: Sequence[str], special_ids: Iterable[int]) -> None:
    """Refuse a plain list of words, of which two would be taken for padding and OOV in silence.

    Raises:
        VocabularyError: the token at a special id looks like a word.
    """
    for id_ in sorted(special_ids):
        token = tokens[id_]
        if isinstance(token, str) and token.isalpha() and token.lower() not in _SPECIAL_NAMES:
            raise VocabularyError(
                f"Id {id_} is special by default, but its token {token!r} looks like a word. Put '' and '[UNK]' in front, "
                f"use Vocabulary.from_texts, or pass padding_id=None, oov_ids=() for a vocabulary without special tokens."
            )
