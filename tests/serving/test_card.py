"""What an export says about itself, and the files beside its graph."""

import hashlib
import json

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import SavedModelError
from embkeras.serving.local import ExportedModel
from embkeras.serving.server_files import WARM_UP_FILE

SIZE, WIDTH = 3000, 40
VOCABULARY = ek.Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(SIZE - 2))], tokenizer=ek.Tokenizer())
TABLE = np.random.default_rng(0).normal(size=(SIZE, WIDTH)).astype(np.float32)
TABLE[0] = 0
IDS = np.random.default_rng(1).integers(0, SIZE, (4, 7))


def _model():
    return ek.build_classifier(ek.AlignedMatrix(TABLE, VOCABULARY), 2, architecture="mean", units=3)


@pytest.fixture(scope="module")
def model():
    """A small classifier."""
    return _model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Exported with class names, settings for a server and metadata."""
    history = pd.DataFrame({"phase": [1, 2], "ended": ["patience", ""]})
    metadata = {"Data": "3,000 words.", "Metrics": {"accuracy": 0.87}, "Schedule": history}
    path = tmp_path_factory.mktemp("export") / "words"
    return ek.export_saved_model(
        model, path, vocabulary=VOCABULARY, class_names=["no", "yes"], with_config=True, metadata=metadata
    )


def test_card(folder, model):
    """Fingerprints of vocabulary and table, policies and versions, as plain data."""
    card = json.loads((folder / "assets" / "embkeras.json").read_text("ascii"))
    digest = hashlib.sha256(repr(TABLE.shape).encode() + TABLE.tobytes()).hexdigest()
    assert card["tables"]["embedding"]["sha256"] == digest and card["vocabulary_fingerprint"] == VOCABULARY.fingerprint
    assert (card["out_of_range"], card["min_length"], card["max_length"], card["dtype"]) == ("oov", 1, None, "float32")
    assert card["embkeras"] == ek.__version__ and card["tensorflow"] == tf.__version__


def test_assets(folder):
    """Tokens with their ids, and class names, one per line."""
    lines = (folder / "assets" / "tokens.txt").read_text("utf-8").splitlines()
    assert lines[:2] == ["w0\t2", "w1\t3"] and len(lines) == SIZE - 2
    assert (folder / "assets" / "classes.txt").read_text("utf-8") == "no\nyes\n"


def test_model_card(folder):
    """The README lists signatures, facts and the given sections."""
    text = (folder / "README.md").read_text("utf-8")
    assert text.startswith("# words\n") and "`token_ids` int64 (batch, time) -> `scores`; ids outside [0, 3000)" in text
    assert "| classes | no, yes |" in text and "## Data\n\n3,000 words." in text and "| accuracy | 0.87 |" in text
    assert "| phase | ended |\n|---|---|\n| 1 | patience |" in text


def test_sections_as_data(folder):
    """The sections of the README as data: a table is a list of rows."""
    metadata = json.loads((folder / "assets" / "metadata.json").read_text("ascii"))
    assert metadata["Schedule"] == [{"phase": 1, "ended": "patience"}, {"phase": 2, "ended": ""}]
    assert metadata["Data"] == "3,000 words." and metadata["Metrics"] == {"accuracy": 0.87}


def test_warm_up_requests(folder):
    """TensorFlow Serving's own format: each is a request that the export answers."""
    messages = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    export, lengths = ExportedModel(folder), []
    for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / WARM_UP_FILE)):
        request = messages.PredictionLog.FromString(record.numpy()).predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("words", "serving_default")
        ids = tf.make_ndarray(request.inputs["token_ids"])
        assert export.ask("serving_default", token_ids=ids)["scores"].shape == (1, 2)
        lengths.append(ids.shape[1])
    assert lengths == [1, 8, 32, 128]


def test_warm_up_requests_by_their_bytes(folder):
    """Without the package that defines the messages: each record contains the names and the ids as a tensor."""
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / WARM_UP_FILE))]
    assert len(records) == 4
    for record, length in zip(records, (1, 8, 32, 128), strict=True):
        tensor = tf.make_tensor_proto(np.arange(length, dtype=np.int64)[None]).SerializeToString()
        assert record[0] == 6 << 3 | 2 and b"words" in record and b"serving_default" in record and tensor in record


def test_server_config(folder):
    """The settings beside the versions name the model and its folder."""
    base = folder.parent
    assert sorted(path.name for path in base.iterdir()) == ["1", "batching.config", "compose.yaml", "models.config"]
    assert (
        'name: "words"' in (base / "models.config").read_text()
        and "model_version_policy" in (base / "models.config").read_text()
    )
    assert "pad_variable_length_inputs: true" in (base / "batching.config").read_text()
    assert "--model_config_file=/models/words/models.config" in (base / "compose.yaml").read_text()


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_stored_dtypes(model, tmp_path, dtype, size):
    """The table takes the bytes of its dtype, the scores stay close, and the card says how close."""
    folder = ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, dtype=dtype)
    stored = sum(file.stat().st_size for file in (folder / "variables").iterdir())
    table = SIZE * (WIDTH * size + (4 if dtype == "int8" else 0))
    assert table <= stored <= 1.01 * table + 4000
    export = ExportedModel(tmp_path)
    wanted = model.predict(IDS, verbose=0)
    np.testing.assert_allclose(export.scores(IDS), wanted, atol={"float32": 1e-6, "float16": 1e-3, "int8": 1e-2}[dtype])
    if dtype != "float32":
        assert 0.999 < export.card["tables"]["embedding"]["smallest_cosine"] < 1
        assert f"{dtype}, cosine to the given rows" in (folder / "README.md").read_text()
    np.testing.assert_array_equal(model.predict(IDS, verbose=0), wanted)  # the model is what it was


def test_a_table_that_the_model_stores_small(tmp_path):
    """It is exported as it is, and the card names its own dtype."""
    table = ek.build_embedding(ek.AlignedMatrix(TABLE, VOCABULARY), stored="int8")
    layers = [keras.Input((None,), dtype="int64"), table, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
    folder = ek.export_saved_model(keras.Sequential(layers), tmp_path, vocabulary=VOCABULARY, check=False)
    card = json.loads((folder / "assets" / "embkeras.json").read_bytes())
    assert (card["dtype"], card["tables"]["embedding"]["stored"]) == ("float32", "int8")
    assert "3,000 x 40, int8, cosine to the given rows" in (folder / "README.md").read_text("utf-8")


def test_int8_rows_are_unpacked_as_they_are_read(model, tmp_path):
    """No operation of the graph outputs the whole table."""
    ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, dtype="int8")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    graph = loaded.signatures["serving_default"].graph
    sizes = [out.shape.as_list() for operation in graph.get_operations() for out in operation.outputs if out.shape.rank]
    inner = [
        out.shape.as_list()
        for function in graph._functions.values()
        for operation in getattr(function, "graph", graph).get_operations()
        for out in operation.outputs
        if out.shape.rank
    ]
    assert [SIZE, WIDTH] not in sizes + inner


def test_overwrite(model, tmp_path):
    """A version is replaced only with overwrite=True, and the old one stays until the new one is complete."""
    first = ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY)
    (first / "mark").write_text("old")
    with pytest.raises(SavedModelError, match=r"Version 1 of .* already exists\. Pass overwrite=True"):
        ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, version=1)
    ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, version=1, overwrite=True)
    assert not (first / "mark").exists() and [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_failed_check_keeps_the_version_there(model, tmp_path):
    """An export that fails its check doesn't replace the version."""
    first = ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY)
    (first / "mark").write_text("old")
    broken = _model()
    broken.get_layer("scores").bias.assign([np.nan, 0])
    with pytest.raises(SavedModelError, match="scores are not finite"):
        ek.export_saved_model(broken, tmp_path, vocabulary=VOCABULARY, version=1, overwrite=True)
    assert (first / "mark").exists() and [path.name for path in tmp_path.iterdir()] == ["1"]
