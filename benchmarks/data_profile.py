"""What `data_profile` finds in five public sets: repeated texts, and labels that were changed on purpose.

    python -m pip install -e ".[test]"
    python benchmarks/data_profile.py --out benchmarks/results/data_profile.md

Each set is split anew for each seed. Leaks are test texts that repeat a training text, exactly or nearly. Then 5% of the
training labels, drawn at random, are changed to another class. Suspects are looked for with GloVe 6B 50d, and without vectors
by the words alone. "Precision" is the share of the suspects whose label was changed (by chance it would be 5%), "first 5%" the
same of as many suspects as labels were changed, the least likely labels first, and "found" the share of the changed labels
that are suspects. Labels that were wrong before count as false alarms. "Neighbours agree" is the share of the training labels
that their neighbours' vote agrees with, before any are changed.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import machine_line
from rated_texts import SETS, texts_of
from records import with_interval

from embkeras import AlignedMatrix, Vocabulary, align, data_profile, load_vectors
from embkeras.app.material import glove_paths
from embkeras.text.labelled import LabelledTexts, split
from embkeras.text.tokenizer import TWEETS
from embkeras.vectors.fallbacks import FOR_TEXTS

SEEDS = range(5)
CHANGED = 0.05
WITH, WITHOUT = "GloVe", "words"


def aligned_to(texts: LabelledTexts) -> AlignedMatrix:
    """The vectors of a set's words."""
    matrix, words = glove_paths()
    vocabulary = Vocabulary.from_texts(texts.texts, tokenizer=TWEETS)
    vectors = load_vectors(matrix, words_file=words, words=vocabulary, fallbacks=FOR_TEXTS)
    return align(vectors, vocabulary, fallbacks=FOR_TEXTS)


def planted(train: LabelledTexts, aligned: AlignedMatrix | None, seed: int) -> tuple[float, float, float]:
    """Precision, precision of the first 5%, and share found, of labels changed at random."""
    rng = np.random.default_rng(seed)
    changed = rng.choice(len(train), round(CHANGED * len(train)), replace=False)
    labels, classes = train.labels.copy(), len(train.class_names)
    labels[changed] = (labels[changed] + rng.integers(1, classes, len(changed))) % classes
    suspects = data_profile(train.texts, labels, aligned).suspects["text"].to_numpy()
    hits = np.isin(suspects, changed)
    return float(hits.mean()), float(hits[: len(changed)].mean()), float(hits.sum() / len(changed))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to write the table")
    out = parser.parse_args().out
    lines = [
        "# What data_profile finds",
        "",
        machine_line("embkeras", "numpy", "pandas"),
        "",
        f"Means of {len(SEEDS)} seeds, in percent; ± is half of the 95% interval. By chance the precision would be "
        f"{CHANGED:.0%}.",
        "",
        "| set | texts | test texts that repeat a training text: exactly | nearly | by | neighbours agree "
        "| precision | first 5% | found |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in SETS:
        data = texts_of(name)
        aligned = aligned_to(data)
        figures: dict[str, list[tuple[float, ...]]] = {WITH: [], WITHOUT: []}
        leaks, agreement = [], {}
        for seed in SEEDS:
            parts = split(data, seed=seed)
            for by, vectors in ((WITH, aligned), (WITHOUT, None)):
                profile = data_profile(
                    parts.train.texts, parts.train.labels, vectors, test=(parts.test.texts, parts.test.labels)
                )
                agreement.setdefault(by, []).append(profile.parts.at["train", "agreement"])
                figures[by].append(planted(parts.train, vectors, seed))
            test = profile.parts.loc["test"]
            leaks.append((test["in_train_exactly"] / test["texts"], test["in_train_nearly"] / test["texts"]))
        exactly, nearly = (f"{100 * np.mean(each):.1f}" for each in zip(*leaks, strict=True))
        for by, found in figures.items():
            shown = [with_interval(each).removeprefix("+") for each in zip(*found, strict=True)]
            agree = f"{100 * np.mean(agreement[by]):.1f}"
            lines.append(f"| {name} | {len(data):,} | {exactly} | {nearly} | {by} | {agree} | {' | '.join(shown)} |")
            print(lines[-1], flush=True)
    if out:
        out.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
