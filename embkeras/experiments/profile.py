"""data_profile: a look at labelled texts before training. It shows what to expect, and is never used as the answer."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from embkeras._checks import is_whole, number, sequence, shown, strings, whole_number
from embkeras.errors import ArgumentError, VocabularyError
from embkeras.experiments.duplicates import duplicates
from embkeras.experiments.suspects import neighbour_shares, suggested, usual_shares
from embkeras.experiments.words import Words, words_of
from embkeras.text.tokenizer import check_unicode
from embkeras.vectors.aligned import AlignedMatrix, Coverage

_PROSE = {"train": "training", "validation": "validation", "test": "test"}
_MANY_CLASSES = 8
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class DataProfile:
    """What `data_profile` found. `print(profile)` shows it in a few lines.

    Attributes:
        parts: one row for each part, `train` first: `texts`, `tokens`, `median_tokens` and `longest` (tokens of a text),
            `empty` (texts without a token), `types` (different tokens); with vectors `coverage_types` and
            `coverage_tokens` (shares of the types and of the running text that have one); `unseen` (share of the texts
            with a word that training doesn't have; NaN for training) and, with vectors, `unseen_with_vector` (with such
            a word that has one); `in_train_exactly` and `in_train_nearly` (texts that repeat one of training, in the
            training part an earlier one); `sample` (texts whose labels were looked at), `judged` (those of them that have
            neighbours), `agreement` (share of the judged whose label is the most common one among their neighbours) and
            `suspects`.
        classes: texts of each class in each part.
        occurrences: how many words occur how often in training: `types`, `tokens`, and with vectors `with_vector`, the types
            that have one.
        duplicates: texts that repeat one before them: `part`, `text`, `of_part`, `of_text`, `resemblance` (0 to 1; an
            estimate, with a standard deviation of at most 0.045), `exact` (equal but for case and white space), `label`,
            `of_label`. Texts are counted from 0 in their part.
        suspects: texts whose label their neighbours don't share, the least likely label first: `part`, `text`, `label`,
            `neighbours_label`, `share` and `own_share` (of the neighbours: those with that label, those with its own).
        neighbours: how many of the nearest training texts voted on each label.
    """

    parts: pd.DataFrame
    classes: pd.DataFrame
    occurrences: pd.DataFrame
    duplicates: pd.DataFrame
    suspects: pd.DataFrame
    neighbours: int

    @property
    def sampled(self) -> bool:
        """Whether labels were looked at in a sample of the texts."""
        return bool((self.parts["sample"] < self.parts["texts"]).any())

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON; what is unknown is None."""
        by_row = {name: _plain(getattr(self, name), "index") for name in ("parts", "classes", "occurrences")}
        lists = {name: _plain(getattr(self, name), "records") for name in ("duplicates", "suspects")}
        return by_row | lists | {"neighbours": self.neighbours, "sampled": self.sampled}

    def __str__(self) -> str:
        return "\n".join([*self._size_lines(), *self._word_lines(), *self._duplicate_lines(), *self._suspect_lines()])

    def _size_lines(self) -> Iterator[str]:
        parts = self.parts
        yield (
            f"Texts: {self._each('texts')}; the median training text has {parts.at['train', 'median_tokens']:.0f} tokens, "
            f"the longest {parts.at['train', 'longest']:,}"
        )
        if parts["empty"].any():
            yield f"Texts without a token: {self._each('empty')}"
        train = self.classes["train"]
        known, largest = train[train > 0], train.idxmax()
        if len(known) <= _MANY_CLASSES:
            balance = ", ".join(f"{name} {count / train.sum():.1%}" for name, count in known.items())
        else:
            balance = (
                f"{len(known):,}, from {known.idxmin()} ({known.min() / train.sum():.1%}) to {largest} "
                f"({known.max() / train.sum():.1%})"
            )
        yield f"Classes of the training texts: {balance}"
        others = self.classes.drop(columns="train")
        if len(others.columns):
            yield f"Always predicting {largest} would be right for {_shares(others.loc[largest] / others.sum())}"
        for name, counts in others.items():
            new = counts[(train == 0) & (counts > 0)]
            if len(new):
                found = ", ".join(f"{label} ({count:,})" for label, count in new.items())
                yield f"Classes of the {name} texts that training doesn't have: {found}"

    def _word_lines(self) -> Iterator[str]:
        parts, words = self.parts, self.occurrences
        counted = words["types"]
        if "with_vector" in words:
            for row in parts.itertuples():
                yield f"Coverage of the {_PROSE[row.Index]} texts: {Coverage(row.coverage_types, row.coverage_tokens)}"
            counted = words["with_vector"]
        often = ", ".join(f"{name} {count / max(counted.sum(), 1):.0%}" for name, count in counted.items())
        which = "that have a vector " if "with_vector" in words else ""
        yield f"Words {which}by how often they occur in training: {often}"
        once, types = words.at["once", "types"], words["types"].sum()
        yield f"Words seen once: {once:,} of {types:,} ({once / max(types, 1):.1%})"
        others = parts.drop(index="train")
        if len(others):
            line = f"Texts with words that training doesn't have: {_shares(others['unseen'])}"
            if "unseen_with_vector" in others:
                line += f"; with such words that have a vector: {_shares(others['unseen_with_vector'])}"
            yield line

    def _duplicate_lines(self) -> Iterator[str]:
        inside = self.duplicates[self.duplicates["part"] == "train"]
        differ = (inside["label"] != inside["of_label"]).sum()
        yield (
            f"Training texts that repeat an earlier one: {inside['exact'].sum():,} exactly, "
            f"{(~inside['exact']).sum():,} nearly; {differ:,} of them with another label"
        )
        others = self.parts.drop(index="train")
        leaks = [
            f"{row.in_train_exactly:,} exactly and {row.in_train_nearly:,} nearly of {row.texts:,} {row.Index} texts"
            for row in others.itertuples()
        ]
        if leaks:
            yield f"Leaks, texts that repeat a training text: {'; '.join(leaks)}"

    def _suspect_lines(self) -> Iterator[str]:
        if not self.parts.at["train", "judged"]:
            return
        of = "a sample of " if self.sampled else ""
        found = [f"{row.suspects:,} of {of}{row.judged:,} {_PROSE[row.Index]} texts" for row in self.parts.itertuples()]
        yield f"Labels unlike those of the {self.neighbours} nearest training texts: {', '.join(found)}"
        yield (
            f"The neighbours' vote agrees with {self.parts.at['train', 'agreement']:.1%} of the training labels. "
            f"It errs too: read a text before you relabel it"
        )
        first = [
            f"{_PROSE[row.part]} text {row.text} ({row.label}; {row.share:.0%} of its neighbours are {row.neighbours_label})"
            for row in self.suspects.head(_SHOWN).itertuples()
        ]
        if first:
            yield f"Look first at {', '.join(first)}"

    def _each(self, column: str) -> str:
        return ", ".join(f"{count:,} {_PROSE[str(name)]}" for name, count in self.parts[column].items())


def data_profile(
    texts: Iterable[str],
    labels: Iterable[Any],
    aligned: AlignedMatrix | None = None,
    *,
    validation: Any = None,
    test: Any = None,
    near: float = 0.8,
    neighbours: int = 20,
    sample: int = 20_000,
) -> DataProfile:
    """Look at labelled texts before training: size, classes, words, repeated texts, labels that may be wrong.

    Repeated texts are found by MinHash over shingles of five characters (Broder 1997), in time linear in the texts. Labels
    are suspect where the nearest training texts have another one (Wilson 1972; Northcutt, Jiang & Chuang 2021), by the
    cosine of the mean of their words' vectors. Without vectors, texts are compared by their words, weighted by rarity
    (tf-idf) and projected on random signs (Achlioptas 2003). A suspect is no error: read it.

    Args:
        texts: the training texts.
        labels: a class name or number for each.
        aligned: what `align` returned; its vocabulary splits the texts. Without it, texts are split into words and marks,
            and what needs vectors is left out.
        validation: a pair (texts, labels).
        test: a pair (texts, labels).
        near: resemblance from which on two texts are near-duplicates: of their shingles, the share that both have.
        neighbours: how many of the nearest training texts vote on each label.
        sample: the most texts of a part whose labels are looked at; a larger part is sampled, always in the same way.

    Returns:
        Tables of the parts, classes, words, repeated texts and suspect labels.

    Raises:
        ArgumentError: texts that are not strings, not one label for each, labels that are neither strings nor integers,
            an argument out of range, or a vocabulary without a tokenizer.

    Examples:
        >>> profile = data_profile(["a cat", "a dog", "A cat"], ["x", "y", "y"], test=(["a bird"], ["x"]))
        >>> print(profile.parts[["texts", "tokens", "in_train_exactly", "unseen"]])
               texts  tokens  in_train_exactly  unseen
        train      3       6                 1     NaN
        test       1       2                 0     1.0
    """
    near = number(near, "near", above=0, most=1)
    neighbours, sample = whole_number(neighbours, "neighbours", least=1), whole_number(sample, "sample", least=1)
    if aligned is not None and not isinstance(aligned, AlignedMatrix):
        raise ArgumentError(f"aligned must be what align returned, or None. Received: {shown(aligned)}.")
    parts = {"train": _part((texts, labels), "texts", "labels")}
    for name, pair in (("validation", validation), ("test", test)):
        if pair is not None:
            parts[name] = _part(pair, f"{name} texts", f"{name} labels")
    names, classes = _classes({name: own for name, (_, own) in parts.items()})
    words = words_of({name: own for name, (own, _) in parts.items()}, aligned)
    repeated = _duplicates(parts, near)
    judged, suspects = _suspects(words, classes, names, neighbours, sample)
    rows = []
    for part in parts:
        here = repeated[(repeated["part"] == part) & (repeated["of_part"] == "train")]
        copies = {"in_train_exactly": here["exact"].sum(), "in_train_nearly": (~here["exact"]).sum()}
        rows.append(words.figures(part) | copies | judged[part])
    counts = {part: np.bincount(own, minlength=len(names)) for part, own in classes.items()}
    return DataProfile(
        pd.DataFrame(rows, index=list(parts)),
        pd.DataFrame(counts, index=pd.Index(names, name="class")),
        words.occurrences(),
        repeated,
        suspects,
        neighbours,
    )


def _part(pair: Any, what: str, whose: str) -> tuple[list[str], list[Any]]:
    """Checked texts and labels of a part."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ArgumentError(f"{what.split()[0]} must be a pair (texts, labels). Received: {shown(pair)}.")
    texts, labels = strings(pair[0], what), list(sequence(pair[1], whose))
    if not texts or len(texts) != len(labels):
        raise ArgumentError(f"Each text needs one label. Received: {len(texts)} {what}, {len(labels)} labels.")
    for place, label in enumerate(labels):
        if not isinstance(label, str) and not is_whole(label):
            raise ArgumentError(
                f"{whose} must be class names or numbers: strings, or integers. "
                f"Received: {shown(label)} at place {place}."
            )
        if isinstance(label, str):
            try:
                check_unicode(label)
            except VocabularyError:
                raise ArgumentError(
                    f"{whose} must be valid Unicode. Received: {shown(label)} at place {place}."
                ) from None
    return texts, [str(label) if isinstance(label, str) else int(label) for label in labels]


def _classes(labels: dict[str, list[Any]]) -> tuple[list[Any], dict[str, np.ndarray]]:
    """All class names in order, and the labels of each part as numbers of them."""
    kinds = {type(label) for own in labels.values() for label in own}
    if len(kinds) > 1:
        raise ArgumentError("The labels of all parts must be strings, or all integers. Received: some of both.")
    names = sorted({label for own in labels.values() for label in own})
    number_of = {name: index for index, name in enumerate(names)}
    return names, {part: np.array([number_of[label] for label in own]) for part, own in labels.items()}


def _duplicates(parts: dict[str, tuple[list[str], list[Any]]], near: float) -> pd.DataFrame:
    """The table of `DataProfile.duplicates`."""
    names = np.array(list(parts), object)
    part = np.repeat(np.arange(len(parts)), [len(texts) for texts, _ in parts.values()])
    place = np.concatenate([np.arange(len(texts)) for texts, _ in parts.values()])
    labels = np.array([label for _, own in parts.values() for label in own], object)
    found = duplicates([text for texts, _ in parts.values() for text in texts], part.tolist(), near)
    text, of = found["text"].to_numpy(), found["of"].to_numpy()
    return pd.DataFrame(
        {
            "part": names[part[text]],
            "text": place[text],
            "of_part": names[part[of]],
            "of_text": place[of],
            "resemblance": found["resemblance"],
            "exact": found["exact"],
            "label": labels[text],
            "of_label": labels[of],
        }
    )


def _suspects(
    words: Words, classes: dict[str, np.ndarray], names: list[Any], count: int, sample: int
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """For each part the columns of `parts` on its labels; and the table of suspects."""
    rng = np.random.default_rng(0)
    rows = {part: np.sort(rng.choice(len(own), min(sample, len(own)), replace=False)) for part, own in classes.items()}
    vectors = {part: words.vectors(part, some) for part, some in rows.items()}
    training, labels = vectors["train"], classes["train"][rows["train"]]
    usual, judged, found = np.zeros(len(names)), {}, []
    for part, some in rows.items():
        own = classes[part][some]
        shares = neighbour_shares(training, labels, len(names), count, None if part == "train" else vectors[part])
        usual = usual_shares(shares, own) if part == "train" else usual
        other = suggested(shares, own, usual)
        known = ~np.isnan(shares).any(axis=1)
        agree = (shares.argmax(axis=1) == own)[known]
        judged[part] = {
            "sample": len(some),
            "judged": int(known.sum()),
            "agreement": float(agree.mean()) if known.any() else np.nan,
            "suspects": int((other >= 0).sum()),
        }
        for row in np.flatnonzero(other >= 0):
            place, one = other[row], own[row]
            found.append((part, some[row], names[one], names[place], shares[row, place], shares[row, one]))
    columns = ["part", "text", "label", "neighbours_label", "share", "own_share"]
    table = pd.DataFrame(found, columns=columns).astype({"text": int, "share": float, "own_share": float})
    order = (table["own_share"] - table["share"]).sort_values(kind="stable").index
    return judged, table.loc[order].reset_index(drop=True)


def _shares(values: pd.Series) -> str:
    return ", ".join(f"{value:.1%} of the {name} texts" for name, value in values.items())


def _plain(table: pd.DataFrame, orient: Any) -> Any:
    """A table as JSON holds it: keys are strings, and what is not a number is None."""
    return json.loads(table.to_json(orient=orient, double_precision=10))
