"""Advice: what the runs of a race show, what they can't tell apart, and which strategy to take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from embkeras.errors import ArgumentError
from embkeras.experiments.results import MEASURES, Record
from embkeras.experiments.rounds import cost
from embkeras.experiments.statistics import ALPHA, Difference, holm, percent_interval

FEW = 50  # labelled texts below which strategies for few labels come first
_SHOWN = {
    "accuracy": "accuracy %",
    "unseen_accuracy": "unseen words %",
    "f1": "F1 %",
    "calibration_error": "ECE %",
}


@dataclass(frozen=True, eq=False)
class Advice:
    """What a race found. `print(advice)` shows the table and the sentences.

    Strategies are compared, and one is recommended, by the validation texts of the final round. What is reported of it
    are test texts, which chose nothing.

    Attributes:
        final: records of the final round; of each seed and fold those of all strategies in it.
        racing: records of the rounds before.
        left: why strategies left the race, by name.
        folds: how many folds, or None.
        note: what else there is to say, such as that the time was up.
        settings: what a rerun needs, as JSON values.
        labelled: how many examples train; None if that isn't known.
        few_labels: strategies that a tie goes to, as fewer than 50 examples train (`Strategy.few_labels`); else empty.
    """

    final: tuple[Record, ...]
    racing: tuple[Record, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    folds: int | None = None
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    labelled: int | None = None
    few_labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self._table_text}\n{self.text}"

    @cached_property
    def _runs(self) -> dict[str, list[Record]]:
        """The records of the final round, by strategy, in the same order of seeds and folds."""
        found: dict[str, list[Record]] = {}
        for record in sorted(self.final, key=lambda record: (record.seed, record.fold)):
            found.setdefault(record.strategy, []).append(record)
        return found

    def _difference(self, first: str, second: str | None, part: str) -> Difference:
        """Of two strategies; of one strategy to 0."""
        ones = [getattr(record, part).astype(float) for record in self._runs[first]]
        others = [0.0 * one for one in ones] if second is None else [getattr(each, part) for each in self._runs[second]]
        pairs = [one - other for one, other in zip(ones, others, strict=True)]
        if self.folds is None:
            return Difference.of_texts(np.stack(pairs))
        return Difference.of_folds(np.array([pair.mean() for pair in pairs]), overlap(self.folds))

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per strategy, the best mean validation accuracy first; those that left the race below.

        Columns: `validation_accuracy`, and of the test texts `accuracy`, its standard deviation over runs `accuracy_sd` and
        `half_width` of its 95% interval (NaN for those that left), `f1`, `unseen_accuracy`, `calibration_error`;
        `drift` (see `Record`), `parameters`, `trainable_parameters`, `stored_bytes`, `seconds`, `epochs` and `threads` (means
        of a run), `seeds` (runs), `diverged` (how many of them), and `left` (why, or nothing).
        """
        rows: list[dict[str, Any]] = []
        for group in (self._runs, self._those_that_left):
            block: list[dict[str, Any]] = []
            for name, records in group.items():
                means = {measure: _mean([record.measures[measure] for record in records]) for measure in MEASURES}
                accuracies = [record.measures["accuracy"] for record in records]
                block.append(
                    {"strategy": name, "accuracy": means["accuracy"]}
                    | {"accuracy_sd": float(np.std(accuracies, ddof=1)) if len(records) > 1 else np.nan}
                    | {
                        "half_width": self._difference(name, None, "test").half_width()
                        if group is self._runs
                        else np.nan
                    }
                    | means
                    | {"seeds": len(records), "diverged": sum(record.diverged for record in records)}
                    | {"left": self.left.get(name, "")}
                )
            rows += sorted(block, key=lambda row: -row["validation_accuracy"])
        return pd.DataFrame(rows).set_index("strategy") if rows else pd.DataFrame()

    @property
    def _those_that_left(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in self.racing:
            if record.strategy not in self._runs:
                found.setdefault(record.strategy, []).append(record)
        return found

    @cached_property
    def leads(self) -> pd.DataFrame:
        """The lead of the best strategy of the final round over each of the others, on the validation texts.

        Columns: `difference`, `half_width` of its 95% interval, `p_value` after Holm's correction for the number of
        strategies, `significant` (below 0.05), `could_show` (the smallest difference that this many runs could have shown),
        and `runs_needed` (how many would show this one, if it is the true one; NaN if more runs alone don't).
        """
        best, *others = [name for name in self.table.index if name in self._runs] or [""]
        found = [self._difference(best, other, "validation") for other in others]
        strictest = ALPHA / max(len(others), 1)
        adjusted = holm([each.p_value for each in found])
        columns = {
            "difference": [each.mean for each in found],
            "half_width": [each.half_width() for each in found],
            "p_value": adjusted,
            "significant": adjusted < ALPHA,
            "could_show": [each.half_width(strictest) for each in found],
            "runs_needed": pd.array([each.runs_needed(strictest) for each in found], "Float64").to_numpy(
                float, na_value=np.nan
            ),
        }
        return pd.DataFrame(columns, index=pd.Index(others, name="strategy"))

    @property
    def tied(self) -> list[str]:
        """The best strategy of the final round, and those that can't be told apart from it."""
        best = self.table.index[0]
        return [best, *self.leads.index[~self.leads["significant"]]]

    @cached_property
    def recommended(self) -> str | None:
        """The best strategy or, in a tie, the cheapest of the tied: to store, then to train. None without a final round.

        Where fewer than 50 examples train, a tie goes to the cheapest of those in it that suit few labels.
        """
        if not self._runs or (len(self._runs) > 1 and len(next(iter(self._runs.values()))) < 2):
            return None

        def rank(name: str) -> tuple[float, ...]:
            return name not in self.few_labels, *cost(self._runs[name]), self.tied.index(name)

        return min(self.tied, key=rank)

    @cached_property
    def reported(self) -> Difference:
        """Test accuracy on data that chose nothing: its mean, and by `half_width()` its interval.

        Without folds, of the strategy recommended. With folds, nested: in each fold of the strategy that is best on the
        fold's validation texts.

        Raises:
            ArgumentError: nothing is recommended.
        """
        if self.recommended is None:
            raise ArgumentError(f"No strategy is recommended, so there is nothing to report. {self.text}")
        if self.folds is None:
            return self._difference(self.recommended, None, "test")
        runs = list(zip(*self._runs.values(), strict=True))
        chosen = [max(fold, key=lambda record: record.validation.mean()) for fold in runs]
        return Difference.of_folds(np.array([record.test.mean() for record in chosen]), overlap(self.folds))

    @cached_property
    def text(self) -> str:
        """What the figures say, in sentences."""
        said = [self.note] if self.note else []
        if self.few_labels:
            said.append(
                f"Only {self.labelled} labelled texts train. Below {FEW}, start with {', '.join(self.few_labels)}: they keep "
                f"the pre-trained part as it is, so that little has to be learned from so few, and a training takes seconds."
            )
        if not self._runs:
            return " ".join([*said, "There is no final round, so nothing is recommended."])
        best = self.table.index[0]
        if self.recommended is None:
            said.append(
                "With one seed the noise is unknown, so no strategy is called the best. Run at least two seeds."
            )
        elif len(self._runs) == 1:
            said.append(f"Only {best} was run: there is nothing to compare it with.")
        elif len(self.tied) == 1:
            said.append(f"{best} is the best: its lead over each of the others is larger than the noise (95%, Holm).")
        else:
            said += self._of_a_tie()
        if self.recommended is not None:
            where = "of what each fold's validation texts chose" if self.folds else f"of {self.recommended}"
            said.append(f"Test accuracy {where}, on texts that chose nothing: {self._reported_text}.")
        diverged = self.table.index[self.table["diverged"] > 0]
        if len(diverged):
            said.append(f"Some runs diverged (scores that are no numbers): {', '.join(diverged)}.")
        return " ".join(said)

    @property
    def _reported_text(self) -> str:
        """In percent; an interval that is cut, since an accuracy is between 0 and 100, has its ends written out."""
        exact, _, ends = percent_interval(self.reported.mean, self.reported.half_width()).partition(" (")
        return f"{exact}% (95% interval {ends[:-1]}%, cut at what an accuracy can be)" if ends else f"{exact}%"

    def _of_a_tie(self) -> list[str]:
        tied = self.leads.loc[self.tied[1:]]
        runs, shown = len(next(iter(self._runs.values()))), 100 * tied["could_show"].max()
        could = f"{runs} runs each could have shown a difference of {shown:.1f} points."
        if shown == 0:
            could = "They were right on the same number of validation texts in each run."
        suited = [name for name in self.few_labels if name in self.tied]
        of = "them" if not suited else f"{', '.join(suited)}, which come first where so few texts train"
        said = [
            f"A tie: {', '.join(self.tied)} can't be told apart. {could} "
            f"Recommended: {self.recommended}, the cheapest of {of} to store and to train."
        ]
        if not self.leads["significant"].any():
            largest = tied["difference"].idxmax()
            needed, points = tied.loc[largest, "runs_needed"], 100 * tied.loc[largest, "difference"]
            if np.isfinite(needed):
                said.append(
                    f"If the largest difference seen ({points:.1f} points, to {largest}) is the true one, "
                    f"about {needed:.0f} runs each would show it."
                )
            elif points > 0:
                said.append(
                    f"More runs alone would not show the largest difference seen ({points:.1f} points, to {largest}): "
                    f"that takes more validation texts."
                )
        return said

    @property
    def _table_text(self) -> str:
        """The table for people: "trained" are parameters, "MB" what is stored to serve."""
        if self.table.empty:
            return "No runs."
        shown = pd.DataFrame(index=self.table.index.rename(None))
        for column, title in _SHOWN.items():
            if self.table[column].notna().any():
                shown[title] = [_percent(value) for value in self.table[column]]
        exact = zip(self.table["accuracy"], self.table["half_width"], strict=True)
        shown["accuracy %"] = [percent_interval(*each) for each in exact]
        shown.insert(0, "validation %", [_percent(value) for value in self.table["validation_accuracy"]])
        if self.table["drift"].notna().any():
            shown["drift"] = [f"{value:.3g}" if np.isfinite(value) else "-" for value in self.table["drift"]]
        shown["trained"] = self.table["trainable_parameters"].map("{:,.0f}".format)
        shown["MB"] = (self.table["stored_bytes"] / 1e6).map("{:,.2f}".format)
        shown["s per run"] = self.table["seconds"].map("{:.1f}".format)
        shown["runs"] = self.table["seeds"]
        if self.table["left"].any():
            shown["left the race"] = self.table["left"]
        return shown.to_string()

    def to_dict(self) -> dict[str, Any]:
        """Table, leads, advice and settings as JSON values; what is NaN or infinite is None."""
        known = self.recommended is not None
        return {
            "recommended": self.recommended,
            "tied": self.tied if known else [],
            "text": self.text,
            "reported": {"accuracy": self.reported.mean, "half_width": _finite(self.reported.half_width())}
            if known
            else None,
            "table": _rows(self.table),
            "leads": _rows(self.leads) if len(self._runs) > 1 else [],
            "left": dict(self.left),
            "folds": self.folds,
            "settings": dict(self.settings),
        }


def overlap(folds: int) -> float:
    """The number of scored examples over that of training examples, in a run on folds: one part over those that train."""
    return 1 / (folds - 2)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "-"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Each row of a table with native Python values."""
    rows = table.rename_axis("strategy").reset_index().to_dict("records")
    return [{str(name): _finite(value) for name, value in row.items()} for row in rows]
