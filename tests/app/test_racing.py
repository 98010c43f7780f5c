"""`embkeras compare`, and `embkeras train --strategy auto`."""

import json
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

from embkeras.app import cli, pipeline, racing
from embkeras.app.arguments import parser
from embkeras.app.output import Output
from embkeras.app.settings import SETS, STRATEGIES, Settings, settings_of
from embkeras.experiments import race
from embkeras.experiments import strategies as library
from embkeras.experiments.advice import Advice
from embkeras.experiments.results import MEASURES, Record
from tests.app.conftest import train_arguments
from tests.experiments.test_advice import records
from tests.processes import run_python
from tests.variants import THOROUGH

TIE = Advice((*records("fine-tuned", [0.71, 0.7], [0.6] * 2, size=2), *records("frozen", [0.7, 0.71], [0.5] * 2)))


def compare(files, out, *more):
    """The arguments of `embkeras compare` on the small files."""
    few = ("--set", "small", "--seeds", "2", "--epochs", "1", "--batch-size", "64")
    return ["compare", *train_arguments(files, out)[1:], *few, *more]


@pytest.fixture(scope="module")
def compared(files, tmp_path_factory):
    """The folder of a comparison, which trains each strategy once: other seeds get the same record, for the time it takes."""
    out, real, known = tmp_path_factory.mktemp("compared") / "out", race.train_once, {}

    def once(job):
        name = job.strategy.name
        known[name] = known.get(name) or real(job)
        return replace(known[name], seed=job.seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "train_once", once)
        assert cli.main(compare(files, out, "--quiet")) == 0
    return out


@pytest.fixture
def no_training(monkeypatch):
    """A test that trains fails."""
    monkeypatch.setattr(race, "train_once", lambda job: pytest.fail(f"{job} was trained"))


def test_a_finished_comparison_is_read_from_its_folder(compared, files, no_training, capsys):
    """Profile, rounds, table and advice are printed, and all is written again; nothing is trained twice."""
    pytest.importorskip("matplotlib")
    assert cli.main(compare(files, compared)) == 0
    printed = capsys.readouterr().out
    assert "Labels unlike those of the 20 nearest" in printed and "Round 1: frozen, fine-tuned, shared map" in printed
    assert printed.count("(from the file)") == 7 == len((compared / "runs.jsonl").read_text().splitlines())
    assert "trained" in printed and "Test accuracy of " in printed
    assert "To train it: embkeras train, with the same --vectors, and --strategy " in printed
    assert f"Report: {compared / 'report.html'}" in printed
    names = ["comparison.json", "comparison.png", "report.html", "runs.jsonl"]
    assert sorted(path.name for path in compared.iterdir()) == names
    page = (compared / "report.html").read_text("utf-8")
    assert "reviews.csv" in page and "<h2>Data</h2>" in page and "Strategies" in page


def test_json_has_what_a_rerun_needs(compared, files, no_training, capsys):
    """Arguments, settings, versions and vectors, in the file; results and paths on standard output too."""
    assert cli.main(compare(files, compared, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    saved = json.loads((compared / "comparison.json").read_text())
    assert printed["advice"] == saved["advice"] and printed["report"] == str(compared / "report.html")
    assert saved["profile"]["parts"]["train"]["texts"] == 56
    rerun = saved["rerun"]
    assert rerun["arguments"]["file"] == str(files / "reviews.csv") and rerun["arguments"]["set"] == "small"
    assert rerun["settings"]["epochs"] == 1 and rerun["settings"]["seeds"] == 2
    assert rerun["vectors"].startswith("AlignedMatrix ") and {"embkeras", "tensorflow"} <= set(rerun["versions"])
    assert saved["advice"]["settings"]["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--dropout", "0.2"), "runs.jsonl', line 1 belongs to other settings or vectors. Give another --out"),
        (("--rescale", "0.5"), "runs.jsonl', line 1 belongs to other settings or vectors. Give another --out"),
        (("--max-length", "3"), "runs.jsonl', line 1 belongs to other data and other settings"),
    ],
)
def test_runs_of_something_else_are_refused(compared, files, no_training, capsys, more, said):
    """Settings that the model is built with, and the vectors, belong to a run as its data do."""
    before = (compared / "comparison.json").read_bytes()
    assert cli.main(compare(files, compared, *more)) == 2
    assert said in capsys.readouterr().err
    assert (compared / "comparison.json").read_bytes() == before


def test_runs_on_other_vectors_are_refused(compared, files, tmp_path, no_training, capsys):
    """Of the same words, so that the ids of the texts are the same."""
    (tmp_path / "v.txt").write_text((files / "vectors.txt").read_text().replace("0.", "1."))
    assert cli.main(compare(files, compared, "--vectors", str(tmp_path / "v.txt"))) == 2
    assert "belongs to other settings or vectors." in capsys.readouterr().err


@pytest.mark.parametrize("module", ["scipy.stats", "sklearn.metrics"])
def test_missing_packages_are_refused_before_training(files, tmp_path, capsys, monkeypatch, module):
    """With the extra that installs them."""
    monkeypatch.setitem(sys.modules, module, None)
    for arguments in (compare(files, tmp_path / "o"), train_arguments(files, tmp_path / "o", "--strategy", "auto")):
        assert cli.main(arguments) == 2
        printed = capsys.readouterr()
        assert "embkeras[compare]" in printed.err and printed.out == ""


def test_sets_are_those_of_the_library():
    """And `train` can train what `auto` races."""
    assert (*library.SETS, "all") == SETS
    assert set(STRATEGIES.values()) <= set(library.default_strategies())


def test_rates_of_all_strategies():
    """Half the rate where the table trains from the start."""
    found = pipeline.strategies_of(Settings(), "all")
    assert [name for name, each in found.items() if each.learning_rate is None] == ["phased", "frozen"]
    assert found["LoRA"].learning_rate == 0.001 and list(found) == list(library.default_strategies(which="all"))


@pytest.mark.parametrize(
    ("flags", "seeds"), [("", 5), ("--seeds 2", 2), ("--unfreeze-at 2 --max-minutes 9", 5)], ids=["", "seeds", "phased"]
)
def test_settings_of_auto(flags, seeds):
    """No strategy yet, and seeds of a final round."""
    line = f"train t.csv --vectors v --out o --strategy auto {flags}"
    settings = settings_of(parser().parse_args(line.split()))
    assert settings.strategy is None and settings.seeds == seeds


def test_auto_trains_what_is_recommended(files, tmp_path, monkeypatch, capsys):
    """It trains the cheapest of a tie and says so; the card says why, and the runs are removed once the model is there."""
    asked, trained = [], []

    def raced(build, data, *, strategies, **more):
        asked.append([each.name for each in strategies])
        more["results"].parent.mkdir()
        more["results"].touch()
        return TIE

    def run(prepared, out, settings, output, **how):
        assert (tmp_path / "out" / "runs.jsonl").exists()
        trained.append((settings.strategy, how["compare"], how["choice"]))

    monkeypatch.setattr(racing, "race_strategies", raced)
    monkeypatch.setattr(pipeline, "run", run)
    assert cli.main(train_arguments(files, tmp_path / "out", "--strategy", "auto")) == 0
    assert asked == [["phased", "frozen", "fine-tuned", "shared map"]]
    assert trained == [("frozen", False, TIE.text)] and "A tie: fine-tuned, frozen" in TIE.text
    assert "\nStrategy: frozen, the cheapest of 2 that can't be told apart\n" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[::2] == ["comparison.json", "report.html"]


def test_without_a_recommendation_the_default_is_trained(capsys):
    """As where the time was up before the final round; with a warning, even if the command is quiet."""
    settings = Settings(architecture="lstm")
    assert racing.chosen(Advice((), note="The time was up."), settings, Output("train", quiet=True)) == settings
    error = capsys.readouterr().err
    assert error.startswith("embkeras train: warning: ") and "phased is trained" in error and "time was up" in error


@pytest.mark.parametrize(("flags", "seeds"), [("--folds 3", 1), ("--folds 3 --seeds 2", 2)])
def test_settings_of_folds(flags, seeds):
    """One deal by default, which is as many trainings as folds."""
    settings = settings_of(parser().parse_args(f"compare t.csv --vectors v --out o {flags}".split()))
    assert (settings.folds, settings.seeds) == (3, seeds)


def test_folds_of_all_texts(files, tmp_path, monkeypatch, capsys):
    """Each part tests once; what was measured is nested; all is written beside runs of other folds."""
    texts, unchanged = [], []

    def once(job):
        data = job.data.fold(job.fold, job.folds, job.seed)
        texts.append([len(part[1]) for part in (data.train, data.validation, data.test)])
        unchanged.append(job.fit["keep"])
        right = data.labels > 0
        return Record(job.strategy.name, job.seed, job.fold, right, right, dict.fromkeys(MEASURES, 0.5))

    monkeypatch.setattr(race, "train_once", once)
    assert cli.main(compare(files, tmp_path / "out", "--folds", "4", "--json")) == 0
    printed = capsys.readouterr()
    assert "in the final round at most 8 trainings of each, one a fold" in printed.err
    assert set(map(tuple, texts)) == {(40, 20, 20)} and set(unchanged) == {None}
    advice = json.loads(printed.out)["advice"]
    assert advice["folds"] == 4 and "Test accuracy of what each fold's validation texts chose" in advice["text"]


@pytest.mark.parametrize(
    ("seconds", "flags", "names"),
    [
        (60.0, "--max-minutes 4", ["frozen", "fine-tuned", "shared map"]),
        (60.0, "--max-minutes 4 --architecture lstm", ["frozen", "phased", "fine-tuned"]),
        (0.01, "--max-minutes 4", ["frozen", "phased", "fine-tuned", "shared map", "random"]),
        (60.0, "--max-minutes 4 --set default", ["phased", "frozen", "fine-tuned", "shared map", "random"]),
    ],
    ids=["short", "lstm", "long", "asked for"],
)
def test_the_set_fits_the_time(files, tmp_path, monkeypatch, capsys, seconds, flags, names):
    """One training shows how long they take; it belongs to the race."""
    trained = []

    def once(job):
        trained.append(job.key)
        right = np.random.default_rng(0).random(12) < 0.5
        measures = dict.fromkeys(MEASURES, 0.5) | {"seconds": seconds}
        return Record(job.strategy.name, job.seed, 0, right, right, measures)

    monkeypatch.setattr(race, "train_once", once)
    monkeypatch.setattr(racing, "save", lambda *_: None)
    line = [each for each in compare(files, tmp_path / "out") if each not in ("--set", "small")]
    assert cli.main([*line, *flags.split()]) == 0
    said = "One training takes about 60 seconds, so in 4 minutes only frozen, fine-tuned, shared map are compared"
    assert (said in capsys.readouterr().out) == (len(names) == 3 and "lstm" not in flags)
    first_round = [name for name, seed, _ in trained if seed == 2]
    assert first_round == names and len(set(trained)) == len(trained)


@THOROUGH
def test_a_killed_comparison_continues(files, tmp_path, monkeypatch):
    """After kill -9 in the third training, the next process trains what is missing, with the answer of an unbroken one."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    lines = """
        import os, signal, sys
        from embkeras.app import cli
        from embkeras.experiments import race
        real, done = race.train_once, []
        def dying(job):
            if len(done) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(job)
            return real(job)
        race.train_once = dying
        cli.main(sys.argv[1:])
    """
    run_python("-c", lines, *compare(files, out), returncode=-signal.SIGKILL)
    assert len((out / "runs.jsonl").read_text().splitlines()) == 2
    assert [path.name for path in out.iterdir()] == ["runs.jsonl"]
    trained, real = [], race.train_once
    monkeypatch.setattr(race, "train_once", lambda job: trained.append(job.key) or real(job))
    assert cli.main(compare(files, out)) == 0
    again = list(trained)
    trained.clear()
    assert cli.main(compare(files, whole)) == 0
    assert again == trained[2:]
    texts = [json.loads((folder / "comparison.json").read_text())["advice"]["text"] for folder in (out, whole)]
    assert texts[0] == texts[1]


def test_a_learning_curve(compared, files, monkeypatch, capsys):
    """Runs on all texts are those of the race; the curve is printed, drawn, and part of the page and of the JSON file."""
    trained = []

    def once(job):
        trained.append((job.strategy.name, job.seed, round(1 / job.share)))
        right = np.random.default_rng(job.seed).random(12) < 0.5 + 0.3 * job.share
        return Record(job.strategy.name, job.seed, 0, right, right, dict.fromkeys(MEASURES, 0.5), share=job.share)

    monkeypatch.setattr(race, "train_once", once)
    before = (compared / "runs.jsonl").read_text()
    try:
        assert cli.main(compare(files, compared, "--curve", "--json")) == 0
    finally:
        (compared / "runs.jsonl").write_text(before)
        (compared / "learning_curve.png").unlink(missing_ok=True)
    printed = capsys.readouterr()
    assert {each[0] for each in trained} >= {"frozen", "fine-tuned"}
    assert {each[1:] for each in trained if each[0] == "frozen"} >= {
        (seed, of) for seed in (0, 1) for of in (16, 8, 4, 2)
    }
    assert "Learning curve: frozen, " in printed.err and "on 1/16, 1/8, 1/4, 1/2, all of the training" in printed.err
    found = json.loads((compared / "comparison.json").read_text())["learning_curve"]
    assert found == json.loads(printed.out)["learning_curve"] and found["pays_from"].keys() >= {"fine-tuned"}
    page = (compared / "report.html").read_text("utf-8")
    assert "<h2>Learning curve</h2>" in page and "Ahead of frozen" in page and "can&#x27;t tell how many more" in page


def test_a_race_without_time_is_saved(files, tmp_path, no_training, capsys):
    """Without a figure; nothing is recommended."""
    assert cli.main(compare(files, tmp_path / "out", "--max-minutes", "1e-9")) == 0
    printed = capsys.readouterr().out
    assert "nothing is recommended" in printed and "Figure" not in printed
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["advice"]["recommended"] is None
    assert "nothing is recommended" in (tmp_path / "out" / "report.html").read_text()
