"""The line that records where and when a benchmark ran."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version


def machine_line(*packages: str) -> str:
    """Cores, processor kind, Python and package versions, and the date."""
    found = []
    for package in packages:
        for name in (package, f"{package}-cpu"):  # TensorFlow has a distribution without GPUs
            try:
                found.append(f"{name} {version(name)}")
                break
            except PackageNotFoundError:
                continue
        else:
            found.append(f"{package} not installed")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    today = datetime.date.today().isoformat()
    return f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, {', '.join(found)}; {today}"
