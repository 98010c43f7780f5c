# ruff: noqa: B018, F841
"""Mistakes of a user: type checkers must find each marked line, and no other (`test_types.py`). Nothing runs this file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import embkeras as ek
from embkeras.tables import saved
from embkeras.training import schedule
from embkeras.vectors import postprocess


def vectors_and_words(texts: Sequence[str]) -> ek.AlignedMatrix:
    """From texts to an aligned matrix."""
    ek.load_vector("vectors.txt")  # planted: misspelt
    ek.errors.VectorFileErrors  # planted: misspelt
    saved.load_tables("model")  # planted: misspelt
    schedule.Freezes("embedding")  # planted: misspelt
    vocabulary = ek.Vocabulary.from_texts(texts)
    ek.Vocabulary.from_text(texts)  # planted: misspelt
    ek.Vocabulary.from_texts(texts, max_token=5)  # planted: no such argument
    vocabulary.tokens.append("word")  # planted: a tuple
    word: bytes = vocabulary.tokens[0]  # planted: a str
    ids: list[int] = vocabulary.encode_batch(texts)  # planted: an array
    ek.Tokenizer(lowercase=0.5)  # planted: not a number
    vectors = ek.load_vectors("vectors.txt", words=vocabulary)
    ek.load_vectors("vectors.txt", limit="20")  # planted: a number
    ek.load_vectors(["vectors.txt"])  # planted: one path
    ek.load_vectors("vectors.txt", "text")  # planted: by keyword only
    ek.save_vectors("vectors.h5", vectors)  # planted: the wrong way round
    vectors.vector_size.upper()  # planted: an int
    vectors.similar("word")  # planted: most_similar
    ek.align(vocabulary, vectors)  # planted: the wrong way round
    ek.align(vectors)  # planted: no vocabulary
    aligned = ek.align(vectors, vocabulary, fallbacks=("lower",))
    aligned.coverage.type  # planted: types
    aligned.transformed(postprocess.unit_norms)  # planted: misspelt
    aligned.transformed("unit_norm")  # planted: a function
    ek.AlignedMatrix(aligned.values)  # planted: no vocabulary
    ek.plot_coverage(aligned, axes=None)  # planted: ax
    return vectors  # planted: an AlignedMatrix


def layers_and_training(
    aligned: ek.AlignedMatrix, ids: np.ndarray, build: Callable[[ek.Strategy], Any]
) -> ek.DriftReport:
    """From an aligned matrix to a drift report."""
    ek.build_embedding(aligned, trainable=0.5)  # planted: a bool, a word or a mask
    ek.build_embedding(aligned, store="int8")  # planted: stored
    embedding = ek.build_embedding(aligned)
    ek.build_classifier(embedding)  # planted: no num_classes
    ek.build_classifier(embedding, num_classes="2")  # planted: a number
    ek.combine_embeddings(embedding, embedding)  # planted: a list
    ek.WordDropout("0.1")  # planted: a number
    ek.RowWiseAdam(1e-3, anchor_decay="0.1")  # planted: a number
    ek.RowWiseAdamV(1e-3)  # planted: misspelt
    ek.unfreeze_at("3", "embedding")  # planted: an epoch
    ek.unfreeze_at(3)  # planted: no layer
    ek.unfreeze_rows(2, "embedding", min_counts=5)  # planted: min_count
    ek.gradual_unfreeze(["embedding"], 1)  # planted: by keyword only
    ek.Phase(0, freezes="embedding")  # planted: freeze
    ek.Phase(0, "embedding")  # planted: an action
    ek.TrainabilitySchedule([ek.Phase(0, schedule.Freeze("embedding"))])
    ek.TrainabilitySchedule("embedding")  # planted: phases
    ek.DriftMonitor("embedding", every="2")  # planted: no such argument
    ek.ResumableBackup("backup", keep="no")  # planted: a bool
    ek.change_vocabulary(None, "embedding", aligned.vocabulary, aligned)  # planted: by keyword only
    ek.compare_strategies(build, [(ids, ids)], seeds="5")  # planted: a number
    report = ek.drift_report(aligned.values, aligned.values, aligned.vocabulary.tokens)
    report.most_moved("10")  # planted: a number
    report.diverged_synonyms(min_similarities=0.7)  # planted: min_similarity
    ek.drift_report(aligned.values)  # planted: nothing to compare with
    return report


def serving(model: Any, vocabulary: ek.Vocabulary) -> None:
    """From a model to its answers."""
    path: str = ek.export_saved_model(model, "model", vocabulary=vocabulary)  # planted: a Path
    ek.export_saved_model(model, "model", vocab=vocabulary)  # planted: vocabulary
    ek.check_saved_model(1)  # planted: a path
    ek.ExportedModel("model", vocab=vocabulary)  # planted: vocabulary
    ek.ExportedModel("model").predict(3)  # planted: texts
    ek.TextEncoder()  # planted: no path
    ek.TextEncoder("model").encode(["text"], length="5")  # planted: a number
    ek.ServingClient("http://localhost:8501", retries="2")  # planted: a number
    ek.ServingClient(8501)  # planted: a URL
    table: Path = saved.load_table("model")  # planted: KeyedVectors
