"""Scripts for shells that complete commands, flags and file names, made by shtab."""

import argparse
import importlib

from embkeras.errors import MissingDependencyError

# What shtab completes a file name with, by shell.
FILE = {
    "bash": "_shtab_compgen_files",
    "fish": "(__fish_complete_path (commandline -ct))",
    "zsh": "_files",
    "tcsh": "f",
}
SHELLS = tuple(FILE)


def completes_files(action: argparse.Action) -> None:
    """Let the shell complete this argument with the names of files."""
    action.complete = FILE  # type: ignore[attr-defined]


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell, one of SHELLS.

    Raises:
        MissingDependencyError: shtab is not installed.
    """
    try:
        shtab = importlib.import_module("shtab")
    except ImportError:
        raise MissingDependencyError(
            'Completion scripts need shtab: python -m pip install "embkeras[completion]".'
        ) from None
    return shtab.complete(parser, shell=shell)
