"""A user's script, from vectors to an export and back: type checkers find no error in it, and `test_types.py` runs it."""

import csv
from pathlib import Path

import numpy as np

import embkeras as ek
from embkeras.tables.saved import load_table
from embkeras.training.schedule import Freeze
from embkeras.vectors import postprocess


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
    model.fit(ids, labels, epochs=2, callbacks=[schedule, monitor])
    first_epochs: list[int] = schedule.history["first_epoch"].tolist()
    print(f"phases began in epochs {first_epochs}")

    report = ek.drift_report(aligned.values, embedding.matrix(), vocabulary.tokens, counts=vocabulary.counts)
    exported: Path = ek.export_saved_model(model, folder / "model", vocabulary=vocabulary, class_names=["no", "yes"])
    probabilities: list[float] = ek.ExportedModel(exported).predict(texts[:2])["probability"].tolist()
    print(f"probabilities: {probabilities}")
    return report


def forms(folder: Path) -> float:
    """Other tables, phases and optimizers for the same vectors; how close the 8-bit table is."""
    texts, labels = read(folder / "reviews.csv")
    vocabulary = ek.Vocabulary.from_texts(texts, tokenizer=ek.Tokenizer())
    vectors = ek.load_vectors(folder / "vectors.txt")
    saved: Path = ek.save_vectors(vectors, folder / "vectors.h5")
    aligned = ek.align(ek.load_vectors(saved), vocabulary).transformed(postprocess.unit_norm)
    small = ek.build_embedding(aligned, stored="int8", name="small")
    both = ek.combine_embeddings([small, ek.build_embedding(aligned, trainable=True, name="tuned")], combine="mean")
    model = ek.build_classifier(both, num_classes=2, architecture="mean", dropout=0.0)
    optimizer = ek.RowWiseAdamW(1e-3, weight_decay=0.01, learning_rate_multipliers={"embedding": 0.3})
    model.compile(optimizer, loss="sparse_categorical_crossentropy")
    schedule = ek.TrainabilitySchedule(
        [ek.Phase(0, Freeze("embedding/tuned")), ek.Phase(1, rate_factor=0.3, patience=2)], monitor="loss"
    )
    backup = ek.ResumableBackup(folder / "backup", keep=False)
    ids = vocabulary.encode_batch(texts, length=4)
    model.fit(backup.batches((ids, labels), batch_size=2), epochs=2, callbacks=[schedule, backup])
    accuracy = small.accuracy
    return 1.0 if accuracy is None else float(accuracy.mean_cosine)


def serve(folder: Path) -> tuple[str, int, int]:
    """The name of the exported model, the tokens of a text, and the width of the table."""
    exported = folder / "model"
    ek.check_saved_model(exported)
    encoder: ek.TextEncoder = ek.TextEncoder(exported)
    ids: np.ndarray = encoder.encode(["good film"])
    table: ek.KeyedVectors = load_table(exported / "1")
    with ek.ServingClient("http://127.0.0.1:8501", encoder=encoder, timeout=2.5, retries=0) as client:
        name: str = client.model
    return name, ids.shape[1], table.vector_size


if __name__ == "__main__":
    main(Path.cwd())
