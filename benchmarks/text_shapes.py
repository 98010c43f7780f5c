"""Reading text vectors whose numbers are written in other ways than GloVe's, next to pandas.

Shapes: the usual five digits; integers; `%.18e`, which numpy.savetxt writes, of float64 and of float32 values; rows of zeros;
17 digits, which repr() writes; Wikipedia2Vec's tab after the word. Each file is made once, with fixed values. Each measurement
is a new process, which loads the file five times and reports the smallest wall and CPU time of one load; the loaders take
turns, so that a slow minute of the machine affects all of them. Read the ratios. Files are in the page cache. pandas is given
the separator and the types, and is told to keep words such as "null"; a file with two separators is left to embkeras.

    python benchmarks/text_shapes.py --out benchmarks/results/text_shapes.md
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from machine import machine_line

from embkeras.app import material

WIDTH = 100
LOADERS = ("embkeras", "embkeras, one thread", "pandas")


def normal(rows: int) -> Iterator[list[float]]:
    """Rows of float64 values."""
    generator = np.random.default_rng(0)
    for _ in range(rows):
        yield generator.normal(0, 0.4, WIDTH).tolist()


def numbers(shape: str) -> Callable[[list[float]], str]:
    """A function that writes the numbers of a row."""
    writers: dict[str, Callable[[float], str]] = {
        "five digits": "{:.5g}".format,
        "five digits, tab after the word": "{:.5g}".format,
        "integers": lambda value: str(round(value * 300)),
        "%.18e of float64": "{:.18e}".format,
        "%.18e of float32": lambda value: f"{float(np.float32(value)):.18e}",
        "zeros": lambda value: "0",
        "17 digits": repr,
    }
    return lambda row: " ".join(map(writers[shape], row))


# shape -> rows
SHAPES = {
    "five digits": 100_000,
    "integers": 100_000,
    "%.18e of float64": 20_000,
    "%.18e of float32": 20_000,
    "zeros": 100_000,
    "17 digits": 20_000,
    "five digits, tab after the word": 100_000,
}


def made(shape: str, folder: Path) -> Path:
    """The file of a shape; made now if it is not there."""
    path = folder / f"shape{list(SHAPES).index(shape)}.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write, after_word = numbers(shape), "\t" if "tab" in shape else " "
        beside = path.with_suffix(".making")
        with beside.open("w") as file:
            for number, row in enumerate(normal(SHAPES[shape])):
                file.write(f"w{number}{after_word}{write(row)}\n")
        beside.rename(path)
    return path


def load(loader: str, path: Path) -> Callable[[], object]:
    """A function that loads the file once."""
    if loader == "pandas":
        import pandas as pd

        types = {0: str, **dict.fromkeys(range(1, WIDTH + 1), np.float32)}
        options = {"sep": " ", "header": None, "quoting": 3, "na_filter": False, "dtype": types, "engine": "c"}

        def read() -> object:
            frame = pd.read_csv(path, **options)
            return frame.pop(0).tolist(), frame.to_numpy()

        return read
    from embkeras import load_vectors
    from embkeras.vectors.io import text_reader

    if "one thread" in loader:
        text_reader._threads = lambda source: 1
    return lambda: load_vectors(path, progress=False)


def measure(loader: str, path: Path) -> None:
    """Print the smallest wall and CPU time of five loads."""
    once = load(loader, path)
    times = []
    for _ in range(5):
        wall, cpu = time.perf_counter(), time.process_time()
        once()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    print(json.dumps([min(each) for each in zip(*times, strict=True)]))


def compare(shape: str, path: Path, rounds: int) -> Iterator[str]:
    """The rows of the table for one shape."""
    loaders = LOADERS[:2] if "tab" in shape else LOADERS
    best: dict[str, list[float]] = {}
    for _ in range(rounds):
        for loader in loaders:
            command = [sys.executable, __file__, "--measure", loader, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            taken = json.loads(done.stdout.splitlines()[-1])
            best[loader] = [min(pair) for pair in zip(taken, best.get(loader, taken), strict=True)]
    size = path.stat().st_size / 1e6
    for loader in loaders:
        wall, cpu = best[loader]
        ratios = ["-", "-"]
        if "pandas" in best:
            ratios = [f"{mine / its:.2f}" for mine, its in zip(best[loader], best["pandas"], strict=True)]
        yield (
            f"| {shape}, {SHAPES[shape]:,} x {WIDTH} ({size:.0f} MB) | {loader} | {wall:.3f} | {ratios[0]} | {cpu:.3f} "
            f"| {ratios[1]} |"
        )


def main() -> None:
    """Make the files, measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=material.cache_folder() / "text_shapes", help="for the files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    lines = ["# Text vectors in other shapes than GloVe's", "", machine_line("embkeras", "numpy", "pandas"), ""]
    lines += ["| file | loader | wall s | of pandas | CPU s | of pandas |", "|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for shape in SHAPES:
        for line in compare(shape, made(shape, arguments.folder), arguments.rounds):
            print(line, flush=True)
            lines.append(line)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
