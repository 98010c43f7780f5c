"""What each command does: refuse at once what can't work, call the library, print the answer.

Everything that can be refused without TensorFlow is refused before it starts, which takes seconds; and what can be refused
without reading a large file, before that.
"""

import argparse
import importlib
import os
import time
from pathlib import Path
from typing import Any

from embkeras._checks import one_of
from embkeras._checks import path as checked_path
from embkeras._files import check_writable, not_a_file
from embkeras._registration import check_backend
from embkeras.app.completion import completion_script
from embkeras.app.output import Output
from embkeras.app.predicting import columns_of, threshold_of
from embkeras.app.settings import AUTO, EncoderSettings, Settings, encoder_settings_of, settings_of
from embkeras.app.streams import without_messages
from embkeras.errors import ArgumentError, DataError, VectorFileError, VocabularyError
from embkeras.serving import names

HEADER: dict[str, bool | str] = {"yes": True, "no": False, "ignore": "ignore"}  # --header: header=
_READING = ("format", "words_file", "member", "encoding")  # arguments of load_vectors
_ROWS = ("separator", "width", "header")  # and those for text
_RACE_PART = 2 / 3  # of --max-minutes, where a learning curve follows
_NOT_BESIDE = {"seeds": "each model is trained once", "learning_rate": "the two models need different rates"}


def demo(options: argparse.Namespace, output: Output) -> None:
    """Run the pipeline on GloVe 6B 50d and rated tweets, and on an encoder beside them if asked for."""
    _check_backend_setting()
    settings = settings_of(options)
    _check_model_folder(options.out, options.with_config)
    beside = _beside(options.out)
    encoder = None if options.encoder is None else _encoder_of_demo(options, beside)
    from embkeras.app import material

    matrix, words = material.glove_paths()
    _check_comparison()
    from embkeras.app import preparation

    parts = preparation.rated_tweets(output.say, quick=options.quick)
    prepared = preparation.prepare(parts, matrix, settings, output.say, words_file=words)
    _start_tensorflow(output)
    from embkeras.app import pipeline

    if encoder is not None:
        from embkeras.app import encoders

        folders = options.out, beside
        encoders.run_beside(prepared, parts, settings, encoder, folders, output, examples=pipeline.EXAMPLES)
        return
    shares = (0.25, 1.0) if options.quick else pipeline.SHARES
    pipeline.run(prepared, options.out, settings, output, compare=True, examples=pipeline.EXAMPLES, shares=shares)


def _encoder_of_demo(options: argparse.Namespace, out: Path) -> tuple[Path, str, EncoderSettings]:
    """The folder of the encoder, its name, and how to train it; refuses at once what can't work."""
    from embkeras.app import material

    for name, why in _NOT_BESIDE.items():
        if getattr(options, name) is not None:
            raise ArgumentError(f"--{name.replace('_', '-')} can't go with demo --encoder: {why}.")
    settings = encoder_settings_of(options)
    _check_model_folder(out, options.with_config)
    packaged = options.encoder is True
    folder = material.minilm_folder() if packaged else options.encoder
    _check_encoder(folder, settings)
    return folder, "all-MiniLM-L6-v2" if packaged else folder.resolve().name, settings


def train(options: argparse.Namespace, output: Output) -> None:
    """Run the pipeline on the user's own texts, with word vectors or an encoder."""
    _check_backend_setting()
    on_encoder = encoder_settings_of(options) if options.encoder is not None else None
    settings = settings_of(options)
    auto = options.strategy == AUTO
    if auto and options.compare:
        raise ArgumentError("--strategy auto compares by itself: leave out --compare.")
    if options.max_minutes is not None and not auto:
        raise ArgumentError(
            "--max-minutes is the time of the comparison of --strategy auto: add that, or leave it out."
        )
    if options.seeds is not None and not (options.compare or auto):
        raise ArgumentError(
            "--seeds is the number of trainings in the comparison: add --compare, or use --strategy auto."
        )
    if options.unfreeze_at is not None and settings.chosen != "phased" and not (options.compare or auto):
        raise ArgumentError(
            f"--unfreeze-at says when a phased table begins to train: use --strategy phased. Received: --strategy "
            f"{options.strategy}."
        )
    _check_model_folder(options.out, options.with_config)
    _check_source(options, on_encoder)
    if options.compare or auto:
        _check_comparison()
    parts = _parts(options, output)
    how: dict[str, Any] = {"compare": options.compare, "examples": parts.test.texts[:4]}
    if on_encoder is not None:
        _train_encoder(options, parts, on_encoder, output, how)
        return
    prepared = _prepared(options, parts, settings, output)
    profile = _profile(parts, prepared.aligned, output) if auto else None
    _start_tensorflow(output)
    from embkeras.app import pipeline, racing

    if auto:
        advice = _raced(options, pipeline.contest(prepared, settings), profile, output)
        settings = racing.chosen(advice, settings, output)
        how |= {"advice": "", "choice": advice.text}
    pipeline.run(prepared, options.out, settings, output, **how)
    if auto:
        racing.forget(options.out)


def _train_encoder(
    options: argparse.Namespace, parts: Any, settings: EncoderSettings, output: Output, how: dict[str, Any]
) -> None:
    """The same with an encoder."""
    auto = options.strategy == AUTO
    profile = _profile(parts, None, output) if auto else None
    _start_tensorflow(output)
    from embkeras.app import encoders, racing

    prepared = encoders.prepare(parts, options.encoder, options.encoder.resolve().name, settings, output.say)
    if auto:
        advice = _raced(options, encoders.contest(prepared, parts, settings), profile, output)
        settings = racing.chosen(advice, settings, output)
        how = how | {"advice": "", "choice": advice.text}
    encoders.run(prepared, options.out, settings, output, **how)
    if auto:
        racing.forget(options.out)


def compare(options: argparse.Namespace, output: Output) -> None:
    """Race the strategies on the user's own texts, and save what was found."""
    _check_backend_setting()
    on_encoder = encoder_settings_of(options) if options.encoder is not None else None
    settings = settings_of(options)
    if on_encoder is not None and options.set is not None:
        raise ArgumentError("--set goes with --vectors: of an encoder all four strategies are compared.")
    if options.curve and options.folds is not None:
        raise ArgumentError(
            "--curve trains on parts of the training texts, and --folds deals all texts anew: leave one out."
        )
    if options.unfreeze_at is not None and options.set == "small" and settings.architecture != "lstm":
        raise ArgumentError("--unfreeze-at says when a phased table begins to train, and --set small has none.")
    check_writable(options.out)
    _check_source(options, on_encoder)
    _check_comparison()
    parts = _parts(options, output)
    if on_encoder is not None:
        profile = _profile(parts, None, output)
        _start_tensorflow(output)
        from embkeras.app import encoders

        folder = options.encoder
        encoder = encoders.prepare(parts, folder, folder.resolve().name, on_encoder, output.say)
        _raced(options, encoders.contest(encoder, parts, on_encoder), profile, output)
        return
    prepared = _prepared(options, parts, settings, output)
    profile = _profile(parts, prepared.aligned, output)
    _start_tensorflow(output)
    from embkeras.app import pipeline

    _raced(options, pipeline.contest(prepared, settings, options.set, every=True), profile, output)


def _check_source(options: argparse.Namespace, on_encoder: EncoderSettings | None) -> None:
    """Refuse an encoder, or vectors, that can't be read."""
    if on_encoder is not None:
        _check_encoder(options.encoder, on_encoder)
        return
    _check_reading(options.vectors, options.words_file)
    _check_readable_twice(options.vectors)


def _prepared(options: argparse.Namespace, parts: Any, settings: Settings, output: Output) -> Any:
    """Texts and word vectors."""
    from embkeras.app import preparation

    rows = _rows(options) | _arguments(options, "words_file")
    return preparation.prepare(parts, options.vectors, settings, output.say, **rows)


def _profile(parts: Any, aligned: Any, output: Output) -> Any:
    """A look at the texts before strategies race."""
    from embkeras.app import preparation

    return preparation.profile_of(parts, aligned, output)


def _raced(options: argparse.Namespace, contest: Any, profile: Any, output: Output) -> Any:
    """The advice of a race, which is saved beside a look at the data; it is the answer of `compare`."""
    from embkeras.app import racing

    begun, asked = time.monotonic(), vars(options)
    minutes, curve = contest.settings.max_minutes, None
    with_curve = options.command == "compare" and options.curve
    part = None if minutes is None else minutes * (_RACE_PART if with_curve else 1)
    advice = racing.race(contest, output, options.out, part)
    answer = output.answer if options.command == "compare" else output.say
    answer(str(advice))
    if with_curve:
        left = None if minutes is None else max(minutes - (time.monotonic() - begun) / 60, racing.NO_TIME)
        curve = racing.curve(contest, advice, output, options.out, left)
        answer(str(curve))
    asked = {name: value for name, value in asked.items() if name not in ("run", "parsers")}
    racing.save(advice, curve, profile, contest, asked, options.out, output)
    return advice


def _parts(options: argparse.Namespace, output: Output) -> Any:
    """The labelled texts of a file, split in three."""
    from embkeras.text.labelled import read_labelled, split

    reading = _arguments(options, "text", "label", "encoding", "skip_empty", "quotes")
    data = read_labelled(options.file, **reading)
    output.say(f"Text: {len(data):,} texts in {len(data.class_names)} classes ({', '.join(data.class_names[:5])})")
    return split(data)


def predict(options: argparse.Namespace, output: Output) -> None:
    """Classify texts with an exported model."""
    _check_backend_setting()
    _, card = _check_export(options.path)
    threshold = threshold_of(options.threshold)
    if options.file is not None:
        _predict_file(options, output, card, threshold)
        return
    if not options.texts or options.out is not None:
        raise ArgumentError("predict takes texts, or --file FILE with --out OUT.")
    for name in ("text", "encoding", "overwrite"):
        if getattr(options, name):
            raise ArgumentError(f"--{name} goes with --file FILE: leave it out where texts are given.")
    _start_tensorflow()
    from embkeras.app.printed import predictions_text
    from embkeras.serving.local import ExportedModel

    model = ExportedModel(options.path)
    table = model.predict(options.texts, threshold=threshold)
    output.result |= {"model": model.folder, "predictions": table.to_dict("records")}
    one = "label" in table.columns  # of several outputs, each has its own columns
    text = (
        predictions_text(table["text"], table["label"], table["probability"]) if one else table.to_string(index=False)
    )
    output.answer(text)


def _predict_file(options: argparse.Namespace, output: Output, card: dict[str, Any], threshold: Any) -> None:
    """Classify the texts of a file."""
    if options.texts or options.out is None:
        raise ArgumentError("predict takes texts, or --file FILE with --out OUT.")
    from functools import partial

    from embkeras.serving.bulk import check_bulk, predict_file

    column = columns_of(options.text, [each["name"] for each in card["inputs"]])
    reading: dict[str, Any] = {"column": column, "encoding": options.encoding, "overwrite": options.overwrite}
    try:
        total = check_bulk(options.file, options.out, **reading)
    except DataError as error:  # the flag has another name than the argument
        raise DataError(str(error).replace("column=", "text=")) from None
    output.say(f"Text: {total:,} texts")
    _start_tensorflow(output)
    from embkeras.serving.local import ExportedModel

    model = ExportedModel(options.path)
    predict_file(partial(model.predict, threshold=threshold), options.file, options.out, total=total, **reading)
    output.result |= {"model": model.folder, "path": options.out, "texts": total}
    output.say(f"{options.out}: {total:,} rows")


def check(options: argparse.Namespace, output: Output) -> None:
    """Check the answers of an exported model."""
    _check_backend_setting()
    folder, card = _check_export(options.path)
    _start_tensorflow(output)
    from embkeras.serving.check import check_saved_model

    check_saved_model(options.path)
    size, policy = card["vocabulary_size"], card["out_of_range"]
    output.result |= {"model": folder, "passed": True, "vocabulary_size": size, "out_of_range": policy}
    output.say(f"{options.path}: all checks passed; {size:,} tokens, ids outside the table: {policy}")


def convert(options: argparse.Namespace, output: Output) -> None:
    """Convert a vector file to another format."""
    _check_reading(options.file, options.words_file)
    check_writable(options.out.parent)
    from embkeras.vectors.io import registry

    more = _reading(options) | _arguments(options, "to", "overwrite", "errors", "dtype", "limit")
    vectors = registry.convert(options.file, options.out, **more)
    source = vectors.provenance.format if vectors.provenance else "unknown"
    output.result |= {"path": options.out, "words": len(vectors), "width": vectors.vector_size, "from": source}
    output.say(f"{options.out}: {len(vectors):,} words, width {vectors.vector_size}, from {source}")


def convert_model(options: argparse.Namespace, output: Output) -> None:
    """Convert an exported model for another runtime."""
    _check_backend_setting()
    from embkeras.serving.convert import check_conversion, convert_saved_model, not_kept

    arguments = _arguments(options, "path", "to", "out", "overwrite", "check")
    check_conversion(**arguments)
    _start_tensorflow(output)
    output.say(f"Converting to {options.to} ...")
    with without_messages():  # converters print their own, on every run
        folder = convert_saved_model(**arguments)
    left_out = not_kept(folder)
    output.result |= {"path": folder, "to": options.to, "checked": options.check, "not_kept": left_out}
    checked = "its answers are those of the SavedModel" if options.check else "its answers were not checked"
    output.say(f"{folder}: {checked}")
    for sentence in left_out:
        output.say(f"  {sentence}")


def inspect(options: argparse.Namespace, output: Output) -> None:
    """Report what a vector file contains."""
    _check_reading(options.file, options.words_file, options.format)
    from embkeras.app.output import plain
    from embkeras.app.printed import inspection_lines
    from embkeras.vectors.inspection import inspect_vectors

    report = inspect_vectors(options.file, **_reading(options))
    output.result |= plain(report)
    for line in inspection_lines(report):
        output.answer(line)
    if report.fault is not None:
        raise VectorFileError(report.fault)


def coverage(options: argparse.Namespace, output: Output) -> None:
    """Report how much of a text the words of a vector file cover."""
    _check_reading(options.file, options.words_file, options.format)
    corpus = checked_path(options.text, "text")
    if not corpus.is_fifo() and (reason := not_a_file(corpus)):
        raise DataError(f"Cannot read {str(corpus)!r}: {reason}.")
    from embkeras.app.printed import coverage_figures, coverage_lines
    from embkeras.text.labelled import read_texts
    from embkeras.text.tokenizer import TWEETS, Tokenizer
    from embkeras.vectors.fallbacks import FOR_TEXTS
    from embkeras.vectors.inspection import text_coverage

    texts = read_texts(options.text, options.column, encoding=options.text_encoding)
    tokenizer = TWEETS if options.split == "text" else Tokenizer(lowercase=False)
    reading = _reading(options)
    covered = text_coverage(options.file, texts, tokenizer=tokenizer, fallbacks=FOR_TEXTS, **reading)
    output.result |= {"file": options.file, "text": options.text} | coverage_figures(covered)
    for line in coverage_lines(covered, "the text"):
        output.answer(line)


def drift(options: argparse.Namespace, output: Output) -> None:
    """Report how far vectors moved between two files, models or exports."""
    for path in (options.before, options.after):
        if not Path(path).is_dir():  # an export, or a format that is a folder
            _check_reading(path, options.words_file)
    from embkeras.app import printed, two_tables
    from embkeras.drift.word_pairs import read_word_pairs

    two_tables.check_picture(options.out, overwrite=options.overwrite)
    for pairs in options.pairs:
        read_word_pairs(pairs)
    models = [two_tables.is_model(path) for path in (options.before, options.after)]
    if any(models):
        _check_backend_setting()
    elif options.layer is not None:
        raise ArgumentError(
            f"--layer names a layer of a model, and both are files of vectors: leave it out. Received: {options.layer}."
        )
    tables: dict[bool, two_tables.Table] = {}
    for after in sorted((False, True), key=lambda after: not models[after]):  # of a file, read only a model's words
        wanted = next((table.vectors.words for table in tables.values()), None)
        tables[after] = two_tables.read_table(
            options.after if after else options.before, options.layer, options.words_file, wanted, _start_tensorflow
        )
    report = two_tables.compared(tables[False], tables[True], [options.before, options.after])
    output.answer(f"Words in both: {len(report.table):,}")
    for line in printed.drift_lines(report):
        output.answer(line)
    neighbours = report.neighbour_drift(exact=True if options.exact else None)
    for line in printed.neighbour_lines(neighbours):
        output.answer(line)
    output.result |= {"words": len(report.table), "drift": report.summary().to_dict()}
    output.result |= {"neighbours": neighbours.summary().to_dict(), "similarity": {}}
    for path in options.pairs:
        found = report.word_similarity(path)
        output.result["similarity"][str(path)] = vars(found)
        output.answer(printed.similarity_line(found, path.name))
    if options.projector is not None:
        output.result["projector"] = report.export_projector(options.projector, overwrite=options.overwrite)
        output.say(f"Projector: {options.projector}")
    if options.out is not None:
        two_tables.draw(report, options.out)
        output.result["figure"] = options.out
        output.say(f"Figure: {options.out}")


def completion(options: argparse.Namespace, output: Output) -> None:
    """Print the script with which a shell completes commands."""
    script = completion_script(options.parsers[""], options.shell)
    output.result |= {"shell": options.shell, "script": script}
    output.answer(script)


def help(options: argparse.Namespace, output: Output) -> None:
    """Show the help of a command, or of all."""
    text = options.parsers[options.topic or ""].format_help()
    output.result |= {"help": text}
    output.answer(text.removesuffix("\n"))


def _arguments(options: argparse.Namespace, *wanted: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in wanted}


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of load_vectors that a command on vectors takes."""
    return _arguments(options, *_READING) | _rows(options)


def _rows(options: argparse.Namespace) -> dict[str, Any]:
    """Those for the rows of text, if they were given."""
    given = {name: value for name, value in _arguments(options, *_ROWS).items() if value is not None}
    return given | {"header": HEADER[given["header"]]} if "header" in given else given


def _check_backend_setting() -> None:
    """Refuse another backend that the environment asks for; Keras' own settings are read when TensorFlow has started."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        check_backend()


def _check_model_folder(out: Path, with_config: bool) -> None:
    """Refuse a model folder that can't be written, or whose name the settings of a server can't hold."""
    check_writable(out)
    names.versions(out)
    if with_config:
        names.check_model_name(out.resolve().name)


def _check_encoder(folder: Path, settings: EncoderSettings) -> None:
    """Refuse a folder that isn't one of an encoder, missing packages, and a length that a text or the encoder has no room for."""
    from embkeras.encoders.folder import is_preset, read_folder

    if folder.is_dir() and is_preset(folder):
        _start_tensorflow()  # keras-hub reads it
    *_, architecture, tokenizer = read_folder(folder)
    if settings.max_length is not None and settings.max_length > architecture.positions:
        raise ArgumentError(
            f"--max-length must be at most {architecture.positions}, the tokens that the encoder in {str(folder)!r} takes. "
            f"Received: {settings.max_length}."
        )
    try:
        tokenizer.encode_batch(["a"], settings.max_length)
    except VocabularyError as error:  # it begins with "length"
        raise ArgumentError(f"--max-{error}") from None


def _beside(out: Path) -> Path:
    """The folder of a second model."""
    out = out.resolve() if out.name in ("", "..") else out
    return out.with_name(f"{out.name}-encoder")


def _check_comparison() -> None:
    from embkeras.experiments.statistics import check_statistics

    check_statistics()


def _check_reading(vectors: str, words_file: Path | None, format: str | None = None) -> None:
    """Refuse vectors, or their words, that are not there, and a format that nobody knows."""
    for name, value in (("path", vectors), ("words_file", words_file)):
        path = None if value is None else checked_path(value, name)
        if path is None or str(path) == "-" or path.is_dir() or path.is_fifo():
            continue
        if reason := not_a_file(path):
            raise VectorFileError(f"Cannot read vectors from {str(path)!r}: {reason}.")
    if format is not None:
        from embkeras.vectors.io.registry import FORMATS

        one_of(format, "format", FORMATS)


def _check_readable_twice(vectors: str) -> None:
    """Refuse a pipe: its rows are read for the words of the texts, and before that for the words at its head."""
    if vectors == "-" or checked_path(vectors, "path").is_fifo():
        raise VectorFileError(
            f"Cannot read vectors from {vectors!r}: it is a pipe, and training reads the vectors twice. Save them as a file."
        )


def _check_export(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of an export and its card; refuses a folder without one."""
    folder = names.saved_model_folder(path)
    return folder, names.read_card(folder / "assets")


def _start_tensorflow(output: Output | None = None) -> None:
    """Import TensorFlow without its start-up messages, which no setting silences; they are shown if the import fails."""
    if output is not None:
        output.say("Starting TensorFlow ...")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with without_messages():
        check_backend()
        tensorflow = importlib.import_module("tensorflow")
    tensorflow.get_logger().setLevel("ERROR")  # it warns about retracing, which several trainings in a row need
