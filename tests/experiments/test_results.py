"""ResultsFile: each record at once, half lines, and what is refused."""

import json
import math
import signal

import numpy as np
import pytest

from embkeras.errors import ArgumentError, OutputError, ResumeError
from embkeras.experiments.results import MEASURES, Record, ResultsFile
from tests.processes import ROOT, run_python

FINGERPRINT, FORMS = {"data": "abc", "epochs": 3}, {"a": {"rank": None}}


def record(seed=0, texts=11):
    """A record of "a"."""
    rng = np.random.default_rng(seed)
    measures = dict.fromkeys(MEASURES, 0.1) | {"unseen_accuracy": math.nan}
    return Record("a", seed, 2, rng.random(texts) < 0.5, rng.random(3) < 0.5, measures, seed == 1)


def opened(path, fingerprint=FINGERPRINT, forms=FORMS):
    """The file."""
    return ResultsFile(path, fingerprint, forms)


def test_records_come_back(tmp_path):
    """To the bit, with NaN, whatever the number of texts."""
    path, written = tmp_path / "new" / "r.jsonl", [record(0), record(1, 8), record(2, 1)]
    with opened(path) as file:
        for each in written:
            file.add(each)
    with opened(path) as file:
        for each in written:
            found = file.records[each.key]
            np.testing.assert_array_equal(found.test, each.test)
            np.testing.assert_array_equal(found.validation, each.validation)
            np.testing.assert_equal(dict(found.measures), dict(each.measures))
            assert found.diverged == each.diverged


def test_a_process_that_is_killed(tmp_path):
    """What it had added is there, whatever it had no time for; and its lock is gone."""
    lines = """
        import os, signal
        from tests.experiments.test_results import opened, record
        file = opened("r.jsonl")
        file.add(record(0))
        file.add(record(1))
        file._file.write(b'{"strategy": "a", "se')
        file._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run_python("-c", lines, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, returncode=-signal.SIGKILL)
    with opened(tmp_path / "r.jsonl") as file:
        assert list(file.records) == [record(0).key, record(1).key]


def test_a_file_of_before_drift_was_measured(tmp_path):
    """It is read, with drift unknown; any other measure must be there."""
    with opened(tmp_path / "r.jsonl") as file:
        file.add(record())
    line = json.loads((tmp_path / "r.jsonl").read_text())
    del line["drift"]
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
    with opened(tmp_path / "r.jsonl") as file:
        (found,) = file.records.values()
    assert math.isnan(found.measures["drift"]) and found.measures["f1"] == 0.1


def test_each_cut_loses_at_most_the_last_record(tmp_path):
    """At whatever byte the process was killed, the rest is read and the next record begins a line."""
    path = tmp_path / "r.jsonl"
    with opened(path) as file:
        file.add(record(0))
        first = path.stat().st_size
        file.add(record(1))
    content = path.read_bytes()
    for size in (*range(first, len(content), 97), len(content) - 1):
        path.write_bytes(content[:size])
        with opened(path) as file:
            assert list(file.records) == [record(0).key]
            file.add(record(2))
        assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: "{}", r"r\.jsonl', line 2 is not a record of a run: KeyError"),
        (lambda line: "", "line 2 is not a record"),
        (lambda line: "\udcff", "line 2 is not a record"),
        (lambda line: json.dumps(line | {"seed": "x"}), "line 2 is not a record of a run: ValueError"),
        (lambda line: json.dumps(line | {"test": {"texts": 30, "right": "AA=="}}), "8 bits for 30 texts"),
        (lambda line: json.dumps(line | {"test": {"texts": 8, "right": "A"}}), "line 2 is not a record"),
        (lambda line: json.dumps(line | {"fingerprint": {"data": "x", "epochs": 4}}), "other data and other epochs"),
        (lambda line: json.dumps(line | {"form": {"rank": 3}}), "another strategy 'a': its rank differ"),
    ],
)
def test_a_line_that_is_refused(tmp_path, change, message):
    """With its number, and the file unchanged."""
    path = tmp_path / "r.jsonl"
    with opened(path) as file:
        file.add(record(0))
        file.add(record(1))
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{change(json.loads(second))}\n", "utf-8", "surrogateescape")
    before = path.read_bytes()
    with pytest.raises(ResumeError, match=message):
        opened(path)
    assert path.read_bytes() == before


def test_another_process_is_writing(tmp_path):
    """Its half line is not cut off."""
    with opened(tmp_path / "r.jsonl"), pytest.raises(OutputError, match=r"r\.jsonl'.*another process"):
        opened(tmp_path / "r.jsonl")
    opened(tmp_path / "r.jsonl").__exit__()


def test_places_that_cannot_be_written(tmp_path):
    """A folder, and what is no path."""
    with pytest.raises(OutputError, match="Is a directory"):
        opened(tmp_path)
    with pytest.raises(ArgumentError, match=r"results must be a path.*Received: 3"):
        opened(3)
