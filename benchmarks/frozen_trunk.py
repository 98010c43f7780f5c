"""CPU seconds of `fit` and of `fit_on_frozen` where the lower layers are frozen: a step, the pass, the weights.

The model is an encoder of Keras' own layers (a table, blocks of attention and dense layers, a head) on random ids. For
each number of frozen blocks, the same model is trained twice from the same weights and on the same batches: by `fit`, and
by `fit_on_frozen`. A step's cost is the processor time of all threads in the epochs after the first, divided by their
steps, with what the data take; the first epoch traces. The pass is compared with `model.predict` up to the same tensor.

    python benchmarks/frozen_trunk.py
    python benchmarks/frozen_trunk.py --write          # also writes results/frozen_trunk.md
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from machine import machine_line

import embkeras as ek

layers, ops = keras.layers, keras.ops
WORDS, LENGTH, BATCH, RESULTS = 2000, 24, 32, Path(__file__).parent / "results" / "frozen_trunk.md"


class Clock(keras.callbacks.Callback):
    """Processor seconds of each epoch, and the steps in it."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        """The pass has ended before the first batch."""
        if batch == 0:
            self.began = time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        """The last one counts."""
        self.ended, self.steps = time.process_time(), batch + 1

    def on_epoch_end(self, epoch, logs=None):
        """One more."""
        self.seconds.append((self.ended - self.began) / self.steps)


def encoder(blocks: int, width: int, frozen: int) -> keras.Model:
    """A flat model; the table and the first `frozen` blocks are frozen."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((LENGTH,), dtype="int64")
    x = layers.Embedding(WORDS, width, name="table")(ids)
    for place in range(blocks):
        attended = layers.MultiHeadAttention(4, width // 4, name=f"{place}_attention")(x, x)
        x = layers.LayerNormalization(name=f"{place}_norm")(x + attended)
        inner = layers.Dense(4 * width, "relu", name=f"{place}_inner")(x)
        x = layers.LayerNormalization(name=f"{place}_end")(x + layers.Dense(width, name=f"{place}_outer")(inner))
    scores = layers.Dense(2, "softmax")(layers.Dropout(0.1)(layers.GlobalAveragePooling1D(name="mean")(x)))
    model = keras.Model(ids, scores)
    for layer in model.layers:
        layer.trainable = layer.name != "table" and not ("0" <= layer.name[0] < str(frozen))
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    return model


def compare(blocks: int, width: int, frozen: int, rows: int, epochs: int) -> str:
    """A row of the table."""
    draw = np.random.default_rng(0)
    ids, labels = draw.integers(0, WORDS, (rows, LENGTH)), draw.integers(0, 2, rows)
    steps, weights, history = [], [], None
    for fit in (keras.Model.fit, ek.fit_on_frozen):
        model, clock = encoder(blocks, width, frozen), Clock()
        keras.utils.set_random_seed(1)
        history = fit(model, ids, labels, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[clock])
        steps.append(float(np.median(clock.seconds[1:])))
        weights.append([keras.ops.convert_to_numpy(each) for each in model.weights])
    lower = keras.Model(model.input, model.get_layer("mean" if frozen == blocks else f"{frozen - 1}_end").output)
    lower.predict(ids[:BATCH], BATCH, verbose=0)
    began = time.perf_counter()
    lower.predict(ids, BATCH, verbose=0)
    forward = time.perf_counter() - began
    done = history.frozen[0]
    difference = max(float(np.abs(one - other).max()) for one, other in zip(*weights, strict=True))
    return (
        f"| {frozen} of {blocks} | {1000 * steps[0]:.1f} | {1000 * steps[1]:.2f} | {steps[0] / steps[1]:.1f} | "
        f"{done['seconds']:.2f} | {forward:.2f} | {done['bytes'] / 1e6:.1f} | {difference:.1e} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6, help="blocks of the encoder (6)")
    parser.add_argument("--width", type=int, default=256, help="of a token's vector (256)")
    parser.add_argument("--rows", type=int, default=1024, help="texts (1,024)")
    parser.add_argument("--epochs", type=int, default=4, help="of which the first isn't counted (4)")
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name}")
    given = parser.parse_args()
    lines = [
        f"{given.rows} texts of {LENGTH} ids, width {given.width}, batches of {BATCH}; {machine_line('tensorflow', 'keras')}",
        "",
        "| frozen blocks | `fit`, CPU ms a step | `fit_on_frozen`, CPU ms a step | times | pass, s | `predict`, s | kept, MB "
        "| largest difference of a weight |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for frozen in (given.blocks, given.blocks - 1, given.blocks // 2):
        lines.append(compare(given.blocks, given.width, frozen, given.rows, given.epochs))
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if given.write:
        RESULTS.write_text(f"# Frozen layers that run once\n\nMade by `benchmarks/frozen_trunk.py`.\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()
