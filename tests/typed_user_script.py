"""A user's script, from vectors to an export: mypy checks it (`.ci/run`), and `test_types.py` runs it."""

import csv
from pathlib import Path

import numpy as np

import embkeras as ek


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """Texts and labels of a CSV file with a header line."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array([int(row["label"]) for row in rows])


def main(folder: Path) -> ek.DriftReport:
    """Train on reviews.csv with the vectors of vectors.txt, and export to `folder`/model."""
    texts, labels = read(folder / "reviews.csv")
    vocabulary = ek.Vocabulary.from_texts(texts)
    vectors: ek.KeyedVectors = ek.load_vectors(folder / "vectors.txt", words=vocabulary)
    aligned: ek.AlignedMatrix = ek.align(vectors, vocabulary, fallbacks=("lower", "hashtag"))
    print(f"{aligned.coverage.types:.0%} of the words, {vectors.vector_size} numbers each")

    embedding: ek.PretrainedEmbedding = ek.build_embedding(aligned, trainable=False)
    model = ek.build_classifier(embedding, num_classes=2, architecture="mean")
    model.compile(ek.RowWiseAdam(1e-2), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    schedule: ek.TrainabilitySchedule = ek.unfreeze_at(1, "embedding", learning_rate=1e-3)
    monitor = ek.DriftMonitor("embedding")
    ids: np.ndarray = vocabulary.encode_batch(texts, length=8)
    model.fit(ids, labels, epochs=2, verbose=0, callbacks=[schedule, monitor])
    first_epochs: list[int] = schedule.history["first_epoch"].tolist()
    print(f"phases began in epochs {first_epochs}")

    report = ek.drift_report(aligned.values, embedding.matrix(), vocabulary.tokens, counts=vocabulary.counts)
    exported: Path = ek.export_saved_model(model, folder / "model", vocabulary=vocabulary, class_names=["no", "yes"])
    probabilities: list[float] = ek.ExportedModel(exported).predict(texts[:2])["probability"].tolist()
    print(f"probabilities: {probabilities}")
    return report


if __name__ == "__main__":
    main(Path.cwd())
