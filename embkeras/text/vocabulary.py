"""Vocabulary: which id stands for which token."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._files import written_beside
from embkeras.errors import ArgumentError, VocabularyError
from embkeras.text.from_keras import read_layer
from embkeras.text.hashing import hash_bucket
from embkeras.text.special import check_sequence, check_special_ids, check_special_tokens
from embkeras.text.tokenizer import WORDS, Tokenizer, check_tokenizer

PADDING, OOV = "", "[UNK]"
_FORMAT, _VERSION = "embkeras.vocabulary", 1
_DEFAULT_OOV = (1,)  # known by identity: ids that the caller names are taken at their word


class Vocabulary:
    """Tokens and their ids: token `tokens[i]` has id i.

    The default follows `keras.layers.TextVectorization`: id 0 is the padding (""), id 1 stands for every token that
    is out of the vocabulary ("[UNK]").

    Args:
        tokens: one token an id. Apart from the special ones, each occurs once.
        padding_id: the id that fills short texts, or None if there is none.
        oov_ids: ids for tokens out of the vocabulary: none, one, or several, among which `encode` chooses by the hash
            that `StringLookup(num_oov_indices=k)` uses (without a salt).
        counts: occurrences in the training text: int array of shape (V,), or a mapping token -> count.
        tokenizer: how `encode` cuts a text; without one, only tokens can be looked up.

    Attributes:
        tokens: tuple of str.
        token_to_id: token -> id, without the special tokens.
        counts: int64 array of shape (V,), or None.
        fingerprint: SHA-256 over tokens and special ids: equal if and only if the ids mean the same.

    Raises:
        VocabularyError: no tokens, a repeated token, a special id outside the tokens or, where they
            are not named, at a word (a plain list of words needs `padding_id=None, oov_ids=()`), counts of another shape.

    Example:
        >>> vocabulary = Vocabulary.from_texts(["a cat", "a dog"])
        >>> vocabulary.tokens
        ('', '[UNK]', 'a', 'cat', 'dog')
        >>> vocabulary.encode("a bird").tolist()
        [2, 1]
    """

    def __init__(
        self,
        tokens: Iterable[str],
        *,
        padding_id: int | None = 0,
        oov_ids: Sequence[int] = _DEFAULT_OOV,
        counts: Any = None,
        tokenizer: Tokenizer | None = None,
    ):
        check_sequence(tokens, "tokens")
        if tokenizer is not None:
            check_tokenizer(tokenizer)
        self.tokens = tuple(tokens)
        self.oov_ids = tuple(oov_ids)
        self.tokenizer = tokenizer
        check_special_ids(self.tokens, padding_id, self.oov_ids)
        self.padding_id = None if padding_id is None else int(padding_id)
        self.oov_ids = tuple(map(int, self.oov_ids))
        if oov_ids is _DEFAULT_OOV:
            check_special_tokens(self.tokens, self.special_ids)
        special = self.special_ids
        self.token_to_id: dict[str, int] = {}
        for id_, token in enumerate(self.tokens):
            if not isinstance(token, str):
                raise VocabularyError(f"Every token must be a str. Received {token!r} at id {id_}.")
            if id_ not in special and self.token_to_id.setdefault(token, id_) != id_:
                raise VocabularyError(f"Token {token!r} stands twice: at ids {self.token_to_id[token]} and {id_}.")
        self.counts = self._check_counts(counts)

    def _check_counts(self, counts: Any) -> np.ndarray | None:
        if counts is None:
            return None
        if isinstance(counts, Mapping):
            counts = [counts.get(token, 0) for token in self.tokens]
        counts = np.array(counts)
        if counts.shape != (len(self),) or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise VocabularyError(
                f"counts must be {len(self)} integers >= 0, one a token. "
                f"Received: shape {counts.shape}, dtype {counts.dtype}."
            )
        counts = counts.astype(np.int64)
        counts.flags.writeable = False
        return counts

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        max_tokens: int | None = None,
        min_count: int = 1,
        *,
        tokenizer: Tokenizer = WORDS,
    ) -> "Vocabulary":
        """The tokens of `texts`, the most frequent first, after "" (id 0) and "[UNK]" (id 1).

        Tokens left out by `max_tokens` or `min_count` are counted for "[UNK]"; equal counts keep the order of
        first appearance.

        Args:
            texts: the training texts.
            max_tokens: size of the vocabulary, special tokens included.
            min_count: occurrences that a token needs to get an id.
            tokenizer: cuts the texts, and later those given to `encode`.

        Raises:
            VocabularyError: `max_tokens` < 3, `min_count` < 1, no Tokenizer, a single string, or texts without a token.
        """
        check_sequence(texts, "texts")
        check_tokenizer(tokenizer)
        if (max_tokens is not None and max_tokens < 3) or min_count < 1:
            raise VocabularyError(
                f"max_tokens must be >= 3 (two are special) and min_count >= 1. "
                f"Received: max_tokens={max_tokens}, min_count={min_count}."
            )
        counter = Counter(token for text in texts for token in tokenizer(text))
        total = counter.total()
        counter.pop(OOV, None)  # a text that says "[UNK]" means the special token
        kept = [(token, count) for token, count in counter.most_common() if count >= min_count]
        kept = kept[: max_tokens - 2] if max_tokens else kept
        if not kept:
            raise VocabularyError(f"No token is left of {total} tokens with min_count={min_count}.")
        left_out = total - sum(count for _, count in kept)
        return cls(
            [PADDING, OOV, *(token for token, _ in kept)],
            counts=[0, left_out, *(count for _, count in kept)],
            tokenizer=tokenizer,
        )

    @classmethod
    def from_layer(cls, layer: Any, *, tokenizer: Tokenizer | None = None) -> "Vocabulary":
        """The vocabulary of an adapted `TextVectorization` or `StringLookup` layer, ids unchanged.

        `encode` then gives the ids that the layer gives, as far as the layer's settings are plain data; a layer
        with a callable of its own gets no tokenizer.

        Args:
            layer: the layer.
            tokenizer: cuts the texts for a layer that does not say how; a StringLookup takes tokens, no texts. Tokens
                out of the vocabulary get the OOV id that the layer hashes them into. A text that spells out a mask
                token, such as "<pad>", gets an OOV id from `encode`: what a text says is never padding.

        Raises:
            VocabularyError: another kind of layer, a layer without a vocabulary, one that does not output ids, or a
                tokenizer for a layer that has one, or hashes with a salt, or is not in UTF-8.
        """
        read = read_layer(layer, tokenizer)
        return cls(read.tokens, padding_id=read.padding_id, oov_ids=read.oov_ids, tokenizer=read.tokenizer)

    def extended(self, tokens: Iterable[str]) -> "Vocabulary":
        """This vocabulary with further tokens behind it (count 0); those it has already are left where they are.

        Raises:
            VocabularyError: a single string, or what is no str.
        """
        check_sequence(tokens, "tokens")
        known = set(self.tokens)
        new = list(dict.fromkeys(token for token in tokens if token not in known))
        counts = None if self.counts is None else [*self.counts.tolist(), *([0] * len(new))]
        return Vocabulary(
            [*self.tokens, *new],
            padding_id=self.padding_id,
            oov_ids=self.oov_ids,
            counts=counts,
            tokenizer=self.tokenizer,
        )

    @property
    def oov_id(self) -> int | None:
        """The first OOV id, or None if there is none."""
        return self.oov_ids[0] if self.oov_ids else None

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of padding and OOV, which stand for no word."""
        return frozenset(self.oov_ids) | ({self.padding_id} if self.padding_id is not None else set())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the tokens and the special ids, as 64 hexadecimal digits."""
        contents = [list(self.tokens), self.padding_id, list(self.oov_ids)]
        return hashlib.sha256(json.dumps(contents).encode("ascii")).hexdigest()

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self.token_to_id

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} tokens, padding_id={self.padding_id}, oov_ids={self.oov_ids})"

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int64 of shape (tokens,); a text without tokens gives an empty array.

        Raises:
            VocabularyError: there is no tokenizer, or a token is out of a vocabulary that has no OOV id.
        """
        if self.tokenizer is None:
            raise VocabularyError("This vocabulary has no tokenizer: give one, or encode with the layer it came from.")
        return np.array([self._id_of(token) for token in self.tokenizer(text)], np.int64)

    def _id_of(self, token: str) -> int:
        id_ = self.token_to_id.get(token)
        if id_ is not None:
            return id_
        if not self.oov_ids:
            raise VocabularyError(
                f"Token {token!r} is out of the vocabulary, which has 0 OOV ids: no id stands for it."
            )
        buckets = len(self.oov_ids)
        return self.oov_ids[hash_bucket(token, buckets) if buckets > 1 else 0]

    def encode_batch(self, texts: Sequence[str], length: int | None = None, truncate: str = "end") -> np.ndarray:
        """Ids of several texts, int64 of shape (texts, length), short ones filled up with the padding id.

        Args:
            texts: the texts.
            length: tokens a text; by default those of the longest text.
            truncate: which side of a longer text is cut off, "end" or "start".

        Raises:
            VocabularyError: no padding id, a single string, or whatever `encode` raises.
            ArgumentError: a `length` that is no whole number >= 1, or another `truncate`.
        """
        check_sequence(texts, "texts")
        if self.padding_id is None:
            raise VocabularyError(
                'A batch needs a padding id (StringLookup: mask_token=""). Received: padding_id=None.'
            )
        if truncate not in ("end", "start"):
            raise ArgumentError(f'truncate must be "end" or "start". Received: {truncate!r}.')
        if length is not None and not (isinstance(length, int | np.integer) and length >= 1):
            raise ArgumentError(f"length must be a whole number, at least 1. Received: {length!r}.")
        rows = [self.encode(text) for text in texts]
        width = length if length is not None else max([1, *map(len, rows)])
        batch = np.full((len(rows), width), self.padding_id, np.int64)
        for filled, ids in zip(batch, rows, strict=True):
            ids = ids[:width] if truncate == "end" else ids[-width:]
            filled[: len(ids)] = ids
        return batch

    def save(self, path: str | os.PathLike) -> Path:
        """Write the vocabulary as one JSON file.

        Raises:
            OutputError: the file cannot be written.
        """
        data = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "padding_id": self.padding_id,
            "oov_ids": list(self.oov_ids),
            "tokenizer": self.tokenizer and self.tokenizer.to_dict(),
            "counts": None if self.counts is None else self.counts.tolist(),
            "tokens": list(self.tokens),
        }
        with written_beside(path) as beside:
            beside.write_text(json.dumps(data, indent=0), encoding="ascii")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            VocabularyError: the file is missing, damaged or of another kind.
        """
        try:
            data = json.loads(Path(path).read_bytes())
            if (data["format"], data["version"]) != (_FORMAT, _VERSION):
                raise VocabularyError(f"{str(path)!r} is {data['format']} version {data['version']}, not {_VERSION}.")
            vocabulary = cls(
                data["tokens"],
                padding_id=data["padding_id"],
                oov_ids=data["oov_ids"],
                counts=data["counts"],
                tokenizer=data["tokenizer"] and Tokenizer.from_dict(data["tokenizer"]),
            )
            fingerprint = data["fingerprint"]
        except OSError as error:
            raise VocabularyError(f"Cannot read the vocabulary {str(path)!r}: {error.strerror}.") from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, VocabularyError):
                raise
            raise VocabularyError(f"{str(path)!r} is not a vocabulary saved by embkeras: {error!r}.") from error
        if vocabulary.fingerprint != fingerprint:
            raise VocabularyError(f"{str(path)!r} is damaged: its tokens do not give its fingerprint.")
        return vocabulary
