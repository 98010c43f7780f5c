"""Texts to ids from an export's own assets, for a process that asks a server: no TensorFlow, no Keras."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._checks import sequence, shown
from embkeras.encoders.spans import SpanWindows
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.names import CARD_FILE, IDS, export_folder, long_texts_of, read_card
from embkeras.serving.spans import question_windows
from embkeras.text.encoding import Encoding
from embkeras.text.hashing import hash_bucket
from embkeras.text.vocabulary import Vocabulary

_LARGEST_ID = np.iinfo(np.int64).max


class TextEncoder:
    """Turns texts into the ids that an exported model was trained on.

    It reads two small files, `vocabulary.json` and `embkeras.json`: a client needs a copy of these and nothing else.

    Args:
        path: the model's folder (its highest version is taken), the folder of one version, or a folder of assets.
        vocabulary: the Encoding that the model was exported with, if it isn't a `Vocabulary`: only those are in the assets.

    Attributes:
        vocabulary: what the ids of the first input mean.
        vocabularies: the same for each input of ids, by its name.
        card: the description of the export.
        class_names: tuple of str, or None.
        model_name: the name of the model's folder, and of the model in TensorFlow Serving; None for a folder of assets.

    Raises:
        SavedModelError: there are no assets of an export, or they are damaged, or the vocabulary is another one.
        VocabularyError: the vocabulary is missing or damaged.
        ArgumentError: not a path, or not an Encoding.

    Examples:
        >>> encoder = TextEncoder("saved_models/tweets")  # doctest: +SKIP
        >>> encoder.encode(["good morning", "hm"])  # doctest: +SKIP
        array([[ 31, 112],
               [530,   0]])
    """

    def __init__(self, path: str | os.PathLike[str], *, vocabulary: Encoding | Mapping[str, Encoding] | None = None):
        assets, self.model_name = _assets_of(path)
        self.card: dict[str, Any] = read_card(assets)
        self.class_names = card_class_names(self.card)
        self.vocabulary = exported_encoding(assets, self.card, vocabulary)
        self.vocabularies = exported_encodings(assets, self.card, vocabulary)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary: equal for two exports if and only if their ids mean the same."""
        return self.vocabulary.fingerprint

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """SHA-256 of the tokenizer's rules: equal for two exports that split texts alike. None without a tokenizer."""
        return tokenizer_fingerprint(self.vocabulary)

    @property
    def size(self) -> int:
        """V: ids lie in [0, V)."""
        return len(self.vocabulary)

    def encode(
        self,
        texts: Sequence[str] | Mapping[str, Sequence[str]],
        length: int | None = None,
        *,
        long_texts: str | None = None,
    ) -> Any:
        """The ids of texts.

        Where the model takes a single id for each row, a text is one token, as it is written, and its ids are (batch,).

        Args:
            texts: the texts; for a model with several inputs of ids, texts by input, which return ids by input.
            length: tokens per text; longer texts are cut. By default that of the longest text, or of the model if it takes
                no longer ones.
            long_texts: what happens to a text of more tokens than the model takes: "cut" drops its end (or its beginning,
                with padding in front), "error" refuses it. By default as the model was exported.

        Returns:
            int64 of shape (batch, time), shorter texts padded with the padding id; for texts by input, a dictionary of ids
            by input.

        Raises:
            ArgumentError: not a sequence of strings, a `length` below 1, a text that is too long, or an unknown input.
            VocabularyError: a vocabulary without a padding id or without a tokenizer.
        """
        long_texts = long_texts_of(self.card, long_texts)
        taken = {each["name"]: each for each in self.card["inputs"] if each["kind"] == IDS}
        if not isinstance(texts, Mapping):
            return _encode_batch(self.vocabulary, texts, length, next(iter(taken.values())), long_texts)
        ids = {}
        for name, each in texts.items():
            if (encoding := self.vocabularies.get(name)) is None:
                raise ArgumentError(f"The model has texts for {', '.join(taken)}. Received: {shown(name)}.")
            ids[name] = _encode_batch(encoding, each, length, taken[name], long_texts)
        return ids

    def encode_question(
        self, question: str, context: str, *, length: int | None = None, stride: int | None = None
    ) -> SpanWindows:
        """A question about a context, for an export of `build_span_model`: rows of ids, and where their pieces are in the text.

        Args:
            question: the question.
            context: the text that may answer it; a long one has several rows.
            length: the most pieces of a row; by default 384, or as many as the model takes.
            stride: pieces from the start of one row's part of the context to that of the next; by default half of what fits.

        Returns:
            `ids` int64 (rows, time), and `offsets` int32 (rows, time, 2): the characters of the context that each piece
            stands for, -1 for others. `decode_spans` finds the answer in what the model returns for the ids.

        Raises:
            ArgumentError: not texts, or a `length` or `stride` that leaves no room.
            SavedModelError: the export answers no questions.
        """
        return question_windows(question, context, self.card, self.vocabulary, "The export", length, stride)

    def __repr__(self) -> str:
        return f"TextEncoder({self.size:,} tokens, fingerprint {self.fingerprint[:12]}...)"


def _encode_batch(
    encoding: Encoding, texts: Sequence[str], length: int | None, each: Mapping[str, Any], long_texts: str
) -> np.ndarray:
    """Ids of the texts of one input."""
    texts, most = checked_texts(texts), each["max_length"]
    if len(each["shape"]) == 1:
        return encoded_tokens(encoding, texts, each["oov_id"])
    batch = encoding.encode_batch(texts, length)
    if length is not None or most is None or batch.shape[1] <= most:
        return batch
    if long_texts == "error":
        encoded_rows(encoding, texts, most, long_texts)
    return encoding.encode_batch(texts, most)


def _assets_of(path: Any) -> tuple[Path, str | None]:
    """The folder of assets, and the model's name if the folders around it show it."""
    folder = export_folder(path).absolute()
    assets, name = (folder / "assets", folder.parent.name) if (folder / "assets").is_dir() else (folder, None)
    if not (assets / CARD_FILE).is_file():
        raise SavedModelError(
            f"There are no assets of an export in {str(Path(path).absolute())!r}: {CARD_FILE} is missing."
        )
    return assets, name


def card_class_names(card: dict[str, Any]) -> tuple[str, ...] | None:
    """The class names of a card."""
    return None if card["class_names"] is None else tuple(card["class_names"])


def exported_encodings(assets: Path, card: Mapping[str, Any], given: Any) -> dict[str, Encoding | None]:
    """The encoding of each input of ids: the one given, or the one in the assets; None if it is nowhere.

    Args:
        assets: the folder of assets.
        card: the card in it.
        given: an Encoding for every input, encodings by input, or None.
    """
    described = [each for each in card["inputs"] if each["kind"] == IDS]
    known = [each["name"] for each in described]
    if isinstance(given, Mapping) and not given:
        raise ArgumentError("vocabulary must be a Vocabulary or another Encoding. Received: dict without any.")
    unknown = [name for name in given if name not in known] if isinstance(given, Mapping) else []
    if unknown and not (len(known) == len(given) == 1):
        raise ArgumentError(
            f"vocabulary= must be by the inputs of ids: {', '.join(known)}. Received: {shown(unknown[0])}."
        )
    by_input = dict(given) if isinstance(given, Mapping) else {each["name"]: given for each in described}
    if isinstance(given, Mapping) and len(described) == len(by_input) == 1:
        by_input = {described[0]["name"]: next(iter(by_input.values()))}
    found: dict[str, Encoding | None] = {}
    read: dict[str, Encoding] = {}
    for each in described:
        encoding, file = by_input.get(each["name"]), each["vocabulary_file"]
        if encoding is not None and not isinstance(encoding, Encoding):
            raise ArgumentError(
                f"vocabulary must be a Vocabulary or another Encoding, or a dictionary of them by input. "
                f"Received: {type(encoding).__name__}."
            )
        if encoding is None and file is not None:
            encoding = read[file] = read.get(file) or Vocabulary.load(assets / file)
        if encoding is not None:
            of = "" if len(described) == 1 else f" of input {each['name']!r}"
            fingerprints = {each["vocabulary_fingerprint"]} | ({card["vocabulary_fingerprint"]} if not found else set())
            if fingerprints != {encoding.fingerprint}:
                raise SavedModelError(
                    f"The vocabulary{of} for {str(assets)!r} is not the one the model was exported with."
                )
            if tokenizer_fingerprint(encoding) != each["tokenizer_fingerprint"]:
                raise SavedModelError(
                    f"The tokenizer{of} for {str(assets)!r} is not the one the model was exported with."
                )
        found[each["name"]] = encoding
    return found


def exported_encoding(assets: Path, card: Mapping[str, Any], given: Any) -> Encoding:
    """The encoding of the first input of ids.

    Raises:
        SavedModelError: neither given nor in the assets.
    """
    encoding = next(iter(exported_encodings(assets, card, given).values()))
    if encoding is None:
        raise SavedModelError(
            f"The assets in {str(assets)!r} don't contain the encoding of the export, {card['encoding']}. Pass vocabulary=."
        )
    return encoding


def tokenizer_fingerprint(encoding: Encoding) -> str | None:
    """SHA-256 over the settings of a vocabulary's tokenizer, as 64 hexadecimal digits.

    None for a vocabulary without one, and for other encodings: their `fingerprint` covers how they split texts.
    """
    if not isinstance(encoding, Vocabulary) or encoding.tokenizer is None:
        return None
    return hashlib.sha256(json.dumps(encoding.tokenizer.to_dict(), sort_keys=True).encode("ascii")).hexdigest()


def checked_texts(texts: Any) -> list[str]:
    """The texts as a list of strings."""
    listed = list(sequence(texts, "texts"))
    for place, text in enumerate(listed):
        if not isinstance(text, str):
            raise ArgumentError(f"texts must be strings. Received: {shown(text)} at text {place}.")
    return listed


def id_rows(token_ids: Any) -> list[np.ndarray]:
    """One int64 array per text, from integers of shape (batch, time) or a sequence of sequences of integers.

    Raises:
        ArgumentError: anything else: floats, bools, texts, integers beyond int64.
    """
    rule = "token_ids must be integers (batch, time), or one sequence of integers per text"
    try:
        if isinstance(token_ids, list | tuple):
            rows = [np.asarray(row) for row in token_ids]
            bools = [isinstance(row, list | tuple) and any(isinstance(id_, bool) for id_ in row) for row in token_ids]
        else:
            array = np.asarray(token_ids)
            rows = list(array) if array.ndim == 2 and len(array) else [array] if array.ndim != 2 else []
            bools = [False] * len(rows)
    except ValueError as error:  # rows of rows of different lengths
        raise ArgumentError(f"{rule}. Received: {error}") from error
    for place, row in enumerate(rows):
        if bools[place]:  # NumPy makes integers of bools among integers
            raise ArgumentError(f"{rule}. Received: a bool at text {place}.")
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise ArgumentError(f"{rule}. Received: {row.dtype}, shape {row.shape}, at text {place}.")
        if row.dtype.kind == "u" and row.size and int(row.max()) > _LARGEST_ID:
            raise ArgumentError(f"{rule}, each up to {_LARGEST_ID}. Received: {int(row.max())} at text {place}.")
    return [row.astype(np.int64) for row in rows]


def encoded_rows(
    encoding: Encoding, texts: Sequence[str], most: int | None = None, long_texts: str = "cut"
) -> list[np.ndarray]:
    """The ids of each text alone, without padding behind them.

    A text of more than `most` tokens is cut as `encode_batch` cuts it, or refused.
    """
    rows = []
    for place, text in enumerate(texts):
        row = _encoded(encoding, text, None)
        if most is not None and len(row) > most:
            if long_texts == "error":
                raise ArgumentError(
                    f"The model takes texts of up to {most} tokens. Received {len(row)} in text {place}. "
                    f'long_texts="cut" would cut it.'
                )
            row = _encoded(encoding, text, most)
        rows.append(row)
    return rows


def encoded_tokens(encoding: Encoding, tokens: Sequence[str], oov_id: int) -> np.ndarray:
    """One id for each token, int64 of shape (tokens,): a Vocabulary's own tokens are taken as they are written.

    That of the padding is the padding, as in the layers of Keras.
    """
    if isinstance(encoding, Vocabulary):
        padding = {} if encoding.padding_id is None else {encoding.tokens[encoding.padding_id]: encoding.padding_id}
        known = padding | encoding.token_to_id
        buckets = encoding.oov_ids if len(encoding.oov_ids) > 1 else (oov_id,)
        places = [hash_bucket(token, len(buckets)) if len(buckets) > 1 else 0 for token in tokens]
        found = [known.get(token, buckets[place]) for token, place in zip(tokens, places, strict=True)]
        return np.array(found, np.int64)
    rows = [_encoded(encoding, token, None) for token in tokens]
    return np.array([row[0] if len(row) == 1 else oov_id for row in rows], np.int64)


def _encoded(encoding: Encoding, text: str, length: int | None) -> np.ndarray:
    if isinstance(encoding, Vocabulary) and length is None:  # also one without a padding id, which makes no batches
        return encoding.encode(text)
    if isinstance(encoding, Vocabulary) and encoding.padding_id is None:
        return encoding.encode(text)[:length]
    (row,) = encoding.encode_batch([text], length)
    tokens = np.flatnonzero(row != encoding.padding_id) if encoding.padding_id is not None else np.arange(len(row))
    return row[: tokens[-1] + 1] if len(tokens) else row[:0]
