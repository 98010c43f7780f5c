"""Scripts that fit models on two replicas: logical CPUs must be made before TensorFlow starts, so in a process of their own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path


def found_by(module):
    """What the script `python -m module` printed last, as JSON."""
    command = [sys.executable, "-m", module]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def each(names: Iterable[str], measure: Callable[[str], dict]) -> dict[str, dict]:
    """What is measured of each run, or its error."""
    runs = {}
    for name in names:
        try:
            runs[name] = measure(name)
        except Exception as error:
            runs[name] = {"error": f"{type(error).__name__}: {error}"}
    return runs
