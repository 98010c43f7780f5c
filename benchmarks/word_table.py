"""Word vectors from an encoder next to GloVe: accuracy of a mean of vectors on the tweets, frozen and fine-tuned.

Each word of the tweets gets a vector from GloVe 6B 50d, or from the encoder by `vectors_from_encoder`: as wide as the encoder,
reduced, and weighed. The classifier is the mean of a text's vectors, a dense layer and the scores, as `build_classifier` makes
it. `trials.py` says how texts are divided and how long it trains. A frozen table enters as it is; a fine-tuned one is rescaled
to a standard deviation of 0.1.

    python benchmarks/word_table.py FOLDER             # a Hugging Face folder, such as all-MiniLM-L6-v2
    python benchmarks/word_table.py FOLDER --write     # also writes results/word_table.md
"""

import argparse
import dataclasses
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from machine import machine_line
from trials import Trial, Words, one_thread, parts_of, words_of

import embkeras as ek

RESULTS = Path(__file__).parent / "results" / "word_table.md"
WAYS = {"frozen": "static", "fine-tuned": "rescaled 0.1"}
DIM = 128


def tables(words: Words, read: ek.PretrainedEncoder) -> dict[str, ek.AlignedMatrix]:
    """The tables that are compared, by name."""
    vocabulary, found = words.aligned.vocabulary, {"GloVe 6B 50d": words.aligned}
    for settings in ({}, {"dim": DIM}, {"weigh": "frequency"}, {"dim": DIM, "weigh": "frequency"}):
        vectors = ek.vectors_from_encoder(read, vocabulary, **settings)
        weighed = ", weighed by frequency" if "weigh" in settings else ""
        found[f"encoder, {vectors.vector_size} wide{weighed}"] = ek.align(vectors, vocabulary)
    return found


def accuracies(words: Words, way: str, seeds: int) -> list[float]:
    """Test accuracy of a way by seed."""
    found = []
    for seed in range(seeds):
        parts, trial = parts_of(words, 0, seed), Trial(way, "mean", words, seed)
        trial.train(parts)
        found.append(float(trial.right(parts).mean()))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="config.json, model.safetensors and a tokenizer")
    parser.add_argument("--seeds", type=int, default=3, help="divisions of the texts, and trainings (3)")
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name}")
    given = parser.parse_args()
    one_thread()
    read, words = ek.load_pretrained(given.folder), words_of("tweets")
    lines = [
        f"{len(words.labels):,} tweets, {len(words.aligned.vocabulary):,} words; {read!r}; {given.seeds} seeds; "
        f"{machine_line('tensorflow', 'keras', 'keras-hub')}",
        "",
        "| table | words found | MB | " + " | ".join(f"{name}: accuracy % | by seed" for name in WAYS) + " |",
        "|---|---|---|" + "---|---|" * len(WAYS),
    ]
    print("\n".join(lines), flush=True)
    for name, aligned in tables(words, read).items():
        row = f"| {name} | {aligned.found.sum():,} | {aligned.values.nbytes / 1e6:.1f} |"
        for way in WAYS.values():
            found = [100 * each for each in accuracies(dataclasses.replace(words, aligned=aligned), way, given.seeds)]
            row += f" {np.mean(found):.1f} | {', '.join(f'{each:.1f}' for each in found)} |"
        lines.append(row)
        print(row, flush=True)
    if given.write:
        text = "\n".join(lines)
        RESULTS.write_text(
            f"# Word vectors from an encoder\n\nMade by `benchmarks/word_table.py --seeds {given.seeds}`.\n\n{text}\n",
            "utf-8",
        )


if __name__ == "__main__":
    main()
