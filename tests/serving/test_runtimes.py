"""One export in the runtimes that people run: TensorFlow alone, its C API, OpenVINO, gRPC, and TensorFlow Serving."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import keras
import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.serving import ask
from embkeras.serving.check import check_saved_model
from embkeras.serving.client import ServingClient
from tests.processes import run_python, started
from tests.serving.c_api import CApiError, Session
from tests.serving.make_golden import EXPECTED, FOLDER, TEXTS, golden_model
from tests.variants import THOROUGH, variants

MODEL_SERVER = shutil.which("tensorflow_model_server")
ARCHITECTURES = ("mean", "cnn", "lstm")
OUTSIDE = (-1, 2**31, 2**40, -(2**63))
_PATIENCE = 60  # seconds until a server must be up


@pytest.fixture(scope="module")
def vocabulary():
    """The vocabulary of the golden export."""
    return golden_model()[0]


@pytest.fixture(scope="module")
def aligned(vocabulary):
    """A table for it."""
    table = np.random.default_rng(0).normal(size=(len(vocabulary), 6)).astype(np.float32)
    return ek.AlignedMatrix(table, vocabulary)


class Exported:
    """A model in memory, its export, and requests with the model's scores."""

    def __init__(self, model, folder, size):
        self.model, self.folder = model, folder
        spec = tf.TensorSpec((1, None), tf.int64)
        self._ask = tf.function(lambda ids: model(ids, training=False), input_signature=[spec])
        rng = np.random.default_rng(2)
        batches = [rng.integers(0, size, shape) for shape in ((1, 1), (1, 5), (4, 9), (16, 30))]  # with padding
        self.requests = [(ids, self.wanted(ids)) for ids in batches]

    def wanted(self, ids):
        """The model's scores for the same texts, each alone and without padding."""
        texts = [row[row != 0] if row.any() else np.array([1]) for row in ids]
        return np.concatenate([self._ask(text[None]) for text in texts])


@pytest.fixture(scope="module", params=variants(ARCHITECTURES, always=["mean", "lstm"]))
def exported(request, aligned, vocabulary, tmp_path_factory):
    """Each architecture with a table that trains, whose graph has a custom gradient."""
    keras.utils.set_random_seed(1)
    model = ek.build_classifier(aligned, 3, architecture=request.param, units=4, trainable=True)
    path = tmp_path_factory.mktemp(request.param) / "words"
    names = ["bad", "neither", "good"]
    folder = ek.export_saved_model(model, path, vocabulary=vocabulary, class_names=names, with_config=True)
    return Exported(model, folder, len(vocabulary))


@pytest.fixture(scope="module")
def refusing(aligned, vocabulary, tmp_path_factory):
    """An export that refuses ids out of range."""
    model = ek.build_classifier(aligned, 3, architecture="mean", units=4)
    return ek.export_saved_model(
        model, tmp_path_factory.mktemp("refusing"), vocabulary=vocabulary, out_of_range="error"
    )


def run(module, *arguments, stdin=""):
    """The JSON lines that a program of the tests prints."""
    done = run_python("-m", f"tests.serving.{module}", *arguments, stdin=stdin)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_c_api_in_a_process_without_python_tensorflow(exported, vocabulary):
    """The runtime inside TensorFlow Serving returns the same scores and classes, also for texts."""
    ids, wanted = exported.requests[2]
    asked = [{"signature": name, "token_ids": ids.tolist()} for name in ("serving_default", "serving_int32", "embed")]
    asked.append({"signature": "text", "text": TEXTS})
    wide, narrow, vectors, texts, loaded = run(
        "c_api", exported.folder, stdin="".join(json.dumps(each) + "\n" for each in asked)
    )
    np.testing.assert_allclose(wide["scores"], wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(narrow["scores"], wide["scores"])
    assert wide["classes"] == [["bad", "neither", "good"]] * len(ids)
    table = exported.model.get_layer("embedding").matrix()
    np.testing.assert_array_equal(vectors["vectors"], np.where(ids[..., None] == 0, 0, table[ids]))
    encoded = [vocabulary.encode(text) if text else np.array([1]) for text in TEXTS]
    alone = [exported.wanted(each[None])[0] for each in encoded]
    np.testing.assert_allclose(texts["scores"], alone, rtol=0, atol=1e-5)
    assert not any(loaded.values())


def test_c_api_answers_every_shape_as_the_model_does(exported, vocabulary):
    """One text or many, short or long ones."""
    session = Session(exported.folder)
    for ids, wanted in exported.requests:
        scores = session.run("serving_default", {"token_ids": ids})["scores"]
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-5)


def test_c_api_reads_ids_out_of_range_as_unknown(exported, vocabulary):
    """The policy is part of the graph."""
    session = Session(exported.folder)
    unknown = session.run("serving_default", {"token_ids": np.array([[3, 1, 5]])})["scores"]
    for bad in (*OUTSIDE, len(vocabulary)):
        scores = session.run("serving_default", {"token_ids": np.array([[3, bad, 5]])})["scores"]
        np.testing.assert_array_equal(scores, unknown)


@pytest.mark.parametrize("signature", ["serving_default", "serving_int32", "embed"])
def test_c_api_refuses_ids_out_of_range_where_the_export_does(refusing, signature):
    """The message has the rule and the id."""
    with pytest.raises(CApiError, match=r"token_ids must lie in \[0, 26\)\. Received\] \[-1\] \[in text\] \[0\]"):
        Session(refusing).ask(signature, token_ids=[[3, -1]])


@pytest.mark.parametrize("signature", ["serving_default", pytest.param("serving_int32", marks=THOROUGH), "embed"])
@pytest.mark.parametrize("shape", [(3,), (1, 3, 1), pytest.param((2, 2, 2, 2), marks=THOROUGH)])
def test_c_api_refuses_ids_that_are_no_batch(exported, signature, shape):
    """A session accepts any shape, whatever the signature says, so the graph must check."""
    with pytest.raises(CApiError, match=r"is not compatible with expected shape \[\?,\?\]"):
        Session(exported.folder).ask(signature, token_ids=np.full(shape, 3))


def in_openvino(folder):
    """The scores of an export in OpenVINO, as a function.

    It takes `serving_default` by itself. Its CPU knows no strings, so the class names are left out; and where the CPU
    has bfloat16 it would compute in that, 1e-3 off.
    """
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    core = openvino.Core()
    whole = core.read_model(folder)
    scores = openvino.Model([whole.output("scores")], whole.get_parameters())
    compiled = core.compile_model(scores, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda ids: compiled({"token_ids": np.asarray(ids, np.int64)})[0]


def test_openvino_gives_the_same_scores(exported, vocabulary):
    """An engine that shares only the folder with TensorFlow."""
    ask = in_openvino(exported.folder)
    for ids, wanted in exported.requests:
        np.testing.assert_allclose(ask(ids), wanted, rtol=0, atol=1e-5)


def test_openvino_needs_no_padding_either(exported):
    """Zeros in front, behind and between, and an empty text, are read as in TensorFlow."""
    ask, wanted, unknown = in_openvino(exported.folder), *exported.wanted(np.array([[3, 4], [0, 0]]))
    for ids in ([3, 4], [0, 3, 4], [3, 4, 0, 0], [0, 3, 0, 4, 0]):
        np.testing.assert_allclose(ask([ids])[0], wanted, rtol=0, atol=1e-5)
    for ids in (np.zeros((1, 0)), np.zeros((1, 3))):
        np.testing.assert_allclose(ask(ids)[0], unknown, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [-1, 26, 2**31 - 1, 2**31, -(2**31)])
def test_openvino_reads_ids_out_of_range_of_32_bits_as_unknown(exported, bad):
    """The policy holds for 32-bit ids."""
    ask = in_openvino(exported.folder)
    np.testing.assert_array_equal(ask([[3, bad, 5]]), ask([[3, 1, 5]]))


def test_openvino_narrows_ids_of_64_bits(exported):
    """The README warns of it: 2^32 + 7 is read as word 7. If this fails, remove the warning."""
    ask = in_openvino(exported.folder)
    np.testing.assert_array_equal(ask([[3, 2**32 + 7, 5]]), ask([[3, 7, 5]]))


def test_openvino_says_nan_where_it_drops_the_refusal(refusing):
    """It has no assertions: the scores of a text that must be refused are NaN, those of other texts aren't."""
    scores = in_openvino(refusing)([[3, 4], [3, -1], [5, 6]])
    np.testing.assert_array_equal(np.isnan(scores).all(axis=1), [False, True, False])
    assert np.isfinite(scores[[0, 2]]).all()


@contextmanager
def server(*command, ready):
    """A server in its own process; `ready` takes the process and returns what to ask."""
    with started(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield ready(process)


def predict(stub, signature, **inputs):
    """A prediction with the official classes."""
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "words", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    answer = stub.Predict(request, timeout=_PATIENCE, wait_for_ready=True)
    return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}


def stub_of(port):
    """The official stub."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed: the extra `serving`")
    stubs = pytest.importorskip(
        "tensorflow_serving.apis.prediction_service_pb2_grpc",
        reason="tensorflow-serving-api is not installed: the extra `serving`",
    )
    return stubs.PredictionServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}"))


def test_official_client_against_the_c_api(exported, vocabulary):
    """Official stubs in the client, no Python TensorFlow in the server."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed: the extra `serving`")
    command = [sys.executable, "-m", "tests.serving.c_api_server", str(exported.folder), "words"]
    with server(*command, ready=lambda process: stub_of(int(process.stdout.readline()))) as stub:
        for ids, wanted in exported.requests:
            for signature, dtype in (("serving_default", np.int64), ("serving_int32", np.int32)):
                answer = predict(stub, signature, token_ids=ids.astype(dtype))
                np.testing.assert_allclose(answer["scores"], wanted, rtol=0, atol=1e-5)
        assert answer["classes"][0].tolist() == [b"bad", b"neither", b"good"]
        texts = predict(stub, "text", text=np.array([text.encode() for text in TEXTS]))["scores"]
        np.testing.assert_allclose(texts[:1], exported.wanted(vocabulary.encode(TEXTS[0])[None]), rtol=0, atol=1e-5)
        with pytest.raises(grpc.RpcError, match="Expects arg\\[0\\] to be int64 but float is provided"):
            predict(stub, "serving_default", token_ids=np.float32([[3.9]]))
        with pytest.raises(grpc.RpcError, match='key "other" not found'):
            predict(stub, "other", token_ids=ids)


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def rest(url, body=None):
    """The answer of a REST server, once it is up."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, body and json.dumps(body).encode(), timeout=_PATIENCE) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.skipif(MODEL_SERVER is None, reason="tensorflow_model_server is not on PATH")
def test_tensorflow_serving(exported, vocabulary, tmp_path):
    """The real server, started with the settings of the export, over REST and gRPC, in batches."""
    path, ports = exported.folder.parent, {"port": free_port(), "rest_api_port": free_port()}
    config = (path / "models.config").read_text()
    (tmp_path / "models.config").write_text(config.replace("/models/words", str(path)))
    command = [
        MODEL_SERVER,
        *(f"--{name}={port}" for name, port in ports.items()),
        f"--model_config_file={tmp_path / 'models.config'}",
        "--enable_batching=true",
        f"--batching_parameters_file={path / 'batching.config'}",
    ]
    url = f"http://127.0.0.1:{ports['rest_api_port']}/v1/models/words"
    with server(*command, ready=lambda process: rest(url)) as state:
        assert state["model_version_status"][0]["state"] == "AVAILABLE"
        stub = stub_of(ports["port"])
        for ids, wanted in exported.requests:
            answer = predict(stub, "serving_default", token_ids=ids)
            np.testing.assert_allclose(answer["scores"], wanted, rtol=0, atol=1e-5)
            answer = rest(f"{url}:predict", {"inputs": {"token_ids": ids.tolist()}})
            np.testing.assert_allclose(answer["outputs"]["scores"], wanted, rtol=0, atol=1e-5)
        lengths = [np.concatenate([[0], row[:length]])[None] for length, row in zip((1, 4, 9), ids, strict=False)]
        with ThreadPoolExecutor(len(lengths)) as pool:  # these share a batch, padded with their first element
            together = pool.map(lambda row: predict(stub, "serving_default", token_ids=row)["scores"], lengths)
            for row, scores in zip(lengths, together, strict=True):
                np.testing.assert_allclose(scores, exported.wanted(row), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def golden():
    """The golden export's answers when it was written."""
    return json.loads(EXPECTED.read_text(encoding="utf-8"))


def padded(ids):
    """Rows of one length."""
    longest = max(map(len, ids))
    return np.array([row + [0] * (longest - len(row)) for row in ids])


def test_golden_export_is_small():
    """It is stored in the repository."""
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 300_000


def test_golden_export_is_read_and_answers_as_ever(golden):
    """An export on disk keeps working."""
    export = ek.ExportedModel(FOLDER)
    assert list(export.class_names) == golden["classes"]
    assert [export.vocabulary.encode(text).tolist() for text in golden["texts"]] == golden["token_ids"][: len(TEXTS)]
    np.testing.assert_allclose(export.scores(padded(golden["token_ids"])), golden["scores"], rtol=0, atol=1e-6)
    for ids, scores in zip(golden["token_ids"], golden["scores"], strict=True):
        np.testing.assert_allclose(export.scores(np.array([ids], np.int64))[0], scores, rtol=0, atol=1e-6)
    check_saved_model(FOLDER)


def test_golden_export_answers_as_ever_with_tensorflow_alone(golden):
    """In this process neither Keras nor embkeras can be imported."""
    # TensorFlow imports Keras by itself where it finds it.
    alone = "import runpy, sys; sys.modules.update(keras=None, embkeras=None); runpy.run_path(sys.argv.pop(1), None, '__main__')"
    lines = "".join(f"{ids}\n" for ids in golden["token_ids"])
    done = run_python("-P", "-c", alone, ask.__file__, FOLDER / "1", stdin=lines)
    scores = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    np.testing.assert_allclose(scores, golden["scores"], rtol=0, atol=1e-6)


def test_golden_export_answers_as_ever_through_the_c_api(golden):
    """The golden answers through the C API."""
    asked = [{"signature": "serving_default", "token_ids": [ids]} for ids in golden["token_ids"]]
    asked.append({"signature": "text", "text": golden["texts"]})
    *answers, texts, loaded = run("c_api", FOLDER / "1", stdin="".join(json.dumps(each) + "\n" for each in asked))
    np.testing.assert_allclose([each["scores"][0] for each in answers], golden["scores"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(texts["scores"], golden["scores"][: len(TEXTS)], rtol=0, atol=1e-6)
    assert not any(loaded.values())


def test_golden_export_answers_as_ever_in_openvino(golden):
    """All but the 64-bit ids."""
    kept = [place for place, ids in enumerate(golden["token_ids"]) if max(ids, default=0) < 2**31]
    ask, wanted = in_openvino(FOLDER / "1"), np.array(golden["scores"])
    scores = ask(padded([golden["token_ids"][place] for place in kept]))
    np.testing.assert_allclose(scores, wanted[kept], rtol=0, atol=1e-5)


def test_todays_export_of_the_golden_model_answers_the_same(golden, tmp_path):
    """Exporting the golden model today gives the same answers."""
    vocabulary, model = golden_model()
    ek.export_saved_model(model, tmp_path, vocabulary=vocabulary, check=False)
    scores = ek.ExportedModel(tmp_path).scores(padded(golden["token_ids"]))
    np.testing.assert_allclose(scores, golden["scores"], rtol=0, atol=1e-6)


def test_golden_export_answers_as_ever_to_our_client_over_grpc(golden):
    """ServingClient, with the encoder from the assets, against a server without Python TensorFlow."""
    pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed: the extra `serving`")
    command = [sys.executable, "-m", "tests.serving.c_api_server", str(FOLDER / "1"), "golden"]
    with (
        server(*command, ready=lambda process: int(process.stdout.readline())) as port,
        ServingClient(f"grpc://127.0.0.1:{port}", encoder=FOLDER, timeout=_PATIENCE) as client,
    ):
        answers = client.predict(golden["texts"])
        scores = np.array(golden["scores"][: len(TEXTS)])
        assert answers["label"].tolist() == [golden["classes"][best] for best in scores.argmax(axis=1)]
        np.testing.assert_allclose(answers["probability"], scores.max(axis=1), rtol=0, atol=1e-6)
