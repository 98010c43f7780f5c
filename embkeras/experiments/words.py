"""The words of labelled texts in parts: how many, how often, which have vectors, which training doesn't have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from embkeras._progress import progress
from embkeras.errors import ArgumentError, VocabularyError
from embkeras.text.tokenizer import WORDS
from embkeras.vectors.aligned import AlignedMatrix

_TRAIN = "train"
_OCCURRENCES = {"once": 1, "2 to 4 times": 2, "5 to 9 times": 5, "10 to 99 times": 10, "100 times or more": 100}
_WIDTH = 256  # of the random signs that stand in for vectors


@dataclass(frozen=True, eq=False)
class Words:
    """The texts of each part as numbers of their words.

    Attributes:
        words: all different words.
        texts: part -> for each text the numbers of its words, in order.
        aligned: the vectors, or None.
    """

    words: list[str]
    texts: dict[str, list[np.ndarray]]
    aligned: AlignedMatrix | None

    @cached_property
    def ids(self) -> np.ndarray | None:
        """For each word its row in the vectors, -1 where it has no vector; None without vectors."""
        if self.aligned is None:
            return None
        id_of = self.aligned.vocabulary.token_to_id
        ids = np.array([id_of.get(word, -1) for word in self.words], np.int64)
        return np.where(self.aligned.found[ids] & (ids >= 0), ids, -1)

    @cached_property
    def train_counts(self) -> np.ndarray:
        """How often each word occurs in training."""
        return self._counts(_TRAIN)

    def _counts(self, part: str) -> np.ndarray:
        return np.bincount(_flat(self.texts[part]), minlength=len(self.words))

    def figures(self, part: str) -> dict[str, Any]:
        """Size, coverage and unseen words of a part, as the columns of `DataProfile.parts`."""
        texts = self.texts[part]
        counts, lengths = self._counts(part), np.array([len(text) for text in texts])
        found: dict[str, Any] = {
            "texts": len(texts),
            "tokens": int(counts.sum()),
            "median_tokens": float(np.median(lengths)),
            "longest": int(lengths.max()),
            "empty": int((lengths == 0).sum()),
            "types": int((counts > 0).sum()),
        }
        has = None if self.ids is None else self.ids >= 0
        if has is not None:
            found["coverage_types"] = float(has[counts > 0].mean()) if counts.any() else 0.0
            found["coverage_tokens"] = float(counts[has].sum() / max(counts.sum(), 1))
        new = self.train_counts == 0
        found["unseen"] = np.nan if part == _TRAIN else _share(texts, new)
        if has is not None:
            found["unseen_with_vector"] = np.nan if part == _TRAIN else _share(texts, new & has)
        return found

    def occurrences(self) -> pd.DataFrame:
        """How many words occur how often in training: `types`, `tokens` and, with vectors, the types `with_vector`."""
        counts = self.train_counts
        group = np.digitize(counts, list(_OCCURRENCES.values()))  # 0: does not occur

        def by_group(weights: np.ndarray | None = None) -> np.ndarray:
            return np.bincount(group, weights, minlength=len(_OCCURRENCES) + 1)[1:].astype(np.int64)

        table = pd.DataFrame({"types": by_group(), "tokens": by_group(counts)}, index=list(_OCCURRENCES))
        if self.ids is not None:
            table["with_vector"] = by_group(self.ids >= 0)
        return table.rename_axis("occurrences")

    def vectors(self, part: str, rows: np.ndarray) -> np.ndarray:
        """The mean of the vectors of the words of some texts; zeros for a text without any.

        Without vectors, words are rows of random signs weighted by rarity: the cosines of their sums are those of tf-idf,
        about (Achlioptas 2003, Database-friendly Random Projections).
        """
        texts = [self.texts[part][row] for row in rows]
        if self.aligned is not None and self.ids is not None:
            texts = [self.ids[text] for text in texts]
            return _means([text[text >= 0] for text in texts], self.aligned.values, None)
        training = self.texts[_TRAIN]
        documents = np.bincount(_flat([np.unique(text) for text in training]), minlength=len(self.words))
        rarity = np.log((1 + len(training)) / (1 + documents))
        rarity = np.where(documents > 0, rarity, 0).astype(np.float32)  # no training text can be near by another word
        signs = np.random.default_rng(0).integers(0, 2, (len(self.words), _WIDTH), np.int8) * np.int8(2) - np.int8(1)
        return _means(texts, signs, rarity)


def words_of(parts: Mapping[str, Sequence[str]], aligned: AlignedMatrix | None) -> Words:
    """Split the texts of all parts as the vocabulary does, or at words and marks without one.

    Raises:
        ArgumentError: a vocabulary without a tokenizer, or a text that it can't split.
    """
    tokenizer = WORDS if aligned is None else aligned.vocabulary.tokenizer
    if tokenizer is None:
        raise ArgumentError(
            "data_profile splits texts as the vocabulary of aligned does, and that has no tokenizer: "
            "make the vocabulary with tokenizer=."
        )
    before, behind = tokenizer.frame  # special pieces of an encoder
    number_of: dict[str, int] = {}
    texts: dict[str, list[np.ndarray]] = {part: [] for part in parts}
    done, total = 0, sum(map(len, parts.values()))
    with progress("words of the texts") as report:
        for part, own in parts.items():
            for place, text in enumerate(own):
                try:
                    tokens = tokenizer(text)
                except VocabularyError as error:
                    raise ArgumentError(f"Text {place} of {part} (counted from 0): {error}") from None
                tokens = tokens[before : len(tokens) - behind]
                texts[part].append(np.array([number_of.setdefault(each, len(number_of)) for each in tokens], np.int64))
                done += 1
                report(done, total)
    return Words(list(number_of), texts, aligned)


def _flat(texts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *texts])


def _share(texts: list[np.ndarray], which: np.ndarray) -> float:
    """The share of the texts that have one of these words."""
    return float(np.mean([which[text].any() for text in texts]))


def _means(texts: list[np.ndarray], table: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """For each text the mean of its rows of a table, each with its weight; float32 of shape (texts, width)."""
    result = np.zeros((len(texts), table.shape[1]), np.float32)
    for row, text in enumerate(texts):
        if len(text):
            weight = np.ones(len(text), np.float32) if weights is None else weights[text]
            result[row] = weight @ table[text].astype(np.float32, copy=False) / len(text)
    return result
