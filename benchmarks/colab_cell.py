"""A notebook cell, as one process: TensorFlow is imported, then embkeras is installed, imported, trained and exported.

    python benchmarks/colab_cell.py dist/embkeras-0.1.0-py3-none-any.whl

Run it in an environment that holds what a notebook image holds, and not embkeras. It fails if the install changes a
package, or if the new package can't be used without a restart. The last line is a JSON object with what it found.
"""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def packages() -> dict[str, str]:
    importlib.invalidate_caches()
    return {each.name.lower(): each.version for each in importlib.metadata.distributions()}


def install(wanted: str) -> tuple[list[str], float]:
    before, began = packages(), time.monotonic()
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)
    seconds, after = time.monotonic() - began, packages()
    changed = {name: after.get(name) for name in before if after.get(name) != before[name]}
    if changed:
        raise SystemExit(f"The install changed {changed}; before: { {name: before[name] for name in changed} }")
    return sorted(set(after) - set(before)), seconds


def train_and_export(folder: Path) -> dict[str, float]:
    import embkeras as ek

    rng = np.random.default_rng(0)
    words = {"good": 1.0, "great": 1.0, "fine": 1.0, "bad": -1.0, "awful": -1.0, "poor": -1.0, "film": 0.0, "a": 0.0}
    with open(folder / "vectors.txt", "w") as file:
        for word, side in words.items():
            print(word, *(f"{value:.4f}" for value in rng.normal(side, 0.1, 8)), file=file)
    plain = [word for word, side in words.items() if side == 0]
    texts, labels = [], rng.integers(0, 2, 64)
    for label in labels:
        own = [word for word, side in words.items() if side == (1 if label else -1)]
        texts.append(" ".join([*rng.choice(own, 2), *rng.choice(plain, 2)]))
    vocabulary = ek.Vocabulary.from_texts(texts)
    vectors = ek.load_vectors(folder / "vectors.txt", words=vocabulary)
    embedding = ek.build_embedding(ek.align(vectors, vocabulary), trainable=False)
    model = ek.build_classifier(embedding, 2, architecture="cnn")
    model.compile(ek.RowWiseAdam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    ids = vocabulary.encode_batch(texts)
    callbacks = [ek.unfreeze_at(3, "embedding", learning_rate=1e-3), ek.DriftMonitor("embedding")]
    history = model.fit(ids, labels, epochs=6, verbose=0, callbacks=callbacks).history
    exported = ek.export_saved_model(model, folder / "saved_models" / "cell", vocabulary=vocabulary)
    served = tf.saved_model.load(str(exported)).signatures["serving_default"](token_ids=tf.constant(ids, tf.int64))
    np.testing.assert_allclose(served["scores"].numpy(), model.predict(ids, verbose=0), atol=1e-5)
    if history["accuracy"][-1] < 0.9:
        raise SystemExit(f"The model did not learn: accuracy {history['accuracy']}")
    return {"accuracy": round(history["accuracy"][-1], 3), "drift": round(history["drift/embedding"][-1], 4)}


def main() -> None:
    if "embkeras" in packages():
        raise SystemExit("embkeras is already installed here.")
    layer, process = keras.layers.Dense(1), os.getpid()  # the notebook has used Keras already
    layer.build((None, 1))
    added, seconds = install(sys.argv[1])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = train_and_export(Path(folder))
    result = {
        "added": added,
        "install_seconds": round(seconds, 1),
        "train_and_export_seconds": round(time.monotonic() - began, 1),
    }
    versions = {"python": sys.version.split()[0], "tensorflow": tf.__version__, "keras": keras.__version__}
    print(json.dumps({**result, **found, "one_process": os.getpid() == process, **versions}))


if __name__ == "__main__":
    main()
