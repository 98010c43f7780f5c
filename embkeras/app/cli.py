"""The commands: parse, call, print."""

import argparse
import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from embkeras import __version__
from embkeras.errors import ArgumentError, EmbkerasError
from embkeras.keras_compat.registration import check_backend

ARCHITECTURES = ("lstm", "cnn", "mean")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it went well, 2 with one line on standard error for bad input, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    usual, warnings.formatwarning = warnings.formatwarning, partial(_one_line, options.command)
    try:
        if options.tensorflow:
            if options.command != "predict":
                _say("Starting TensorFlow ...")
            _start_tensorflow()
        options.run(options)
        sys.stdout.flush()
    except EmbkerasError as error:
        print(f"embkeras {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has gone: `embkeras predict ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # such as standard output on a full disk
        print(f"embkeras {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"embkeras {options.command}: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = usual
    return 0


def _one_line(command: str, message: Warning | str, *_: Any, **__: Any) -> str:
    return f"embkeras {command}: warning: {message}\n"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all of ours are."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to read on."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="embkeras",
        description="Pre-trained word vectors in Keras: freeze, unfreeze, measure the drift, serve integer ids.",
        epilog="Example: embkeras demo",
    )
    parser.add_argument("--version", action="version", version=f"embkeras {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_demo, _add_train, _add_predict, _add_check, _add_convert, _add_inspect, _add_coverage):
        add(commands)
    return parser


def _add_command(
    commands: Any, name: str, run: Any, summary: str, example: str, *, tensorflow: bool = True
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
    command.add_argument("--architecture", choices=ARCHITECTURES, default="lstm", help="what reads the vectors (lstm)")
    command.add_argument("--epochs", type=int, help="epochs of training (8)")
    command.add_argument(
        "--unfreeze-at", type=int, metavar="EPOCH", help="first epoch, counted from 0, in which the table moves (3)"
    )
    command.add_argument("--seeds", type=int, metavar="N", help="trainings of each strategy in the comparison (3)")
    command.add_argument(
        "--with-config", action="store_true", help="write settings for TensorFlow Serving beside the model"
    )


def _add_demo(commands: Any) -> None:
    command = _add_command(
        commands, "demo", _demo, "The whole way on GloVe vectors and tweets rated by people.", "embkeras demo --seeds 5"
    )
    _add_training(command)
    command.add_argument("--quick", action="store_true", help="a smaller run of the same: fewer tweets, epochs, words")
    command.add_argument(
        "--out", type=_folder, default=Path("saved_models", "tweets"), help="folder of the model (saved_models/tweets)"
    )


def _add_train(commands: Any) -> None:
    command = _add_command(
        commands,
        "train",
        _train,
        "The whole way on your own labelled texts and vectors.",
        "embkeras train reviews.csv --text review --label stars --vectors glove.6B.50d.txt --unfreeze-at 3 "
        "--out saved_models/reviews",
    )
    command.add_argument("file", type=Path, help="CSV, TSV, JSON Lines, or Sentiment140's CSV")
    command.add_argument("--text", metavar="COLUMN", help="column with the text; needed but for Sentiment140")
    command.add_argument("--label", metavar="COLUMN", help="column with the label; needed but for Sentiment140")
    command.add_argument(
        "--vectors", type=Path, required=True, metavar="PATH", help="GloVe or word2vec text, .vec, .npy"
    )
    command.add_argument("--words-file", type=Path, metavar="PATH", help="for .npy vectors: the list of words")
    command.add_argument("--encoding", help="of FILE (utf-8; latin-1 for Sentiment140)")
    command.add_argument("--skip-empty", action="store_true", help="leave out rows with an empty text or label")
    command.add_argument("--no-quotes", action="store_true", help='take " in FILE for an ordinary mark')
    command.add_argument("--compare", action="store_true", help="also train frozen, fine-tuned and random, and compare")
    command.add_argument("--out", type=_folder, required=True, metavar="FOLDER", help="folder of the model")
    _add_training(command)


def _add_predict(commands: Any) -> None:
    command = _add_command(
        commands,
        "predict",
        _predict,
        "Label texts with an exported model.",
        'embkeras predict saved_models/tweets "what a lovely day" "this is awful"',
    )
    command.add_argument("path", type=Path, help="folder of the model")
    command.add_argument("texts", nargs="+", metavar="TEXT", help="a text")


def _add_check(commands: Any) -> None:
    summary = "Ask an exported model in many ways whether it answers as it should: padding, batches, bad ids, texts."
    command = _add_command(commands, "check", _check, summary, "embkeras check saved_models/tweets")
    command.add_argument("path", type=Path, help="the model's folder, or that of one version")


def _add_vectors(command: argparse.ArgumentParser) -> None:
    """What says how a file of vectors is read."""
    command.add_argument("file", type=Path, help="vectors in any format that load_vectors reads")
    command.add_argument("--format", metavar="NAME", help="of FILE (found by its content)")
    command.add_argument("--words-file", type=Path, metavar="PATH", help="for .npy and .keras: the list of words")
    command.add_argument("--member", metavar="NAME", help="of a .zip of several files, or the layer of a .keras model")
    command.add_argument("--encoding", default="utf-8", help="of the words in FILE (utf-8)")


def _add_convert(commands: Any) -> None:
    summary = "Write a file of vectors in another format: .txt, .vec, .npy and others, by the name's ending."
    example = "embkeras convert glove.6B.100d.txt glove.6B.100d.npy"
    command = _add_command(commands, "convert", partial(_files, "convert"), summary, example, tensorflow=False)
    _add_vectors(command)
    command.add_argument("out", type=Path, help="the file to write")
    command.add_argument("--to", metavar="NAME", help="format of OUT, if its name does not tell it")
    command.add_argument("--errors", choices=("strict", "replace", "skip"), default="strict", help="(strict)")
    command.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the values (float32)")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    command.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")


def _add_inspect(commands: Any) -> None:
    summary = "What a file of vectors holds: format, rows, width, whether its header is true, odd words, norms."
    example = "embkeras inspect wiki.en.vec"
    _add_vectors(_add_command(commands, "inspect", partial(_files, "inspect"), summary, example, tensorflow=False))


def _add_coverage(commands: Any) -> None:
    summary = "How much of a text the words of a file of vectors cover, and what is missing."
    example = "embkeras coverage glove.6B.50d.txt --text reviews.csv --column review"
    command = _add_command(commands, "coverage", partial(_files, "coverage"), summary, example, tensorflow=False)
    _add_vectors(command)
    command.add_argument(
        "--text", type=Path, required=True, metavar="CORPUS", help="CSV, TSV, JSON Lines, or any file, read by lines"
    )
    command.add_argument("--column", metavar="NAME", help="column with the text; needed but for files read by lines")
    command.add_argument("--text-encoding", metavar="ENCODING", help="of CORPUS (utf-8)")
    command.add_argument("--split", choices=("text", "spaces"), default="text", help="cut as train does, or at spaces")


def _start_tensorflow() -> None:
    """Import TensorFlow without its start-up notes, which no setting silences; if it fails, they are shown."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            check_backend()
            tensorflow = importlib.import_module("tensorflow")
        except EmbkerasError:
            raise
        except Exception:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    tensorflow.get_logger().setLevel("ERROR")  # it warns of the compiling that several trainings in a row need


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a folder")
    return Path(text)


def _say(line: str) -> None:
    print(line, flush=True)


def _settings(options: argparse.Namespace) -> Any:
    from embkeras.app.preparation import QUICK, Settings

    base = QUICK if getattr(options, "quick", False) else Settings()
    names = ("architecture", "epochs", "unfreeze_at", "seeds", "with_config")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if "epochs" in given and "unfreeze_at" not in given:
        given["unfreeze_at"] = max(0, min(base.unfreeze_at, given["epochs"] - 1))
    return replace(base, **given)


def _demo(options: argparse.Namespace) -> None:
    from embkeras.app import pipeline as workflow

    workflow.demo(options.out, _settings(options), _say, quick=options.quick)


def _train(options: argparse.Namespace) -> None:
    from embkeras.app import pipeline as workflow

    if options.seeds is not None and not options.compare:
        raise ArgumentError("--seeds counts the trainings of a comparison: add --compare.")
    workflow.train(
        options.file,
        options.vectors,
        options.out,
        _settings(options),
        _say,
        text=options.text,
        label=options.label,
        encoding=options.encoding,
        skip_empty=options.skip_empty,
        quotes=not options.no_quotes,
        words_file=options.words_file,
        compare=options.compare,
    )


def _predict(options: argparse.Namespace) -> None:
    from embkeras.app import pipeline as workflow
    from embkeras.app import printed as presentation

    table = workflow.predict(options.path, options.texts)
    _say(presentation.predictions_text(table["text"], table["label"], table["probability"]))


def _files(name: str, options: argparse.Namespace) -> None:
    from embkeras.app import file_commands

    getattr(file_commands, name)(options, _say)


def _check(options: argparse.Namespace) -> None:
    from embkeras.serving.check import check_saved_model
    from embkeras.serving.local import ExportedModel

    check_saved_model(options.path)
    export = ExportedModel(options.path)
    _say(f"{options.path}: answers as it should; {len(export.vocabulary):,} tokens, bad ids: {export.card['bad_ids']}")
