"""Which way to treat a table of word vectors classifies best: five sets of texts, three sizes, three architectures.

    python -m pip install -e ".[demo]"
    python benchmarks/recipe.py --subset --hours 6          # continues where a run was killed
    python benchmarks/recipe.py --subset --share 1/2        # beside --share 2/2: two processes divide the cells
    python benchmarks/recipe.py --write

A cell is a set of texts, a size, an architecture, a way and a seed; its record goes to results/recipe.jsonl at once
(trials.py says how a cell is trained). The ways: "stock" is a Keras Embedding that trains from the start, with Adam;
"static" never trains; "random" is stock without vectors; "phased" trains the table from epoch 3 on, with RowWiseAdam;
"rescaled 0.1" brings the entries to that standard deviation and trains from the start, with RowWiseAdam, as all that follow;
"map" and "map+rows" do so with a shared map (`build_embedding(trainable=)`). "... + carry" carries the drift of a trained
table to the words that training did not read; it is measured on the same training.

The subset has 3 seeds and the ways that led in earlier experiments, whose seeds were others. Means are over cells, with 95%
intervals by Student's t over the cells, and after the slash over the means of the sets. "Unseen" counts only test texts
with a word that has a vector and that training did not read. At the end, for each set the other four choose between
"rescaled 0.1" and "map+rows" for a cnn with 1,000 texts, and the choice is measured on the set that was left out.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_line
from rated_texts import SETS
from records import (
    BATCH,
    CARRIED,
    CARRY,
    EPOCHS,
    PATIENCE,
    RATE,
    SIZES,
    WAYS,
    Clock,
    Store,
    half_width,
    machines_of,
    with_interval,
)

RESULTS = Path(__file__).with_name("results")
KEY = ("data", "size", "architecture", "way", "seed")
ARCHITECTURES = ("cnn", "mean", "lstm")
SEEDS = range(100, 105)
SUBSET_SEEDS = range(100, 103)
LEADING = {
    "cnn": ("stock", "static", "phased", "rescaled 0.1", "map", "map+rows"),
    "mean": ("stock", "static", "phased", "rescaled 0.1", "rescaled 0.2", "map+rows"),
    "lstm": ("stock", "phased", "rescaled 0.1", "map+rows"),
}
CHOICES, CHOSEN_FOR, CHOSEN_AT = ("rescaled 0.1", "map+rows"), "cnn", 1000
Record = dict[str, Any]


def cells(options: argparse.Namespace) -> list[tuple[int, str, str, str]]:
    """Seed, set, architecture and way of all models; the sizes share a model. One seed of all sets comes before the next."""
    seeds = options.seeds or (SUBSET_SEEDS if options.subset else SEEDS)
    found = []
    for seed, architecture, data in product(seeds, options.architectures, options.data):
        ways = LEADING[architecture] if options.subset else WAYS
        found += [
            (seed, data, architecture, way)
            for way in options.ways or ways
            if architecture == "mean" or way != "rescaled 0.2"
        ]
    return found


def run(options: argparse.Namespace, models: list[tuple[int, str, str, str]]) -> None:
    """Train what is missing."""
    import trials

    trials.one_thread()
    machine = machine_line("tensorflow", "keras", "numpy")
    print(machine, flush=True)
    store, clock = Store(RESULTS / "recipe.jsonl", KEY), Clock(options.hours)
    part, parts = (int(each) for each in options.share.split("/"))
    words = {}
    for seed, data, architecture, way in models[part - 1 :: parts]:
        missing = [size for size in options.sizes if (data, size, architecture, way, seed) not in store]
        trial = None
        for size in missing:
            if clock.is_over:
                print("The time is up; the same command continues.")
                return
            if data not in words:
                words[data] = trials.words_of(data)
            divided = trials.parts_of(words[data], size, seed, random=way == "random")
            clock.lap()
            if trial is None or not trial.can_train_again:
                trial = trials.Trial(way, architecture, words[data], seed)
            epochs = trial.train(divided)
            record = {"data": data, "size": size, "architecture": architecture, "way": way, "seed": seed}
            record |= {
                "texts": len(divided.train[1]),
                "tests": len(divided.test[1]),
                "unseen": int(divided.unseen.sum()),
            }
            record |= {"epochs": epochs} | accuracies(trial.right(divided), divided.unseen)
            if way in CARRIED:
                carried = trial.carry(divided)
                record["carry"] = {"r2": round(carried.r2, 4), "factor": carried.factor}
                record["carry"] |= accuracies(trial.right(divided), divided.unseen)
            store.add(record | {"seconds": clock.lap(), "machine": machine})
            print(
                f"{data}, {size or 'all'} texts, {architecture}, {way}, seed {seed}: {record['accuracy']:.3f}, "
                f"unseen {record['accuracy_unseen']:.3f}, {epochs} epochs, {store.records[-1]['seconds']:.1f} s",
                flush=True,
            )


def accuracies(right: np.ndarray, unseen: np.ndarray) -> Record:
    """On all test texts, and on those with words that training did not read."""
    return {"accuracy": round(right.mean(), 5), "accuracy_unseen": round(right[unseen].mean(), 5)}


def read() -> list[Record]:
    """All records; a carried table is a way of its own."""
    records = []
    for record in Store(RESULTS / "recipe.jsonl", KEY).records:
        records.append(record)
        if "carry" in record:
            records.append(record | record["carry"] | {"way": record["way"] + CARRY})
    return records


def estimate(options: argparse.Namespace, models: list[tuple[int, str, str, str]]) -> str:
    """Hours of one processor for all cells of the options, from those that were run.

    A cell costs what its like in other seeds cost, or the mean of the nearest that are known: its architecture and size in
    the same set, in any set, its architecture, or all.
    """
    known: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    store = Store(RESULTS / "recipe.jsonl", KEY)
    for each in store.records:
        names = (each["architecture"], each["size"], each["data"], each["way"])
        for some in (names, names[:3], names[:2], names[:1], ()):
            known[some].append(each["seconds"])
    if not known:
        return "No cell has been run, so nothing is known about the time."
    wanted = [
        (architecture, size, data, way, seed) for seed, data, architecture, way in models for size in options.sizes
    ]
    total = left = 0.0
    for architecture, size, data, way, seed in wanted:
        names = (architecture, size, data, way)
        near = next(some for some in (names, names[:3], names[:2], names[:1], ()) if some in known)
        cost = float(np.mean(known[near]))
        total += cost
        left += cost * ((data, size, architecture, way, seed) not in store)
    return (
        f"{len(wanted):,} cells take {total / 3600:.1f} hours of one processor by the {len(known[()]):,} that were run; "
        f"{left / 3600:.1f} hours are left."
    )


def pairs(records: list[Record], way: str, **where: Any) -> Iterator[tuple[str, float, float]]:
    """The set, and accuracy less that of stock in the same cell, on all texts and on those with unseen words."""
    stock = {}
    for each in records:
        if each["way"] == "stock":
            stock[each["data"], each["size"], each["architecture"], each["seed"]] = each
    for each in records:
        other = stock.get((each["data"], each["size"], each["architecture"], each["seed"]))
        if each["way"] == way and other and all(each[name] == value for name, value in where.items()):
            gains = [each[name] - other[name] for name in ("accuracy", "accuracy_unseen")]
            yield each["data"], gains[0], gains[1]


def set_means(sets: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The mean of each set."""
    found = defaultdict(list)
    for name, value in zip(sets, values, strict=True):
        found[name].append(value)
    return {name: float(np.mean(each)) for name, each in found.items()}


def differences(records: list[Record]) -> list[str]:
    """The table of differences from stock, and the accuracies of stock."""
    lines = [
        "| architecture | texts | way | cells | all texts | texts with unseen words |",
        "|---|---|---|---|---|---|",
    ]
    ways = list(dict.fromkeys(each["way"] for each in records))
    for architecture, size in product(ARCHITECTURES, SIZES):
        where = {"architecture": architecture, "size": size}
        own = [each for each in records if all(each[name] == value for name, value in where.items())]
        stock = [each for each in own if each["way"] == "stock"]
        if stock:
            rows = [f"{100 * np.mean([each[name] for each in stock]):.1f}%" for name in ("accuracy", "accuracy_unseen")]
            lines.append(f"| {architecture} | {size or 'all'} | stock | {len(stock)} | {rows[0]} | {rows[1]} |")
        for way in ways:
            found = list(pairs(records, way, **where))
            if way == "stock" or not found:
                continue
            sets, *gains = zip(*found, strict=True)
            texts = [with_interval(each, set_means(sets, each)) for each in gains]
            lines.append(f"| {architecture} | {size or 'all'} | {way} | {len(found)} | {texts[0]} | {texts[1]} |")
    return lines


def carried_gains(records: list[Record]) -> list[str]:
    """What carrying adds to the same training."""
    lines = ["| architecture | way | cells | carried something | all texts | texts with unseen words |"]
    lines.append("|---|---|---|---|---|---|")
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for each in records:
        if "carry" in each and not each["way"].endswith(CARRY):
            groups[each["architecture"], each["way"]].append(each)
    for (architecture, way), found in groups.items():
        sets = [each["data"] for each in found]
        texts = []
        for name in ("accuracy", "accuracy_unseen"):
            gains = [each["carry"][name] - each[name] for each in found]
            texts.append(with_interval(gains, set_means(sets, gains)))
        moved = np.mean([each["carry"]["factor"] > 0 for each in found])
        lines.append(f"| {architecture} | {way} | {len(found)} | {moved:.0%} | {texts[0]} | {texts[1]} |")
    return lines


def left_one_out(records: list[Record]) -> list[str]:
    """For each set, what the others choose, and how it does on this one."""
    where = {"architecture": CHOSEN_FOR, "size": CHOSEN_AT}
    gains = {way: list(pairs(records, way, **where)) for way in CHOICES}
    sets = [name for name in SETS if all(any(each[0] == name for each in gains[way]) for way in CHOICES)]
    if len(sets) < 2:
        return ["Fewer than two sets have cells of both choices."]
    lines = [
        "| set left out | the others choose | cells | all texts | texts with unseen words |",
        "|---|---|---|---|---|",
    ]
    means, below = [], 0
    for name in sets:
        other = {
            way: np.mean([mean for each, mean in set_means(*_columns(gains[way])).items() if each != name])
            for way in CHOICES
        }
        way = max(CHOICES, key=lambda each: other[each])
        own = np.array([each[1:] for each in gains[way] if each[0] == name])
        lines.append(f"| {name} | {way} | {len(own)} | {with_interval(own[:, 0])} | {with_interval(own[:, 1])} |")
        means.append(own.mean(axis=0))
        below += own[:, 0].mean() + half_width(own[:, 0]) < 0
    all_texts, unseen = 100 * np.array(means).T
    lines += [
        "",
        f"At least +1 point on {(all_texts >= 1).sum()} of {len(sets)} sets, below stock beyond noise on {below}. Means over "
        f"the sets: {with_interval(all_texts / 100)}, on texts with unseen words {with_interval(unseen / 100)}.",
    ]
    return lines


def _columns(found: list[tuple[str, float, float]]) -> tuple[list[str], list[float]]:
    """The sets, and the gains on all texts."""
    return [each[0] for each in found], [each[1] for each in found]


def summary(records: list[Record]) -> str:
    """The result as Markdown."""
    sets, seeds = {each["data"] for each in records}, {each["seed"] for each in records}
    head = (
        f"{len(records):,} results on {len(sets)} sets ({', '.join(name for name in SETS if name in sets)}) and {len(seeds)} "
        f"seeds, GloVe 6B 50d; up to {EPOCHS} epochs of batches of {BATCH}, learning rate {RATE:g}, patience {PATIENCE}. "
        f"`benchmarks/recipe.py` says what the ways are. Points of accuracy over stock in the same cell: mean ± half of the "
        f"95% interval over cells / over the means of the sets. Rows of stock are its accuracy."
    )
    lines = [
        "# Which way to treat a table classifies best",
        "",
        machines_of(records),
        "",
        head,
        "",
        *differences(records),
        "",
    ]
    lines += ["## What carrying adds to the same training", "", *carried_gains(records), ""]
    lines += [f"## Left one set out: {' or '.join(CHOICES)}, {CHOSEN_FOR}, {CHOSEN_AT:,} texts", ""]
    return "\n".join([*lines, *left_one_out(records)]) + "\n"


def main() -> None:
    """Train, or summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subset", action="store_true", help="3 seeds and the leading ways; without it 5 and all")
    parser.add_argument("--hours", type=float, default=6, help="begin no cell after this time (6)")
    parser.add_argument("--share", default="1/1", metavar="PART/PARTS", help="this process's part of the models (1/1)")
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS, help="these sets")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="texts that train; 0: all")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--ways", nargs="+", help="these ways")
    parser.add_argument("--seeds", nargs="+", type=int, help="these seeds")
    parser.add_argument("--estimate", action="store_true", help="train nothing: print how long it would take")
    parser.add_argument("--write", action="store_true", help="train nothing: summarise into results/recipe.md")
    options = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    if options.write:
        text = summary(read())
        (RESULTS / "recipe.md").write_text(text, encoding="utf-8")
        print(text)
        return
    models = cells(options)
    if not options.estimate:
        run(options, models)
    print(estimate(options, models))


if __name__ == "__main__":
    main()
