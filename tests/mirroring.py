"""Scripts that fit models on two replicas: logical CPUs must be made before TensorFlow starts, so in a process of their own."""

import json
from collections.abc import Callable, Iterable

from tests.processes import run_python


def found_by(module):
    """What the script `python -m module` printed last, as JSON."""
    return json.loads(run_python("-m", module).stdout.splitlines()[-1])


def each(names: Iterable[str], measure: Callable[[str], dict]) -> dict[str, dict]:
    """What is measured of each run, or its error."""
    runs = {}
    for name in names:
        try:
            runs[name] = measure(name)
        except Exception as error:
            runs[name] = {"error": f"{type(error).__name__}: {error}"}
    return runs
