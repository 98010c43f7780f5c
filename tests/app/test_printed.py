"""Results as text."""

import numpy as np
import pandas as pd

from embkeras.app import printed as presentation
from embkeras.drift.report import drift_report
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.align import align
from embkeras.vectors.store import KeyedVectors


def test_coverage_names_what_was_rescued_and_what_is_out():
    """The fallback's tokens with their spelling, and the tokens without a vector with their count."""
    vectors = KeyedVectors(["win", "day"], np.eye(2, dtype=np.float32))
    vocabulary = Vocabulary(["", "[UNK]", "#win", "day", "zzz"], counts=[0, 0, 3, 2, 5])
    lines = list(presentation.coverage_lines(align(vectors, vocabulary, fallbacks=("hashtag",))))
    assert lines == [
        "Coverage of the training texts: 66.7% of the vocabulary, 50.0% of the running text",
        "Rescued by fallbacks: 1 tokens (3 occurrences)",
        "  hashtag: 3 (#win -> win)",
        "Most frequent out of the vectors: zzz (5)",
    ]


def test_spread_is_shown_for_several_seeds_only():
    """One seed gives a number, several give number and standard deviation."""
    table = pd.DataFrame(
        {"accuracy": [0.9, 0.8], "accuracy_sd": [0.01, np.nan], "f1": [0.5, 0.4], "f1_sd": [0.02, np.nan]}
        | {"seconds": [3.2, 4.0], "seeds": [3, 1]},
        index=["phased", "frozen"],
    )
    lines = presentation.comparison_text(table).splitlines()
    assert lines[1].split() == ["phased", "90.0", "±", "1.0", "50.0", "±", "2.0", "3", "3"]
    assert lines[2].split() == ["frozen", "80.0", "40.0", "1", "4"]


def test_drift_shows_moved_words_and_diverged_synonyms():
    """A seen word that left its unseen synonym is named with both similarities."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=(8, 4)).astype(np.float32)
    before[3] = before[2] + 0.01
    after = before.copy()
    after[2] = rng.normal(size=4)
    report = drift_report(
        before, after, ["a", "b", "tv", "television", "c", "d", "e", "f"], counts=[0, 0, 9, 0, 0, 0, 0, 0]
    )
    text = "\n".join(presentation.drift_lines(report))
    assert "Rows moved: 1 of 8" in text
    assert "tv             / television     1.000 -> " in text


def test_predictions_are_one_line_a_text():
    """Label, probability, text."""
    assert presentation.predictions_text(["so"], ["yes"], [0.5]) == "  yes  0.500  so"
