"""Files of the commands' tests: labelled texts and vectors, and a command that trains on them."""

import csv
import random

import pytest

GOOD, BAD = ["great", "lovely", "fine", "sweet"], ["awful", "poor", "bad", "sour"]
NEUTRAL = ["film", "tea", "day", "song", "the", "a"]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A labelled CSV of 80 texts, and GloVe-like vectors for its words."""
    folder = tmp_path_factory.mktemp("files")
    rng = random.Random(0)
    with (folder / "reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["stars", "review"])
        for number in range(80):
            words = [rng.choice(GOOD if number % 2 else BAD), *rng.choices(NEUTRAL, k=4)]
            rows.writerow(["up" if number % 2 else "down", " ".join(words) + ", indeed!"])
    words = [*GOOD, *BAD, *NEUTRAL, "unseen"]
    lines = [f"{word} " + " ".join(f"{rng.gauss(0, 1):.4f}" for _ in range(8)) for word in words]
    (folder / "vectors.txt").write_text("\n".join(lines) + "\n")
    return folder


def train_arguments(files, out, *more, text="review", label="stars", file="reviews.csv", vectors="vectors.txt"):
    """The arguments of `embkeras train` on the small files."""
    return [
        *("train", str(files / file), "--text", text, "--label", label, "--vectors", str(files / vectors)),
        *("--out", str(out), "--epochs", "2", "--architecture", "mean", *more),
    ]
