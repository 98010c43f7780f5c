"""Write the export that every later version must still read: `saved_models/golden/1/` and `expected.json` beside it.

    python -m tests.serving.make_golden

Weights come from NumPy's generator and not from Keras, so that every version writes the same ones. Run it
again only where the format changes on purpose, and say so in the changelog: the old folder is what users have on disk.
"""

import json
from pathlib import Path

import keras
import numpy as np

import embkeras as ek

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "saved_models" / "golden"
EXPECTED = FOLDER / "expected.json"
CLASSES = ["bad", "neither", "good"]
TEXTS = [
    "a good day, a very good day!",
    "the day was bad and the night was worse",
    "so so",
    "sunny and warm: what a joy",
    "I do not know what this is",
    "good",
    "nowhere to be seen",
    "",
]
WIDTH, UNITS, SEED = 8, 4, 6


def golden_model() -> tuple[ek.Vocabulary, keras.Model]:
    """A small convolution over the words of the first six texts; those of the seventh are unknown."""
    vocabulary = ek.Vocabulary.from_texts(TEXTS[:6])
    rng = np.random.default_rng(SEED)
    table = rng.normal(size=(len(vocabulary), WIDTH)).astype(np.float32)
    model = ek.build_classifier(ek.AlignedMatrix(table, vocabulary), len(CLASSES), architecture="cnn", units=UNITS)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.5, size=variable.shape).astype(np.float32))
    return vocabulary, model


def requests(vocabulary: ek.Vocabulary) -> list[list[int]]:
    """The ids of the texts, and what clients send by mistake or in batches."""
    ids = [vocabulary.encode(text).tolist() for text in TEXTS]
    return [*ids, [0, *ids[0]], [*ids[0], 0, 0, 0], [0, 0], [3, -1, 5], [3, len(vocabulary), 5], [3, 2**40, 5]]


def meant(ids: list[int], size: int) -> np.ndarray:
    """How such a request must be read: without padding, "[UNK]" for ids out of range and for an empty text."""
    return np.array([[id_ if 0 <= id_ < size else 1 for id_ in ids if id_ != 0] or [1]])


def main() -> None:
    """Export the model, and write its answers."""
    vocabulary, model = golden_model()
    ek.export_saved_model(model, FOLDER, vocabulary=vocabulary, class_names=CLASSES, version=1, overwrite=True)
    asked = requests(vocabulary)
    scores = [model(meant(ids, len(vocabulary)))[0].numpy().tolist() for ids in asked]
    expected = {"classes": CLASSES, "texts": TEXTS, "token_ids": asked, "scores": scores}
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
