"""Peak memory of filling, reading, saving, loading and unfreezing a table: stock Keras next to embkeras.

Each case runs in its own process. The process imports everything, prepares the starting point (a memory-mapped matrix,
a trained model) and waits; the memory it then holds is its baseline and is subtracted. Then the case runs, while the
parent reads the process's memory every millisecond. The parent samples because a thread inside would stop whenever a
library holds Python's lock; it can't miss a peak, because touching a table takes far longer than a millisecond.

Anonymous and shared memory is counted (`RssAnon` + `RssShmem` in /proc/PID/status). Pages of a memory-mapped file are
not: they are file cache, which the system can drop and read again. VmHWM, the kernel's own peak, counts them and would
charge a mapped matrix to the process that reads it.

"stays" is the memory above the baseline when the case has ended and its result is kept. TensorFlow keeps freed memory
for its next tensors, so temporary copies of a table stay.

Keras saves and loads a `.keras` file in memory if it estimates that the weights fill less than half of the available
memory, and otherwise through a file on disk. It asks psutil; without psutil it assumes 1 GB. The processes here see a
stand-in for psutil, so that both ways are measured: "in memory" and "on disk".

    python benchmarks/memory.py --rows 1000000 --width 300 --only save load
"""

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from machine import machine_line

import embkeras as ek

TIME, BATCH, STEPS = 50, 32, 4
METHODS = ("save_weights", "save")
NEEDED = 8  # tables that must fit into the available memory: the worst stock way holds six, and others work too


@dataclass(frozen=True)
class Task:
    """The table and the folder for files."""

    folder: Path
    rows: int
    width: int

    @property
    def matrix(self) -> np.ndarray:
        """The memory-mapped table."""
        return np.load(self.folder / "matrix.npy", mmap_mode="r")

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return 4 * self.rows * self.width

    @property
    def words(self) -> list[str]:
        """Tokens of all rows but the two special ones."""
        return [f"w{i}" for i in range(self.rows - 2)]

    @property
    def aligned(self) -> ek.AlignedMatrix:
        """The table with its vocabulary."""
        return ek.AlignedMatrix(self.matrix, ek.Vocabulary(["", "[UNK]", *self.words]))

    @property
    def ids(self) -> np.ndarray:
        """A few batches of token ids."""
        return np.random.default_rng(0).integers(2, self.rows, (BATCH * STEPS, TIME))


@dataclass(frozen=True)
class Way:
    """One line of the table: `run` is measured, and gets the task and what `prepare` gave."""

    work: str
    name: str
    prepare: Callable[[Task], Any]
    run: Callable[[Task, Any], Any]
    available: int = 1 << 50  # bytes of memory that Keras is to believe in


def stock_layer(task: Task) -> keras.layers.Layer:
    """The stock layer, filled as Keras does it."""
    layer = keras.layers.Embedding(task.rows, task.width, name="embedding")
    layer.build()
    layer.set_weights([task.matrix])
    return layer


def in_use(task: Task, layer: keras.layers.Layer, optimizer: Any = None) -> keras.Model:
    """A compiled model around a layer that has run once."""
    model = keras.Sequential(
        [keras.Input((TIME,), dtype="int64"), layer, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
    if optimizer is not None:
        model.compile(optimizer, loss="mse")
    model.predict(task.ids, verbose=0)
    return model


def stock_model(task: Task) -> keras.Model:
    """A model around the stock layer."""
    return in_use(task, stock_layer(task))


def own_model(task: Task) -> keras.Model:
    """A model around our layer."""
    return in_use(task, ek.build_embedding(task.aligned, mask_zero=False))


def weights_layer(task: Task) -> keras.layers.Layer:
    """The stock layer, given its weights."""
    return keras.layers.Embedding(task.rows, task.width, weights=[task.matrix])


def constant_layer(task: Task) -> keras.layers.Layer:
    """The stock layer with the table as its initializer."""
    constant = keras.initializers.Constant(task.matrix)
    layer = keras.layers.Embedding(task.rows, task.width, embeddings_initializer=constant, name="embedding")
    layer.build()
    return layer


def vectors(task: Task) -> tuple[ek.KeyedVectors, ek.Vocabulary]:
    """What align starts from: vectors on disk in another order than the vocabulary."""
    matrix = task.matrix[2:]
    return ek.KeyedVectors(task.words, matrix), ek.Vocabulary(["", "[UNK]", *reversed(task.words)])


def stock_training(task: Task) -> keras.Model:
    """Stock table and Adam, trainable from the start; the optimizer is not built yet."""
    return in_use(task, stock_layer(task), keras.optimizers.Adam())


def own_training(task: Task) -> keras.Model:
    """Our table, frozen, and RowWiseAdam; the head trains already."""
    return fit(task, in_use(task, ek.build_embedding(task.aligned, mask_zero=False), ek.RowWiseAdam()))


def own_trained(task: Task) -> keras.Model:
    """Our table in training with RowWiseAdam and its two slots; the head is frozen."""
    model = in_use(task, ek.build_embedding(task.aligned, trainable=True, mask_zero=False), ek.RowWiseAdam())
    model.layers[-1].trainable = False
    return fit(task, model)


def fit(task: Task, model: keras.Model, *callbacks: keras.callbacks.Callback) -> keras.Model:
    """A few steps of training."""
    labels = np.zeros((len(task.ids), 1), np.float32)
    model.fit(task.ids, labels, batch_size=BATCH, verbose=0, callbacks=list(callbacks))
    return model


def thawing(layer: str) -> Callable[[Task, Any], Any]:
    """A few steps that begin with an unfreeze."""
    return lambda task, model: fit(task, model, ek.unfreeze_at(0, layer))


def nothing(task: Task) -> None:
    """A way that starts from files only."""


def saving(path: str) -> Callable[[Task, Any], Any]:
    """Write a model to a file of the task's folder; the kind goes by the file's ending."""
    return lambda task, model: getattr(model, METHODS[path.endswith(".keras")])(task.folder / path)


def loading(path: str) -> Callable[[Task, Any], Any]:
    """Read a `.keras` file as a new model, or a weights file into the model given."""
    if path.endswith(".keras"):
        return lambda task, _: keras.saving.load_model(task.folder / path)
    return lambda task, model: model.load_weights(task.folder / path)


def file_ways(suffix: str, available: int = 1 << 50, route: str = "") -> list[Way]:
    """Saving and then loading, stock and ours, in one kind of file."""
    owners = {"stock": stock_model, "embkeras": own_model}
    before = {owner: nothing if suffix == ".keras" else make for owner, make in owners.items()}
    return [
        *(Way(f"save {suffix}", o + route, make, saving(o + suffix), available) for o, make in owners.items()),
        *(Way(f"load {suffix}", o + route, make, loading(o + suffix), available) for o, make in before.items()),
    ]


WAYS = [
    Way("align", "align, in memory", vectors, lambda task, pair: ek.align(*pair)),
    Way("align", "align(out=path)", vectors, lambda task, pair: ek.align(*pair, out=task.folder / "aligned.npy")),
    Way("fill", "stock, weights=[m]", nothing, lambda task, _: weights_layer(task)),
    Way("fill", "stock, Constant(m)", nothing, lambda task, _: constant_layer(task)),
    Way("fill", "stock, set_weights", nothing, lambda task, _: stock_layer(task)),
    Way("fill", "build_embedding", lambda task: task.aligned, lambda task, aligned: ek.build_embedding(aligned)),
    Way("read", "stock, get_weights", stock_model, lambda task, model: model.layers[0].get_weights()),
    Way("read", "embkeras, get_weights", own_model, lambda task, model: model.layers[0].get_weights()),
    Way("read", "embkeras, matrix()", own_model, lambda task, model: model.layers[0].matrix()),
    *file_ways(".keras", 1 << 50, ", in memory"),
    *file_ways(".keras", 0, ", on disk"),
    *file_ways(".weights.h5"),
    Way("save .keras", "embkeras, with RowWiseAdam's slots, on disk", own_trained, saving("slots.keras"), 0),
    Way("load .keras", "embkeras, with RowWiseAdam's slots, on disk", nothing, loading("slots.keras"), 0),
    Way("train", "stock Adam, first steps", stock_training, fit),
    Way("train", "RowWiseAdam, the table joins", own_training, thawing("embedding")),
    Way("train", "RowWiseAdam, the head joins the table", own_trained, thawing("dense*")),
]


def memory_of(process: int) -> int:
    """Anonymous and shared bytes of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def child(number: int, task: Task, pipe: Any) -> None:
    """Prepare, wait, run, wait: the parent measures in between."""
    way = WAYS[number]
    prepared = way.prepare(task)
    gc.collect()
    pipe.send("ready")
    pipe.recv()
    start = time.perf_counter()
    result = way.run(task, prepared)
    seconds = time.perf_counter() - start
    gc.collect()
    pipe.send(seconds)
    pipe.recv()
    del result  # held until here


def stand_in(task: Task, available: int) -> str:
    """A folder with a psutil that knows of so many bytes."""
    folder = task.folder / f"psutil_{available}"
    folder.mkdir(exist_ok=True)
    (folder / "psutil.py").write_text(f"class virtual_memory:\n    available = {available}\n")
    return str(folder)


def measure(number: int, task: Task) -> tuple[int, int, float]:
    """Bytes at the peak and at the end above the start, and seconds."""
    spawn = multiprocessing.get_context("spawn")
    pipe, far = spawn.Pipe()
    process = spawn.Process(target=child, args=(number, task, far), daemon=True)
    sys.path.insert(0, stand_in(task, WAYS[number].available))  # a spawned process begins with its parent's path
    process.start()
    sys.path.pop(0)
    far.close()
    pipe.recv()
    start = peak = memory_of(process.pid)
    pipe.send("run")
    while not pipe.poll(0.001):
        peak = max(peak, memory_of(process.pid))
    seconds, end = pipe.recv(), memory_of(process.pid)
    pipe.send("end")
    process.join()
    return max(peak, end) - start, end - start, seconds


def write_matrix(task: Task) -> None:
    """The table on disk, written in blocks."""
    rng = np.random.default_rng(0)
    matrix = np.lib.format.open_memmap(task.folder / "matrix.npy", "w+", np.float32, (task.rows, task.width))
    for start in range(0, task.rows, 10_000):
        matrix[start : start + 10_000] = rng.standard_normal(matrix[start : start + 10_000].shape, np.float32)
    matrix.flush()


def check_room(task: Task) -> None:
    """Leave the machine alone where a stock way might fill it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    if available < NEEDED * task.nbytes:
        raise SystemExit(
            f"The stock ways need {NEEDED} times the table, {NEEDED * task.nbytes / 1e9:.1f} GB; "
            f"{available / 1e9:.1f} GB are available. Pass fewer --rows."
        )


def main() -> None:
    """Measure every way and print one table."""
    works = list(dict.fromkeys(way.work.split()[0] for way in WAYS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    parser.add_argument("--width", type=int, default=300, help="width of a row")
    parser.add_argument("--only", nargs="+", choices=works, default=works, help="kinds of work to measure")
    parser.add_argument("--folder", help="where the files go, twelve times the table (default: the system's place)")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise SystemExit("This benchmark reads /proc, so it runs on Linux only.")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        task = Task(Path(folder), options.rows, options.width)
        check_room(task)
        write_matrix(task)
        print(machine_line("tensorflow", "keras", "h5py") + "\n")
        print(f"table: {task.rows:,} x {task.width}, {task.nbytes / 1e9:.2f} GB\n")
        print("| work | way | peak, GB | x table | stays, x table | s |\n|---|---|---|---|---|---|")
        for number, way in enumerate(WAYS):
            if way.work.split()[0] in options.only:
                peak, stays, seconds = measure(number, task)
                ratios = f"{peak / task.nbytes:.2f} | {stays / task.nbytes:.2f}"
                print(f"| {way.work} | {way.name} | {peak / 1e9:.2f} | {ratios} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
