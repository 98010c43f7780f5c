"""Texts per second of `ExportedModel.predict` on many texts, next to asking text by text and to `model.predict`.

All begin with the texts, and so include splitting them into tokens. "Text by text" is `predict([text])` for each; "ids of
each text" leaves out its table of answers: it calls `ExportedModel.scores` on the ids of each text. `model.predict` gets all
texts from `encode_batch`, padded to the longest one, in batches of the same size. TensorFlow has one thread. They take
turns, and the best of the rounds counts, by the clock and by the time of the processor: on a busy machine that says more. With
`--write`, the tables go to results/bulk.md.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from machine import machine_line

AIM = 25  # times the texts per second of text by text
ROWS, WIDTH = 20_000, 100
ARCHITECTURES = ("mean", "cnn", "lstm")


def texts_of(count: int, seed: int = 0) -> list[str]:
    """Texts of realistic lengths: most are short, a few have up to 256 words. Frequent words are more frequent."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2.7, 0.9, count), 1, 256).astype(int)
    return [" ".join(f"w{id_}" for id_ in rng.zipf(1.3, length) % ROWS) for length in lengths]


def best(ways: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, tuple[float, float]]:
    """Texts per second of each way, by the clock and by the processor; the ways take turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (ask, count) in ways.items():
            start, used = time.perf_counter(), time.process_time()
            ask()
            found[name].append((count / (time.perf_counter() - start), count / (time.process_time() - used)))
    return {name: (max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)) for name, pairs in found.items()}


def compared(architecture: str, batch_size: int, count: int, few: int, rounds: int) -> list[str]:
    """The rows of the table for one model."""
    import embkeras as ek
    from embkeras.serving.text_encoder import encoded_rows

    table = np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32)
    tokenizer = ek.Vocabulary.from_texts(["w1"]).tokenizer
    vocabulary = ek.Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(ROWS - 2))], tokenizer=tokenizer)
    model = ek.build_classifier(ek.AlignedMatrix(table, vocabulary), 2, architecture=architecture)
    texts = texts_of(count)
    with tempfile.TemporaryDirectory() as folder:
        export = ek.ExportedModel(ek.export_saved_model(model, folder, vocabulary=vocabulary, check=False))
        single = lambda: [export.predict([text]) for text in texts[:few]]  # noqa: E731
        alone = lambda: np.concatenate([export.scores(ids[None]) for ids in encoded_rows(vocabulary, texts[:few])])  # noqa: E731
        bulk = lambda: export.predict(texts, batch_size=batch_size)["probability"].to_numpy()  # noqa: E731
        keras = lambda: model.predict(vocabulary.encode_batch(texts), batch_size=batch_size, verbose=0)  # noqa: E731
        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "text by text": (single, few),
            "ids of each text": (alone, few),
            "ExportedModel.predict": (bulk, count),
            "model.predict": (keras, count),
        }
        wanted = keras().max(axis=1)  # each is traced here, before it is timed
        apart = max(np.abs(bulk() - wanted).max(), np.abs(alone().max(axis=1) - bulk()[:few]).max())
        if apart > 1e-5:
            raise SystemExit(f"{architecture}: the scores differ by {apart:.2g}.")
        rates = best(ways, rounds)
    slow, lines = rates["text by text"], []
    for name, (clock, processor) in rates.items():
        times = f"{clock / slow[0]:.1f}x | {processor:,.0f} | {processor / slow[1]:.1f}x"
        lines.append(f"| {architecture} | {batch_size} | {name} | {clock:,.0f} | {times} |")
    return lines


def main() -> None:
    """Compare the three for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds")
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES, help="these models")
    parser.add_argument("--batch-size", type=int, default=256, help="texts that are asked together (256)")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results/bulk.md")
    options = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    count, few, rounds = (2048, 64, 2) if options.quick else (8192, 256, 3)
    lines = [
        "| model | batch | way | texts/s | of text by text | texts per s of the processor | of text by text |",
        "|---|---|---|---|---|---|---|",
    ]
    for architecture in options.only:
        lines += compared(architecture, options.batch_size, count, few, rounds)
        print("\n".join(lines[-4:]), flush=True)
    lines += [
        "",
        f"{count:,} texts of 1 to 256 words ({few} of them text by text), table {ROWS:,} x {WIDTH}, one thread of TensorFlow, "
        f"best of {rounds} rounds. The aim is {AIM}x of text by text.",
        f"{os.getloadavg()[0]:.1f} processes were at work on the machine at the end.",
    ]
    text = "\n".join(["# Many texts at once", "", machine_line("tensorflow", "keras"), "", *lines]) + "\n"
    print(f"\n{text}")
    if options.write:
        Path(__file__).with_name("results").joinpath("bulk.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
