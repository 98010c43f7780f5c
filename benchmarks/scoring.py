"""Texts per second of `BatchScorer` in the workers of Dask and Spark, next to one process and a pool without an engine.

A small text-CNN is exported, and a frame of texts of realistic lengths is scored in parts. Every worker has one thread of
TensorFlow and has loaded the model before the first round, and an engine has the texts in its own memory. The ways take turns; a
round ends with the scores of all texts in this process. Seconds of the processor are those of this process and of all below
it: workers, schedulers, and Spark's Java.

By the clock, two workers can be at most twice as fast as one, and less where the machine has other work: compare the ratios of
a round, whose median is shown. The scores of all ways agree within 1e-6, as other texts share the batches.

    python benchmarks/scoring.py --write
"""

import argparse
import contextlib
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from bulk import ROWS, WIDTH, texts_of
from machine import machine_line

RESULT = Path(__file__).with_name("results") / "scoring.md"
WORKERS, PARTS = 2, 8
SCORES = ["id", "label", "probability"]
TICKS = os.sysconf("SC_CLK_TCK")
Way = Callable[[], pd.DataFrame]


def export(folder: Path) -> Path:
    """A model whose weights are random, which takes as long as another."""
    import embkeras as ek

    vocabulary = ek.Vocabulary(
        ["", "[UNK]", *(f"w{number}" for number in range(ROWS - 2))], tokenizer=ek.Tokenizer(lowercase=True)
    )
    matrix = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    model = ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 3, architecture="cnn")
    return ek.export_saved_model(model, folder / "model", vocabulary=vocabulary, check=False)


def processor_seconds() -> float:
    """Of this process and of all that it started, directly or not, whether they have ended or not."""
    parents, spent = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)], spent[int(folder.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    total = 0
    for process, ticks in spent.items():
        above = process
        while above not in (os.getpid(), 0):
            above = parents.get(above, 0)
        total += ticks if above else 0
    return total / TICKS


@contextlib.contextmanager
def pool(scorer: Any, frame: pd.DataFrame, workers: int) -> Iterator[Way]:
    """Processes of this machine, without an engine."""
    step = -(-len(frame) // PARTS)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        pieces = [frame[start : start + step] for start in range(0, len(frame), step)]
        yield lambda: pd.concat(executor.map(scorer, pieces))[SCORES]


@contextlib.contextmanager
def dask(scorer: Any, frame: pd.DataFrame) -> Iterator[Way]:
    """A cluster on the loopback address."""
    import dask.dataframe
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel("ERROR")
    settings = {"n_workers": WORKERS, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(**settings) as cluster, Client(cluster):
        parts = dask.dataframe.from_pandas(frame, npartitions=PARTS).persist()
        yield lambda: parts.map_partitions(scorer, meta=scorer(parts._meta))[SCORES].compute()


@contextlib.contextmanager
def spark(scorer: Any, frame: pd.DataFrame) -> Iterator[Way]:
    """A session on the loopback address."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    builder = SparkSession.builder.master(f"local[{WORKERS}]")
    settings = {
        "driver.bindAddress": "127.0.0.1",
        "driver.host": "127.0.0.1",
        "ui.enabled": "false",
        "log.level": "ERROR",
    }
    for name, value in {**settings, "sql.execution.arrow.pyspark.enabled": "true"}.items():
        builder = builder.config(f"spark.{name}", value)
    session = builder.getOrCreate()

    parts = session.createDataFrame(frame).repartition(PARTS).cache()
    schema = "id long, text string, label string, probability float"
    yield lambda: parts.mapInPandas(lambda some: map(scorer, some), schema).select(SCORES).toPandas()
    session.stop()


def main() -> None:
    """Measure all ways in turns, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=80_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write results/scoring.md")
    options = parser.parse_args()
    if not Path("/proc/self/stat").exists():
        raise SystemExit("This benchmark reads /proc, so it runs on Linux only.")
    import embkeras as ek

    frame = pd.DataFrame({"id": range(options.texts), "text": texts_of(options.texts)})
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        scorer = ek.BatchScorer(export(Path(folder)))
        made = {
            "one process": pool(scorer, frame, 1),
            f"a pool of {WORKERS} processes": pool(scorer, frame, WORKERS),
            f"Dask's map_partitions, {WORKERS} workers": dask(scorer, frame),
        }
        if shutil.which("java"):
            made[f"Spark's mapInPandas, {WORKERS} workers"] = spark(scorer, frame)
        ways = {name: stack.enter_context(way) for name, way in made.items()}
        wanted = None
        for name, run in ways.items():  # each loads the model
            found = run().sort_values("id")["probability"].to_numpy()
            wanted = found if wanted is None else wanted
            if np.abs(found - wanted).max() > 1e-6:
                raise SystemExit(f"{name}: the scores differ by {np.abs(found - wanted).max():.2g}.")
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, run in ways.items():
                start, used = time.perf_counter(), processor_seconds()
                run()
                taken[name].append((time.perf_counter() - start, processor_seconds() - used))
                print(f"{name}: {taken[name][-1][0]:.1f} s, {taken[name][-1][1]:.1f} s of the processor", flush=True)
    alone = taken["one process"]
    lines = ["# Scoring in the workers of an engine", "", machine_line("tensorflow", "pandas", "dask", "pyspark"), ""]
    lines += [
        f"{options.texts:,} texts of 1 to 256 words, text-CNN with a table of {ROWS:,} x {WIDTH}, {PARTS} parts; median of "
        f"{options.rounds} rounds in turns. `benchmarks/scoring.py` says what is counted. "
        f"{os.getloadavg()[0]:.1f} processes were at work on the machine at the end.",
        "",
        "| way | texts/s | of one process in the same round | texts per s of the processor | of one process |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in taken.items():
        clock, processor = (options.texts / statistics.median(each) for each in zip(*rounds, strict=True))
        faster, cheaper = (
            statistics.median(one[place] / own[place] for one, own in zip(alone, rounds, strict=True))
            for place in (0, 1)
        )
        lines.append(f"| {name} | {clock:,.0f} | {faster:.2f}x | {processor:,.0f} | {cheaper:.2f}x |")
    print("\n".join(lines))
    if options.write:
        RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
