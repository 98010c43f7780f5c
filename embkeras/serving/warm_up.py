"""Warm-up requests: what TensorFlow Serving runs before it says that a model is there.

The format is a TFRecord file of PredictionLog messages in `assets.extra/`
(https://www.tensorflow.org/tfx/serving/saved_model_warmup). The few fields that are needed are written here, since the
package that defines the messages is an extra.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from embkeras.serving import names

WARM_UP_FILE, WARM_UP_LENGTHS = "tf_serving_warmup_requests", (1, 8, 32, 128)


def write_warm_up(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the requests that the card tells of. A server that fails to answer one of them does not load the model."""
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / WARM_UP_FILE)) as out:
        for record in warm_up_records(card):
            out.write(record)


def warm_up_records(card: Mapping[str, Any]) -> Iterable[bytes]:
    """The requests, one a length, as they stand in the file."""
    for ids in warm_up_ids(card):
        yield _prediction_log(card["name"], names.SERVING, {names.TOKEN_IDS: ids})


def warm_up_ids(card: Mapping[str, Any]) -> Iterable[np.ndarray]:
    """The ids of each request, int64 of shape (1, length)."""
    for length in card["warm_up"]:
        yield np.arange(length, dtype=np.int64)[None] % card["vocabulary_size"]


def read_warm_up(folder: Path) -> list[bytes]:
    """The requests in the file of an export.

    Raises:
        tf.errors.OpError: it is missing or damaged.
    """
    return [record.numpy() for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / WARM_UP_FILE))]


def _prediction_log(model_name: str, signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """PredictionLog{6: PredictLog{1: PredictRequest{1: ModelSpec{1: name, 3: signature}, 2: name -> TensorProto}}}."""
    request = _field(1, _field(1, model_name.encode()) + _field(3, signature.encode()))
    for name, value in inputs.items():
        request += _field(2, _field(1, name.encode()) + _field(2, tf.make_tensor_proto(value).SerializeToString()))
    return _field(6, _field(1, request))


def _field(number: int, contents: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes: its number and kind (2), its length, the bytes."""
    return _varint(number << 3 | 2) + _varint(len(contents)) + contents


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    digits = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])
