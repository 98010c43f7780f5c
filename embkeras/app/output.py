"""What a command prints: its report, its answer, errors and warnings, and one JSON object if asked for."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from embkeras._progress import shown
from embkeras.app.streams import is_coloured, silence, write_line


class Output:
    """The output of one command.

    Args:
        command: its name.
        quiet: print neither report nor progress, only the answer, warnings and errors.
        as_json: print one JSON object on standard output, and the report on standard error.

    Attributes:
        result: what the JSON object contains: figures, and paths of what was written.
    """

    def __init__(self, command: str, *, quiet: bool = False, as_json: bool = False):
        self.command, self.quiet, self.as_json = command, quiet, as_json
        self.result: dict[str, Any] = {}

    def say(self, line: str) -> None:
        """A line of the report; one that begins a section, after an empty line, is bold on a terminal."""
        if not self.quiet:
            write_line(line, self._stream, style="bold" if line.startswith("\n") else None)

    def answer(self, line: str) -> None:
        """A line of what the command was asked for."""
        if not self.as_json:
            write_line(line, sys.stdout)

    def warning(self, message: str) -> None:
        """A warning, on standard error."""
        self._complain(f"embkeras {self.command}: warning: ", message, "bold yellow")

    def error(self, message: str, kind: str) -> None:
        """An error, on standard error, and as the JSON object's `error`."""
        self.result["error"] = {"kind": kind, "message": message}
        self._complain(f"embkeras {self.command}: ", message, "bold red")

    def _complain(self, prefix: str, message: str, style: str) -> None:
        try:
            write_line(message, sys.stderr, style=style, prefix=prefix)
        except BrokenPipeError:
            silence(sys.stderr)

    def print_json(self) -> None:
        """The JSON object, if asked for."""
        if self.as_json:
            print(json.dumps(plain({"command": self.command} | self.result), default=str), flush=True)

    @property
    def verbosity(self) -> int:
        """`verbose` for Keras: its own bar, which is always coloured, on a terminal; a line per epoch elsewhere."""
        return 0 if self.quiet else 1 if is_coloured(self._stream) else 2

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While a command runs: progress is shown on a terminal, and prints of others don't get between the JSON."""
        with shown(not self.quiet and sys.stderr.isatty()):
            if not self.as_json:
                yield
                return
            with contextlib.redirect_stdout(sys.stderr):
                yield

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self.as_json else sys.stdout


def plain(value: Any) -> Any:
    """The value as JSON has it: NumPy's numbers as numbers, paths as strings, NaN and infinity as null.

    Examples:
        >>> plain({"path": Path("out"), "width": np.int64(3), "f1": float("nan")})
        {'path': 'out', 'width': 3, 'f1': None}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
