"""Scripts that train on two replicas, each in its own process: logical CPUs must be made before TensorFlow starts."""

import json
from collections.abc import Callable, Iterable

from tests.processes import run_python


def found_by(module):
    """The last line printed by `python -m module`, from JSON."""
    return json.loads(run_python("-m", module).stdout.splitlines()[-1])


def each(names: Iterable[str], measure: Callable[[str], dict]) -> dict[str, dict]:
    """The measurement of each run, or its error."""
    runs = {}
    for name in names:
        try:
            runs[name] = measure(name)
        except Exception as error:
            runs[name] = {"error": f"{type(error).__name__}: {error}"}
    return runs
