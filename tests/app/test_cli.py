"""The commands: the whole pipeline on a small file, and one line for bad input."""

import csv
import io
import json
import os
import re
import sys
from argparse import Namespace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras import _progress
from embkeras.app import cli, commands, pipeline, results
from embkeras.app.arguments import parser
from embkeras.app.output import Output
from embkeras.experiments.curves import LearningCurve
from embkeras.experiments.runs import Comparison, Run
from tests.app.conftest import train_arguments as train
from tests.processes import run_python
from tests.variants import THOROUGH


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """`embkeras train` run once in its own process, as by a user: its output and the model folder."""
    out = tmp_path_factory.mktemp("out") / "reviews"
    more = ("--unfreeze-at", "1", "--compare", "--seeds", "2", "--with-config")
    done = run_python("-m", "embkeras", *train(files, out, *more), timeout=280)
    return done.stdout, done.stderr, out


@pytest.mark.parametrize(
    "part",
    [
        "80 texts in 2 classes (down, up)",
        "Coverage of the training texts: ",
        "Phase 1 of 2 begins (epoch 0, counted from 0): frozen: embedding",
        "Phase 2 of 2 begins (epoch 1, counted from 0): unfrozen: embedding",
        "Rows moved: ",
        "not loaded: embkeras",
        "bytes as ids",
    ],
)
def test_train_reports_every_stage(trained, part):
    """Data, coverage, both phases, drift and the export are in the report."""
    assert part in trained[0]


def test_train_prints_the_right_verdict(trained):
    """Twelve test texts can't separate the strategies: the best one is named first, then the four others."""
    lines = trained[0].splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("Result on 12 test texts"))
    names = "fine-tuned|frozen|phased|random|shared map"
    ranking = [re.match(f" *({names}) ", line)[1] for line in lines[heading + 2 : heading + 7]]
    assert sorted(ranking) == names.split("|")
    verdict = lines[heading + 7]
    assert re.findall(names, verdict) == ranking


@pytest.mark.parametrize(("frozen_correct", "named"), [(0, ["phased"]), (63, ["phased", "frozen"])])
def test_verdict_follows_the_runs(capsys, frozen_correct, named):
    """A clear winner is named alone; without one, the strategies that can't be separated are named too."""
    correct = {"phased": np.ones(64, bool), "frozen": np.arange(64) < frozen_correct}
    runs = tuple(
        Run(name, seed, np.ones(64, int), right.astype(int), 1.0, {})
        for seed in range(3)
        for name, right in correct.items()
    )
    output = Output("train")
    results.show_result(runs[0], output, lambda: Comparison(runs))
    assert re.findall("phased|frozen", capsys.readouterr().out.splitlines()[-1]) == named
    assert re.findall("phased|frozen", output.result["recommendation"]) == named


def test_the_curve_is_printed_and_drawn(monkeypatch, capsys, tmp_path):
    """Strategies by texts, accuracy on texts with words that have a vector and that no training text has, and a figure."""
    pytest.importorskip("matplotlib")
    from embkeras.app import pipeline

    right = {"frozen": [1, 1, 1, 0], "stock Keras": [1, 0, 0, 0], "shared map": [1, 1, 1, 1]}
    runs = [pipeline.Run(name, 0, np.ones(4, int), np.array(each), 1.0, {}) for name, each in right.items()]
    seen = {}

    def fake(build, data, *, strategies, **more):
        model = build(strategies[1])
        seen.update(
            layer=type(model.get_layer("embedding")), optimizer=type(model.optimizer), rate=strategies[1].learning_rate
        )
        return LearningCurve((1, 1, 1, 2, 2, 2), (*runs, *runs))

    monkeypatch.setattr(pipeline, "learning_curve", fake)
    aligned = ek.AlignedMatrix(np.eye(4, dtype="float32"), ek.Vocabulary(["", "[UNK]", "read", "new"]))
    train, test = np.array([[2], [2]]), np.array([[2, 0], [2, 2], [2, 3], [1, 1]])
    part = (test, np.ones(4, int))
    prepared = SimpleNamespace(aligned=aligned, vocabulary=aligned.vocabulary, class_names=("a", "b"))
    vars(prepared).update(train=(train, np.zeros(2, int)), validation=part, test=part)
    output = Output("demo")
    settings = pipeline.Settings(architecture="mean")
    curve = pipeline._show_curve(prepared, pipeline.strategies_of(settings), (), settings, output, (0.5, 1))
    printed = capsys.readouterr().out
    assert ["2", "75.0", "25.0", "100.0"] in [line.split() for line in printed.splitlines()]
    assert (
        "On the 1 test texts with words that no training text has: frozen 100.0%, stock Keras 0.0%, shared" in printed
    )
    assert seen == {"layer": keras.layers.Embedding, "optimizer": keras.optimizers.Adam, "rate": 1e-3}
    assert output.result["unseen_words"] == {"frozen": 1.0, "stock Keras": 0.0, "shared map": 1.0}
    assert curve.runs == (*runs, *runs)


def test_picture_has_no_empty_part(tmp_path):
    """Training; a map of words only where some moved; the learning curve only where there is one."""
    runs = [pipeline.Run("map", seed, np.ones(4, int), np.ones(4, bool), 1.0, {}) for seed in (0, 1)]
    still, moving = (
        ek.drift_report(np.eye(3), after, ["a", "b", "c"], counts=[9, 9, 1]) for after in (np.eye(3), 1 - np.eye(3))
    )
    widths = {}
    for name, report, curve in (
        ("1", still, None),
        ("2", moving, None),
        ("3", moving, LearningCurve((1, 2), tuple(runs))),
    ):
        training = SimpleNamespace(history={"accuracy": [0.5, 0.9]})
        picture = pipeline._draw(training, report, pipeline.Settings(), tmp_path, print, curve)
        widths[name] = int.from_bytes(picture.read_bytes()[16:20], "big")
    assert widths == {"1": 660, "2": 1320, "3": 1980}


def test_train_is_silent_on_standard_error(trained):
    """No warnings and no start-up messages."""
    assert trained[1] == ""


def test_train_leaves_export_and_picture(trained):
    """The model folder contains version 1, server settings and the figure, and nothing half-written."""
    settings = ["batching.config", "compose.yaml", "models.config"]
    assert sorted(path.name for path in trained[2].iterdir()) == ["1", *settings, "training.png"]


def test_export_says_how_it_was_trained(trained):
    """Data, settings, phases, result and drift are in the README of the export and in metadata.json."""
    folder = trained[2] / "1"
    metadata = json.loads((folder / "assets" / "metadata.json").read_text("ascii"))
    assert list(metadata) == [
        "Data",
        "Training",
        "Schedule of the table",
        "Result on the test texts",
        "Drift of the table",
    ]
    assert [phase["first_epoch"] for phase in metadata["Schedule of the table"]] == [0, 1]
    assert all(f"## {title}" in (folder / "README.md").read_text() for title in metadata)


@pytest.fixture
def bars(monkeypatch):
    """The names of the bars that a terminal would show, with how much each said was done at the end."""
    seen = {}

    class Bar(_progress.Bar):
        """Notes what it is told."""

        def __call__(self, done, total):
            """Note it."""
            seen[self._name] = (done, total)

    monkeypatch.setattr(_progress, "Bar", Bar)
    monkeypatch.setattr("embkeras.app.output.shown", lambda choice: _progress.shown(True))
    return seen


def test_json_of_a_training_and_its_export(files, tmp_path, capsys, bars):
    """Figures and paths of train, check and predict; the epoch with the smallest validation loss was kept."""
    flags = "--epochs 9 --patience 1 --learning-rate 2 --batch-size 16 --max-length 3 --dropout 0.1 --json "
    flags += "--strategy shared-map --rescale 0.2"
    assert cli.main(train(files, tmp_path / "out", *flags.split())) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert f"Best epoch: {found['best_epoch']} of 0 to {found['epochs'] - 1}, " in printed.err
    assert "standard deviation of 0.2, a map of all rows and each row trained from the start" in printed.err
    assert "; 3 tokens per text" in printed.err and "learning rate 1" in printed.err and "\n4/4 - " in printed.err
    assert "The first epoch took " in printed.err
    losses = [float(loss) for loss in re.findall(r"val_loss: (\S+)", printed.err)]
    assert len(losses) == found["epochs"] and losses[found["best_epoch"]] == min(losses)
    assert found["test"]["texts"] == 12 and found["test"]["largest_class"] == 0.5 and 0 <= found["test"]["f1"] <= 1
    assert found["model"] == str(tmp_path / "out" / "1") and found["figure"] == str(tmp_path / "out" / "training.png")
    assert found["drift"]["moved"] > 0 and 0.5 < found["coverage"]["types"] < 1
    assert cli.main(["check", found["model"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert cli.main(["predict", found["model"], "great lovely", "--json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["text"] == "great lovely" and prediction["label"] in ("up", "down")
    assert bars["aligning"][1] == 2 * len(ek.Vocabulary.load(tmp_path / "out" / "1" / "assets" / "vocabulary.json"))
    assert bars["exporting"] == (2, 3) and bars["predicting"] == (1, 1)
    assert cli.main(["check", found["model"], "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_predict_labels_each_text(trained, capsys):
    """One line per text, with a label and a probability."""
    assert cli.main(["predict", str(trained[2]), "great lovely", ""]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[0] in ("up", "down") and lines[0].endswith("great lovely")


def test_predict_a_file(trained, files, tmp_path, capsys, bars):
    """A row for each text in the order of the file, and one line about it; a second time needs --overwrite."""
    out = tmp_path / "scores.csv"
    line = ["predict", str(trained[2]), "--file", str(files / "reviews.csv"), "--text", "review", "--out", str(out)]
    assert cli.main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["texts"], bars["predicting"]) == (str(out), 80, (80, 80))
    asked, answered = (list(csv.DictReader(path.open(newline=""))) for path in (files / "reviews.csv", out))
    assert [row["text"] for row in answered] == [row["review"] for row in asked]
    assert {row["label"] for row in answered} == {"up", "down"} and float(answered[0]["probability"]) >= 0.5
    assert cli.main(line) == 2
    assert "already exists. Pass --overwrite" in capsys.readouterr().err
    assert cli.main([*line, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "predict takes texts, or --file FILE with --out OUT"),
        (["text", "--out", "o.csv"], "predict takes texts, or --file FILE with --out OUT"),
        (["--file", "reviews.csv"], "predict takes texts, or --file FILE with --out OUT"),
        (["text", "--file", "reviews.csv", "--out", "o.csv"], "predict takes texts, or --file FILE"),
        (["--file", "absent.csv", "--out", "o.csv"], "absent.csv': there is no such file"),
        (["--file", "reviews.csv", "--out", "o.csv"], "to read: --text. Columns: 'stars', 'review'"),
        (["--file", "reviews.csv", "--text", "body", "--out", "o.csv"], "no column 'body'"),
        (["--file", "reviews.csv", "--text", "review", "--out", "o.xls"], "one of .csv, .tsv, "),
        (["--file", "reviews.csv", "--text", "review", "--out", "vectors.txt/o.csv"], "Cannot write"),
    ],
)
def test_what_predict_refuses_before_tensorflow_starts(trained, files, monkeypatch, capsys, more, said):
    """One line each, and nothing is written."""
    monkeypatch.chdir(files)
    monkeypatch.setattr("embkeras.app.commands._start_tensorflow", lambda output=None: pytest.fail("it was started"))
    assert cli.main(["predict", str(trained[2]), *more]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(path.name for path in files.iterdir()) == ["reviews.csv", "vectors.txt"]


@pytest.mark.parametrize("command", ["demo", "train", "predict"])
def test_help_shows_an_example(command, capsys):
    """`--help` ends with an example command."""
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"Example:\n  embkeras {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"file": "absent.csv"}, r"absent\.csv.*there is no such file"),
        ({"text": "reviews"}, r"no column 'reviews'\. Columns: 'stars', 'review'"),
        ({"label": "review"}, r"reviews\.csv.*labels in 80 rows"),
        ({"vectors": "absent.txt"}, r"absent\.txt.*there is no such file"),
        ({"vectors": "reviews.csv"}, r"reviews\.csv'.*stars.*review"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files, tmp_path, capsys, changed, said):
    """What is wrong and where, without a traceback."""
    assert cli.main(train(files, tmp_path / "out", **changed)) == 2
    error = capsys.readouterr().err
    assert error.startswith("embkeras train: ") and error.count("\n") == 1
    assert re.search(said, error)


def test_unwritable_output_is_found_before_training(files, tmp_path, capsys):
    """The folder is checked before training, not after it."""
    (tmp_path / "file").write_text("in the way")
    assert cli.main(train(files, tmp_path / "file" / "out")) == 2
    printed = capsys.readouterr()
    assert "Cannot write" in printed.err and "Epoch" not in printed.out


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--unfreeze-at", "2", "epochs 0 to 1 (counted from 0). Received: 2"),
        ("--unfreeze-at", "-1", "Received: -1"),
        ("--epochs", "0", "epochs must be an integer >= 1. Received: 0"),
        ("--seeds", "0", "seeds must be an integer >= 1. Received: 0"),
    ],
)
def test_bad_settings_are_one_line(files, tmp_path, capsys, option, value, said):
    """Settings are checked before anything is read."""
    assert cli.main(train(files, tmp_path / "out", "--compare", option, value)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict"], "the following arguments are required: path"),
        (["train", "x.csv", "--out", "o"], "one of the arguments --vectors --encoder is required"),
        (
            ["train", "x.csv", "--out", "o", "--vectors", "v", "--encoder", "e"],
            "--encoder: not allowed with argument --vectors",
        ),
        (["demo", "--architecture", "gru"], "invalid choice: 'gru'"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)
def test_bad_arguments_are_one_line(arguments, said, capsys):
    """A mistyped command: one line with what is missing, exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_seeds_without_a_comparison_are_refused(files, tmp_path, capsys):
    """A flag without effect is refused, not ignored."""
    assert cli.main(train(files, tmp_path / "out", "--seeds", "2")) == 2
    assert "add --compare" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["scipy.stats", "sklearn.metrics"])
def test_comparison_without_its_extra_is_refused_before_training(files, tmp_path, capsys, monkeypatch, module):
    """A missing package is reported at once, with the extra that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(train(files, tmp_path / "out", "--compare")) == 2
    printed = capsys.readouterr()
    assert "embkeras[compare]" in printed.err and printed.out == ""


def test_bad_input_leaves_no_folder(files, tmp_path):
    """The model folder is created only when there is something to write."""
    assert cli.main(train(files, tmp_path / "out", vectors="absent.txt")) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo", "--quick"], (10, 2, 1)),
        (["demo", "--quick", "--epochs", "6", "--seeds", "4"], (6, 2, 4)),
        (["demo", "--epochs", "2"], (2, 1, 3)),
        (["demo", "--epochs", "9", "--unfreeze-at", "4"], (9, 4, 3)),
    ],
)
def test_options_given_are_kept(arguments, expected):
    """Flags given by the user win over --quick and over the defaults."""
    settings = commands.settings_of(parser().parse_args(arguments))
    assert (settings.epochs, settings.unfreeze_at, settings.seeds) == expected


def test_characters_missing_from_the_terminal(trained, monkeypatch):
    """An ASCII terminal gets a question mark instead of a traceback."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["predict", str(trained[2]), "great \u2665"]) == 0
    assert terminal.buffer.getvalue().strip().endswith(b"great ?")


def test_other_backend_is_one_line(files, tmp_path):
    """Another Keras backend is refused before any work."""
    command = ("-m", "embkeras", *train(files, tmp_path / "out"))
    done = run_python(*command, env={"KERAS_BACKEND": "jax"}, returncode=2)
    assert done.stderr.startswith("embkeras train: ") and done.stderr.count("\n") == 1
    assert "TensorFlow" in done.stderr and "KERAS_BACKEND='jax'" in done.stderr


@THOROUGH
@pytest.mark.skipif(os.name != "posix", reason="file size limits are Unix")
def test_full_disk_during_export_is_one_line(files, tmp_path):
    """TensorFlow's error for a full disk becomes one line, and no partial version is left."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); import signal; "
    code += (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from embkeras.app import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    done = run_python("-c", code, *train(files, tmp_path / "out"), returncode=2, timeout=280)
    assert done.stderr.startswith("embkeras train: Cannot write") and done.stderr.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_predict_without_a_model_is_one_line(tmp_path, capsys):
    """The message names the folder without an export."""
    assert cli.main(["predict", str(tmp_path), "text"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_vectors_of_another_language_are_refused(files, tmp_path, capsys):
    """A vector file that contains no word of the texts is an error, although its own words get a row."""
    (tmp_path / "other.txt").write_text("der 0.5 1.5\ndie 1.5 2.5\n")
    arguments = train(files, tmp_path / "out")
    arguments[arguments.index("--vectors") + 1] = str(tmp_path / "other.txt")
    assert cli.main(arguments) == 2
    assert re.search(r"other\.txt.*none of the words.*'der', 'die'", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--version"], "embkeras 0."), (["demo", "--out", ""], "must name a folder")]
)
def test_version_and_empty_folder(arguments, said, capsys):
    """`--version` prints the version; an empty --out is not the current folder."""
    with pytest.raises(SystemExit):
        cli.main(arguments)
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_check_of_a_good_and_a_damaged_export(tmp_path, capsys):
    """Exit code 0 with one line, then 2 with one line."""
    vocabulary = ek.Vocabulary.from_texts(["good day", "bad day"])
    aligned = ek.AlignedMatrix(np.random.default_rng(0).normal(size=(len(vocabulary), 4)), vocabulary)
    ek.export_saved_model(ek.build_classifier(aligned, 2, architecture="mean"), tmp_path, vocabulary=vocabulary)
    assert cli.main(["check", str(tmp_path)]) == 0
    assert "all checks passed; 5 tokens, ids outside the table: oov" in capsys.readouterr().out
    (tmp_path / "1" / "saved_model.pb").unlink()
    assert cli.main(["check", str(tmp_path)]) == 2
    assert re.search("^embkeras check: .*saved_model.pb", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("It exists. Pass overwrite=True.", "It exists. Pass --overwrite."),
        ("Pass quotes=False or skip_empty=True", "Pass --no-quotes or --skip-empty"),
        ("Choose one with text=, label=.", "Choose one with --text, --label."),
        ('Pass header=False, width=3 or header="ignore"', 'Pass --header no, --width 3 or --header "ignore"'),
        ("column='x', no=True, 'a/text=b'", "--column 'x', no=True, 'a/text=b'"),
    ],
)
def test_flags_replace_arguments_in_messages(message, printed):
    """The library names the argument, the command its flag; other text is unchanged."""
    names = ("overwrite", "quotes", "skip_empty", "text", "label", "column", "header", "width")
    assert cli._with_flags(message, Namespace(**dict.fromkeys(names))) == printed
