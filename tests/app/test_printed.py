"""Results as text."""

import numpy as np
import pandas as pd

from embkeras.app import printed
from embkeras.drift.report import drift_report
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.align import align
from embkeras.vectors.store import KeyedVectors


def test_coverage_names_fallbacks_and_missing_words():
    """Tokens found by a fallback with their spelling, and missing words with their count."""
    vectors = KeyedVectors(["win", "day"], np.eye(2, dtype=np.float32))
    vocabulary = Vocabulary(["", "[UNK]", "#win", "day", "zzz"], counts=[0, 0, 3, 2, 5])
    lines = list(printed.coverage_lines(align(vectors, vocabulary, fallbacks=("hashtag",)), "the training texts"))
    assert lines == [
        "Coverage of the training texts: 66.7% of the vocabulary, 50.0% of the running text",
        "Found by fallback spellings: 1 tokens (3 occurrences)",
        "  hashtag: 3 (#win -> win)",
        "Most frequent words missing from the vectors: zzz (5)",
    ]


def test_standard_deviation_is_shown_for_several_seeds_only():
    """One seed: a number; several: mean and standard deviation."""
    table = pd.DataFrame(
        {"accuracy": [0.9, 0.8], "accuracy_sd": [0.01, np.nan], "f1": [0.5, 0.4], "f1_sd": [0.02, np.nan]}
        | {"seconds": [3.2, 4.0], "seeds": [3, 1]},
        index=["phased", "frozen"],
    )
    lines = printed.comparison_text(table).splitlines()
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
    text = "\n".join(printed.drift_lines(report))
    assert "Rows moved: 1 of 8" in text
    assert "tv             / television     1.000 -> " in text


def test_predictions_are_one_line_a_text():
    """Label, probability, text."""
    assert printed.predictions_text(["so"], ["yes"], [0.5]) == "  yes  0.500  so"
