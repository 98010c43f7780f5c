"""Progress of long work: one bar for everything, drawn by rich, which Keras depends on.

A function that works long wraps its work in `progress(name)` and reports how far it is. That draws nothing unless the
caller asks for it, as with `load_vectors(progress=True)`, or the program does with `shown(True)`, as the commands do.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

Report = Callable[[int, int], None]  # how much is done, of how much in all

_AFTER, _EVERY = 1.5, 0.2  # seconds before the bar appears, seconds between updates
_shown: ContextVar[bool | None] = ContextVar("shown", default=None)


@contextlib.contextmanager
def shown(choice: bool | None) -> Iterator[None]:
    """Show or hide the bars of all work inside the block that isn't told otherwise; None changes nothing."""
    choice = _shown.get() if choice is None else choice
    token = _shown.set(choice)
    try:
        yield
    finally:
        _shown.reset(token)


@contextlib.contextmanager
def progress(name: str, asked: bool | None = None, *, unasked: bool = False) -> Iterator[Report]:
    """A function to call with how much is done, and of how much in all; it may be called as often as it likes.

    The bar appears on standard error if the work takes more than 1.5 s, and is cleared at the end.

    Args:
        name: of the work.
        asked: whether to show the bar; None leaves it to `shown`.
        unasked: whether a terminal shows it where nobody has said anything.

    Examples:
        >>> with progress("counting") as report:
        ...     for number in range(3):
        ...         report(number + 1, 3)
    """
    wanted = _shown.get() if asked is None else asked
    if wanted is None:
        wanted = unasked and sys.stderr.isatty()
    if not wanted:
        yield _nothing
        return
    bar = Bar(name)
    try:
        yield bar
    finally:
        bar.close()


def _nothing(done: int, total: int) -> None:
    """Work that is not shown."""


class Bar:
    """A bar on one line of standard error: name, share done, time left. Nothing is drawn, or imported, in the first 1.5 s."""

    def __init__(self, name: str):
        self._name = name
        self._next = time.monotonic() + _AFTER
        self._drawn: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` is done, if it is time for an update."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        if self._drawn is None:
            self._drawn = _started()
            self._drawn.add_task(self._name, total=total)
        (task,) = self._drawn.task_ids
        self._drawn.update(task, completed=done, total=total, refresh=True)

    def close(self) -> None:
        """Clear the line."""
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None


def _started() -> Any:
    """A display of rich that draws only when told to: it starts no thread, and leaves print() alone."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    display = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, force_terminal=True),  # also in a notebook, for those who asked for it
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    display.start()
    return display
