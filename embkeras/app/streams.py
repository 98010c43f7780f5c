"""The standard streams of a command: closed ones, readers that have gone, and colour on a terminal."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

from embkeras.errors import EmbkerasError

_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}  # in the order of their descriptors


def open_closed_streams() -> None:
    """Connect standard streams that are closed (`>&-`) with the null device.

    Otherwise the next file that is opened gets the descriptor of one, and receives what was meant for it.
    """
    for descriptor, (name, mode) in enumerate(_MODES.items()):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 (open until the process ends)


def silence(stream: TextIO) -> None:
    """Send the rest of a stream, and what is still in its buffer, to the null device."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor, or a closed one
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def flushed() -> bool:
    """Write what is in the buffers of stdout and stderr; False if a reader has gone or a disk is full.

    Such a stream is silenced: Python would try again at exit, and complain.
    """
    complete = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
            complete = False
    return complete


def is_coloured(stream: TextIO) -> bool:
    """Whether a stream is a terminal, and the variable NO_COLOR (https://no-color.org) has no value."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def write_line(text: str, stream: TextIO, *, style: str | None = None, prefix: str = "") -> None:
    """Write a line; its prefix, or without one the whole line, in this style of rich, if the stream is coloured."""
    if style is None or not is_coloured(stream):
        print(f"{prefix}{text}", file=stream, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((prefix, style), text) if prefix else Text(text, style)
    Console(file=stream).print(line, soft_wrap=True, highlight=False)
    stream.flush()


@contextlib.contextmanager
def without_messages() -> Iterator[None]:
    """Hide what libraries print on standard error inside the block, unless it fails in a way that nobody foresaw."""
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        except EmbkerasError:
            raise
        except Exception:
            messages.seek(0)
            os.write(standard_error, messages.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
