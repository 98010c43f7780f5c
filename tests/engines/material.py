"""What the tests of engines work on: a corpus, an export, and small functions that workers import by name."""

import os
import re
from itertools import count

import numpy as np
import pandas as pd

from embkeras._threads import threads_in_use
from embkeras.serving.export import export_saved_model
from embkeras.serving.scorer import _in_this_process
from embkeras.tables.builders import build_classifier
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix
from tests.processes import ROOT

GUIDE = ROOT / "docs" / "guides" / "machines.md"

# Words of equal counts in several parts, which only the place of the first one orders; and what files and engines may change.
_WORDS = ["cat", "dog", "é", "don't", "[UNK]", "#tag", "two", "ß", "sun", "far"]
_RNG = np.random.default_rng(0)
TEXTS = [" ".join(_RNG.choice(_WORDS, _RNG.integers(1, 9))) + f" w{place % 17}" for place in range(60)]
PARTS = 5
FRAME = pd.DataFrame({"id": range(len(TEXTS)), "review": TEXTS})
_CALLS = count()


def export():
    """Write a small model with three classes where the guide has one."""
    vocabulary = Vocabulary.from_texts(TEXTS)
    matrix = np.random.default_rng(1).normal(size=(len(vocabulary), 8)).astype(np.float32)
    model = build_classifier(AlignedMatrix(matrix, vocabulary), 3, architecture="cnn")
    export_saved_model(model, "saved_models/tweets", vocabulary=vocabulary, check=False)


def where_it_ran(scorer, frame):
    """What a scorer makes of a frame, with the process, its threads of TensorFlow, the models it loaded, and the call."""
    scored = scorer(frame)
    loads = _in_this_process.cache_info().misses
    return scored.assign(process=os.getpid(), threads=threads_in_use(), loads=loads, call=next(_CALLS))


def check_scores(found, scorer):
    """Bits of the same parts in this process, and elsewhere up to rounding those of all texts; where that was computed."""
    parts = [part for _, part in found.groupby(["process", "call"])]
    for part in parts:
        here = scorer(part[["id", "review"]])
        assert here["label"].tolist() == part["label"].tolist()
        assert here["probability"].to_numpy().tobytes() == part["probability"].to_numpy().tobytes()
    assert sorted(found["id"]) == list(FRAME["id"]) and len(parts) >= PARTS
    whole = scorer(FRAME.loc[found["id"]])
    assert whole["review"].tolist() == found["review"].tolist()
    np.testing.assert_allclose(found["probability"], whole["probability"], atol=1e-6)
    assert os.getpid() not in set(found["process"])
    assert set(found["threads"]) == {1} and set(found["loads"]) == {1}


def check_counts(counts, vocabulary):
    """Both vocabularies are those that `from_texts` makes of all texts."""
    assert counts.partitions == frozenset(range(PARTS))
    limits = {"max_tokens": 14, "min_count": 2}
    pairs = [
        (vocabulary, Vocabulary.from_texts(TEXTS)),
        (counts.vocabulary(**limits), Vocabulary.from_texts(TEXTS, **limits)),
    ]
    for found, wanted in pairs:
        assert (found.tokens, found.fingerprint) == (wanted.tokens, wanted.fingerprint)
        np.testing.assert_array_equal(found.counts, wanted.counts)


def recipe(engine, names):
    """Run the guide's lines that have one of the names, as printed; returns all that they define.

    Args:
        engine: the module of tests that the guide names.
        names: what the reader has, by name.
    """
    block = rf"<!-- not run: [^;\n]+; tests/engines/{engine}\.py runs it -->\n```python\n(.*?)^```"
    found = re.findall(block, GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (code,) = [code for code in found if re.search(rf"\b({'|'.join(names)})\.", code)]
    made = dict(names)
    exec(code, made)
    return made
