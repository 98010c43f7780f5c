"""ms per train step by size of the table: stock Keras, embkeras, frozen, the floor, and PyTorch where it is installed.

Every contender does the same work: a batch of 32 texts of 50 ids, drawn uniformly, through embedding -> mean -> dense,
one step of its optimizer. "Plain TensorFlow gather" is the frozen step written by hand with `tf.gather`. "Floor" is the
least that any row-wise Adam must do: read and write the rows of the batch in three tables, without any arithmetic. It
works on the tables of the row-wise Adam above it.

All contenders for one table are built first and then timed in turns, so that other load on the machine affects all of
them alike. A turn is ten steps in a row, as in training; the first two are not counted, because they find the caches
filled by the previous contender. (Contenders that take more than 50 ms per step get one counted step per turn.) The
table shows the median. Steps are called as compiled functions without `fit`, so the Python around them is not measured.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --tables 10000x100 400000x100 --seconds 40

The largest table, 1,000,000 x 300, needs about 20 GB of memory for all contenders together; leave it out with --tables.
"""

import argparse
import gc
import os
import re
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from machine import machine_line

import embkeras as ek

BATCH, TIME = 32, 50
STEPS_A_TURN, UNCOUNTED, SLOW = 10, 2, 0.05
OURS, STOCK, TORCH, FLOOR, FROZEN, PLAIN = (
    "PretrainedEmbedding + RowWiseAdam",
    "stock Embedding + Adam",
    "torch Embedding(sparse=True) + SparseAdam",
    "floor: gather + scatter in three tables",
    "PretrainedEmbedding, frozen",
    "plain TensorFlow gather, frozen",
)


def keras_step(embedding: keras.layers.Layer, optimizer: keras.optimizers.Optimizer) -> Callable:
    """A compiled train step of embedding -> mean -> dense."""
    model = keras.Sequential(
        [keras.Input((TIME,), dtype="int64"), embedding, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
    step = compiled_step(model, optimizer)
    return lambda ids, labels: step(ids, labels).numpy()


def compiled_step(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Callable:
    """One step of the optimizer, compiled: a loss of squares, its gradients, the update."""
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(ids, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(ids, training=True) - labels))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return step


def plain_step(table: tf.Variable, optimizer: keras.optimizers.Optimizer) -> Callable:
    """The same with a table that does not move, in TensorFlow alone but for the optimizer."""
    kernel = tf.Variable(tf.random.normal((table.shape[1], 1)))
    bias = tf.Variable(tf.zeros((1,)))
    optimizer.build([kernel, bias])

    @tf.function
    def step(ids, labels):
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(tf.gather(table, ids), axis=1)
            loss = tf.reduce_mean(tf.square(mean @ kernel + bias - labels))
        variables = [kernel, bias]
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return lambda ids, labels: step(ids, labels).numpy()


def floor_step(tables: list[tf.Variable]) -> Callable:
    """Read the rows of the batch in each table and write them back."""

    @tf.function
    def step(ids):
        rows = tf.reshape(ids, (-1,))
        for table in tables:
            table.scatter_update(tf.IndexedSlices(table.sparse_read(rows), rows))
        return rows[0]

    return lambda ids, labels: step(ids).numpy()


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


def pretrained(matrix: np.ndarray, *, trainable: bool) -> keras.layers.Layer:
    """Our layer around the matrix."""
    vocabulary = ek.Vocabulary(["", "[UNK]", *(f"w{i}" for i in range(len(matrix) - 2))])
    return ek.build_embedding(ek.AlignedMatrix(matrix, vocabulary), trainable=trainable, mask_zero=False)


def contenders(matrix: np.ndarray) -> dict[str, Callable]:
    """A step of each contender by its name."""
    moving, frozen = pretrained(matrix, trainable=True), pretrained(matrix, trainable=False)
    row_wise = ek.RowWiseAdam(1e-3)
    steps = {
        STOCK: keras_step(keras.layers.Embedding(*matrix.shape, weights=[matrix]), keras.optimizers.Adam(1e-3)),
        OURS: keras_step(moving, row_wise),
        TORCH: torch_step(matrix),
        FLOOR: floor_step(
            [each.value for each in (*moving.variables, *row_wise.variables) if each.shape == matrix.shape]
        ),
        FROZEN: keras_step(frozen, keras.optimizers.Adam(1e-3)),
        PLAIN: plain_step(frozen.variables[0].value, keras.optimizers.Adam(1e-3)),
    }
    return {name: step for name, step in steps.items() if step is not None}


def measure(rows: int, width: int, seconds: float) -> dict[str, float]:
    """Median ms of a step of each contender, timed in turns for about `seconds`."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((rows, width), np.float32)
    batches = [
        (tf.constant(rng.integers(2, rows, (BATCH, TIME))), tf.constant(rng.normal(size=(BATCH, 1)).astype(np.float32)))
        for _ in range(20)
    ]
    steps = contenders(matrix)
    del matrix
    gc.collect()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    slow = {name for name, step in steps.items() if _warm_up(step, batches) > SLOW}
    end, turn = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or turn < 5:
        for name, step in steps.items():
            for count in range(UNCOUNTED + 1 if name in slow else STEPS_A_TURN):
                start = time.perf_counter()
                step(*batches[(turn * STEPS_A_TURN + count) % len(batches)])
                if count >= UNCOUNTED:
                    taken[name].append(time.perf_counter() - start)
        turn += 1
    return {name: 1000 * float(np.median(times)) for name, times in taken.items()}


def _warm_up(step: Callable, batches: list[tuple]) -> float:
    """Compile, take the first scatter that makes the stock layer copy its table, and return the seconds of the last."""
    for batch in batches[:5]:
        start = time.perf_counter()
        step(*batch)
    return time.perf_counter() - start


def print_ratios(results: dict[tuple[int, int], dict[str, float]]) -> None:
    """What the figures come to, as ratios."""
    widths = sorted({width for _, width in results})
    for (rows, width), result in results.items():
        ratios = [
            f"stock Adam takes {result[STOCK] / result[OURS]:.0f}x the time",
            f"{result[OURS] / result[TORCH]:.2f}x the time of torch" if TORCH in result else "torch not installed",
            f"{result[OURS] / result[FLOOR]:.2f}x the floor",
            f"frozen {result[FROZEN] / result[PLAIN]:.2f}x plain TensorFlow",
        ]
        print(f"- {rows:,} x {width}: " + "; ".join(ratios))
    for width in widths:
        sizes = sorted(rows for rows, each in results if each == width)
        growth = results[sizes[-1], width][OURS] / results[sizes[0], width][OURS]
        print(f"- d = {width}: V = {sizes[-1]:,} takes {growth:.2f}x the time of V = {sizes[0]:,}")


def main() -> None:
    """Measure every table and print the figures and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["10000x100", "100000x100", "400000x100", "1000000x100", "10000x300", "1000000x300"]
    parser.add_argument("--tables", nargs="+", default=default, help="rows x width of each table")
    parser.add_argument("--seconds", type=float, default=40, help="time for each table")
    options = parser.parse_args()
    print(machine_line("tensorflow", "keras", "torch") + "\n")
    print(f"median ms per train step, batch {BATCH} x {TIME} ids; in brackets: times {OURS}\n")
    results = {}
    for table in options.tables:
        rows, width = (int(number) for number in re.fullmatch(r"(\d+)x(\d+)", table).groups())
        results[rows, width] = measure(rows, width, options.seconds)
        gc.collect()
    print("| | " + " | ".join(f"{rows:,} x {width}" for rows, width in results) + " |")
    print("|---|" + "---|" * len(results))
    for name in (STOCK, OURS, TORCH, FLOOR, FROZEN, PLAIN):
        cells = [
            f"{result[name]:.2f} ({result[name] / result[OURS]:.1f}x)" if name in result else "not installed"
            for result in results.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()
    print_ratios(results)


if __name__ == "__main__":
    main()
