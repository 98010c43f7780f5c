"""The commands on vector files: convert, inspect, coverage. They don't import TensorFlow."""

import json
import re

import pytest

from embkeras import load_vectors
from embkeras.app import cli
from tests.processes import run_python

VECTORS = "cat 3 4\ndog 0 0\nnew york 1 1\n"


@pytest.fixture
def files(tmp_path):
    """Vectors, a text in two formats, and a vector file with a wrong header."""
    (tmp_path / "v.txt").write_text(VECTORS)
    (tmp_path / "lie.vec").write_text("9 2\n" + VECTORS)
    (tmp_path / "text.txt").write_text("The #cat, the cat\n\nsat: Dog\n")
    (tmp_path / "text.csv").write_text('id,review\n1,"cat, dog"\n2,wolf\n')
    return tmp_path


def run(files, *arguments):
    """The exit code of a command; file names are relative to the folder."""
    return cli.main(
        [str(files / each) if (files / each).exists() or each.startswith("out") else each for each in arguments]
    )


def test_convert(files, capsys):
    """The file is written, and one line describes it."""
    assert run(files, "convert", "v.txt", "out.vec") == 0
    assert re.search(r"out\.vec: 3 words, width 2, from glove\n$", capsys.readouterr().out)
    assert load_vectors(files / "out.vec").words == ["cat", "dog", "new york"]


def test_convert_overwrites_only_with_the_flag(files, capsys):
    """Without --overwrite an existing file is kept."""
    assert run(files, "convert", "v.txt", "out.npy", "--limit", "2") == 0
    assert run(files, "convert", "v.txt", "out.npy") == 2
    error = capsys.readouterr().err
    assert "out.npy" in error and "--overwrite" in error and "overwrite=" not in error
    assert len(load_vectors(files / "out.npy")) == 2
    assert run(files, "convert", "v.txt", "out.npy", "--overwrite") == 0
    assert len(load_vectors(files / "out.npy")) == 3


@pytest.mark.parametrize(
    "line",
    [
        r"File: .*v\.txt \(29 bytes\)",
        "Format: glove",
        "Rows: 3, width 2; as float32 24 bytes of memory",
        "Header: none",
        "Norms: 0 to 5, mean 2.138; rows of zeros: 1",
        r"Words with a space: 1 \('new york'\)",
        "First words: 'cat', 'dog', 'new york'",
    ],
)
def test_inspect(files, capsys, line):
    """The report."""
    assert run(files, "inspect", "v.txt") == 0
    assert re.search(f"^{line}$", capsys.readouterr().out, re.MULTILINE)


def test_inspect_of_a_wrong_header(files, capsys):
    """The report, then the fault, with the exit code for bad input."""
    assert run(files, "inspect", "lie.vec") == 2
    printed = capsys.readouterr()
    assert "Header: 9 rows of width 2: wrong, there are 3" in printed.out
    assert printed.err.startswith("embkeras inspect: ") and printed.err.count("\n") == 1


def test_coverage_of_lines(files, capsys):
    """Coverage by type and token, words found by fallbacks, and the most frequent missing words."""
    assert run(files, "coverage", "v.txt", "--text", "text.txt") == 0
    printed = capsys.readouterr().out
    assert "Coverage of the text: 42.9% of the vocabulary, 37.5% of the running text" in printed
    assert "hashtag: 1 (#cat -> cat)" in printed
    assert "Most frequent words missing from the vectors: the (2)" in printed


def test_coverage_cut_at_spaces(files, capsys):
    """Tokens are kept as they are: "cat," is not "cat"."""
    assert run(files, "coverage", "v.txt", "--text", "text.txt", "--split", "spaces") == 0
    assert "lower: 1 (Dog -> dog)" in capsys.readouterr().out


def test_coverage_of_a_column(files, capsys):
    """One column of a CSV is read."""
    assert run(files, "coverage", "v.txt", "--text", "text.csv", "--column", "review") == 0
    assert "Coverage of the text: 50.0% of the vocabulary" in capsys.readouterr().out


TUNED = "dog 1 1\ncat 3 4\nnew york -1 1\nbird 1 0\n"


def test_drift_of_two_files(files, capsys):
    """Words are matched, whatever their order; figures, pairs, a picture and the projector's files."""
    (files / "tuned.txt").write_text(TUNED)
    (files / "pairs.txt").write_text("cat\tdog\t3\ncat\tbird\t1\ncat\tnew york\t2\n")
    arguments = ["v.txt", "tuned.txt", "--pairs", "pairs.txt", "--json"]
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    assert run(files, "drift", *arguments, "--out", "out.png", "--projector", "out") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["words"] == 3 and found["drift"]["moved"] == 2 and found["drift"]["max_cosine_distance"] == 1
    assert found["neighbours"]["sampled"] is False
    (similarity,) = found["similarity"].values()
    assert similarity == pytest.approx({"before": -1, "after": 1, "found": 2, "pairs": 3})
    assert (files / "out.png").read_bytes().startswith(b"\x89PNG")
    assert (files / "out" / "before.tsv").read_text() == "0\t0\n3\t4\n1\t1\n"


def test_drift_is_printed(files, capsys):
    """Rows that moved, the largest moves, and neighbours that were kept."""
    (files / "tuned.txt").write_text(TUNED)
    assert run(files, "drift", "v.txt", "tuned.txt") == 0
    printed = capsys.readouterr().out
    assert "Words in both: 3\n" in printed and "Rows moved: 2 of 3" in printed
    assert "nearest neighbours before" in printed and "did not move" in printed


@pytest.mark.parametrize("command", ["convert", "inspect", "coverage", "drift"])
def test_help_shows_an_example(command, capsys):
    """`--help` ends with an example command."""
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"Example:\n  embkeras {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "absent.txt"], "there is no such file"),
        (["inspect", "text.csv"], "the columns 'id', 'review'"),
        (["inspect", "v.txt", "--format", "bin"], "Received: 'bin'"),
        (["convert", "v.txt", "out.dat"], "from the name 'out.dat'"),
        (["convert", "v.txt", "out.vec", "--limit", "0"], "limit must be an integer >= 1. Received: 0"),
        (["convert", "absent.txt", "out.vec"], "there is no such file"),
        (["coverage", "v.txt", "--text", "absent"], "Cannot read 'absent': there is no such file"),
        (["coverage", "v.txt", "--text", "text.csv"], "Columns: 'id', 'review'"),
        (["coverage", "v.txt", "--text", "text.csv", "--column", "x"], "has no column 'x'"),
        (["coverage", "v.txt", "--text", "text.txt", "--column", "x"], "--column 'x'"),
        (["coverage", "v.txt", "--text", "v.txt", "--text-encoding", "klingon"], "klingon"),
        (["drift", "v.txt", "absent.txt"], "there is no such file"),
        (["drift", "v.txt", "v.txt", "--out", "out.doc"], ".png, .pdf, .svg. Received: "),
        (["drift", "v.txt", "v.txt", "--pairs", "text.csv"], "text.csv', line 1: expected two words and a score"),
        (["drift", "v.txt", "v.txt", "--projector", "text.txt"], "text.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files, capsys, arguments, said):
    """What is wrong and where, without a traceback; no file is left behind."""
    before = sorted(files.iterdir())
    assert run(files, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"embkeras {arguments[0]}: ") and error.count("\n") == 1
    assert said in error
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "v.txt"], "the following arguments are required: out"),
        (["coverage", "v.txt"], "the following arguments are required: --text"),
        (["inspect", "v.txt", "--limit", "x"], "unrecognized arguments: --limit x"),
    ],
)
def test_bad_arguments_are_one_line(arguments, said, capsys):
    """A mistyped command: one line with what is missing, exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "v.txt", "out.vec"],
        ["inspect", "v.txt"],
        ["coverage", "v.txt", "--text", "text.txt"],
        ["drift", "v.txt", "v.txt"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_they_start_without_tensorflow(files, arguments):
    """Neither TensorFlow nor Keras is loaded or mentioned."""
    code = "import sys; from embkeras.app import cli; code = cli.main(sys.argv[1:]); "
    code += "print(sorted({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))); sys.exit(code)"
    done = run_python("-c", code, *arguments, cwd=files)
    assert done.stderr == ""
    assert done.stdout.endswith("\n[]\n") and "TensorFlow" not in done.stdout


def test_repeated_words_are_one_line(files, capsys):
    """A warning is one line too."""
    (files / "twice.txt").write_text("a 1 2\na 3 4\n")
    code = "import sys; from embkeras.app import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = run_python("-c", code, "convert", "twice.txt", "out.vec", cwd=files)
    assert done.stderr.startswith("embkeras convert: warning: 'twice.txt'") and done.stderr.count("\n") == 1


def test_flags_decide_how_rows_are_read(files, capsys):
    """Words that end in numbers, a header that counts wrong, a tab after the word."""
    (files / "odd.txt").write_text("web 2.0 0.1 0.2\nthe 0.3 0.4 0.5\n")
    assert run(files, "convert", "odd.txt", "out.npy", "--width", "2", "--header", "no") == 0
    assert load_vectors(files / "out.npy").words == ["web 2.0", "the 0.3"]
    (files / "tab.txt").write_text("new york\t1 2\ncat\t3 4\n")
    assert run(files, "convert", "tab.txt", "out.npy", "--separator", "tab+space", "--overwrite") == 0
    assert load_vectors(files / "out.npy").words == ["new york", "cat"]
    capsys.readouterr()
    code = "import sys; from embkeras.app import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = run_python("-c", code, "convert", "lie.vec", "out.vec", "--header", "ignore", cwd=files)
    assert done.stderr.startswith("embkeras convert: warning: 'lie.vec'") and done.stderr.count("\n") == 1
    assert len(load_vectors(files / "out.vec")) == 3


def test_the_flag_is_named(files, capsys):
    """A refusal of a header that counts wrong names the command's flag."""
    assert run(files, "convert", "lie.vec", "out.vec") == 2
    error = capsys.readouterr().err
    assert "--header " in error and "header=" not in error
