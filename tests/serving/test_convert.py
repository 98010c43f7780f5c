"""Exports for other runtimes: what is written, how it is checked, and what is refused."""

import json
import shutil
import stat
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import ArgumentError, MissingDependencyError, OutputError, SavedModelError
from embkeras.serving import convert, local, runtimes
from embkeras.serving.convert import convert_saved_model, not_kept
from embkeras.serving.packing import SHORTCUT
from tests.serving.make_golden import FOLDER

# A converter and a Node.js that work as the real ones do, as far as this goes: files and messages of the same form.
CONVERTER = """
import json, pathlib, sys
*flags, source, out = sys.argv[1:]
assert set(flags) == {"--input_format=tf_saved_model", "--output_format=tfjs_graph_model", "--control_flow_v2=True",
    "--signature_name=serving_default", "--saved_model_tags=serve"}, flags
graph = (pathlib.Path(source) / "saved_model.pb").read_bytes()
if b"HashTableV2" in graph or b"serving_int32" in graph:
    sys.exit("ValueError: Unsupported Ops in the model before optimization: HashTableV2")
ensure = {"name": "Ensure", "op": "EnsureShape", "input": ["token_ids", "^Assert"], "attr": {"shape": {}, "T": {}}}
inner = {"signature": {}, "nodeDef": [{"name": "a", "op": "EnsureShape", "input": ["b"], "attr": {"shape": {}}}]}
nodes = [{"name": "token_ids", "op": "Placeholder"}, ensure]
signature = {"inputs": {"token_ids:0": {"name": "token_ids:0"}}, "outputs": {"scores": {"name": "Identity:0"}}}
folder = pathlib.Path(out)
folder.mkdir(exist_ok=True)
(folder / "group1-shard1of1.bin").write_bytes(bytes(4))
(folder / "model.json").write_text(json.dumps({"format": "graph-model", "convertedBy": "TensorFlow.js Converter v4.22.0",
    "signature": signature, "modelTopology": {"node": nodes, "library": {"function": [inner]}},
    "weightsManifest": [{"paths": ["group1-shard1of1.bin"], "weights": []}]}))
"""
NODE = """
import json, sys
if len(sys.argv) > 3:
    for line in sys.stdin:
        rows = json.loads(line)["token_ids"]["shape"][0]
        print(json.dumps({"answers": {"scores": {"shape": [rows, 3], "values": [0.25, None, 0.5] * rows}}}))
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Such programs, alone on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, code in {"tensorflowjs_converter": CONVERTER, "node": NODE}.items():
        (folder / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def tweets(tmp_path):
    """A copy of the golden export: a convolution with class names, `text` and `embed`."""
    return shutil.copytree(FOLDER / "1", tmp_path / "tweets" / "1").parent


@pytest.fixture(scope="module")
def golden():
    """The golden export."""
    return ek.ExportedModel(FOLDER)


@pytest.mark.parametrize("to", convert.TARGETS)
def test_a_missing_converter_is_named_with_its_extra(tweets, monkeypatch, to):
    """And nothing is written."""
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match=rf'needs (tf2onnx|ai_edge|tensorflowjs).*"embkeras\[{to}\]"'):
        convert_saved_model(tweets, to)
    assert [entry.name for entry in tweets.parent.iterdir()] == ["tweets"]


def test_node_without_its_package_is_refused(tweets, programs):
    """The check asks TensorFlow.js in Node.js."""
    (programs / "node").write_text(f"#!{sys.executable}\nraise SystemExit(1)")
    with pytest.raises(MissingDependencyError, match="npm install @tensorflow/tfjs"):
        convert_saved_model(tweets, "tfjs")


def test_refused_before_anything_is_converted(tweets, programs):
    """An unknown runtime, no export, a folder that exists."""
    with pytest.raises(ArgumentError, match=r"onnx, litert, tfjs. Received: 'coreml'"):
        convert_saved_model(tweets, "coreml")
    with pytest.raises(SavedModelError, match=r"saved_model\.pb is missing"):
        convert_saved_model(tweets.parent, "tfjs")
    with pytest.raises(ArgumentError, match="check must be True or False"):
        convert_saved_model(tweets, "tfjs", check=1)
    (tweets.parent / "tweets-js").mkdir()
    for path in (tweets, tweets / "1"):
        with pytest.raises(OutputError, match=r"tweets-js': it already exists. Pass overwrite=True"):
            convert_saved_model(path, "tfjs")


def test_for_tensorflow_js(tweets, programs):
    """The converter gets the ids alone; what TensorFlow.js can't run is left out; the folder has all that a client needs."""
    folder = convert_saved_model(tweets, "tfjs", check=False)
    assert folder == tweets.parent / "tweets-js"
    model = json.loads((folder / "model.json").read_text())
    assert model["signature"]["inputs"] == {"token_ids": {"name": "token_ids:0"}}
    placeholder, ensure = model["modelTopology"]["node"]
    assert placeholder["op"] == "Placeholder"
    assert ensure == {"name": "Ensure", "op": "Identity", "input": ["token_ids"], "attr": {"T": {}}}
    assert model["modelTopology"]["library"]["function"][0]["nodeDef"][0]["op"] == "Identity"
    card = json.loads((folder / "conversion.json").read_text())
    assert card["checked"] is None and card["nodes"] == {"scores": "Identity:0"}
    assert card["inputs"] == [{"name": "token_ids", "kind": "ids", "dtype": "int32", "shape": [None, None]}]
    assert [line.split()[1] for line in not_kept(folder)] == ["takes", "doesn't", "has", "are"]
    readme = (folder / "README.md").read_text()
    assert "It takes no texts" in readme and "node `Identity:0`" in readme and "not compared" in readme
    encoder = ek.TextEncoder(folder)
    assert encoder.encode(["so so"]).tolist() == ek.TextEncoder(FOLDER).encode(["so so"]).tolist()
    assert encoder.class_names == ("bad", "neither", "good")


def test_other_answers_leave_no_folder(tweets, programs):
    """A runtime with NaN or other scores, as its own process."""
    with pytest.raises(SavedModelError, match=r"other answers in tfjs: 'scores' has NaN or infinity, for token_ids \["):
        convert_saved_model(tweets, "tfjs")
    assert [entry.name for entry in tweets.parent.iterdir() if entry.name != "bin"] == ["tweets"]
    (programs / "tensorflowjs_converter").write_text(f"#!{sys.executable}\nraise SystemExit('Unsupported Ops: A')")
    with pytest.raises(SavedModelError, match=r"can't convert .*: Unsupported Ops: A"):
        convert_saved_model(tweets, "tfjs", check=False)


@pytest.fixture
def asked(monkeypatch, golden):
    """A runtime that is the SavedModel itself, whose answers a test may spoil: the function, by `spoil`."""

    class Runtime:
        requests = 0

        def spoil(self, ids, answers):
            return answers

        def ask(self, requests):
            answers = []
            for request in requests:
                self.requests += 1
                found = golden.ask("serving_default", **request)
                answers.append(self.spoil(request["token_ids"], {"scores": found["scores"]}))
            return answers

    runtime = Runtime()
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(local, "ExportedModel", lambda path: golden)  # loaded once
    monkeypatch.setattr(runtimes, "to_onnx", lambda export, folder: {"converter": "c", "runtime": "r"})
    monkeypatch.setattr(runtimes, "ask_onnx", lambda folder: runtime.ask)
    return runtime


def _more(answers, by=2e-5):
    return {"scores": answers["scores"] + np.float32(by)}


SPOILT = {
    "padding in front": lambda ids, answers: _more(answers) if ids.size and ids[0, 0] == 0 else answers,
    "one row of a batch": lambda ids, answers: _more(answers, np.eye(len(ids), 1)) if len(ids) > 1 else answers,
    "ids outside": lambda ids, answers: _more(answers) if (ids == 2**40).any() else answers,
    "a text of padding": lambda ids, answers: _more(answers) if ids.size and not ids.any() else answers,
    "long texts": lambda ids, answers: _more(answers) if ids.shape[1] > 40 else answers,
    "no scores": lambda ids, answers: {},
    "one class": lambda ids, answers: {"scores": answers["scores"][:, :1]},
    "a failure": lambda ids, answers: "Unsupported" if ids.shape[1] == 7 else answers,
}


@pytest.mark.parametrize("what", SPOILT)
def test_every_row_is_compared(tmp_path, asked, what):
    """Wherever the runtime differs."""
    asked.spoil = SPOILT[what]
    with pytest.raises(SavedModelError, match=r"has other answers in onnx: .*, for token_ids \["):
        convert_saved_model(FOLDER, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_compared_is_said(tmp_path, asked):
    """Requests and the largest difference; a runtime without empty tensors is not refused for that, and the card says so."""
    asked.spoil = lambda ids, answers: _more(answers, 5e-6) if ids.size else "no elements"
    folder = convert_saved_model(FOLDER, "onnx", tmp_path / "out")
    checked = json.loads((folder / "conversion.json").read_text())["checked"]
    assert checked["requests"] == asked.requests > 40
    assert 4e-6 < checked["largest_difference"] < 6e-6
    assert not_kept(folder)[-1].startswith("A request needs one time step")


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """An export with a loop over time that refuses ids out of range."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Embedding(10, 3, mask_zero=True), keras.layers.LSTM(2), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((None,), dtype="int64"), *layers])
    vocabulary = ek.Vocabulary(["[PAD]", "[UNK]", *"abcdefgh"])
    path = tmp_path_factory.mktemp("loop") / "loop"
    ek.export_saved_model(model, path, vocabulary=vocabulary, out_of_range="error", check=False)
    return path


def _checked(folder):
    return json.loads((folder / "conversion.json").read_text())["checked"]["requests"]


def test_converters_get_no_shortcuts(loop):
    """They get the branch that is right for every request, padded or not, with the same refusals."""
    export = ek.ExportedModel(loop)
    assert any(node.name.startswith(SHORTCUT) for node in runtimes._nodes(export.folder) if node.op == "If")
    with runtimes._saved(export, "serving_default") as folder:
        shortcuts = {node.op for node in runtimes._nodes(folder) if node.name.startswith(SHORTCUT)}
        plain = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert shortcuts == {"StatefulPartitionedCall"}
    for ids in ([[3, 4]], [[3, 4, 0], [5, 0, 0]], [[0, 3, 0, 4], [0, 0, 0, 0]]):
        wanted = export.ask("serving_default", token_ids=np.array(ids))["scores"]
        np.testing.assert_allclose(plain(token_ids=tf.constant(ids, tf.int64))["scores"], wanted, atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must lie in \[0, 10\)"):
        plain(token_ids=tf.constant([[10]], tf.int64))


def test_onnx_runtime_answers_as_the_savedmodel(request, tmp_path):
    """A convolution, and a loop over time, whose refusals become NaN."""
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed: the extra `onnx`")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra `onnx`")
    assert _checked(convert_saved_model(FOLDER, "onnx", tmp_path / "golden")) > 40
    loop = request.getfixturevalue("loop")
    folder = convert_saved_model(loop, "onnx")
    assert folder == loop.parent / "loop-onnx" and _checked(folder) > 40
    assert any("not refused: the scores of such a text are NaN" in line for line in not_kept(folder))
    session = runtime.InferenceSession(folder / "model.onnx")
    (scores,) = session.run(["scores"], {"token_ids": np.array([[3, 4], [3, 10]])})
    assert np.isfinite(scores).all(axis=1).tolist() == [True, False]


def test_litert_answers_as_the_savedmodel(request, tmp_path):
    """A convolution for any batch; a loop over time takes one text at a time."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: the extra `litert`")
    assert _checked(convert_saved_model(FOLDER, "litert", tmp_path / "golden")) > 40
    assert json.loads((tmp_path / "golden" / "conversion.json").read_text())["rows"] is None
    folder = convert_saved_model(request.getfixturevalue("loop"), "litert")
    assert _checked(folder) > 40 and any(line.startswith("It takes one text at a time") for line in not_kept(folder))


@pytest.mark.skipif(
    shutil.which("tensorflowjs_converter") is None, reason="tensorflowjs is not installed: extra `tfjs`"
)
@pytest.mark.skipif(not convert._node_has_tfjs(), reason="there is no Node.js with @tensorflow/tfjs")
def test_tensorflow_js_answers_as_the_savedmodel(tmp_path):
    """The real converter and Node.js."""
    assert _checked(convert_saved_model(FOLDER, "tfjs", tmp_path / "golden")) > 40
