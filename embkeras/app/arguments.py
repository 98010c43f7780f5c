"""The commands and their flags, as a parser. Nothing heavy is imported, so `embkeras --help` is quick."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from embkeras import __version__
from embkeras.app import commands
from embkeras.app.completion import SHELLS, completes_files
from embkeras.app.output import Output
from embkeras.app.settings import ALSO_CALLED, ARCHITECTURES, AUTO, ENCODER_STRATEGIES, SETS, STRATEGIES

_SEPARATORS = {"space": " ", "tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
_VECTORS = "word vectors in any format that load_vectors reads"
RUNTIMES = ("onnx", "litert", "tfjs")
Run = Callable[[argparse.Namespace, Output], None]


class UsageError(Exception):
    """A command that can't be parsed; the message names the command and what is wrong."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all errors of the commands.

    Attributes:
        more: what its help ends with, made when it is printed; None for nothing.
    """

    more: Callable[[], str] | None = None

    def format_help(self) -> str:
        """The help."""
        return super().format_help() + (self.more() if self.more else "")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to get help."""
        raise UsageError(f"{self.prog}: {message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `parse_args` raises a UsageError."""
    top = _Parser(
        prog="embkeras",
        description="Pre-trained word vectors in Keras: freeze, unfreeze, measure the drift, serve token ids.",
        epilog="Example: embkeras demo",
    )
    top.add_argument("-V", "--version", action="version", version=f"embkeras {__version__}")
    _add_output(top, default=False)
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands_in_order = (
        *(_add_demo, _add_train, _add_compare, _add_predict, _add_check, _add_convert_model),
        *(_add_convert, _add_inspect, _add_coverage, _add_drift),
    )
    for add in commands_in_order:
        add(subparsers)
    _add_completion(subparsers)
    _add_help(subparsers)
    top.set_defaults(parsers={"": top} | subparsers.choices)
    return top


def _add_output(command: argparse.ArgumentParser, default: Any) -> None:
    add = command.add_argument
    add("-q", "--quiet", action="store_true", default=default, help="print only the answer, warnings and errors")
    add(
        "--json",
        action="store_true",
        default=default,
        help="print one JSON object with results, paths and figures on standard output, and the rest on standard error",
    )


def _add_command(subparsers: Any, name: str, run: Run, summary: str, example: str) -> argparse.ArgumentParser:
    command = subparsers.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"Example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    _add_output(command, default=argparse.SUPPRESS)  # `embkeras --json check x` and `embkeras check x --json`
    return command


def _add_training(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    auto = (AUTO,) if command.get_default("run") is commands.train else ()
    add(
        "--strategy",
        type=lambda text: ALSO_CALLED.get(text, text),
        choices=tuple(dict.fromkeys([*STRATEGIES, *ENCODER_STRATEGIES, *auto])),
        help="how the table trains: shared-map rescales the vectors and trains a map of all rows beside each row, phased trains "
        "the table from an epoch on, fine-tuned from the start, frozen never (shared-map; with lstm or --unfreeze-at phased). "
        "What trains of an encoder: frozen the head alone, top its last block too, lora LoRA in its upper half, fine-tuned "
        "all; for few labels, class-means the head by the nearest class mean, prompts virtual tokens (fine-tuned)"
        + "; auto: what a race of the strategies recommends"
        * bool(auto),
    )
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="trainings per strategy in the comparison (3" + "; of auto 5" * bool(auto) + ")",
    )
    add("--with-config", action="store_true", help="write settings for TensorFlow Serving next to the model")
    _add_fitting(command)


def _add_fitting(command: argparse.ArgumentParser) -> None:
    """How to train, whatever the strategy."""
    add = command.add_argument
    add("--architecture", choices=ARCHITECTURES, help="layers after the embedding (cnn)")
    add("--epochs", type=int, help="at most so many epochs of training (40; of an encoder 3, 4, or 30 of its head)")
    add("--unfreeze-at", type=int, metavar="EPOCH", help="first epoch, from 0, in which a phased table trains (3)")
    add(
        "--patience",
        type=int,
        metavar="N",
        help="once the table trains, end after N epochs without a smaller validation loss (5); "
        "the weights of the best epoch are kept",
    )
    add(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="learning rate while the table is frozen (0.002), and half of it once the table trains; of an encoder 0.0001, with "
        "lora 0.001, of its head alone 0.003",
    )
    add("--batch-size", type=int, metavar="N", help="texts per training step (32)")
    add(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens per text; longer texts lose their end (64; for an encoder as many as leave 99%% of the texts whole, at "
        "most 128)",
    )
    add(
        "--dropout",
        type=float,
        metavar="SHARE",
        help="share of units dropped in training, 0 to 1 (0.4; before the last layer on an encoder 0.1)",
    )
    add(
        "--rescale",
        type=float,
        metavar="STD",
        help="multiply all vectors by one factor that brings their entries to this standard deviation (0.1 for shared-map, "
        "otherwise they stay as they are)",
    )


def _add_demo(subparsers: Any) -> None:
    summary = "Run the whole pipeline on GloVe vectors and tweets rated by people."
    command = _add_command(subparsers, "demo", commands.demo, summary, "embkeras demo --seeds 5")
    _add_training(command)
    command.add_argument("--quick", action="store_true", help="a smaller run: fewer tweets, epochs and words")
    completes_files(
        command.add_argument(
            "--encoder",
            nargs="?",
            const=True,
            type=_folder,
            metavar="FOLDER",
            help="also train on a pre-trained encoder, the Hugging Face folder FOLDER or all-MiniLM-L6-v2, and set both models "
            "side by side; exported to OUT-encoder",
        )
    )
    out = Path("saved_models", "tweets")
    completes_files(command.add_argument("--out", type=_folder, default=out, help="model folder (saved_models/tweets)"))


def _add_train(subparsers: Any) -> None:
    summary = "Run the whole pipeline on your own labelled texts, with word vectors or a pre-trained encoder."
    example = (
        "embkeras train reviews.csv --text review --label stars --vectors glove.6B.50d.txt --out saved_models/reviews"
    )
    command = _add_command(subparsers, "train", commands.train, summary, example)
    add = command.add_argument
    _add_source(command)
    _add_texts(command)
    add("--compare", action="store_true", help="also train the other strategies (and random vectors), and compare")
    completes_files(add("--out", type=_folder, required=True, metavar="FOLDER", help="model folder"))
    _add_training(command)
    add(
        "--max-minutes",
        type=float,
        metavar="MINUTES",
        help="of auto: begin no further training to compare after so long",
    )


def _add_source(command: argparse.ArgumentParser) -> None:
    """Word vectors, or an encoder."""
    either = command.add_mutually_exclusive_group(required=True)
    completes_files(either.add_argument("--vectors", metavar="PATH", help=_VECTORS))
    encoder = "a pre-trained encoder in place of word vectors: a Hugging Face folder, or a preset of keras-hub"
    completes_files(either.add_argument("--encoder", type=_folder, metavar="FOLDER", help=encoder))


def _add_texts(command: argparse.ArgumentParser) -> None:
    """The labelled texts, and how to read them and a file of vectors."""
    add = command.add_argument
    completes_files(add("file", type=Path, help="CSV, TSV, JSON Lines, Parquet, or Sentiment140's CSV"))
    add("--text", metavar="COLUMN", help="column with the text (not needed for Sentiment140)")
    add("--label", metavar="COLUMN", help="column with the label (not needed for Sentiment140)")
    completes_files(add("--words-file", type=Path, metavar="PATH", help="list of words for .npy vectors"))
    _add_rows(command)
    add("--encoding", help="text encoding of FILE (utf-8; latin-1 for Sentiment140)")
    add("--skip-empty", action="store_true", help="skip rows with an empty text or label")
    add("--no-quotes", dest="quotes", action="store_false", help='treat " in FILE as an ordinary character')


def _add_compare(subparsers: Any) -> None:
    summary = (
        "Find out on your own labelled texts how to train word vectors or an encoder: frozen, fine-tuned or otherwise."
    )
    example = "embkeras compare reviews.csv --text review --label stars --vectors glove.6B.50d.txt --out comparison"
    command = _add_command(subparsers, "compare", commands.compare, summary, example)
    add = command.add_argument
    _add_source(command)
    _add_texts(command)
    files = "folder for report.html, plots, comparison.json and runs.jsonl, from which a killed comparison continues"
    completes_files(add("--out", type=_folder, required=True, metavar="FOLDER", help=files))
    sets = (
        "strategies for word vectors: small has frozen, fine-tuned and the shared map (with lstm phased), default a phased "
        "table and random vectors besides, all every one (default, or small if --max-minutes is too short for it); for an "
        "encoder there are four: its head alone, the last block, LoRA, all; below 50 training texts nearest class means and "
        "prompts too"
    )
    add("--set", choices=SETS, help=sets)
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="trainings of each strategy that reaches the final round, at most: it ends when its result is settled (5; with "
        "--folds times its number 1)",
    )
    folds = "deal all texts into N parts, at least 3: each tests once, the next one validates, and the others train"
    add("--folds", type=int, metavar="N", help=folds)
    curve = "also train on 1/16 to all of the training texts: where fine-tuning begins to pay, and what more labels would buy"
    add("--curve", action="store_true", help=curve)
    add("--max-minutes", type=float, metavar="MINUTES", help="begin no further training after so long")
    _add_fitting(command)


def _add_predict(subparsers: Any) -> None:
    example = (
        'embkeras predict saved_models/tweets "what a lovely day" "this is awful"\n'
        "  embkeras predict saved_models/tweets --file reviews.csv --text review --out scores.parquet"
    )
    summary = "Classify texts with an exported model."
    command = _add_command(subparsers, "predict", commands.predict, summary, example)
    completes_files(command.add_argument("path", type=Path, help="model folder"))
    add = command.add_argument
    add("texts", nargs="*", metavar="TEXT", help="a text")
    completes_files(
        add(
            "--file", type=Path, help="classify the texts of this file instead: CSV, TSV, JSON Lines, Parquet, or lines"
        )
    )
    add(
        "--text",
        action="append",
        metavar="COLUMN",
        help="column of FILE with the text (not needed for a file read line by line); for a model with several inputs "
        "INPUT=COLUMN, which can be repeated: an input's column has its name by default",
    )
    add("--encoding", help="text encoding of FILE (utf-8)")
    add(
        "--threshold",
        action="append",
        metavar="NUMBER",
        help="probability from which a label of a multi-label model counts (0.5), or LABEL=NUMBER, which can be repeated",
    )
    completes_files(add("--out", type=Path, help="the file to write for FILE: .csv, .tsv, .jsonl or .parquet"))
    add("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_check(subparsers: Any) -> None:
    summary = "Check the answers of an exported model: padding, batches, ids outside the table, texts."
    command = _add_command(subparsers, "check", commands.check, summary, "embkeras check saved_models/tweets")
    completes_files(command.add_argument("path", type=Path, help="model folder, or the folder of one version"))


def _add_convert_model(subparsers: Any) -> None:
    summary = "Convert an exported model for ONNX Runtime, LiteRT or TensorFlow.js, and check its answers there."
    example = "embkeras convert-model saved_models/tweets --to onnx"
    command = _add_command(subparsers, "convert-model", commands.convert_model, summary, example)
    add = command.add_argument
    completes_files(add("path", type=Path, help="model folder, or the folder of one version"))
    add("--to", required=True, choices=RUNTIMES, help="the runtime; each needs the extra of this name")
    completes_files(
        add("--out", type=_folder, metavar="FOLDER", help="the folder to write (NAME-onnx, NAME-litert or NAME-js)")
    )
    add("--overwrite", action="store_true", help="replace FOLDER if it exists")
    add("--no-check", dest="check", action="store_false", help="don't compare the answers with those of the SavedModel")


def _formats() -> str:
    """The table of formats, for help."""
    from embkeras.vectors.io.registry import table_of_formats

    lines = [f"  {name:17}{endings or 'only read':18}{what}" for name, endings, what in table_of_formats()]
    return "\nFormats and the endings of their names:\n" + "\n".join(lines) + "\n"


def _add_vectors(command: argparse.ArgumentParser) -> None:
    """How to read a vector file."""
    if isinstance(command, _Parser):
        command.more = _formats
    add = command.add_argument
    completes_files(add("file", help="vectors in any of the formats below; - is standard input"))
    add("--format", metavar="NAME", help="format of FILE (detected from its contents)")
    completes_files(
        add(
            "--words-file",
            type=Path,
            metavar="PATH",
            help="list of words for .npy, .npz and .safetensors files, and text of numbers alone",
        )
    )
    add("--member", metavar="NAME", help="file, array or tensor to read, where FILE contains several")
    add("--encoding", default="utf-8", help="text encoding of the words in FILE (utf-8)")
    _add_rows(command)


def _add_rows(command: argparse.ArgumentParser) -> None:
    """How to read the rows of text vectors, where the first lines don't say it."""
    add = command.add_argument
    separators = (
        "space, tab, comma, whitespace (runs of spaces and tabs), or a character; tab+space: after the word, then"
    )
    add("--separator", type=_separator, metavar="NAME", help=f"what divides rows of text vectors: {separators}")
    add("--width", type=int, metavar="N", help="numbers per row of text vectors; the words may then end in numbers")
    add("--header", choices=tuple(commands.HEADER), help="whether text vectors have a header; ignore: it may be wrong")


def _add_convert(subparsers: Any) -> None:
    summary = "Convert a vector file to another format, chosen by the file name: .txt, .vec, .npy and others."
    example = "embkeras convert glove.6B.100d.txt glove.6B.100d.npy"
    command = _add_command(subparsers, "convert", commands.convert, summary, example)
    _add_vectors(command)
    add = command.add_argument
    completes_files(add("out", type=Path, help="the file to write"))
    add("--to", metavar="NAME", help="format of OUT, where its name does not show it")
    add("--errors", choices=("strict", "replace", "skip"), default="strict", help="for words that can't be decoded")
    add("--dtype", choices=("float32", "float16"), default="float32", help="type of the values (float32)")
    add("--limit", type=int, metavar="N", help="only the first N rows")
    add("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_inspect(subparsers: Any) -> None:
    summary = "Report what a vector file contains: format, rows, width, header, unusual words, norms."
    command = _add_command(subparsers, "inspect", commands.inspect, summary, "embkeras inspect wiki.en.vec")
    _add_vectors(command)


def _add_coverage(subparsers: Any) -> None:
    summary = "Report how much of a text the words of a vector file cover, and which words are missing."
    example = "embkeras coverage glove.6B.50d.txt --text reviews.csv --column review"
    command = _add_command(subparsers, "coverage", commands.coverage, summary, example)
    _add_vectors(command)
    add = command.add_argument
    completes_files(
        add(
            "--text",
            type=Path,
            required=True,
            metavar="CORPUS",
            help="CSV, TSV, JSON Lines, Parquet, or any file, line by line",
        )
    )
    add("--column", metavar="NAME", help="column with the text (not needed for a file read line by line)")
    add("--text-encoding", metavar="ENCODING", help="text encoding of CORPUS (utf-8)")
    add("--split", choices=("text", "spaces"), default="text", help="tokenize as train does, or at spaces only (text)")


def _add_drift(subparsers: Any) -> None:
    summary = "Report how far vectors moved: which words, their neighbours, what the steps have in common."
    example = "embkeras drift glove.6B.50d.txt saved_models/tweets --out drift.png"
    command = _add_command(subparsers, "drift", commands.drift, summary, example)
    add = command.add_argument
    for name in ("before", "after"):
        completes_files(add(name, help="vectors in any format, a .keras file, or the folder of an exported model"))
    add("--layer", metavar="PATH", help="embedding layer of a model with several")
    words = "the word of each row, one a line, or a saved vocabulary (.json), where a file or model doesn't hold them"
    completes_files(add("--words-file", type=Path, metavar="PATH", help=words))
    completes_files(
        add(
            "--pairs",
            type=Path,
            action="append",
            default=[],
            metavar="PATH",
            help="scored pairs of words, such as WordSim-353: correlation with the cosines before and after; may be repeated",
        )
    )
    add(
        "--exact",
        action="store_true",
        help="look at all rows' neighbours, where a sample is taken of more than 100,000",
    )
    completes_files(add("--out", type=Path, metavar="PICTURE", help="draw a .png, .pdf or .svg"))
    completes_files(
        add("--projector", type=Path, metavar="FOLDER", help="write both tables for TensorBoard's projector")
    )
    add("--overwrite", action="store_true", help="replace PICTURE and the files in FOLDER if they exist")


def _add_completion(subparsers: Any) -> None:
    summary = "Print a script that lets a shell complete commands, flags and file names."
    example = "embkeras completion bash > ~/.local/share/bash-completion/completions/embkeras"
    command = _add_command(subparsers, "completion", commands.completion, summary, example)
    command.add_argument("shell", choices=SHELLS, help=", ".join(SHELLS))


def _add_help(subparsers: Any) -> None:
    summary = "Show the help of a command."
    command = _add_command(subparsers, "help", commands.help, summary, "embkeras help train")
    command.add_argument("topic", nargs="?", choices=tuple(subparsers.choices), metavar="COMMAND")


def _separator(text: str) -> str | tuple[str, ...]:
    """One separator, or two joined by "+": that after the word, and that between the numbers."""
    parts = tuple(_SEPARATORS.get(part, part) for part in (text.split("+") if len(text) > 1 else [text]))
    return parts[0] if len(parts) == 1 else parts


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a folder")
    return Path(text)
