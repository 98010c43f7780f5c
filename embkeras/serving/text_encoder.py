"""Texts to ids from an export's own assets, for a process that asks a server: no TensorFlow, no Keras."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.names import CARD_FILE, VOCABULARY_FILE, latest_version, read_card
from embkeras.text.vocabulary import Vocabulary

_NEEDED = ("vocabulary_fingerprint", "class_names")


class Encoder:
    """What turns texts into the ids that an exported model was trained on.

    It reads two small files, `vocabulary.json` and `embkeras.json`: a client can have a copy of them and of nothing else.

    Args:
        path: the model's folder (its highest version is taken), the folder of one version, or a folder of assets.

    Attributes:
        vocabulary: what the ids mean.
        card: what the export says of itself.
        class_names: tuple of str, or None.
        model_name: the name of the model's folder, which is that in TensorFlow Serving, too; None for assets alone.

    Raises:
        SavedModelError: there are no assets of an export, or they are damaged, or the vocabulary is another one.
        VocabularyError: the vocabulary is missing or damaged.
        ArgumentError: something else than a path.

    Example:
        >>> encoder = Encoder("saved_models/tweets")  # doctest: +SKIP
        >>> encoder.encode(["good morning", "hm"])  # doctest: +SKIP
        array([[ 31, 112],
               [530,   0]])
    """

    def __init__(self, path: str | os.PathLike):
        if not isinstance(path, str | os.PathLike):
            raise ArgumentError(f"path must be the folder of an export. Received: {path!r}.")
        assets, self.model_name = _assets_of(Path(path))
        self.card: dict[str, Any] = read_card(assets, _NEEDED)
        self.vocabulary = Vocabulary.load(assets / VOCABULARY_FILE)
        if self.vocabulary.fingerprint != self.card["vocabulary_fingerprint"]:
            raise SavedModelError(f"The vocabulary in {str(assets)!r} is not the one the model was exported with.")
        # Exports of before do not tell.
        if self.card.get("tokenizer_fingerprint", self.tokenizer_fingerprint) != self.tokenizer_fingerprint:
            raise SavedModelError(f"The tokenizer in {str(assets)!r} is not the one the model was exported with.")
        self.class_names = _names(self.card["class_names"], assets)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary: equal for two exports if and only if their ids mean the same."""
        return self.vocabulary.fingerprint

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """SHA-256 of the tokenizer's rules: equal for two exports that cut texts alike. None without a tokenizer."""
        return tokenizer_fingerprint(self.vocabulary)

    @property
    def size(self) -> int:
        """V: ids lie in [0, V)."""
        return len(self.vocabulary)

    def encode(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Ids of texts, int64 of shape (batch, time), short ones filled up with the padding id.

        Args:
            texts: the texts.
            length: tokens a text, of which longer ones lose their end; by default those of the longest text.

        Raises:
            VocabularyError: a single string, a vocabulary without a padding id or without a tokenizer.
            ArgumentError: a `length` below 1.
        """
        return self.vocabulary.encode_batch(texts, length)

    def __repr__(self) -> str:
        return f"Encoder({self.size:,} tokens, fingerprint {self.fingerprint[:12]}...)"


def _names(names: Any, assets: Path) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SavedModelError(f"The card in {str(assets)!r} is damaged: class_names is {names!r}.")
    return tuple(names)


def tokenizer_fingerprint(vocabulary: Vocabulary) -> str | None:
    """SHA-256 over the settings of a vocabulary's tokenizer, as 64 hexadecimal digits; None without one."""
    if vocabulary.tokenizer is None:
        return None
    return hashlib.sha256(json.dumps(vocabulary.tokenizer.to_dict(), sort_keys=True).encode("ascii")).hexdigest()


def _assets_of(path: Path) -> tuple[Path, str | None]:
    """The folder of assets, and the model's name where the folders around it tell it."""
    path = path.absolute()
    version = latest_version(path)
    folder = path if version is None else path / str(version)
    assets, name = (folder / "assets", folder.parent.name) if (folder / "assets").is_dir() else (folder, None)
    if not (assets / CARD_FILE).is_file():
        raise SavedModelError(f"There are no assets of an export in {str(path)!r}: no {CARD_FILE}.")
    return assets, name


def labelled(texts: Sequence[str], scores: np.ndarray, class_names: Sequence[str] | None, whose: str) -> pd.DataFrame:
    """One row a text: `text`, `label`, `probability` of the best class.

    Args:
        texts: the texts.
        scores: (texts, classes).
        class_names: one a class; without them a label is the number of the class.
        whose: what gave the scores, for messages.

    Raises:
        SavedModelError: not one score a class.
    """
    if scores.ndim != 2 or scores.shape[-1] < 2:
        raise SavedModelError(
            f"{whose} gives scores of shape {scores.shape[1:]} for a text, which name no class. Use scores()."
        )
    if class_names and len(class_names) != scores.shape[-1]:
        raise SavedModelError(f"{whose} names {len(class_names)} classes and scores {scores.shape[-1]}.")
    best = scores.argmax(axis=1)
    labels = [class_names[index] if class_names else str(index) for index in best]
    return pd.DataFrame({"text": list(texts), "label": labels, "probability": scores.max(axis=1, initial=-np.inf)})
