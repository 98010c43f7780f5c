"""Encoding: what turns texts into token ids.

`Vocabulary` is one; the subword tokenizer of an encoder is another. Export, client and check take this protocol, not
`Vocabulary`. Its form as a TensorFlow graph, if it has one, is built in `embkeras.serving`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Encoding(Protocol):
    """Texts to token ids from 0 to `len(encoding) - 1`.

    Two attributes are optional: `padding_side`, "end" or "start", by default "end"; and `drop_unknown`, whether an encoding
    without an OOV id leaves unknown tokens out.
    """

    @property
    def padding_id(self) -> int | None:
        """The id that fills short texts, or None if there is none."""

    @property
    def oov_id(self) -> int | None:
        """The id of unknown tokens, or None if there is none."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 as hexadecimal digits: equal if and only if the ids mean the same."""

    def __len__(self) -> int:
        """The number of ids."""

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Ids of several texts, shape (len(texts), length), short texts filled with the padding id."""
