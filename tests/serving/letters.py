"""A second Encoding for tests: one id for each letter, in ASCII."""

import hashlib

import keras
import numpy as np


class Letters:
    """Texts to letters; everything but a to z is unknown."""

    padding_id, oov_id = 0, 1

    def __init__(self, salt=""):
        self.fingerprint = hashlib.sha256(f"letters{salt}".encode()).hexdigest()

    def __len__(self):
        return 28

    def encode_batch(self, texts, length=None):
        """Ids (len(texts), length)."""
        rows = [[ord(each) - 95 if "a" <= each <= "z" else 1 for each in text][:length] for text in texts]
        batch = np.zeros((len(rows), length or max([1, *map(len, rows)])), np.int64)
        for out, row in zip(batch, rows, strict=True):
            out[: len(row)] = row
        return batch


def letters_model():
    """A classifier over letters."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Embedding(28, 5, mask_zero=True), keras.layers.GlobalAveragePooling1D()]
    return keras.Sequential(
        [keras.Input((None,), dtype="int64"), *layers, keras.layers.Dense(3, activation="softmax", name="scores")]
    )
