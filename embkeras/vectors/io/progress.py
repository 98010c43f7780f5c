"""A line that shows how far a long reading has come: on a terminal, never in a pipe."""

import sys
import time
from typing import TextIO

_AFTER, _EVERY, _WIDTH = 1.5, 0.2, 30  # seconds before it is shown, seconds between two states, characters


class Bar:
    """Shows `name`, a bar and the share done on one line of standard error, once reading has taken a while."""

    def __init__(self, name: str, stream: TextIO | None = None):
        self._name, self._stream = name, stream or sys.stderr
        self._next = time.monotonic() + _AFTER
        self._shown = False

    def __call__(self, done: int, size: int) -> None:
        """Show that `done` bytes of `size` are read, if it is time."""
        if time.monotonic() < self._next:
            return
        self._next, self._shown = time.monotonic() + _EVERY, True
        share = done / size if size else 1
        filled = round(share * _WIDTH)
        self._stream.write(f"\r{self._name}: [{'=' * filled}{' ' * (_WIDTH - filled)}] {share:4.0%}")
        self._stream.flush()

    def close(self) -> None:
        """Clear the line."""
        if self._shown:
            self._stream.write("\r" + " " * (len(self._name) + _WIDTH + 10) + "\r")
            self._stream.flush()


def bar_for(name: str, progress: bool | None) -> Bar | None:
    """A bar if it is asked for, or if standard error is a terminal and it is not refused."""
    wanted = sys.stderr.isatty() if progress is None else progress
    return Bar(name) if wanted else None
