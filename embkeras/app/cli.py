"""The command `embkeras`: parse the arguments, run the command, and turn what goes wrong into one line and an exit code."""

import argparse
import re
import sys
import warnings
from collections.abc import Sequence

from embkeras.app.arguments import UsageError, parser
from embkeras.app.output import Output
from embkeras.app.streams import flushed, open_closed_streams
from embkeras.errors import EmbkerasError

GONE = 141  # as a shell reports a program that a closed pipe has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 on success, 2 for bad input (with one line on standard error), 130 when interrupted, 141 when the reader of
        the output has gone.
    """
    open_closed_streams()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = _run(arguments)
    except BrokenPipeError:  # the reader has gone: `embkeras predict ... | head -1`
        code = GONE
    except SystemExit:  # --help, --version
        if flushed():
            raise
        return GONE
    return code if flushed() or code else GONE


def _run(arguments: Sequence[str]) -> int:
    """Parse the arguments and run the command; returns the exit code."""
    try:
        options = parser().parse_args(arguments)
    except UsageError as error:
        print(error, file=sys.stderr)
        if "--json" in arguments:
            output = Output("", as_json=True)
            output.result = {"command": None, "error": {"kind": "UsageError", "message": str(error)}}
            output.print_json()
        raise SystemExit(2) from None
    output = Output(options.command, quiet=options.quiet, as_json=options.json)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: output.warning(_with_flags(str(message), options))
        return _outcome(options, output)


def _outcome(options: argparse.Namespace, output: Output) -> int:
    """Run the command, and print what went wrong; then the JSON object, if asked for."""
    code = 0
    try:
        with output.running():
            options.run(options, output)
        sys.stdout.flush()
    except EmbkerasError as error:
        output.error(_with_flags(str(error), options), type(error).__name__)
        code = 2
    except BrokenPipeError:
        raise
    except OSError as error:  # for example: standard output is on a full disk
        output.error(str(error), type(error).__name__)
        code = 2
    except KeyboardInterrupt:
        output.error("interrupted", "KeyboardInterrupt")
        code = 130
    output.print_json()
    return code


def _with_flags(message: str, options: argparse.Namespace) -> str:
    """The library's message with this command's flags for Python arguments: `--overwrite` for `overwrite=True`."""

    def as_flag(match: re.Match[str]) -> str:
        name, value, rest = match.groups()
        if name not in vars(options):
            return match[0]
        if name == "header" and value:  # a flag with a word: it may also be "ignore"
            return f"--header {'yes' if value == 'True' else 'no'}"
        return f"--{'no-' if value == 'False' else ''}{name.replace('_', '-')}{' ' if rest else ''}"

    return re.sub(r"(?<![^\s(])([a-z_]+)=(True|False)?(?=(\w|['\"])?)", as_flag, message)
