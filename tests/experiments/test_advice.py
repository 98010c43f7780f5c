"""Advice: the table, ties, and what is recommended and reported."""

import json
import math

import numpy as np
import pytest

from embkeras.errors import ArgumentError
from embkeras.experiments.advice import Advice
from embkeras.experiments.results import MEASURES, Record

TEXTS = 1000


def records(name, validation, test, *, size=1, folds=False, **measures):
    """One record a seed (or a fold of one seed), with the shares that are right."""
    found = []
    for place, (valid, tested) in enumerate(zip(validation, test, strict=True)):
        flags = [np.arange(TEXTS) < share * TEXTS for share in (tested, valid)]
        numbers = dict.fromkeys(MEASURES, 0.5) | {
            "accuracy": tested,
            "validation_accuracy": valid,
            "stored_bytes": size,
        }
        seed, fold = (0, place) if folds else (place, 0)
        found.append(Record(name, seed, fold, *flags, numbers | measures))
    return found


def test_it_is_chosen_by_validation_and_reported_by_test():
    """The one that is best on the test texts is not the one recommended."""
    advice = Advice((*records("a", [0.9, 0.91], [0.6, 0.6]), *records("b", [0.7, 0.7], [0.8, 0.82])))
    assert advice.recommended == "a" and list(advice.table.index) == ["a", "b"]
    assert advice.reported.mean == pytest.approx(0.6) and "of a, on texts that chose nothing: 60.0 ±" in advice.text
    assert advice.text.startswith("a is the best: its lead over each of the others is larger than the noise")
    assert advice.leads.loc["b", "difference"] == pytest.approx(0.205)


def test_an_interval_that_is_wider_than_an_accuracy():
    """Two runs that differ: Student's interval would reach beyond 100%, so its ends are cut, and written out."""
    runs = *records("a", [0.9, 0.8], [0.95, 0.85]), *records("b", [0.2, 0.1], [0.2, 0.1])
    advice = Advice(runs)
    assert advice.reported.mean + advice.reported.half_width() > 1
    assert "chose nothing: 90.0% (95% interval 26.4 to 100%, cut at what an accuracy can be)." in advice.text
    assert "90.0 (26.4 to 100)" in str(advice) and "15.0 (0 to 78.6)" in str(advice)


def test_drift_is_shown_where_it_is_known():
    """The mean over runs; records of older files have none."""
    runs = *records("a", [0.9, 0.91], [0.6] * 2, drift=0.0125), *records("b", [0.7] * 2, [0.8] * 2, drift=math.nan)
    advice = Advice(runs)
    assert advice.table["drift"].tolist()[0] == 0.0125 and "0.0125" in str(advice) and " drift" in str(advice)
    assert " drift" not in str(Advice(tuple(records("b", [0.7] * 2, [0.8] * 2, drift=math.nan))))


def test_the_cheapest_of_the_tied():
    """By bytes to serve, then by parameters that train; one that is far behind isn't taken however cheap."""
    runs = [
        *records("large", [0.9, 0.8, 0.86], [0.9] * 3, size=9),
        *records("small", [0.8, 0.9, 0.85], [0.8] * 3, size=3, trainable_parameters=7),
        *records("smaller", [0.85, 0.82, 0.86], [0.8] * 3, size=3, trainable_parameters=2),
        *records("smallest", [0.1, 0.1, 0.12], [0.1] * 3, size=1),
    ]
    advice = Advice(tuple(runs))
    assert advice.tied[0] == "large" and set(advice.tied) == {"large", "small", "smaller"}
    assert advice.recommended == "smaller"
    smaller = advice._difference("large", "smaller", "validation")
    assert advice.leads.loc["smaller", "could_show"] == pytest.approx(smaller.half_width(0.05 / 3))
    assert f"{100 * advice.leads['could_show'].drop('smallest').max():.1f} points" in advice.text


def test_a_tie_goes_to_a_strategy_for_few_labels():
    """However cheap another is; but not one that is far behind."""
    runs = [
        *records("cheap", [0.9, 0.8, 0.86], [0.9] * 3, size=1),
        *records("few", [0.8, 0.9, 0.85], [0.8] * 3, size=9),
        *records("behind", [0.1, 0.1, 0.12], [0.1] * 3, size=1),
    ]
    assert Advice(tuple(runs)).recommended == "cheap"
    assert Advice(tuple(runs), labelled=20, few_labels=("behind", "few")).recommended == "few"


def test_how_many_runs_it_takes():
    """Where none is told apart; and where only more texts would do."""
    advice = Advice((*records("a", [0.9, 0.7, 0.9], [0.9] * 3), *records("b", [0.5, 0.8, 0.7], [0.9] * 3)))
    needed = advice.leads.loc["b", "runs_needed"]
    assert 3 < needed < 100 and f"about {needed:.0f} runs each would show it" in advice.text
    few = Advice((*records("a", [0.802, 0.8], [0.9] * 2), *records("b", [0.8, 0.801], [0.9] * 2)))
    assert math.isnan(few.leads.loc["b", "runs_needed"]) and "that takes more validation texts" in few.text


def test_one_seed_or_one_strategy():
    """Nothing is the best."""
    one = Advice((*records("a", [0.9], [0.9]), *records("b", [0.1], [0.1])))
    assert one.recommended is None and "at least two seeds" in str(one)
    with pytest.raises(ArgumentError, match=r"nothing to report.*two seeds"):
        _ = one.reported
    alone = Advice(tuple(records("a", [0.9, 0.9], [0.7, 0.7])))
    assert alone.recommended == "a" and "Only a was run" in alone.text
    assert Advice(()).recommended is None and str(Advice(())).startswith("No runs.")


def test_nested_folds():
    """In each fold the test texts of the one that its validation texts chose."""
    a, b = ([0.9, 0.7, 0.9], [0.6, 0.1, 0.5]), ([0.8, 0.8, 0.8], [0.9, 0.7, 0.1])
    advice = Advice((*records("a", *a, folds=True), *records("b", *b, folds=True)), folds=3)
    assert advice.reported.mean == pytest.approx(0.6) and advice.reported.overlap == 1


def test_everything_as_json():
    """With what is infinite or NaN as None."""
    advice = Advice(
        (*records("a", [0.9, 0.8], [0.9] * 2, unseen_accuracy=math.nan), *records("b", [0.8, 0.8], [0.9] * 2)),
        tuple(records("c", [0.1], [0.1])),
        {"c": "behind"},
        settings={"epochs": 3},
    )
    found = json.loads(json.dumps(advice.to_dict(), allow_nan=False))
    assert found["recommended"] == advice.recommended and found["settings"] == {"epochs": 3}
    assert [row["strategy"] for row in found["table"]] == ["a", "b", "c"] and found["table"][2]["half_width"] is None
    assert found["table"][0]["unseen_accuracy"] is None and found["table"][2]["left"] == "behind"
    shown = str(advice).splitlines()
    assert "unseen words %" in shown[0] and "90.0 ± " in shown[1] and shown[3].split()[-1] == "behind"
