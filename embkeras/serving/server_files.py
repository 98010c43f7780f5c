"""Files that TensorFlow Serving reads beside the SavedModel: warm-up requests, and settings on request.

Warm-up requests (https://www.tensorflow.org/tfx/serving/saved_model_warmup) are a TFRecord file of PredictionLog messages,
encoded here because the package that defines them is an extra. The settings (https://www.tensorflow.org/tfx/serving/serving_config)
batch requests of different lengths, each padded with its first number.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from embkeras._files import written_beside
from embkeras.serving import names

WARM_UP_FILE, WARM_UP_LENGTHS = "tf_serving_warmup_requests", (1, 8, 32, 128)
MODELS, BATCHING, COMPOSE = "models.config", "batching.config", "compose.yaml"


def write_warm_up(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the requests listed in the card. A server that fails to answer one of them doesn't load the model."""
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / WARM_UP_FILE)) as out:
        for record in warm_up_records(card):
            out.write(record)


def warm_up_records(card: Mapping[str, Any]) -> Iterable[bytes]:
    """The requests as records of the file, one for each length.

    PredictionLog{6: PredictLog{1: PredictRequest{1: ModelSpec{1: name, 3: signature}, 2: name -> TensorProto}}}.
    """
    spec = _field(1, card["name"].encode()) + _field(3, names.SERVING.encode())
    for ids in warm_up_ids(card):
        tensor = tf.make_tensor_proto(ids).SerializeToString()
        request = _field(1, spec) + _field(2, _field(1, names.TOKEN_IDS.encode()) + _field(2, tensor))
        yield _field(6, _field(1, request))


def warm_up_ids(card: Mapping[str, Any]) -> Iterable[np.ndarray]:
    """The ids of each request, int64 of shape (1, length)."""
    for length in card["warm_up"]:
        yield np.arange(length, dtype=np.int64)[None] % card["vocabulary_size"]


def read_warm_up(folder: Path) -> list[bytes]:
    """The records in the file of an export; TensorFlow raises an OpError if it is missing or damaged."""
    return [record.numpy() for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / WARM_UP_FILE))]


def _field(number: int, contents: bytes) -> bytes:
    """A protocol buffer field that holds bytes: its number and kind (2), its length, the bytes."""
    return _varint(number << 3 | 2) + _varint(len(contents)) + contents


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit means that more follow."""
    digits = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])


def write_server_config(path: Path, name: str, *, pads: bool) -> None:
    """Write three files of settings into the model's folder; files that exist are kept, since someone may have edited them.

    With `pads`, requests of different lengths may share a batch.
    """
    contents = {
        MODELS: f"""model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
  }}
}}
""",
        BATCHING: f"""max_batch_size {{ value: 64 }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 2 }}
pad_variable_length_inputs: {str(pads).lower()}
""",
        COMPOSE: f"""services:
  {name}:
    image: tensorflow/serving
    command:
      - --model_config_file=/models/{name}/{MODELS}
      - --enable_batching=true
      - --batching_parameters_file=/models/{name}/{BATCHING}
    ports: ["8500:8500", "8501:8501"]
    volumes: [".:/models/{name}:ro"]
""",
    }
    for file, text in contents.items():
        if not (path / file).exists():
            with written_beside(path / file) as beside:
                beside.write_text(text, encoding="utf-8")
