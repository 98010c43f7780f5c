"""Vocabulary: tokens and their ids."""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._arrays import check_counts
from embkeras._checks import flag, one_of, sequence, shown, strings, whole_number
from embkeras._checks import path as checked_path
from embkeras._files import written_beside
from embkeras.errors import VocabularyError
from embkeras.text.from_keras import read_layer, read_word_index
from embkeras.text.hashing import hash_bucket
from embkeras.text.pieces import PieceTokenizer, from_dict, read_tokenizer
from embkeras.text.tokenizer import OLD_KERAS, WORDS, Tokenizer, check_tokenizer

PADDING, OOV = "", "[UNK]"
_FORMAT, _VERSION = "embkeras.vocabulary", 1
_LONGEST = 2**31 - 1  # tokens of a text in a batch
_DEFAULT_OOV = (1,)  # recognised by identity: only special ids by default are checked for words
_SIDES = ("end", "start")
_SPECIAL_NAMES = {"pad", "padding", "mask", "unk", "unknown", "oov"}


class Vocabulary:
    """Tokens and their ids: token `tokens[i]` has id i.

    The default follows `keras.layers.TextVectorization`: id 0 is the padding (""), id 1 ("[UNK]") is used for every
    token that is out of the vocabulary.

    Args:
        tokens: one token per id. Apart from the special ones, each occurs once.
        padding_id: the id that fills short texts, or None if there is none.
        oov_ids: ids for tokens out of the vocabulary: none, one, or several, among which `encode` chooses by the hash
            that `StringLookup(num_oov_indices=k)` uses (without a salt).
        counts: occurrences in the training text: int array of shape (V,), or a mapping token -> count; tokens that it lacks
            have 0.
        tokenizer: how `encode` splits a text; without one, only tokens can be looked up. `from_tokenizer` makes that of an
            encoder.
        padding_side: where `encode_batch` and exported models put padding: "end", or "start" as `pad_sequences` does.
        drop_unknown: leave tokens out of the vocabulary out of a text, as `texts_to_sequences` does, instead of refusing
            them; only with `oov_ids=()`.

    Attributes:
        tokens: tuple of str.
        token_to_id: token -> id, without the special tokens.
        counts: int64 array of shape (V,), or None.

    Raises:
        VocabularyError: no tokens, a token that is not a string or occurs twice, a special id outside the tokens,
            counts that are not one integer per token, or of none of the tokens, another `padding_side`, `drop_unknown` beside
            OOV ids, or words at the default special ids (a plain list of words needs `padding_id=None, oov_ids=()`).

    Examples:
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
        tokenizer: Tokenizer | PieceTokenizer | None = None,
        padding_side: str = "end",
        drop_unknown: bool = False,
    ):
        self.tokens = tuple(strings(tokens, "tokens", error=VocabularyError))
        if not self.tokens:
            raise VocabularyError("A vocabulary needs at least one token. Received: an empty sequence.")
        if tokenizer is not None and not isinstance(tokenizer, PieceTokenizer):
            check_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        special_id = functools.partial(whole_number, least=0, most=len(self.tokens) - 1, error=VocabularyError)
        self.padding_id = None if padding_id is None else special_id(padding_id, "padding_id")
        self.oov_ids = tuple(special_id(id_, "oov_ids") for id_ in sequence(oov_ids, "oov_ids", error=VocabularyError))
        special = self.special_ids
        if len(special) < len(self.oov_ids) + (self.padding_id is not None):
            raise VocabularyError(
                f"Special ids must differ. Received: padding_id={self.padding_id}, oov_ids={self.oov_ids}."
            )
        self.padding_side = one_of(padding_side, "padding_side", _SIDES, error=VocabularyError)
        self.drop_unknown = flag(drop_unknown, "drop_unknown", error=VocabularyError)
        if self.drop_unknown and self.oov_ids:
            raise VocabularyError(
                f"Tokens out of the vocabulary get an OOV id or are dropped, not both. "
                f"Received: drop_unknown=True, oov_ids={self.oov_ids}."
            )
        self.token_to_id: dict[str, int] = {}
        for id_, token in enumerate(self.tokens):
            if id_ not in special and self.token_to_id.setdefault(token, id_) != id_:
                raise VocabularyError(f"Token {token!r} occurs twice: at ids {self.token_to_id[token]} and {id_}.")
        if oov_ids is _DEFAULT_OOV:
            self._check_default_ids()
        self.counts = self._checked_counts(counts)

    def _check_default_ids(self) -> None:
        """Refuse a plain list of words, whose first two would silently become padding and OOV."""
        for id_ in sorted(self.special_ids):
            token = self.tokens[id_]
            if token.isalpha() and token.lower() not in _SPECIAL_NAMES:
                raise VocabularyError(
                    f"Id {id_} is special by default, but its token {token!r} looks like a word. Put '' and '[UNK]' "
                    f"first, use Vocabulary.from_texts, or pass padding_id=None, oov_ids=() for a vocabulary without "
                    f"special tokens."
                )

    def _checked_counts(self, counts: Any) -> np.ndarray | None:
        if counts is None:
            return None
        if isinstance(counts, Mapping):
            if counts and not any(token in counts for token in self.tokens):
                raise VocabularyError(
                    f"counts must name tokens of the vocabulary, such as {shown(self.tokens[-1])}: count texts that are split in "
                    f"the same way. Received: {shown(counts)}."
                )
            counts = [counts.get(token, 0) for token in self.tokens]
        counts = np.array(check_counts(counts, len(self), whole=True, error=VocabularyError), np.int64)
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

        Tokens left out because of `max_tokens` or `min_count` are counted as "[UNK]"; equal counts keep the order of
        first appearance.

        Args:
            texts: the training texts.
            max_tokens: size of the vocabulary, at least 3: special tokens are included.
            min_count: occurrences that a token needs to get an id.
            tokenizer: splits the texts, and later those passed to `encode`.

        Returns:
            The vocabulary, with its counts.

        Raises:
            VocabularyError: `max_tokens` < 3, `min_count` < 1, not a Tokenizer, a single string, or texts without a
                token.
        """
        check_tokenizer(tokenizer)
        texts = sequence(texts, "texts", error=VocabularyError)
        check_sizes(max_tokens, min_count)  # before the work
        counter = Counter(token for tokens in tokenized(texts, tokenizer) for token in tokens)
        return cls.from_counts(counter, max_tokens, min_count, tokenizer=tokenizer)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        max_tokens: int | None = None,
        min_count: int = 1,
        *,
        tokenizer: Tokenizer | None = WORDS,
    ) -> "Vocabulary":
        """The same from tokens that are counted already; of equal counts, the first in the mapping comes first.

        `TokenCounts` counts a corpus in parts, on one machine or several.

        Args:
            counts: token -> occurrences.
            max_tokens: size of the vocabulary, at least 3: special tokens are included.
            min_count: occurrences that a token needs to get an id.
            tokenizer: how the texts were split, so that `encode` splits as they were; None for tokens alone.

        Returns:
            The vocabulary, with its counts.

        Raises:
            VocabularyError: `max_tokens` < 3, `min_count` < 1, not a mapping of tokens to counts, or no token left.

        Examples:
            >>> Vocabulary.from_counts({"cat": 2, "dog": 1, "a": 3}, max_tokens=4).tokens
            ('', '[UNK]', 'a', 'cat')
        """
        if not isinstance(counts, Mapping):
            raise VocabularyError(f"counts must map tokens to occurrences. Received: {shown(counts)}.")
        min_count, max_tokens = check_sizes(max_tokens, min_count)
        if counts:
            check_counts([*counts.values()], len(counts), whole=True, error=VocabularyError)
        counter = Counter(dict(counts))
        total = int(counter.total())
        counter.pop(OOV, None)  # "[UNK]" in a text is the special token
        kept = [(token, int(count)) for token, count in counter.most_common() if count >= min_count]
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
        """The vocabulary of a `TextVectorization`, `StringLookup`, `IntegerLookup` or `Hashing` layer, ids unchanged.

        `encode` then returns the ids that the layer returns, as far as the layer's settings are plain data; the
        vocabulary of a layer with a callable of its own gets no tokenizer. The tokens of an IntegerLookup are its integers
        as strings. A Hashing layer knows no token: each of its bins is an OOV id.

        Args:
            layer: the layer; one with a vocabulary must be adapted.
            tokenizer: splits the texts for a layer that doesn't: a StringLookup takes tokens, not texts. Tokens out of
                the vocabulary get the OOV id that the layer hashes them into. A text that spells out a mask token, such
                as "<pad>", gets an OOV id from `encode`: nothing in a text is padding.

        Returns:
            A vocabulary without counts.

        Raises:
            VocabularyError: another kind of layer, one without a vocabulary, one that does not output ids, or a
                tokenizer for a layer that has one, hashes in another way than `encode`, or is not in UTF-8.
        """
        return cls(**read_layer(layer, tokenizer))

    @classmethod
    def from_word_index(
        cls,
        word_index: Mapping[str, int],
        *,
        num_words: int | None = None,
        oov_token: str | None = None,
        padding_side: str = "start",
        tokenizer: Tokenizer | None = OLD_KERAS,
    ) -> "Vocabulary":
        """The vocabulary of the Tokenizer of older Keras: `Vocabulary.from_word_index(tokenizer.word_index)`.

        Its ids begin at 1, id 0 is padding, which `pad_sequences` puts in front, and words without an id are dropped from
        the text. `encode_batch(texts, length)` returns what `pad_sequences(tokenizer.texts_to_sequences(texts), length)`
        returns. Row i of a matrix filled by `for word, i in word_index.items(): matrix[i] = vector` belongs to id i here.

        Args:
            word_index: word -> id, from 1 without gaps. A word with id 0 is the name of the padding.
            num_words: as for that Tokenizer: only ids below it are used.
            oov_token: as for that Tokenizer: the word in `word_index` whose id unknown words get, instead of being dropped.
            padding_side: "start" or "end", as `padding="pre"` or "post" of `pad_sequences`. Longer texts are truncated on
                the same side.
            tokenizer: splits texts; by default as that Tokenizer does by default. White space always separates tokens.

        Returns:
            A vocabulary without counts.

        Raises:
            VocabularyError: not a mapping of words to ids without gaps, an `oov_token` that it doesn't have, a word that
                looks like an OOV token without `oov_token`, or what the constructor refuses.

        Examples:
            >>> vocabulary = Vocabulary.from_word_index({"the": 1, "cat": 2, "sat": 3})
            >>> vocabulary.encode_batch(["The cat sat.", "The bird sat!"], 4).tolist()
            [[0, 1, 2, 3], [0, 0, 1, 3]]
        """
        settings = read_word_index(word_index, num_words, oov_token)
        return cls(**settings, padding_side=padding_side, tokenizer=tokenizer)

    @classmethod
    def from_tokenizer(cls, path: str | os.PathLike[str], *, size: int | None = None) -> "Vocabulary":
        """The pieces of a pre-trained encoder's tokenizer, ids unchanged.

        `encode` returns the ids that the `tokenizers` library returns, special pieces included ("[CLS] ... [SEP]"), but for
        a text that spells out the padding: "[PAD]" in a text is an unknown token. `encode_batch(texts, length)` cuts a long
        text inside its special pieces.

        Args:
            path: a tokenizer.json, the vocab.txt of a BERT, or a folder that contains one of them. A tokenizer_config.json
                beside it is read too.
            size: the number of ids, if the encoder's table has more rows than the tokenizer has pieces.

        Returns:
            A vocabulary without counts.

        Raises:
            VocabularyError: a missing or damaged file, or ids beyond `size`.
            MissingDependencyError: tokenizers is not installed.

        Examples:
            >>> vocabulary = Vocabulary.from_tokenizer("bert/tokenizer.json")  # doctest: +SKIP
            >>> vocabulary.encode("hello world").tolist()  # doctest: +SKIP
            [101, 7592, 2088, 102]
        """
        if size is not None:
            size = whole_number(size, "size", least=1, error=VocabularyError)
        return cls(**read_tokenizer(path, size))

    def trimmed(self, texts: Iterable[str], *, min_count: int = 1) -> "Vocabulary":
        """An encoder's vocabulary with only the pieces that these texts need; `read.trimmed(texts)` trims the encoder too.

        Special pieces and single characters stay too, so that other words can still be spelled. The texts are split as before,
        but into other ids.

        Args:
            texts: the training texts.
            min_count: occurrences that a piece needs. Words with rarer ones are split into smaller pieces.

        Returns:
            A new vocabulary; this one stays as it is.

        Raises:
            VocabularyError: not the vocabulary of a tokenizer of word pieces, or what `encode` raises.

        Examples:
            >>> Vocabulary.from_tokenizer("bert/tokenizer.json").trimmed(texts)  # doctest: +SKIP
            Vocabulary(7,896 tokens, padding_id=0, oov_ids=(100,))
        """
        tokenizer = self.tokenizer
        if not isinstance(tokenizer, PieceTokenizer):
            raise VocabularyError(
                f"Only the vocabulary of an encoder, from Vocabulary.from_tokenizer, can be trimmed. Received: {self!r}."
            )
        min_count = whole_number(min_count, "min_count", least=1, error=VocabularyError)
        split = tokenized(sequence(texts, "texts", error=VocabularyError), tokenizer)
        counts = Counter(token for tokens in split for token in tokens)
        kept = tokenizer.needed(counts, min_count, [self.tokens[id_] for id_ in self.special_ids])
        fewer = tokenizer.trimmed(kept)
        return Vocabulary(
            kept,
            padding_id=None if self.padding_id is None else kept.index(self.tokens[self.padding_id]),
            oov_ids=[kept.index(self.tokens[id_]) for id_ in self.oov_ids],
            counts=[counts[token] for token in kept],
            tokenizer=fewer,
        )

    def extended(self, tokens: Iterable[str]) -> "Vocabulary":
        """This vocabulary with new tokens at the end (count 0); those it already has keep their ids.

        Args:
            tokens: the new tokens, in the order of their ids.

        Returns:
            A new vocabulary; this one stays as it is.

        Raises:
            VocabularyError: a single string, or something that is not a string.
        """
        known = dict.fromkeys(self.tokens)
        known |= dict.fromkeys(strings(tokens, "tokens", error=VocabularyError))
        new = list(known)[len(set(self.tokens)) :]
        counts = None if self.counts is None else [*self.counts.tolist(), *([0] * len(new))]
        return Vocabulary(
            [*self.tokens, *new],
            padding_id=self.padding_id,
            oov_ids=self.oov_ids,
            counts=counts,
            tokenizer=self.tokenizer,
            padding_side=self.padding_side,
            drop_unknown=self.drop_unknown,
        )

    @property
    def oov_id(self) -> int | None:
        """The first OOV id, or None if there is none."""
        return self.oov_ids[0] if self.oov_ids else None

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of padding and OOV, which are not words."""
        return frozenset(self.oov_ids) | ({self.padding_id} if self.padding_id is not None else set())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over tokens and special ids, as 64 hexadecimal digits: equal if and only if the ids mean the same.

        It covers the side of the padding and dropped words too, if they aren't the default.
        """
        contents = [list(self.tokens), self.padding_id, list(self.oov_ids)]
        if (self.padding_side, self.drop_unknown) != ("end", False):
            contents += [self.padding_side, self.drop_unknown]
        return hashlib.sha256(json.dumps(contents).encode("ascii")).hexdigest()

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return isinstance(token, str) and token in self.token_to_id

    def __repr__(self) -> str:
        side = "" if self.padding_side == "end" else f", padding_side={self.padding_side!r}"
        dropped = ", drop_unknown=True" if self.drop_unknown else ""
        return f"Vocabulary({len(self):,} tokens, padding_id={self.padding_id}, oov_ids={self.oov_ids}{side}{dropped})"

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text.

        Args:
            text: the text.

        Returns:
            int64 of shape (tokens,); empty for a text without tokens.

        Raises:
            VocabularyError: no tokenizer, not a string, or a token out of a vocabulary that has no OOV id and doesn't drop
                it.
        """
        return np.array(self._ids_of(self._required_tokenizer()(text)), np.int64)

    def encode_batch(self, texts: Sequence[str], length: int | None = None, truncate: str | None = None) -> np.ndarray:
        """The ids of several texts.

        Args:
            texts: the texts.
            length: tokens per text; by default those of the longest text.
            truncate: the side on which a longer text is truncated, "end" or "start"; by default that of the padding.

        Returns:
            int64 of shape (texts, length), short texts filled with the padding id.

        Raises:
            VocabularyError: no padding id, a single string, a `length` that leaves no room between the special pieces of an
                encoder, or what `encode` raises.
            ArgumentError: a `length` that is not an integer >= 1, or an unknown `truncate`.
        """
        if self.padding_id is None:
            raise VocabularyError(
                'A batch needs a padding id (StringLookup: mask_token=""). Received: padding_id=None.'
            )
        truncate = self.padding_side if truncate is None else one_of(truncate, "truncate", _SIDES)
        if length is not None:
            length = whole_number(length, "length", least=1, most=_LONGEST)
        tokenizer = self._required_tokenizer()
        before, behind = tokenizer.frame
        if length is not None and length <= before + behind:
            raise VocabularyError(
                f"length must be at least {before + behind + 1}: {before + behind} pieces of each text are special. "
                f"Received: {length}."
            )
        split = tokenized(sequence(texts, "texts", error=VocabularyError), tokenizer)
        rows = [self._ids_of(tokens) for tokens in split]
        width = length or max([1, *map(len, rows)])
        batch = np.full((len(rows), width), self.padding_id, np.int64)
        for filled, ids in zip(batch, rows, strict=True):
            if len(ids) > width:  # cut between the special pieces
                inside, room = ids[before : len(ids) - behind], width - before - behind
                inside = inside[:room] if truncate == "end" else inside[len(inside) - room :]
                ids = ids[:before] + inside + ids[len(ids) - behind :]
            filled[slice(len(ids)) if self.padding_side == "end" else slice(width - len(ids), None)] = ids
        return batch

    def encode_pairs(self, firsts: Sequence[str], seconds: Sequence[str], length: int | None = None) -> np.ndarray:
        """Ids of pairs of texts, one row each, as an encoder reads them: "[CLS] first [SEP] second [SEP]".

        A special piece that a text spells out is an unknown one, so that only the pieces between the texts separate them.

        Args:
            firsts: the first texts.
            seconds: as many second texts.
            length: pieces of a row; of a longer pair, the longer text is cut first. By default those of the longest pair.

        Returns:
            int64 of shape (pairs, length), short pairs filled with the padding id.

        Raises:
            VocabularyError: not the vocabulary of an encoder's tokenizer, no padding id, another number of second texts than
                first ones, something that is not a text, or a `length` that leaves no room.

        Examples:
            >>> vocabulary = Vocabulary.from_tokenizer("bert/tokenizer.json")  # doctest: +SKIP
            >>> vocabulary.encode_pairs(["hello"], ["world"]).tolist()  # doctest: +SKIP
            [[101, 7592, 102, 2088, 102]]
        """
        tokenizer = self._required_tokenizer()
        if not isinstance(tokenizer, PieceTokenizer) or self.padding_id is None:
            raise VocabularyError(
                f"Pairs need the vocabulary of an encoder, from Vocabulary.from_tokenizer, with padding. Received: {self!r}."
            )
        firsts, seconds = (
            list(sequence(firsts, "firsts", error=VocabularyError)),
            list(sequence(seconds, "seconds", error=VocabularyError)),
        )
        if len(firsts) != len(seconds):
            raise VocabularyError(
                f"Pairs need as many second texts as first ones. Received: {len(firsts)}, {len(seconds)}."
            )
        if length is not None:
            length = whole_number(length, "length", least=1, most=_LONGEST)
        rows = [self._ids_of(tokenizer.pair(*pair, length)) for pair in zip(firsts, seconds, strict=True)]
        batch = np.full((len(rows), length or max([1, *map(len, rows)])), self.padding_id, np.int64)
        for filled, ids in zip(batch, rows, strict=True):
            filled[: len(ids)] = ids
        return batch

    def _required_tokenizer(self) -> Tokenizer | PieceTokenizer:
        if self.tokenizer is None:
            raise VocabularyError(
                "This vocabulary has no tokenizer: pass one as tokenizer=, or encode with the layer it came from."
            )
        return self.tokenizer

    def _ids_of(self, tokens: Iterable[str]) -> list[int]:
        if self.drop_unknown:
            return [self.token_to_id[token] for token in tokens if token in self.token_to_id]
        return [self._id_of(token) for token in tokens]

    def _id_of(self, token: str) -> int:
        id_ = self.token_to_id.get(token)
        if id_ is not None:
            return id_
        if not self.oov_ids:
            raise VocabularyError(
                f"Token {token!r} is out of the vocabulary, which has no OOV id for it (drop_unknown=True would drop it)."
            )
        buckets = len(self.oov_ids)
        return self.oov_ids[hash_bucket(token, buckets) if buckets > 1 else 0]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the vocabulary as one JSON file.

        Args:
            path: the file; one that exists is replaced.

        Returns:
            The path of the file.

        Raises:
            ArgumentError: `path` is not a path.
            OutputError: the file can't be written.
        """
        data = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "padding_id": self.padding_id,
            "oov_ids": list(self.oov_ids),
            "padding_side": self.padding_side,
            "drop_unknown": self.drop_unknown,
            "tokenizer": self.tokenizer and self.tokenizer.to_dict(),
            "counts": None if self.counts is None else self.counts.tolist(),
            "tokens": list(self.tokens),
        }
        target = checked_path(path, "path")
        with written_beside(target) as beside:
            beside.write_text(json.dumps(data, indent=0), encoding="ascii")
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read what `save` wrote.

        Args:
            path: the file.

        Returns:
            The vocabulary with its counts and tokenizer; its `fingerprint` is that of the one saved.

        Raises:
            ArgumentError: `path` is not a path.
            VocabularyError: the file is missing, damaged or something else.
        """
        path = checked_path(path, "path")
        try:
            data = json.loads(path.read_bytes())
            if (data["format"], data["version"]) != (_FORMAT, _VERSION):
                raise VocabularyError(f"it is {data['format']} version {data['version']}, not {_VERSION}.")
            vocabulary = cls(
                data["tokens"],
                padding_id=data["padding_id"],
                oov_ids=data["oov_ids"],
                counts=data["counts"],
                tokenizer=data["tokenizer"] and from_dict(data["tokenizer"]),
                padding_side=data.get("padding_side", "end"),  # files of 0.1 have neither
                drop_unknown=data.get("drop_unknown", False),
            )
            fingerprint = data["fingerprint"]
        except OSError as error:
            raise VocabularyError(f"Cannot read the vocabulary {str(path)!r}: {error.strerror}.") from error
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, VocabularyError) else f"{error!r}."
            raise VocabularyError(f"{str(path)!r} is not a vocabulary that embkeras can read: {reason}") from error
        if vocabulary.fingerprint != fingerprint:
            raise VocabularyError(f"{str(path)!r} is damaged: its tokens don't match its fingerprint.")
        return vocabulary


def check_sizes(max_tokens: Any, min_count: Any) -> tuple[int, int | None]:
    """`min_count`, and `max_tokens` or None, checked.

    Raises:
        VocabularyError: other than whole numbers from 1, and from 3.
    """
    least = whole_number(min_count, "min_count", least=1, error=VocabularyError)
    if max_tokens is not None:
        max_tokens = whole_number(max_tokens, "max_tokens", least=3, error=VocabularyError)
    return least, max_tokens


def tokenized(texts: Iterable[str], tokenizer: Tokenizer | PieceTokenizer) -> Iterator[list[str]]:
    """The tokens of each text; an error names the text's place."""
    for place, text in enumerate(texts):
        try:
            yield tokenizer(text)
        except VocabularyError as error:
            raise VocabularyError(f"Text {place} (counted from 0): {error}") from None
