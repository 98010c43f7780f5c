"""Files that TensorFlow Serving reads beside the SavedModel: warm-up requests, and settings on request.

Warm-up requests (https://www.tensorflow.org/tfx/serving/saved_model_warmup) are a TFRecord file of PredictionLog messages,
encoded here because the package that defines them is an extra. The settings (https://www.tensorflow.org/tfx/serving/serving_config)
batch requests of different lengths, each padded with its first number.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from embkeras._checks import shown, whole_number
from embkeras._files import written_beside
from embkeras.errors import ArgumentError, SavedModelError
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
    for inputs in warm_up_inputs(card):
        request = _field(1, spec)
        for name, values in inputs.items():
            tensor = tf.make_tensor_proto(values).SerializeToString()
            request += _field(2, _field(1, name.encode()) + _field(2, tensor))
        yield _field(6, _field(1, request))


def warm_up_inputs(card: Mapping[str, Any]) -> Iterable[dict[str, np.ndarray]]:
    """The inputs of each request by name, with one row: ids int64, and zeros for features."""
    for length in card["warm_up"]:
        inputs = {}
        for each in card["inputs"]:
            shape = [1, *(length if size is None else size for size in each["shape"][1:])]
            if each["kind"] == names.IDS:
                inputs[each["name"]] = (
                    np.arange(np.prod(shape), dtype=np.int64).reshape(shape) % each["vocabulary_size"]
                )
            else:
                inputs[each["name"]] = np.zeros(shape, tf.as_dtype(each["dtype"]).as_numpy_dtype)
        yield inputs


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


def checked_labels(labels: Mapping[str, int | None] | None, existing: Collection[int]) -> dict[str, int | None]:
    """Labels of versions: each an existing version, or None for the one that is about to be written.

    Raises:
        ArgumentError: not a mapping, a label that needs quotes, a version that servers can't read.
        SavedModelError: there is no such version.
    """
    if labels is not None and not isinstance(labels, Mapping):
        raise ArgumentError(f"labels must map names to versions. Received: {shown(labels)}.")
    for label, version in (labels or {}).items():
        if not isinstance(label, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", label):
            raise ArgumentError(f"labels may contain letters, digits, '_', '.' and '-'. Received: {shown(label)}.")
        if version is None:
            continue
        number = whole_number(version, f"labels[{label!r}]", least=1, most=names.LARGEST_VERSION)
        if number not in existing:
            there = ", ".join(map(str, sorted(existing))) or "none"
            raise SavedModelError(
                f"labels[{label!r}] must be a version that exists ({there}), or None for the one that is written. "
                f"Received: {number}."
            )
    return {label: None if version is None else int(version) for label, version in (labels or {}).items()}


def write_server_config(path: Path, name: str, *, pads: bool, labels: Mapping[str, int] | None = None) -> None:
    """Write three files of settings into the model's folder; files that exist are kept, since someone may have edited them.

    With `pads`, requests of different lengths may share a batch. With `labels`, which name versions, models.config is
    written anew: servers load these versions, and no others.

    Raises:
        SavedModelError: there are labels, and someone edited models.config.
    """
    policy, labelled = "latest { num_versions: 2 }", ""
    if labels:
        policy = f"specific {{ {' '.join(f'versions: {number}' for number in sorted(set(labels.values())))} }}"
        labelled = "".join(f'    version_labels {{ key: "{key}" value: {number} }}\n' for key, number in labels.items())
    contents = {
        MODELS: f"""model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ {policy} }}
{labelled}  }}
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
      - --allow_version_labels_for_unavailable_models=true
      - --enable_batching=true
      - --batching_parameters_file=/models/{name}/{BATCHING}
    ports: ["8500:8500", "8501:8501"]
    volumes: [".:/models/{name}:ro"]
""",
    }
    if labels:
        there = path / MODELS
        if there.exists() and _unlabelled(there.read_text("utf-8", "replace")) != _unlabelled(contents[MODELS]):
            raise SavedModelError(
                f"{str(there)!r} was edited, so it is not written anew for labels. Put these lines into it, or remove it: "
                f"model_version_policy {{ {policy} }} {' '.join(labelled.split())}"
            )
        with written_beside(there) as beside:
            beside.write_text(contents.pop(MODELS), encoding="utf-8")
    for file, text in contents.items():
        if not (path / file).exists():
            with written_beside(path / file) as beside:
                beside.write_text(text, encoding="utf-8")


def _unlabelled(text: str) -> str:
    """Settings without the lines that labels change."""
    return re.sub(r"^ *(model_version_policy|version_labels) \{.*\}\n", "", text, flags=re.M)
