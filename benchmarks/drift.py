"""What training does to the words that it does not read, by how the table is treated: accuracy, similarity, a picture.

    python -m pip install -e ".[test]"
    python benchmarks/drift.py --hours 1       # continues where a run was killed
    python benchmarks/drift.py --write         # results/drift.md and drift.png

A cnn is trained on 1,000 texts of each of five sets from 5 seeds (trials.py says how). "frozen" never trains its table,
"stock" is a Keras Embedding with Adam, "recipe" is rescaled to a standard deviation of 0.1 and trains with RowWiseAdam,
"recipe, carried" the same training with its drift carried to the words that it did not read, "map" a shared map and rows.
"Unseen" counts the test texts with a word that has a vector and that training did not read. General similarity is
Spearman's correlation of cosines with WordSim-353 and SimLex-999, whose words all have a row; the files are those of gensim.

The picture shows tweets: all of them train but those with the word "television", while "tv" trains. Arrows are from before
to after, in the plane of the two principal components of these rows.
"""

import argparse
import importlib.util
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_line
from rated_texts import SETS
from records import CARRIED, Clock, Store, machines_of, with_interval

from embkeras.drift.word_pairs import read_word_pairs, word_similarity

RESULTS = Path(__file__).with_name("results")
KEY = ("data", "size", "way", "seed")
NAMES = {"static": "frozen", "stock": "stock", "rescaled 0.1": "recipe", "map+rows": "map"}
CARRY = "recipe, carried"
SHOWN = ("stock", "recipe", CARRY, "map")
SEEDS, SIZE = range(200, 205), 1000
PAIRS = {"WordSim-353": "wordsim353.tsv", "SimLex-999": "simlex999.txt"}
READ, NEVER_READ = "tv", "television"
NEAR = ("radio", "show", "movie", "news", "love", "hate")
Record = dict[str, Any]


def pair_files() -> dict[str, Path]:
    """The files of word pairs in gensim's folder of test data."""
    package = importlib.util.find_spec("gensim")
    if package is None or package.origin is None:
        raise SystemExit('The files of word pairs come with gensim: python -m pip install "embkeras[test]".')
    return {name: Path(package.origin).parent / "test" / "test_data" / file for name, file in PAIRS.items()}


def run(options: argparse.Namespace) -> None:
    """Train what is missing."""
    import trials

    trials.one_thread()
    machine = machine_line("tensorflow", "keras", "numpy")
    print(machine, flush=True)
    store, clock = Store(RESULTS / "drift.jsonl", KEY), Clock(options.hours)
    pairs = {name: read_word_pairs(path) for name, path in pair_files().items()}
    known = [word.lower() for each in pairs.values() for pair in each for word in pair[:2]]
    words = {}
    for seed, data, way in product(options.seeds, options.data, options.ways):
        trial = None
        for size in (SIZE, 0) if data == "tweets" and NAMES[way] in SHOWN else (SIZE,):
            if (data, size, NAMES[way], seed) in store:
                continue
            if clock.is_over:
                print("The time is up; the same command continues.")
                return
            if data not in words:
                words[data] = trials.words_of(data, [*known, READ, NEVER_READ, *NEAR])
            vocabulary = words[data].aligned.vocabulary
            # All tweets: those with `television` don't train.
            never = () if size else [vocabulary.token_to_id[NEVER_READ]]
            parts = trials.parts_of(words[data], size, seed, never=never)
            clock.lap()
            trial = trial or trials.Trial(way, "cnn", words[data], seed)
            epochs = trial.train(parts)
            before = trials.aligned_for(way, words[data].aligned).values
            record = {"data": data, "size": size, "way": NAMES[way], "seed": seed, "epochs": epochs}
            record |= {"tests": len(parts.test[1]), "unseen": int(parts.unseen.sum())}
            record |= measured(trial, parts, before, vocabulary, words[data].aligned.found, pairs)
            if not size:
                record["rows"] = rows_shown(before, trial.table(), vocabulary)
            if way == "rescaled 0.1" and way in CARRIED:
                carried = trial.carry(parts)
                record["carry"] = {"r2": round(carried.r2, 4), "factor": carried.factor}
                record["carry"] |= measured(trial, parts, before, vocabulary, words[data].aligned.found, pairs)
                if not size:
                    record["carry"]["rows"] = rows_shown(before, trial.table(), vocabulary)
            store.add(record | {"seconds": clock.lap(), "machine": machine})
            print(
                f"{data}, {size or 'all'} texts, {NAMES[way]}, seed {seed}: {record['accuracy']:.3f}, unseen "
                f"{record['accuracy_unseen']:.3f}, {epochs} epochs, {store.records[-1]['seconds']:.1f} s",
                flush=True,
            )


def measured(trial: Any, parts: Any, before: np.ndarray, vocabulary: Any, found: np.ndarray, pairs: Any) -> Record:
    """Accuracies, and similarities before and after."""
    right, after = trial.right(parts), trial.table()
    row_of = {token: row for token, row in vocabulary.token_to_id.items() if found[row]}
    similarity = {name: word_similarity(before, after, row_of, each) for name, each in pairs.items()}
    record = {"accuracy": round(float(right.mean()), 5), "accuracy_unseen": round(float(right[parts.unseen].mean()), 5)}
    record["similarity"] = {name: [round(each.before, 4), round(each.after, 4)] for name, each in similarity.items()}
    return record


def rows_shown(before: np.ndarray, after: np.ndarray, vocabulary: Any) -> dict[str, list[list[float]]]:
    """The rows of the picture, before and after."""
    return {
        word: [[round(float(value), 5) for value in table[vocabulary.token_to_id[word]]] for table in (before, after)]
        for word in (READ, NEVER_READ, *NEAR)
    }


def read() -> list[Record]:
    """All records; a carried table is a way of its own."""
    records = []
    for record in Store(RESULTS / "drift.jsonl", KEY).records:
        records.append(record)
        if "carry" in record:
            records.append(record | record["carry"] | {"way": CARRY})
    return records


def summary(records: list[Record]) -> str:
    """The result as Markdown."""
    trained = [each for each in records if each["size"] == SIZE]
    stock = {(each["data"], each["seed"]): each for each in trained if each["way"] == "stock"}
    lines = [
        "| way | cells | accuracy | over stock | on texts with unseen words | over stock | "
        + " | ".join(f"{name} before -> after" for name in PAIRS)
        + " |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in dict.fromkeys(each["way"] for each in trained):
        own = [each for each in trained if each["way"] == way and (each["data"], each["seed"]) in stock]
        if not own:
            continue
        columns = []
        for name in ("accuracy", "accuracy_unseen"):
            gains = [each[name] - stock[each["data"], each["seed"]][name] for each in own]
            sets: dict[str, list[float]] = {}
            for each, gain in zip(own, gains, strict=True):
                sets.setdefault(each["data"], []).append(gain)
            means = {data: float(np.mean(each)) for data, each in sets.items()}
            gain = "" if way == "stock" else with_interval(gains, means)
            columns += [f"{100 * np.mean([each[name] for each in own]):.1f}%", gain]
        for name in PAIRS:
            start, end = np.mean([each["similarity"][name] for each in own], axis=0)
            columns.append(f"{start:.3f} -> {end:.3f}")
        lines.append(f"| {way} | {len(own)} | {' | '.join(columns)} |")
    lines += ["", f"## {READ.upper()} and {NEVER_READ}, which no training text has", ""]
    lines += ["| way | seeds | cosine before -> after |", "|---|---|---|"]
    for way in SHOWN:
        found = [cosines(each) for each in records if each["way"] == way and each["size"] == 0]
        if found:
            start, end = np.mean(found, axis=0)
            lines.append(f"| {way} | {len(found)} | {start:.3f} -> {end:.3f} |")
    seeds = len({each["seed"] for each in trained})
    head = (
        f"A cnn on {SIZE:,} texts, {len({each['data'] for each in trained})} sets, {seeds} seeds, GloVe 6B 50d. Points of "
        f"accuracy over stock in the same cell: mean ± half of the 95% interval over cells / over the means of the sets. "
        f"`benchmarks/drift.py` says what the ways are."
    )
    return "\n".join(["# Words that training does not read", "", machines_of(records), "", head, "", *lines, ""])


def cosines(record: Record) -> list[float]:
    """Of the two words, before and after."""
    found = []
    for one, other in zip(record["rows"][READ], record["rows"][NEVER_READ], strict=True):
        one, other = np.array(one), np.array(other)
        found.append(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))
    return found


def draw(records: list[Record], path: Path) -> None:
    """The rows of some words before and after, one panel a way, of the first seed that all ways have."""
    from embkeras.drift.plots import BLUE, GREY, VERMILION, new_figure, plane_of

    pictured = [each for each in records if each["size"] == 0]
    ways = [way for way in SHOWN if any(each["way"] == way for each in pictured)]
    common = (
        set.intersection(*({each["seed"] for each in pictured if each["way"] == way} for way in ways))
        if ways
        else set()
    )
    if not common:
        print("No picture: no seed has all ways.")
        return
    figure, panels = new_figure(2, (len(ways) + 1) // 2)
    for way, ax in zip(ways, panels, strict=False):
        record = next(each for each in pictured if each["way"] == way and each["seed"] == min(common))
        words = list(record["rows"])
        before, after = np.array(list(record["rows"].values())).transpose(1, 0, 2)
        start, end = plane_of(before, after)
        ax.plot(*start.T, "o", color=BLUE, label="before")
        ax.plot(*end.T, "^", color=VERMILION, label="after")
        for word, tail, head in zip(words, start, end, strict=True):
            ax.annotate("", head, tail, arrowprops={"arrowstyle": "->", "color": GREY})
            weight = "bold" if word in (READ, NEVER_READ) else "normal"
            ax.annotate(word, head, (5, 3), textcoords="offset points", fontsize=9, fontweight=weight)
        first, last = cosines(record)
        ax.set(title=f"{way}: cosine of {READ} and {NEVER_READ} {first:.2f} before, {last:.2f} after")
        ax.legend()
    for ax in panels[len(ways) :]:
        ax.set_axis_off()
    figure.savefig(path, dpi=120)
    print(f"Picture: {path.name}")


def main() -> None:
    """Train, or summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1, help="begin no training after this time (1)")
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS, help="these sets")
    parser.add_argument(
        "--ways", nargs="+", choices=NAMES, default=tuple(NAMES), help="these ways, as recipe.py calls them"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="these seeds")
    parser.add_argument("--write", action="store_true", help="train nothing: write results/drift.md and drift.png")
    options = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    if options.write:
        records = read()
        text = summary(records)
        (RESULTS / "drift.md").write_text(text, encoding="utf-8")
        print(text)
        draw(records, RESULTS / "drift.png")
        return
    run(options)


if __name__ == "__main__":
    main()
