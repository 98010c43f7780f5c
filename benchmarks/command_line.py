"""How long the commands take to refuse what can't work, and to show their help: TensorFlow must not start before that.

Each command runs in a process of its own; the fastest of several runs counts, since another program may slow down any of
them. The processor's time is shown too: on a busy machine it says more. With `--write`, the table goes to
results/command_line.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine_line

AIM = 0.5  # seconds
ROOT = Path(__file__).parents[1]
TRAIN = "train t.csv --text text --label label --vectors v.txt --out out"
CASES = {
    "--version": 0,
    "help train": 0,
    "train absent.csv --vectors v.txt --out out": 2,
    "train t.csv --vectors absent.txt --out out": 2,
    "train t.csv --vectors v.txt --out out --text absent --label label": 2,
    f"{TRAIN} --epochs 0": 2,
    f"{TRAIN} --learning-rate x": 2,
    "train t.csv --vectors v.txt --out v.txt/out": 2,
    "train t.csv --text text --label label --encoder absent --out out": 2,
    "demo --out v.txt/out": 2,
    "predict absent text": 2,
    "check absent": 2,
    "convert absent.txt out.npy": 2,
    "convert v.txt out.docx": 2,
    "convert v.txt v.txt/out.npy": 2,
    "convert v.txt t.vec": 2,
    "inspect absent.txt": 2,
    "inspect v.txt --format docx": 2,
    "coverage v.txt --text absent.txt": 2,
    "coverage absent.txt --text v.txt": 2,
}


def seconds_of(line: str, code: int, folder: str, runs: int) -> tuple[float, float]:
    """The shortest time of a command from its start to its end, and of the processor."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    elapsed, used = [], []
    for _ in range(runs):
        begin, before = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, "-m", "embkeras", *line.split()],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
        )
        elapsed.append(time.perf_counter() - begin)
        after = os.times()
        used.append(after.children_user + after.children_system - before.children_user - before.children_system)
        if done.returncode != code:
            raise SystemExit(f"embkeras {line} returned {done.returncode}: {done.stderr.decode()}")
    return min(elapsed), min(used)


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="runs of each command (7)")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results/command_line.md")
    options = parser.parse_args()
    lines = ["| command | seconds | of the processor |", "|---|---|---|"]
    slowest = longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "v.txt").write_text("cat 3 4\ndog 0 0\n")
        for name in ("t.csv", "t.vec"):
            Path(folder, name).write_text("text,label\ncat,0\ndog,1\n")
        for line, code in CASES.items():
            seconds, used = seconds_of(line, code, folder, options.runs)
            slowest, longest = max(slowest, seconds), max(longest, used)
            lines.append(f"| `embkeras {line}` | {seconds:.2f} | {used:.2f} |")
    verdict = "reached" if slowest < AIM else "missed"
    lines += [
        "",
        f"Fastest of {options.runs} runs each. The slowest takes {slowest:.2f} s, and {longest:.2f} s of the processor.",
        f"The aim of {AIM} s is {verdict}; {os.getloadavg()[0]:.1f} processes were at work on the machine at the end.",
    ]
    text = "\n".join(["# Time to an answer without TensorFlow", "", machine_line("numpy", "pandas"), "", *lines]) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_name("results").joinpath("command_line.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
