"""Reading vector files: embkeras next to other loaders, each in its own process, in turns.

Creates its files once, from the words and values of the real GloVe 6B 50d (wider rows are several of its rows side by
side, written with 5 digits as in GloVe): 400,000 words of width 100 and 300, as text, gzipped text, word2vec binary,
fastText .bin (v12, 500,000 buckets) and embkeras's own store. Each measurement is a new process that imports its
loader, notes its memory, loads, and reports the time. The loaders of a task take turns, so that a slow minute of the
machine affects all of them. Compare the ratios. Files are in the page cache.

"peak" is the peak of the resident memory above its value after the imports, "stays" the private memory held by the
result at the end; MB are 10**6 bytes. The peak includes the touched pages of a memory-mapped file, which the system can
drop again. A loader that is not installed, or can't be read by this version, is skipped with a line that says so.

    python -m pip install -e ".[demo]" gensim fasttext-community polars
    python benchmarks/load_vectors.py --quick
    python benchmarks/load_vectors.py --rounds 5 --only text words
"""

import argparse
import gzip
import json
import shutil
import statistics
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_line

from embkeras.app import material

BUCKETS = 500_000
STEP = 7919  # rows between those that stand side by side; prime, so that no two rows are alike


# The files


def glove() -> tuple[list[str], np.ndarray]:
    """The real words and values."""
    import pyarrow.parquet

    matrix, words = material.glove_paths()
    table = pyarrow.parquet.read_table(words)
    strings = next(i for i, kind in enumerate(table.schema.types) if "string" in str(kind))
    return table.column(strings).to_pylist(), np.load(matrix, mmap_mode="r")


def wide_rows(values: np.ndarray, rows: int, width: int) -> Iterator[np.ndarray]:
    """float32 blocks of `rows` rows in all: rows of the real matrix side by side."""
    turns = range(-(-width // values.shape[1]))
    for start in range(0, rows, 4096):
        row = np.arange(start, min(start + 4096, rows))
        yield np.hstack([values[(row + turn * STEP) % len(values)] for turn in turns])[:, :width]


def make_text(path: Path, words: list[str], values: np.ndarray, width: int) -> None:
    """GloVe text."""
    row = 0
    with path.open("wb") as file:
        for block in wide_rows(values, len(words), width):
            for numbers in block.tolist():
                file.write(words[row].encode() + b" " + " ".join([f"{x:.5g}" for x in numbers]).encode() + b"\n")
                row += 1


def make_gzip(path: Path, words: list[str], values: np.ndarray, width: int) -> None:
    """The same, gzipped."""
    with path.with_suffix("").open("rb") as text, gzip.open(path, "wb", compresslevel=6) as file:
        shutil.copyfileobj(text, file, 1 << 20)


def make_word2vec(path: Path, words: list[str], values: np.ndarray, width: int) -> None:
    """word2vec binary, a newline behind each vector, as word2vec.c writes it."""
    row = 0
    with path.open("wb") as file:
        file.write(f"{len(words)} {width}\n".encode())
        for block in wide_rows(values, len(words), width):
            for numbers in block.astype("<f4"):
                file.write(words[row].encode() + b" " + numbers.tobytes() + b"\n")
                row += 1


def make_fasttext(path: Path, words: list[str], values: np.ndarray, width: int) -> None:
    """fastText .bin, version 12, skip-gram: arguments, dictionary, input matrix with its buckets, output matrix."""
    count = len(words)
    with path.open("wb") as file:
        file.write(struct.pack("<2i", 793712314, 12))
        # width, window, epoch, min count, negatives, n-gram words, loss (ns), model (sg), buckets, minn, maxn, updates, t
        file.write(struct.pack("<12id", width, 5, 5, 1, 5, 1, 2, 2, BUCKETS, 3, 6, 100, 1e-4))
        file.write(struct.pack("<3i2q", count, count, 0, 10 * count, -1))
        for number, word in enumerate(words):
            file.write(word.encode() + b"\0" + struct.pack("<qb", count - number, 0))
        for rows in (count + BUCKETS, count):
            file.write(struct.pack("<?2q", False, rows, width))
            for block in wide_rows(values, rows, width):
                file.write(block.astype("<f4").tobytes())


def make_store(path: Path, words: list[str], values: np.ndarray, width: int) -> None:
    """embkeras's own store."""
    import embkeras as ek

    matrix = np.concatenate(list(wide_rows(values, len(words), width)))
    ek.save_vectors(ek.KeyedVectors(words, matrix), path)


MAKERS = {
    "text": (".txt", make_text),
    "gzip": (".txt.gz", make_gzip),
    "word2vec": (".bin", make_word2vec),
    "fasttext": (".fasttext.bin", make_fasttext),
    "store": (".h5", make_store),
}


def made(kind: str, folder: Path, rows: int, width: int) -> Path:
    """The file of a kind; made now if it is not there."""
    ending, make = MAKERS[kind]
    path = folder / f"glove.{rows}x{width}{ending}"
    if kind == "gzip":
        made("text", folder, rows, width)
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr)
        words, values = glove()
        beside = path.with_name("making." + path.name)
        if kind == "gzip":  # is made from the text of the same name
            beside = path
        make(beside, words[:rows], values, width)
        beside.rename(path)
    return path


def asked_words(rows: int) -> list[str]:
    """The words of a task, spread over the file as the words of a text are: many frequent ones, some rare ones."""
    count = rows // 20
    chosen = np.unique(np.random.default_rng(0).zipf(1.1, 40 * count) - 1)
    chosen = chosen[chosen < rows][: count // 2].tolist()
    spread = np.random.default_rng(1).permutation(rows).tolist()
    chosen = list(dict.fromkeys([*chosen, *spread]))[:count]
    words, _ = glove()
    return [words[row] for row in chosen]


# The loaders. Each imports at once, and gives a function that loads and returns (words, matrix, further result).


def embkeras_loader(path: Path, words: list[str] | None, **arguments: Any) -> Callable[[], Any]:
    """load_vectors."""
    from embkeras import load_vectors

    return lambda: load_vectors(path, words=words, fallbacks=(), progress=False, **arguments)


def one_thread(path: Path, words: list[str] | None) -> Callable[[], Any]:
    """load_vectors with one thread."""
    from embkeras.vectors.io import text_reader

    text_reader._threads = lambda source: 1
    return embkeras_loader(path, words)


def pandas_loader(path: Path, words: list[str] | None) -> Callable[[], Any]:
    """pandas' C engine, with the arguments without which it loses words."""
    import pandas as pd

    width = int(path.name.split("x")[1].split(".")[0])
    types = {0: str, **dict.fromkeys(range(1, width + 1), np.float32)}

    def load():
        frame = pd.read_csv(path, sep=" ", header=None, quoting=3, na_filter=False, dtype=types, engine="c")
        return frame.pop(0).tolist(), frame.to_numpy()

    return load


def polars_loader(path: Path, words: list[str] | None) -> Callable[[], Any]:
    """polars, all threads."""
    import polars as pl

    width = int(path.name.split("x")[1].split(".")[0])
    types = {"word": pl.String, **{f"v{i}": pl.Float32 for i in range(width)}}

    def load():
        frame = pl.read_csv(path, separator=" ", has_header=False, quote_char=None, schema=types)
        return frame["word"].to_list(), frame.drop("word").to_numpy()

    return load


def tutorial_loop(path: Path, words: list[str] | None) -> Callable[[], Any]:
    """The loop of the tutorials."""

    def load():
        index = {}
        with path.open(encoding="utf-8") as file:
            for line in file:
                word, numbers = line.split(maxsplit=1)
                index[word] = np.fromstring(numbers, "f", sep=" ")
        return list(index), np.stack(list(index.values()))

    return load


def gensim_text(path: Path, words: list[str] | None) -> Callable[[], Any]:
    """gensim, which cannot select."""
    from gensim.models import KeyedVectors

    return lambda: KeyedVectors.load_word2vec_format(path, no_header=True)


def gensim_binary(path: Path, words: list[str] | None) -> Callable[[], Any]:
    """gensim."""
    from gensim.models import KeyedVectors

    return lambda: KeyedVectors.load_word2vec_format(path, binary=True)


def decompression(path: Path, words: list[str] | None) -> Callable[[], Any]:
    """gzip alone, thrown away."""

    def load():
        with gzip.open(path) as file:
            while file.read(1 << 18):
                pass

    return load


def with_subwords(words: list[str]) -> list[str]:
    """Half as many words again that are in no file."""
    return [*words, *(f"{word}xq" for word in words[: len(words) // 2])]


def embkeras_subwords(path: Path, words: list[str]) -> Callable[[], Any]:
    """load_vectors, and compose_all for the words without a row."""
    from embkeras import load_vectors

    def load():
        vectors = load_vectors(path, words=with_subwords(words), fallbacks=(), progress=False)
        composed, _ = vectors.subwords.compose_all([word for word in with_subwords(words) if word not in vectors])
        return vectors, composed

    return load


def gensim_subwords(path: Path, words: list[str]) -> Callable[[], Any]:
    """gensim."""
    from gensim.models.fasttext import load_facebook_vectors

    def load():
        vectors = load_facebook_vectors(path)
        return vectors, np.stack([vectors[word] for word in with_subwords(words)])

    return load


def fasttext_subwords(path: Path, words: list[str]) -> Callable[[], Any]:
    """The fasttext package."""
    import fasttext

    def load():
        model = fasttext.load_model(str(path))
        return model, np.stack([model.get_word_vector(word) for word in with_subwords(words)])

    return load


def store_first(path: Path, words: list[str]) -> Callable[[], Any]:
    """From nothing to one vector."""
    from embkeras import load_vectors

    def load():
        vectors = load_vectors(path, progress=False)
        return vectors, vectors[words[-1]].copy()

    return load


def store_rows(path: Path, words: list[str]) -> Callable[[], Any]:
    """From nothing to the rows of a task."""
    return embkeras_loader(path, words)


# task -> kind of file, whether words are asked for, the loaders: ours first
TASKS: dict[str, tuple[str, bool, list[Callable]]] = {
    "text": ("text", False, [embkeras_loader, one_thread, pandas_loader, polars_loader, tutorial_loop, gensim_text]),
    "words": ("text", True, [embkeras_loader, gensim_text]),
    "gzip": ("gzip", False, [embkeras_loader, decompression]),
    "word2vec": ("word2vec", False, [embkeras_loader, gensim_binary]),
    "word2vec-words": ("word2vec", True, [embkeras_loader, gensim_binary]),
    "fasttext": ("fasttext", True, [embkeras_subwords, gensim_subwords, fasttext_subwords]),
    "store-first": ("store", True, [store_first]),
    "store-rows": ("store", True, [store_rows]),
}


# One measurement, in a process of its own


def memory(field: str) -> int:
    """A field of /proc/self/status in bytes; 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":")), 0)


def measure(task: str, place: int, path: Path, words_file: Path) -> None:
    """Load once, and print what it took."""
    warnings.simplefilter("ignore")
    words = json.loads(words_file.read_text()) if TASKS[task][1] else None
    try:
        load = TASKS[task][2][place](path, words)
    except ImportError as error:
        print(json.dumps({"left out": f"{error.name} is not installed"}))
        return
    before, private = memory("VmRSS"), memory("RssAnon")
    started = time.perf_counter()
    try:
        result = load()
    except Exception as error:
        print(json.dumps({"left out": f"{type(error).__name__}: {str(error)[:150]}"}))
        return
    seconds = time.perf_counter() - started
    taken = {"seconds": seconds, "peak": memory("VmHWM") - before, "stays": memory("RssAnon") - private}
    print(json.dumps(taken | {"held": result is not None}))


def in_a_process(task: str, place: int, path: Path, words_file: Path) -> dict:
    """The same, in a fresh process."""
    command = [sys.executable, __file__, "--measure", task, str(place), str(path), str(words_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"left out": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:150]}
    return json.loads(done.stdout.splitlines()[-1])


def compare(task: str, path: Path, label: str, rounds: int, words_file: Path) -> None:
    """The loaders of a task in turns, as rows of the table."""
    loaders = TASKS[task][2]
    runs: dict[int, list[dict]] = {place: [] for place in range(len(loaders))}
    for _ in range(rounds):
        for place in list(runs):
            taken = in_a_process(task, place, path, words_file)
            if "left out" in taken:
                print(f"{label}: {loaders[place].__name__} left out, {taken['left out']}", flush=True)
                del runs[place]
            else:
                runs[place].append(taken)
    ours = min((run["seconds"] for run in runs.get(0, [])), default=float("nan"))
    for place, taken in runs.items():
        seconds = [run["seconds"] for run in taken]
        peak, stays = (max(run[key] for run in taken) / 1e6 for key in ("peak", "stays"))
        print(
            f"| {label} | {loaders[place].__name__} | {min(seconds):.4g} / {statistics.median(seconds):.4g} "
            f"| {min(seconds) / ours:.2f} | {peak:.0f} | {stays:.0f} |",
            flush=True,
        )


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=material.cache_folder() / "load_vectors", help="for the files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one file of 40,000 x 100 a task")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="tasks")
    parser.add_argument("--widths", nargs="+", type=int, default=[100, 300])
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        task, place, path, words_file = arguments.measure
        measure(task, int(place), Path(path), Path(words_file))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = 40_000 if arguments.quick else 400_000
    words_file = arguments.folder / f"words.{rows}.json"
    words_file.write_text(json.dumps(asked_words(rows)))
    cases = [(task, width) for task in arguments.only for width in ([100] if arguments.quick else arguments.widths)]
    paths = {}
    for task, width in cases:
        try:
            paths[task, width] = made(TASKS[task][0], arguments.folder, rows, width)
        except Exception as error:
            print(f"{task}: left out, its file cannot be made ({type(error).__name__}: {str(error)[:150]})")
    print(machine_line("numpy", "pandas", "h5py", "gensim", "fasttext-community", "polars") + "\n")
    print("| task | loader | s (min / median) | ratio | peak MB | stays MB |\n|---|---|---|---|---|---|", flush=True)
    for (task, width), path in paths.items():
        compare(task, path, f"{task}, {rows:,} x {width}", arguments.rounds, words_file)


if __name__ == "__main__":
    main()
