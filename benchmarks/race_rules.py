"""What the rules of `race_strategies` cost and lose, on runs that are simulated from those of recipe.py.

Each set, number of texts and architecture of `results/recipe.jsonl` is a cell; its ways are the strategies, with the mean
accuracy and the seconds that were measured there as their truth, and 0.7 times the measured standard deviation (at most 3
points) as the noise of training. Which texts are right is drawn: most of what makes a text hard is the same for all strategies
(75% of the variance), some the same for all runs of a strategy (10%). 200 to 1,000 texts validate. So this shows what the rules
do, and not what training does. No training runs, so it takes a few minutes.

python benchmarks/race_rules.py        # writes benchmarks/results/race_rules.md
"""

import json
import math
import zlib
from collections import defaultdict
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_line
from scipy.stats import norm

import embkeras as ek
from embkeras.experiments.advice import Advice
from embkeras.experiments.race import Job
from embkeras.experiments.results import MEASURES, Record

RESULTS = Path(__file__).with_name("results")
COST = {"static": 0, "map": 1, "phased": 2, "stock": 3, "rescaled 0.1": 4, "random": 5, "map+rows": 6}
SHARED, OWN, RUN = 0.75, 0.10, 0.15  # shares of the variance of what makes a text hard
RULES = (
    (0, 7, False),
    (2, 2, False),
    (1, 2, True),
    (1, 3, True),
    (2, 2, True),
    (2, 3, True),
)  # rounds, finalists, stop early
DATA = [(np.ones((20, 2), int), np.arange(20) % 2)] * 3  # never trained on


class Replay(Executor):
    """Answers with drawn runs of one cell instead of training, and adds up their seconds."""

    def __init__(self, cell: tuple[Any, ...], ways: dict[str, list[dict[str, Any]]]):
        self.seconds, self.seed = 0.0, zlib.crc32(repr(cell).encode())
        self.truth = {way: float(np.mean([each["accuracy"] for each in runs])) for way, runs in ways.items()}
        self.spread = {
            way: min(0.03, 0.7 * float(np.std([each["accuracy"] for each in runs], ddof=1)))
            for way, runs in ways.items()
        }
        self.took = {way: float(np.mean([each["seconds"] for each in runs])) for way, runs in ways.items()}
        texts = int(np.mean([each["tests"] for runs in ways.values() for each in runs]))
        rng = np.random.default_rng(self.seed)
        self.hard = {"test": rng.normal(size=texts), "validation": rng.normal(size=min(max(200, texts), 1000))}
        self.own = {way: {part: rng.normal(size=len(each)) for part, each in self.hard.items()} for way in sorted(ways)}

    def submit(self, call: Any, job: Job) -> Future[Record]:  # type: ignore[override]
        """A run at once."""
        way = job.strategy.name
        rng = np.random.default_rng([self.seed, job.seed, COST[way]])
        skill = norm.ppf(np.clip(self.truth[way] + rng.normal(0, self.spread[way]), 0.02, 0.98))
        right = {
            part: math.sqrt(SHARED) * hard
            + math.sqrt(OWN) * self.own[way][part]
            + math.sqrt(RUN) * rng.normal(size=len(hard))
            < skill
            for part, hard in self.hard.items()
        }
        measures = dict.fromkeys(MEASURES, 1.0) | {"trainable_parameters": COST[way], "seconds": self.took[way]}
        measures |= {"accuracy": right["test"].mean(), "validation_accuracy": right["validation"].mean()}
        self.seconds += self.took[way]
        future: Future[Record] = Future()
        future.set_result(Record(way, job.seed, 0, right["test"], right["validation"], measures))
        return future

    def race(self, **rules: Any) -> Advice:
        """The advice, by these rules."""
        self.seconds = 0.0
        strategies = [ek.Strategy(way) for way in self.truth]
        return ek.race_strategies(self._none, DATA, strategies=strategies, executor=self, verbose=False, **rules)

    @staticmethod
    def _none(strategy: ek.Strategy) -> None:
        """Never called."""

    def lost(self, advice: Advice) -> float:
        """Accuracy below the best of the cell."""
        return max(self.truth.values()) - self.truth[str(advice.recommended)]


def main() -> None:
    """Print and write the table."""
    cells: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in (RESULTS / "recipe.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        if record["way"] in COST:
            cells[record["data"], record["size"], record["architecture"]][record["way"]].append(record)
    replays = [Replay(cell, ways) for cell, ways in cells.items() if len(ways) == len(COST)]
    lines = [
        "# What the rules of a race cost and lose",
        "",
        machine_line("scipy", "numpy"),
        "",
        f"{len(replays)} cells with {len(COST)} strategies; `benchmarks/race_rules.py` says how their runs are drawn. The full "
        'grid trains all strategies from all seeds; "the same again" is the full grid from other seeds. A final round ends when '
        "its recommendation is settled, unless it has all seeds.",
        "",
        "| seeds | rules | the grid's recommendation | in the grid's tie | time of the grid's | points below the best |",
        "|---|---|---|---|---|---|",
    ]
    for seeds in (5, 10):
        grids = [(replay.race(seeds=range(100, 100 + seeds), rounds=0), replay.seconds) for replay in replays]
        own = 100 * np.mean([replay.lost(grid) for replay, (grid, _) in zip(replays, grids, strict=True)])
        lines.append(f"| {seeds} | full grid | | | | {own:.2f} |")
        for rounds, most, stop in RULES:
            asked = {"rounds": rounds, "most_finalists": most, "stop_early": stop}
            found = [(replay.race(seeds=range(200, 200 + seeds), **asked), replay.seconds) for replay in replays]
            pairs = list(zip(replays, found, grids, strict=True))
            same = np.mean([advice.recommended == grid.recommended for _, (advice, _), (grid, _) in pairs])
            tied = np.mean([advice.recommended in grid.tied for _, (advice, _), (grid, _) in pairs])
            time = np.mean([took / seconds for _, (_, took), (_, seconds) in pairs])
            lost = 100 * np.mean([replay.lost(advice) for replay, (advice, _), _ in pairs])
            name = f"{rounds} round{'s' * (rounds > 1)}, at most {most} finalists" if rounds else "the same again"
            name += ", all seeds" * (rounds > 0 and not stop)
            lines.append(f"| {seeds} | {name} | {same:.0%} | {tied:.0%} | {time:.0%} | {lost:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "race_rules.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
