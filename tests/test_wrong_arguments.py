"""Whatever is passed by mistake, text, vectors and drift answer with an error of their own, never with a foreign one."""

import contextlib

import numpy as np
import pytest

from embkeras import (
    AlignedMatrix,
    KeyedVectors,
    SpanExample,
    Tokenizer,
    Vocabulary,
    align,
    drift_report,
    load_squad,
    propagate_drift,
    squad_scores,
)
from embkeras.drift.plots import plot_comparison, plot_coverage, plot_drift, plot_learning_curve, plot_training
from embkeras.errors import EmbkerasError
from embkeras.experiments.page import report_html, save_report
from embkeras.experiments.profile import data_profile
from embkeras.text.labelled import LabelledTexts, labelled, read_labelled, read_texts, split
from embkeras.vectors import postprocess
from embkeras.vectors.inspection import inspect_vectors, text_coverage
from embkeras.vectors.io.projector import export_projector
from embkeras.vectors.io.registry import convert, load_vectors, save_vectors
from embkeras.vectors.subwords import Subwords

WRONG = [
    *(
        None,
        True,
        3,
        -1,
        2.5,
        float("nan"),
        "text",
        "",
        b"bytes",
        [],
        [None],
        [[1], [1, 2]],
        {},
        {"a": 1},
        object(),
    ),
    *(np.ones(3), np.array("x"), np.array([None]), range(2), "\ud83d", "x" * 5000, "a\0b", {1, 2}, iter([1]), 10**30),
]
VOCABULARY = Vocabulary(["", "[UNK]", "cat", "dog"], tokenizer=Tokenizer(), counts=[0, 1, 2, 3])
MATRIX = np.arange(8.0, dtype="float32").reshape(4, 2)
VECTORS = KeyedVectors(["cat", "dog"], MATRIX[:2])
SUBWORDS = Subwords(MATRIX, min_n=1, max_n=2, buckets=4)
REPORT = drift_report(MATRIX, MATRIX + 1, VOCABULARY.tokens, counts=[0, 1, 2, 3])
CIRCLE = np.stack([np.cos(np.arange(20)), np.sin(np.arange(20))], axis=1)
TURN = np.where(np.arange(20) < 15, CIRCLE[:, 0] ** 2, 0)[:, None]
DATA = LabelledTexts(tuple("abcdefgh"), np.arange(8) % 2, ("x", "y"))
PROFILE = data_profile(["cat", "dog"], ["x", "y"])
# callable, positional arguments that are right, and keyword arguments that are right
CALLS = [
    (Tokenizer, [], {"rules": (), "lowercase": True}),
    (Tokenizer(), ["text"], {}),
    (Tokenizer.from_dict, [{"rules": [], "lowercase": True}], {}),
    (Vocabulary, [["", "[UNK]"]], {"padding_id": 0, "oov_ids": (1,), "counts": [0, 1], "tokenizer": Tokenizer()}),
    (Vocabulary.from_texts, [["a"]], {"max_tokens": 5, "min_count": 1, "tokenizer": Tokenizer()}),
    (Vocabulary.from_layer, [None], {"tokenizer": None}),
    (Vocabulary.load, ["missing.json"], {}),
    (Vocabulary.from_tokenizer, ["missing.json"], {"size": 3}),
    (VOCABULARY.encode_pairs, [["cat"], ["dog"]], {"length": 9}),
    (VOCABULARY.extended, [["a"]], {}),
    (VOCABULARY.encode, ["cat"], {}),
    (VOCABULARY.encode_batch, [["cat"]], {"length": 2, "truncate": "end"}),
    (VOCABULARY.__contains__, ["cat"], {}),
    (labelled, [["a", "b"], ["x", "y"]], {"source": "s"}),
    (SpanExample, ["q", "cat"], {"answers": [("c", 0)], "key": "k"}),
    (load_squad, ["missing.json"], {}),
    (squad_scores, [[SpanExample("q", "cat", [("c", 0)])], ["cat"]], {"rules": "1.1", "threshold": 0.5}),
    (split, [DATA], {"validation": 0.2, "test": 0.2, "seed": 0}),
    (read_labelled, ["d.csv", "text", "label"], {"encoding": "utf-8", "skip_empty": False, "quotes": True}),
    (lambda *positional, **named: list(read_texts(*positional, **named)), ["d.csv", "text"], {"encoding": "utf-8"}),
    (KeyedVectors, [["a", "b"], MATRIX[:2]], {"subwords": SUBWORDS}),
    (KeyedVectors.from_gensim, [None], {}),
    (KeyedVectors.from_dataframe, [VECTORS.to_dataframe().reset_index()], {"words": "word"}),
    (VECTORS.__getitem__, ["cat"], {}),
    (VECTORS.__contains__, ["cat"], {}),
    (VECTORS.rows_of, [["cat"]], {}),
    (VECTORS.most_similar, ["cat"], {"topn": 1}),
    (Subwords, [MATRIX], {"min_n": 1, "max_n": 2, "buckets": 4, "encoding": "utf-8"}),
    (SUBWORDS.rows, ["cat"], {}),
    (SUBWORDS.compose, ["cat"], {}),
    (SUBWORDS.compose_all, [["cat"]], {}),
    (AlignedMatrix, [MATRIX, VOCABULARY], {"found": np.ones(4, bool), "how": [("", "oov")] * 4}),
    (AlignedMatrix(MATRIX, VOCABULARY).transformed, [postprocess.centre], {}),
    (align, [VECTORS, VOCABULARY], {"fallbacks": (), "oov": "mean", "seed": 0}),
    (postprocess.centre, [MATRIX], {"rows": np.ones(4, bool)}),
    (postprocess.remove_components, [MATRIX], {"count": 1, "rows": np.ones(4, bool)}),
    (postprocess.reduce_width, [MATRIX, 1], {"rows": np.ones(4, bool)}),
    (postprocess.weight_by_frequency, [MATRIX, [1, 2, 3, 4]], {"a": 0.5}),
    (postprocess.weight_by_rank, [MATRIX], {}),
    (postprocess.rescale, [MATRIX, 0.1], {"rows": np.ones(4, bool)}),
    (postprocess.standard_deviation, [MATRIX], {"rows": np.ones(4, bool)}),
    (postprocess.unit_norm, [MATRIX], {}),
    (inspect_vectors, ["v.txt"], {"encoding": "utf-8"}),
    (
        load_vectors,
        ["v.txt"],
        {"format": "glove", "words_file": "w.txt", "member": "m", "limit": 1, "encoding": "utf-8"},
    ),
    (save_vectors, [VECTORS, "w.csv"], {"format": "csv", "overwrite": True}),
    (convert, ["v.txt", "w.json"], {"to": "json", "overwrite": True}),
    (export_projector, [VECTORS, "folder"], {"overwrite": True}),
    (text_coverage, ["v.txt", ["cat"]], {"tokenizer": Tokenizer(), "fallbacks": ()}),
    (drift_report, [MATRIX, MATRIX, VOCABULARY.tokens], {"counts": [1, 2, 3, 4]}),
    (
        data_profile,
        [["cat", "dog"], ["x", "y"], AlignedMatrix(MATRIX, VOCABULARY)],
        {"validation": (["cat"], ["x"]), "test": (["dog"], ["y"]), "near": 0.8, "neighbours": 1, "sample": 9},
    ),
    (propagate_drift, [MATRIX, MATRIX, np.arange(4) < 3], {"counts": [1, 2, 3, 4], "loss": lambda table: 1.0}),
    (
        propagate_drift,
        [CIRCLE, CIRCLE + TURN, np.arange(20) < 15],
        {"counts": np.arange(20), "loss": lambda table: 1.0},
    ),
    (REPORT.most_moved, [], {"topn": 1, "min_count": 1}),
    (REPORT.neighbours, ["cat"], {"topn": 1}),
    (REPORT.diverged_synonyms, [], {"topn": 1, "min_similarity": 0.5}),
    (plot_training, [{"loss": [1.0]}], {"unfrozen_at": 0}),
    (plot_drift, [REPORT], {"topn": 1, "min_count": 1}),
    (plot_coverage, [None], {}),
    (plot_comparison, [None], {}),
    (plot_learning_curve, [None], {}),
    (report_html, [None], {"profile": PROFILE, "drift": None, "curve": None, "title": "Cats"}),
    (save_report, ["r.html", None], {"profile": PROFILE, "curve": None, "title": "Cats", "overwrite": True}),
]


def name_of(call):
    """The name in the test's id."""
    return getattr(call[0], "__qualname__", type(call[0]).__name__)


@pytest.mark.parametrize("call", CALLS, ids=name_of)
def test_wrong_argument_is_an_error_of_embkeras(call, tmp_path, monkeypatch):
    """Each argument in turn is replaced by each wrong value; a call may also succeed."""
    function, positional, named = call
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "v.txt").write_text("cat 1 2\ndog 3 4\n")
    for wrong in WRONG:
        for place in range(len(positional)):
            with contextlib.suppress(EmbkerasError):
                function(*positional[:place], wrong, *positional[place + 1 :], **named)
        for name in named:
            with contextlib.suppress(EmbkerasError):
                function(*positional, **(named | {name: wrong}))
