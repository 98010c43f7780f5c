"""The commands: parse the arguments, call the library, print the result.

Nothing heavy is imported at the top: `embkeras --help` and the commands on vector files start without TensorFlow.
"""

import argparse
import importlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from embkeras import __version__
from embkeras.errors import ArgumentError, EmbkerasError, VectorFileError
from embkeras.keras_compat.registration import check_backend

if TYPE_CHECKING:
    from embkeras.app.pipeline import Settings

ARCHITECTURES = ("lstm", "cnn", "mean")

Run = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 on success, 2 for bad input (with one line on standard error), 130 when interrupted, 141 when the reader of
        the output has gone.
    """
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    original_format = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"embkeras {options.command}: warning: {message}\n"
    try:
        if options.tensorflow:
            if options.command != "predict":
                _say("Starting TensorFlow ...")
            _start_tensorflow()
        options.run(options)
        sys.stdout.flush()
    except EmbkerasError as error:
        print(f"embkeras {options.command}: {_with_flags(str(error), options)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has gone: `embkeras predict ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # for example: standard output is on a full disk
        print(f"embkeras {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"embkeras {options.command}: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = original_format
    return 0


def _with_flags(message: str, options: argparse.Namespace) -> str:
    """The library's message with this command's flags for Python arguments: `--overwrite` for `overwrite=True`."""

    def as_flag(match: re.Match[str]) -> str:
        name, value, rest = match.groups()
        if name not in vars(options):
            return match[0]
        return f"--{'no-' if value == 'False' else ''}{name.replace('_', '-')}{' ' if rest else ''}"

    return re.sub(r"(?<![^\s(])([a-z_]+)=(True|False)?(?=(\w|['\"])?)", as_flag, message)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all errors of the commands."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and how to get help, and exit."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="embkeras",
        description="Pre-trained word vectors in Keras: freeze, unfreeze, measure the drift, serve token ids.",
        epilog="Example: embkeras demo",
    )
    parser.add_argument("--version", action="version", version=f"embkeras {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_demo, _add_train, _add_predict, _add_check, _add_convert, _add_inspect, _add_coverage):
        add(commands)
    return parser


def _add_command(
    commands: Any, name: str, run: Run, summary: str, example: str, *, tensorflow: bool = True
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"Example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, tensorflow=tensorflow)
    return command


def _add_training(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--architecture", choices=ARCHITECTURES, default="lstm", help="layers after the embedding (lstm)")
    add("--epochs", type=int, help="epochs of training (8)")
    add("--unfreeze-at", type=int, metavar="EPOCH", help="first epoch, from 0, in which the table trains (3)")
    add("--seeds", type=int, metavar="N", help="trainings per strategy in the comparison (3)")
    add("--with-config", action="store_true", help="write settings for TensorFlow Serving next to the model")


def _add_demo(commands: Any) -> None:
    summary = "Run the whole pipeline on GloVe vectors and tweets rated by people."
    command = _add_command(commands, "demo", _demo, summary, "embkeras demo --seeds 5")
    _add_training(command)
    command.add_argument("--quick", action="store_true", help="a smaller run: fewer tweets, epochs and words")
    command.add_argument(
        "--out", type=_folder, default=Path("saved_models", "tweets"), help="model folder (saved_models/tweets)"
    )


def _add_train(commands: Any) -> None:
    summary = "Run the whole pipeline on your own labelled texts and vectors."
    example = (
        "embkeras train reviews.csv --text review --label stars --vectors glove.6B.50d.txt --unfreeze-at 3 "
        "--out saved_models/reviews"
    )
    command = _add_command(commands, "train", _train, summary, example)
    add = command.add_argument
    add("file", type=Path, help="CSV, TSV, JSON Lines, or Sentiment140's CSV")
    add("--text", metavar="COLUMN", help="column with the text (not needed for Sentiment140)")
    add("--label", metavar="COLUMN", help="column with the label (not needed for Sentiment140)")
    add("--vectors", type=Path, required=True, metavar="PATH", help="vectors in any format that load_vectors reads")
    add("--words-file", type=Path, metavar="PATH", help="list of words for .npy vectors")
    add("--encoding", help="text encoding of FILE (utf-8; latin-1 for Sentiment140)")
    add("--skip-empty", action="store_true", help="skip rows with an empty text or label")
    add("--no-quotes", dest="quotes", action="store_false", help='treat " in FILE as an ordinary character')
    add("--compare", action="store_true", help="also train frozen, fine-tuned and random vectors, and compare")
    add("--out", type=_folder, required=True, metavar="FOLDER", help="model folder")
    _add_training(command)


def _add_predict(commands: Any) -> None:
    example = 'embkeras predict saved_models/tweets "what a lovely day" "this is awful"'
    command = _add_command(commands, "predict", _predict, "Classify texts with an exported model.", example)
    command.add_argument("path", type=Path, help="model folder")
    command.add_argument("texts", nargs="+", metavar="TEXT", help="a text")


def _add_check(commands: Any) -> None:
    summary = "Check the answers of an exported model: padding, batches, ids outside the table, texts."
    command = _add_command(commands, "check", _check, summary, "embkeras check saved_models/tweets")
    command.add_argument("path", type=Path, help="model folder, or the folder of one version")


def _add_vectors(command: argparse.ArgumentParser) -> None:
    """How to read a vector file."""
    add = command.add_argument
    add("file", type=Path, help="vectors in any format that load_vectors reads")
    add("--format", metavar="NAME", help="format of FILE (detected from its contents)")
    add("--words-file", type=Path, metavar="PATH", help="list of words for .npy, .npz and .safetensors files")
    add("--member", metavar="NAME", help="file, array or tensor to read, where FILE contains several")
    add("--encoding", default="utf-8", help="text encoding of the words in FILE (utf-8)")


def _add_convert(commands: Any) -> None:
    summary = "Convert a vector file to another format, chosen by the file name: .txt, .vec, .npy and others."
    example = "embkeras convert glove.6B.100d.txt glove.6B.100d.npy"
    command = _add_command(commands, "convert", _convert, summary, example, tensorflow=False)
    _add_vectors(command)
    add = command.add_argument
    add("out", type=Path, help="the file to write")
    add("--to", metavar="NAME", help="format of OUT, where its name does not show it")
    add("--errors", choices=("strict", "replace", "skip"), default="strict", help="for words that can't be decoded")
    add("--dtype", choices=("float32", "float16"), default="float32", help="type of the values (float32)")
    add("--limit", type=int, metavar="N", help="only the first N rows")
    add("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_inspect(commands: Any) -> None:
    summary = "Report what a vector file contains: format, rows, width, header, unusual words, norms."
    command = _add_command(commands, "inspect", _inspect, summary, "embkeras inspect wiki.en.vec", tensorflow=False)
    _add_vectors(command)


def _add_coverage(commands: Any) -> None:
    summary = "Report how much of a text the words of a vector file cover, and which words are missing."
    example = "embkeras coverage glove.6B.50d.txt --text reviews.csv --column review"
    command = _add_command(commands, "coverage", _coverage, summary, example, tensorflow=False)
    _add_vectors(command)
    add = command.add_argument
    add("--text", type=Path, required=True, metavar="CORPUS", help="CSV, TSV, JSON Lines, or any file, line by line")
    add("--column", metavar="NAME", help="column with the text (not needed for a file read line by line)")
    add("--text-encoding", metavar="ENCODING", help="text encoding of CORPUS (utf-8)")
    add("--split", choices=("text", "spaces"), default="text", help="tokenize as train does, or at spaces only (text)")


def _start_tensorflow() -> None:
    """Import TensorFlow without its start-up messages, which no setting silences; they are shown if the import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            check_backend()
            tensorflow = importlib.import_module("tensorflow")
        except EmbkerasError:
            raise
        except Exception:
            messages.seek(0)
            os.write(standard_error, messages.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
    tensorflow.get_logger().setLevel("ERROR")  # it warns about retracing, which several trainings in a row need


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a folder")
    return Path(text)


def _say(line: str) -> None:
    print(line, flush=True)


def _settings(options: argparse.Namespace) -> "Settings":
    from embkeras.app.pipeline import QUICK, Settings

    base = QUICK if getattr(options, "quick", False) else Settings()
    names = ("architecture", "epochs", "unfreeze_at", "seeds", "with_config")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if "epochs" in given and "unfreeze_at" not in given:
        given["unfreeze_at"] = max(0, min(base.unfreeze_at, given["epochs"] - 1))
    return replace(base, **given)


def _arguments(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


_READING = ("format", "words_file", "member", "encoding")  # arguments of load_vectors


def _demo(options: argparse.Namespace) -> None:
    from embkeras.app import pipeline

    pipeline.demo(options.out, _settings(options), _say, quick=options.quick)


def _train(options: argparse.Namespace) -> None:
    from embkeras.app import pipeline

    if options.seeds is not None and not options.compare:
        raise ArgumentError("--seeds is the number of trainings in the comparison: add --compare.")
    names = ("text", "label", "encoding", "skip_empty", "quotes", "words_file", "compare")
    pipeline.train(options.file, options.vectors, options.out, _settings(options), _say, **_arguments(options, *names))


def _predict(options: argparse.Namespace) -> None:
    from embkeras.app.printed import predictions_text
    from embkeras.serving.local import ExportedModel

    table = ExportedModel(options.path).predict(options.texts)
    _say(predictions_text(table["text"], table["label"], table["probability"]))


def _check(options: argparse.Namespace) -> None:
    from embkeras.serving.check import check_saved_model
    from embkeras.serving.local import ExportedModel

    check_saved_model(options.path)
    export = ExportedModel(options.path)
    size, policy = export.card["vocabulary_size"], export.card["out_of_range"]
    _say(f"{options.path}: all checks passed; {size:,} tokens, ids outside the table: {policy}")


def _convert(options: argparse.Namespace) -> None:
    from embkeras.vectors.io.registry import convert

    more = _arguments(options, *_READING, "to", "overwrite", "errors", "dtype", "limit")
    vectors = convert(options.file, options.out, **more)
    source = vectors.provenance.format if vectors.provenance else "unknown"
    _say(f"{options.out}: {len(vectors):,} words, width {vectors.vector_size}, from {source}")


def _inspect(options: argparse.Namespace) -> None:
    from embkeras.app.printed import inspection_lines
    from embkeras.vectors.inspection import inspect_vectors

    report = inspect_vectors(options.file, **_arguments(options, *_READING))
    for line in inspection_lines(report):
        _say(line)
    if report.fault is not None:
        raise VectorFileError(report.fault)


def _coverage(options: argparse.Namespace) -> None:
    from embkeras.app.printed import coverage_lines
    from embkeras.text.labelled import read_texts
    from embkeras.text.tokenizer import TWEETS, Tokenizer
    from embkeras.vectors.fallbacks import FOR_TEXTS
    from embkeras.vectors.inspection import text_coverage

    texts = read_texts(options.text, options.column, encoding=options.text_encoding)
    tokenizer = TWEETS if options.split == "text" else Tokenizer(lowercase=False)
    reading = _arguments(options, *_READING)
    covered = text_coverage(options.file, texts, tokenizer=tokenizer, fallbacks=FOR_TEXTS, **reading)
    for line in coverage_lines(covered, "the text"):
        _say(line)
