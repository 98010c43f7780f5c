"""Warm-up requests: what TensorFlow Serving runs before it says that a model is there.

The format is a TFRecord file of PredictionLog messages in `assets.extra/`
(https://www.tensorflow.org/tfx/serving/saved_model_warmup). The few fields that are needed are written here, since the
package that defines the messages is an extra.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

WARM_UP_FILE, WARM_UP_LENGTHS = "tf_serving_warmup_requests", (1, 8, 32, 128)


def write_warm_up(folder: Path, model_name: str, signature: str, size: int, least: int) -> None:
    """Requests of several lengths, which TensorFlow Serving runs before it says that the model is there."""
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / WARM_UP_FILE)) as out:
        for length in sorted({max(least, length) for length in WARM_UP_LENGTHS}):
            ids = np.arange(length, dtype=np.int64)[None] % size
            out.write(_prediction_log(model_name, signature, {"token_ids": ids}))


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
