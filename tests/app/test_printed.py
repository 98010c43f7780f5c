"""Results as text."""

import gzip

import numpy as np
import pandas as pd
import pytest

from embkeras.app import printed
from embkeras.drift.report import drift_report
from embkeras.drift.word_pairs import WordSimilarity
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.align import align
from embkeras.vectors.inspection import inspect_vectors
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


@pytest.mark.parametrize(
    ("header", "compression", "line"),
    [
        ("5 2\n", None, "Format: word2vec"),
        ("5 2\n", "gz", "Format: word2vec, gz"),
        ("5 2\n", None, "Rows: 5, width 2; as float32 32 bytes of memory"),
        ("5 2\n", None, "Header: 5 rows of width 2: correct"),
        ("9 2\n", None, "Header: 9 rows of width 2: wrong, there are 5"),
        ("", None, "Header: none"),
        ("5 2\n", None, "Repeated words: 1; not valid in the encoding: 0"),
        ("5 2\n", None, "Norms: 0 to 5, mean 2; rows of zeros: 1"),
        ("5 2\n", None, "Words with a no-break space (U+00A0): 1 ('\\xa0')"),
        ("5 2\n", None, "Words that pandas reads as missing: 1 ('NaN')"),
    ],
)
def test_inspection_is_one_line_a_fact(tmp_path, header, compression, line):
    """Odd words are shown with their codes."""
    contents = (header + "cat 3 4\nnew york 0 0\nNaN 0 1\ncat 1 1\n\u00a0 0 2\n").encode()
    path = tmp_path / "v.vec"
    path.write_bytes(gzip.compress(contents) if compression else contents)
    assert line in list(printed.inspection_lines(inspect_vectors(path, format=None if header else "glove")))


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
    assert (
        f"linear CKA of the tables: {report.linear_cka:.4f}; share of the steps' variance along one direction: 0%"
        in text
    )
    assert "tv             / television     1.000 -> " in text


@pytest.mark.parametrize(("exact", "of"), [(True, "6 rows"), (False, "a sample of 4 of 6 rows")])
def test_neighbours_say_whether_they_are_a_sample(exact, of):
    """Both groups with how many rows they have, and what the figures are of."""
    table = np.random.default_rng(0).normal(size=(6, 3))
    after = table.copy()
    after[0] += 0.1
    drift = drift_report(table, after, list("abcdef")).neighbour_drift(2, exact=exact, sample=4)
    first, moved, unmoved = printed.neighbour_lines(drift)
    assert first.startswith("Of the 2 nearest neighbours before, ") and f"({of})" in first
    assert moved.startswith("  1 row that moved: ") and unmoved.startswith("  5 rows that did not move: ")
    assert f"{drift.summary()['kept_moved']:.1%} kept" in moved


def test_similarity_is_one_line():
    """Both correlations, and how many pairs they are of."""
    line = printed.similarity_line(WordSimilarity(0.5034, 0.4567, 30, 353), "pairs.tsv")
    assert line == "Word similarity of pairs.tsv: 0.503 -> 0.457 (Spearman; 30 of 353 pairs found)"


def test_predictions_are_one_line_a_text():
    """Label, probability, text."""
    assert printed.predictions_text(["so"], ["yes"], [0.5]) == "  yes  0.500  so"
    several = printed.predictions_text(["so", "la"], [["a", "b"], []], [[0.5, 0.75], []])
    assert several.splitlines() == ["  a, b  0.500, 0.750  so", "  -     -             la"]
