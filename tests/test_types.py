"""The type hints are shipped, and the script that mypy checks (`.ci/run`) also runs."""

import csv
from pathlib import Path

import numpy as np

import embkeras
from tests import typed_user_script


def test_hints_are_shipped():
    """py.typed tells type checkers that the package has hints."""
    assert (Path(embkeras.__file__).parent / "py.typed").is_file()


def test_user_script_runs(tmp_path):
    """Two phases, a moved table and an export, on six texts."""
    words = ["good", "fine", "bad", "poor", "film"]
    rng = np.random.default_rng(0)
    lines = [f"{word} {' '.join(f'{value:.3f}' for value in rng.normal(size=4))}\n" for word in words]
    (tmp_path / "vectors.txt").write_text("".join(lines))
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([[f"{word} film", int(word in ("good", "fine"))] for word in words])
    report = typed_user_script.main(tmp_path)
    assert report.summary()["moved"] > 0
    assert (tmp_path / "model" / "1" / "saved_model.pb").is_file()
