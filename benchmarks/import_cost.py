"""What a process pays that only asks a server: time and memory of importing embkeras, and of a `ServingClient`.

Each step is measured in fresh processes: seconds from a started interpreter on, and the peak memory of the whole process,
interpreter included. The figures are medians. `predict` adds pandas, for its table; `scores` doesn't.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from machine import machine_line

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).with_name("results") / "import_cost.json"
GOLDEN = ROOT / "saved_models" / "golden"
STEPS = {
    "the interpreter alone": "pass",
    "import embkeras": "import embkeras",
    "embkeras.ServingClient": "import embkeras; embkeras.ServingClient",
    "ServingClient(url, encoder=path)": "import embkeras; embkeras.ServingClient('http://127.0.0.1:1', encoder=sys.argv[1])",
    "the same, and the table of predict": (
        "import embkeras; embkeras.ServingClient('http://127.0.0.1:1', encoder=sys.argv[1]).predict([])"
    ),
    "import numpy, requests (for comparison)": "import numpy, requests",
}
_CODE = """
import resource, sys, time
wall, cpu = time.perf_counter(), time.process_time()
{step}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(wall, cpu, peak / 1e6)
"""


def measured(step: str) -> list[float]:
    """Seconds, CPU seconds and peak MB of one fresh process."""
    command = [sys.executable, "-c", _CODE.format(step=step), str(GOLDEN)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return [float(word) for word in subprocess.check_output(command, text=True, env=environment).split()]


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="fresh processes per step (default: %(default)s)")
    rounds = parser.parse_args().rounds
    taken: dict[str, list[list[float]]] = {name: [] for name in STEPS}
    for number in range(rounds + 1):  # in turns; the first round fills the disk's cache
        for name, step in STEPS.items():
            row = measured(step)
            if number:
                taken[name].append(row)
    result = {}
    print(f"{'':42}{'s':>8}{'CPU s':>8}{'MB':>8}")
    for name, rows in taken.items():
        seconds, cpu, peak = map(statistics.median, zip(*rows, strict=True))
        result[name] = {"s": round(seconds, 3), "cpu_s": round(cpu, 3), "peak_mb": round(peak, 1)}
        print(f"{name:42}{seconds:8.3f}{cpu:8.3f}{peak:8.1f}")
    machine = machine_line("numpy", "pandas", "requests")
    print(machine)
    load = round(os.getloadavg()[0], 1)  # other work makes the seconds longer, hardly the CPU seconds
    RESULT.write_text(
        json.dumps({"machine": machine, "load": load, "rounds": rounds, "steps": result}, indent=2) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
