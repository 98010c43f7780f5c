"""ms per train step by size of the table: stock Keras, embkeras, frozen, and PyTorch where it is installed.

Every contender has the same work: a batch of 32 texts of 50 ids, drawn uniformly, through embedding -> mean -> dense,
one step of its optimizer. All contenders of one table size are built first and then timed in turns, so that whatever
else the machine does hits all of them alike. A turn is ten steps in a row, as in training, of which the first two are
not counted: they find the caches filled by the contender before. The median is shown. Steps are called as compiled
functions without `fit`, so that no Python around them is measured.

    python benchmarks/train_step.py --sizes 10000 100000 400000 --width 100
"""

import argparse
import gc
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from machine import machine_line

import embkeras as ek

BATCH, TIME = 32, 50
STEPS_A_TURN, UNCOUNTED = 10, 2


def keras_step(embedding: keras.layers.Layer, optimizer: keras.optimizers.Optimizer) -> Callable:
    """A compiled train step of embedding -> mean -> dense."""
    model = keras.Sequential(
        [keras.Input((TIME,), dtype="int64"), embedding, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(ids, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(ids, training=True) - labels))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return lambda ids, labels: step(ids, labels).numpy()


def pretrained(matrix: np.ndarray, *, trainable: bool) -> keras.layers.Layer:
    """Our layer around the matrix."""
    vocabulary = ek.Vocabulary(["", "[UNK]", *(f"w{i}" for i in range(len(matrix) - 2))])
    return ek.build_embedding(ek.AlignedMatrix(matrix, vocabulary), trainable=trainable, mask_zero=False)


def stock(matrix: np.ndarray) -> keras.layers.Layer:
    """The stock layer around the matrix."""
    return keras.layers.Embedding(*matrix.shape, weights=[matrix])


def torch_step(matrix: np.ndarray) -> Callable | None:
    """PyTorch's Embedding(sparse=True) and SparseAdam, with the same number of threads."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    embedding = torch.nn.Embedding.from_pretrained(torch.tensor(matrix), freeze=False, sparse=True)
    dense = torch.nn.Linear(matrix.shape[1], 1)
    sparse, adam = torch.optim.SparseAdam(embedding.parameters(), 1e-3), torch.optim.Adam(dense.parameters(), 1e-3)

    def step(ids, labels):
        sparse.zero_grad()
        adam.zero_grad()
        loss = torch.mean(
            (dense(embedding(torch.from_numpy(ids.numpy())).mean(1)) - torch.from_numpy(labels.numpy())) ** 2
        )
        loss.backward()
        sparse.step()
        adam.step()
        return loss.item()

    return step


CONTENDERS = {
    "stock Embedding + Adam": lambda matrix: keras_step(stock(matrix), keras.optimizers.Adam(1e-3)),
    "stock Embedding + RowWiseAdam": lambda matrix: keras_step(stock(matrix), ek.RowWiseAdam(1e-3)),
    "PretrainedEmbedding + RowWiseAdam": lambda matrix: keras_step(
        pretrained(matrix, trainable=True), ek.RowWiseAdam(1e-3)
    ),
    "PretrainedEmbedding, frozen": lambda matrix: keras_step(pretrained(matrix, trainable=False), ek.RowWiseAdam(1e-3)),
    "torch SparseAdam": torch_step,
}


def measure(size: int, width: int, seconds: float) -> dict[str, float]:
    """Median ms of a step of each contender, timed in turns for about `seconds`."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(size, width)).astype(np.float32)
    batches = [
        (tf.constant(rng.integers(2, size, (BATCH, TIME))), tf.constant(rng.normal(size=(BATCH, 1)).astype(np.float32)))
        for _ in range(20)
    ]
    steps = {name: step for name, make in CONTENDERS.items() if (step := make(matrix)) is not None}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for batch in batches[:5]:
            step(*batch)  # compile, and the first scatter that makes the stock layer copy its table
    end, turn = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or turn < 3:
        for name, step in steps.items():
            for count in range(STEPS_A_TURN):
                start = time.perf_counter()
                step(*batches[(turn * STEPS_A_TURN + count) % len(batches)])
                if count >= UNCOUNTED:
                    taken[name].append(time.perf_counter() - start)
        turn += 1
    return {name: 1000 * float(np.median(times)) for name, times in taken.items()}


def main() -> None:
    """Measure every size and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 400_000], help="rows of the table, V")
    parser.add_argument("--width", type=int, default=100, help="width of a row, d")
    parser.add_argument("--seconds", type=float, default=20, help="time for each size")
    options = parser.parse_args()
    print(machine_line("tensorflow", "keras", "torch"))
    print(f"median ms per train step, batch {BATCH} x {TIME} ids, d = {options.width}; in brackets: times embkeras\n")
    results = {}
    for size in options.sizes:
        results[size] = measure(size, options.width, options.seconds)
        gc.collect()
    own = "PretrainedEmbedding + RowWiseAdam"
    print("| | " + " | ".join(f"V = {size:,}" for size in options.sizes) + " |")
    print("|---|" + "---|" * len(options.sizes))
    for name in CONTENDERS:
        cells = [
            f"{result[name]:.2f} ({result[name] / result[own]:.1f}x)" if name in result else "not installed"
            for result in results.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    first, last = options.sizes[0], options.sizes[-1]
    print(f"\n{own}: V = {last:,} takes {results[last][own] / results[first][own]:.2f}x the time of V = {first:,}")


if __name__ == "__main__":
    main()
