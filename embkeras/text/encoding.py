"""Encoding: what turns texts into token ids, whoever makes it.

`Vocabulary` is one; the subword tokenizer of an encoder is another. Export, client and check ask for this protocol and
not for `Vocabulary`. Its form as a TensorFlow graph, where it has one, is made in `embkeras.serving`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Encoding(Protocol):
    """Texts to token ids from 0 to `len(encoding) - 1`.

    Attributes:
        padding_id: the id that fills short texts, or None if there is none.
        oov_id: the id that stands for what is unknown, or None if there is none.
        fingerprint: SHA-256 as hexadecimal digits, equal if and only if the ids mean the same.
    """

    @property
    def padding_id(self) -> int | None:
        """The id that fills short texts, or None."""

    @property
    def oov_id(self) -> int | None:
        """The id that stands for what is unknown, or None."""

    @property
    def fingerprint(self) -> str:
        """Equal if and only if the ids mean the same."""

    def __len__(self) -> int:
        """The number of ids."""

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Ids of several texts, shape (len(texts), length), short texts filled with the padding id."""
