"""The commands about files of vectors, which need no TensorFlow: convert, inspect, coverage."""

import argparse
from collections.abc import Callable
from typing import Any

from embkeras.app import printed as presentation
from embkeras.errors import VectorFileError
from embkeras.text import labelled as text_data
from embkeras.text.tokenizer import TWEETS, Tokenizer
from embkeras.vectors.conversion import convert as convert_file
from embkeras.vectors.fallbacks import FOR_TEXTS
from embkeras.vectors.inspection import inspect_vectors, text_coverage

Say = Callable[[str], None]


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    """How the file is to be read, as arguments of `load_vectors`."""
    return {name: getattr(options, name) for name in ("format", "words_file", "member", "encoding")}


def convert(options: argparse.Namespace, say: Say) -> None:
    """Write a file of vectors in another format."""
    more = {name: getattr(options, name) for name in ("to", "overwrite", "errors", "dtype", "limit")}
    vectors = convert_file(options.file, options.out, **_reading(options), **more)
    say(f"{options.out}: {len(vectors):,} words, width {vectors.vector_size}, from {vectors.provenance.format}")


def inspect(options: argparse.Namespace, say: Say) -> None:
    """Say what a file of vectors holds; a fault is raised when all is said."""
    report = inspect_vectors(options.file, **_reading(options))
    for line in report.lines():
        say(line)
    if report.fault is not None:
        raise VectorFileError(report.fault)


def coverage(options: argparse.Namespace, say: Say) -> None:
    """Say how much of a text the words of a file of vectors cover."""
    texts = text_data.read_texts(options.text, options.column, encoding=options.text_encoding)
    tokenizer = TWEETS if options.split == "text" else Tokenizer(lowercase=False)
    covered = text_coverage(options.file, texts, tokenizer=tokenizer, fallbacks=FOR_TEXTS, **_reading(options))
    for line in presentation.coverage_lines(covered, "the text"):
        say(line)
