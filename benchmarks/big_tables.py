"""Tables of millions of rows that don't fit into memory: what `convert`, `align(..., out=)` and the layer take.

A word2vec binary of random numbers is written, of 2 and 10 million words x 100, and a vocabulary of as many tokens in
another order, of which 1 in 100 has no vector. Each case runs in its own process, which imports everything, prepares what
the case begins with, and returns freed memory to the system; the memory it then holds is its baseline and is subtracted.
Anonymous and shared memory is counted (`RssAnon` + `RssShmem`, every 5 ms). Pages of mapped files are not: they are file
cache, which the system drops when memory is short.

`convert` and `align` run under a limit (RLIMIT_DATA) of half a table above the baseline: a copy of the table in memory would
end them. File and table are in the page cache of the machine, so the figures are those of the work, not of a disk. Seconds
are those of the processor.

gensim is measured on the smaller table, in the same run: it loads the file, and the matrix is filled as tutorials do it.

    python benchmarks/big_tables.py --write
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from machine import machine_line

RESULT = Path(__file__).with_name("results") / "big_tables.md"
BLOCK, LOOKED_UP = 10_000, 1_000


@dataclass(frozen=True)
class Task:
    """The folder of the files, and the size of the table."""

    folder: Path
    rows: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of the table in float32."""
        return 4 * self.rows * self.width

    def path(self, name: str) -> Path:
        """A file of this size."""
        return self.folder / f"{self.rows}.{name}"


def word(number: int) -> str:
    """Words of about twelve characters, in no order."""
    return f"word{number * 2_654_435_761 % 2**32:08x}"


def make(task: Task) -> None:
    """Write the vectors and the vocabulary."""
    import embkeras as ek

    rng = np.random.default_rng(0)
    with task.path("bin").open("wb") as file:
        file.write(f"{task.rows} {task.width}\n".encode())
        for start in range(0, task.rows, BLOCK):
            block = rng.standard_normal((BLOCK, task.width), np.float32)
            for number, row in enumerate(block, start):
                file.write(b"%b %b\n" % (word(number).encode(), row.tobytes()))
    tokens = [word(number) if number % 100 else f"none{number}" for number in rng.permutation(task.rows).tolist()]
    ek.Vocabulary(["", "[UNK]", *tokens]).save(task.path("json"))


def limited(task: Task, run: Callable[[], Any]) -> Any:
    """Run it with half a table of further memory."""
    used = 1024 * next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (used + max(task.nbytes // 2, 1 << 28), resource.RLIM_INFINITY))
    return run()


def nothing(task: Task) -> None:
    """A case that begins with files."""
    import embkeras.vectors.io.registry  # noqa: F401


def converted(task: Task, _: None) -> Any:
    """The store, from the word2vec binary."""
    from embkeras.vectors.io.registry import convert

    return limited(task, lambda: convert(task.path("bin"), task.path("h5"), overwrite=True))


def vocabulary(task: Task, _: None = None) -> Any:
    """The tokens, with their ids."""
    import embkeras as ek

    return ek.Vocabulary.load(task.path("json"))


def store_and_vocabulary(task: Task) -> Any:
    """What align begins with."""
    import embkeras as ek

    return ek.load_vectors(task.path("h5")), vocabulary(task)


def aligned(task: Task, pair: Any) -> Any:
    """The table, in a file."""
    import embkeras as ek

    return limited(task, lambda: ek.align(*pair, out=task.path("npy")))


def looked_up(task: Task, _: None) -> Any:
    """Vectors of some words, from a store that nothing has read yet."""
    import embkeras as ek

    vectors = ek.load_vectors(task.path("h5"))
    return [vectors[word(number)] for number in range(0, task.rows, task.rows // LOOKED_UP)]


def table_in_file(task: Task) -> Any:
    """What a layer is made of."""
    import embkeras as ek
    import embkeras.tables.embedding

    ek.build_embedding(ek.AlignedMatrix(np.eye(3), ek.Vocabulary(["", "[UNK]", "a"])))  # TensorFlow has started
    return ek.AlignedMatrix(np.load(task.path("npy"), mmap_mode="r"), vocabulary(task))


def built(task: Task, table: Any) -> Any:
    """The layer, with its table in memory."""
    import embkeras as ek

    return ek.build_embedding(table)


def gensim_and_vocabulary(task: Task) -> Any:
    """gensim is imported."""
    import gensim.models  # noqa: F401

    return vocabulary(task)


def filled_by_hand(task: Task, tokens: Any) -> Any:
    """gensim's vectors, and the matrix in the order of the vocabulary."""
    from gensim.models import KeyedVectors

    vectors = KeyedVectors.load_word2vec_format(str(task.path("bin")), binary=True)
    matrix = np.zeros((len(tokens), task.width), np.float32)
    for id_, token in enumerate(tokens.tokens):
        if token in vectors:
            matrix[id_] = vectors[token]
    return vectors, matrix


CASES: dict[str, tuple[Callable[[Task], Any], Callable[[Task, Any], Any]]] = {
    "gensim's load_word2vec_format, and a matrix filled row by row": (gensim_and_vocabulary, filled_by_hand),
    "convert the file to a store (.h5)": (nothing, converted),
    f"look up {LOOKED_UP:,} vectors in the store": (nothing, looked_up),
    "load the vocabulary": (nothing, vocabulary),
    "align(store, vocabulary, out=)": (store_and_vocabulary, aligned),
    "build_embedding over the mapped table": (table_in_file, built),
}
PLAIN, CONVERT, ALIGN = (next(name for name in CASES if word in name) for word in ("gensim", "convert", "align"))


def child(case: str, task: Task, pipe: Any) -> None:
    """Prepare, wait, run, wait: the parent measures in between."""
    prepare, run = CASES[case]
    prepared = prepare(task)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pipe.send("ready")
    pipe.recv()
    start = time.process_time()
    result = run(task, prepared)
    pipe.send(time.process_time() - start)
    pipe.recv()
    del result  # held until here


def memory_of(process: int) -> int:
    """Anonymous and shared bytes of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def measure(case: str, task: Task) -> tuple[float, int, int]:
    """Seconds of the processor, and bytes above the start at the peak and at the end."""
    spawn = multiprocessing.get_context("spawn")
    pipe, far = spawn.Pipe()
    process = spawn.Process(target=child, args=(case, task, far), daemon=True)
    process.start()
    far.close()
    pipe.recv()
    start = peak = memory_of(process.pid)
    pipe.send("run")
    while not pipe.poll(0.005):
        peak = max(peak, memory_of(process.pid))
    seconds, end = pipe.recv(), memory_of(process.pid)
    pipe.send("end")
    process.join()
    return seconds, max(peak, end) - start, end - start


def check_room(task: Task, folder: Path) -> None:
    """Leave the machine alone if the files, or the layer at the end, might fill it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    disk = shutil.disk_usage(folder).free
    if available < 2.5 * task.nbytes or disk < 4.5 * task.nbytes:
        raise SystemExit(
            f"{task.rows:,} rows need {2.5 * task.nbytes / 1e9:.1f} GB of memory and {4.5 * task.nbytes / 1e9:.1f} GB of disk; "
            f"{available / 1e9:.1f} and {disk / 1e9:.1f} GB are available."
        )


def main() -> None:
    """Measure every case, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000, 10_000_000], help="multiples of 10,000")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--folder", help="where the files go, four and a half times the table")
    parser.add_argument("--write", action="store_true", help="write results/big_tables.md")
    options = parser.parse_args()
    lines = ["# Tables of millions of rows", "", machine_line("numpy", "h5py", "tensorflow", "keras", "gensim"), ""]
    lines += [
        "Made by `benchmarks/big_tables.py`, which says what is counted: memory above the baseline of the process, without pages "
        "of mapped files, and seconds of the processor. `convert` and `align` had half a table of memory (RLIMIT_DATA). The "
        "machine had other work at the same time.",
        "",
        "| words | table, GB | case | processor s | words per processor second | peak, GB | peak, x table | stays, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for rows in sorted(options.rows):
            task = Task(Path(folder), rows, options.width)
            check_room(task, task.folder)
            making = spawn.Process(target=make, args=(task,))
            making.start()
            making.join()
            found = {}
            for case in CASES:
                if case == PLAIN and rows > min(options.rows):
                    continue
                seconds, peak, stays = found[case] = measure(case, task)
                rate = LOOKED_UP if "look up" in case else rows
                lines.append(
                    f"| {rows:,} | {task.nbytes / 1e9:.1f} | {case} | {seconds:.2f} | {rate / seconds:,.0f} | {peak / 1e9:.2f} | "
                    f"{peak / task.nbytes:.2f} | {stays / 1e9:.2f} |"
                )
                print(lines[-1], flush=True)
            if PLAIN in found:
                own = found[CONVERT][0] + found[ALIGN][0]
                ratio = found[PLAIN][0] / own
            for path in task.folder.iterdir():
                path.unlink()
    lines += [
        "",
        f"At {min(options.rows):,} words, gensim's way takes {ratio:.1f} times the processor time of `convert` and `align`.",
    ]
    print("\n".join(lines))
    if options.write:
        RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
