"""What the drift tools cost on a large table: processor time, clock time and peak memory, one process a case.

    python benchmarks/drift_cost.py --write                      # 400,000 x 300, results/drift_cost.md
    python benchmarks/drift_cost.py --rows 50000 --width 100

The tables are random and trained ones differ from them in 20,000 rows. "report" is `drift_report` and its summary, "neighbours"
the ten nearest of a sample of 2,000 rows among all rows, before and after, "carry" `propagate_drift` without a loss, and "fold"
`layer.matrix()` of a shared map whose rows all train. Peak memory is what the process held above what it held when the case
began, the two tables being there.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from machine import machine_line

RESULTS = Path(__file__).with_name("results")
CASES = ("report", "neighbours", "carry", "fold")
READ = 20_000  # rows that training read


def prepared(case: str, rows: int, width: int) -> Callable[[], Any]:
    """The case, ready to run."""
    rng = np.random.default_rng(0)
    before = rng.standard_normal((rows, width), dtype=np.float32)
    if case == "fold":
        import embkeras as ek

        vocabulary = ek.Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(rows - 2))])
        layer = ek.build_embedding(ek.AlignedMatrix(before, vocabulary), trainable="map+rows")
        return layer.matrix
    from embkeras.drift.carry import propagate_drift
    from embkeras.drift.report import drift_report

    after, seen = before.copy(), np.zeros(rows, bool)
    seen[1 : READ + 1] = True
    after[seen] += 0.1 * before[seen] @ rng.standard_normal((width, width), dtype=np.float32)
    if case == "carry":
        return lambda: propagate_drift(before, after, seen)
    tokens = [f"w{place}" for place in range(rows)]
    if case == "report":
        return lambda: drift_report(before, after, tokens).summary()
    report = drift_report(before, after, tokens)
    return lambda: report.neighbour_drift(exact=False)


def held() -> int:
    """Bytes that the process holds, without files in memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * (int(status["RssAnon"].split()[0]) + int(status["RssShmem"].split()[0]))


def measured(case: str, rows: int, width: int) -> dict[str, float]:
    """Run it once, and note what it took."""
    work, done = prepared(case, rows, width), threading.Event()
    baseline = held()
    peak = [baseline]

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu, clock = time.process_time(), time.perf_counter()
    kept = work()
    taken = {"cpu": time.process_time() - cpu, "clock": time.perf_counter() - clock}
    done.set()
    watcher.join()
    del kept
    return taken | {"mb": (peak[0] - baseline) / 1e6}


def main() -> None:
    """Run the cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--width", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, help="these cases")
    parser.add_argument("--case", choices=CASES, help="run this case in this process, and print its figures as JSON")
    parser.add_argument("--write", action="store_true", help="write results/drift_cost.md")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measured(options.case, options.rows, options.width)))
        return
    lines = [
        f"# What the drift tools cost on {options.rows:,} x {options.width}",
        "",
        machine_line("tensorflow", "keras", "numpy"),
        "",
        f"A table is {4 * options.rows * options.width / 1e6:,.0f} MB. `benchmarks/drift_cost.py` says what the cases are.",
        "",
        "| case | processor s | clock s | peak MB above the tables |",
        "|---|---|---|---|",
    ]
    for case in options.only:
        command = [sys.executable, __file__, "--case", case, "--rows", str(options.rows), "--width", str(options.width)]
        found = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        lines.append(f"| {case} | {found['cpu']:.1f} | {found['clock']:.1f} | {found['mb']:,.0f} |")
        print(lines[-1], flush=True)
    if options.write:
        (RESULTS / "drift_cost.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
