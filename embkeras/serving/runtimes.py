"""Other runtimes for an export: how each gets its graph, and how it is asked there. Only the outputs of ids are converted."""

import functools
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from embkeras.errors import SavedModelError
from embkeras.serving import names
from embkeras.serving.local import ExportedModel
from embkeras.serving.packing import SHORTCUT
from embkeras.serving.reasons import reason
from embkeras.serving.trust import saved_model_message

Request = Mapping[str, np.ndarray]
Ask = Callable[
    [Sequence[Request]], list[dict[str, np.ndarray] | str]
]  # for each request the answers, or why there are none

_LISTS = ("TensorListReserve", "TensorListFromTensor", "TensorListGetItem", "TensorListStack")  # of a loop over time
_CALLS = {"StatelessIf": "PartitionedCall", "If": "StatefulPartitionedCall"}  # what calls one of the branches
# Asks a TensorFlow.js model: a line of JSON for each request on standard input, and for its answers on standard output.
# (tf.loadGraphModel reads no files without a native package.)
_ASK_JS = """
const fs = require("fs"), path = require("path"), folder = process.argv[1];
console.warn = () => {};
const tf = require("@tensorflow/tfjs");
(async () => {
  const model = JSON.parse(fs.readFileSync(path.join(folder, "model.json")));
  const files = model.weightsManifest.flatMap(group => group.paths).map(file => fs.readFileSync(path.join(folder, file)));
  const weightData = new Uint8Array(Buffer.concat(files)).buffer;
  const weightSpecs = model.weightsManifest.flatMap(group => group.weights);
  const graph = await tf.loadGraphModel({load: async () => ({...model, weightSpecs, weightData})});
  const outputs = Object.entries(model.signature.outputs);
  for (const line of fs.readFileSync(0, "utf8").split("\\n").filter(Boolean)) {
    try {
      const feeds = {};
      for (const [name, {shape, dtype, values}] of Object.entries(JSON.parse(line)))
        feeds[model.signature.inputs[name].name] = tf.tensor(values, shape, dtype);
      const found = [].concat(await graph.executeAsync(feeds, outputs.map(([, output]) => output.name)));
      const answers = found.map((tensor, place) => [outputs[place][0], {
        shape: tensor.shape, values: Array.from(tensor.dataSync(), value => Number.isFinite(value) ? value : null)}]);
      console.log(JSON.stringify({answers: Object.fromEntries(answers)}));
    } catch (error) { console.log(JSON.stringify({error: String(error.message)})); }
  }
})();
"""


def to_onnx(export: ExportedModel, folder: Path) -> dict[str, Any]:
    """Write `model.onnx`; returns facts for the card of the conversion."""
    import onnx
    import tf2onnx

    _teach_erfc()
    serve, specs = _of_ids(export, names.SERVING)
    model, _ = tf2onnx.convert.from_function(serve, input_signature=specs)
    onnx.checker.check_model(model)  # an operation that tf2onnx can't convert stays in the model as it is
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return {"converter": f"tf2onnx {version('tf2onnx')}", "runtime": f"onnxruntime {version('onnxruntime')}"}


@functools.cache
def _teach_erfc() -> None:
    """tf2onnx has no 1 - erf(x), which is in the exact GELU of an encoder."""
    from tf2onnx import handler, utils

    class Erfc:
        @classmethod
        def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
            node.type, output = "Erf", node.output[0]
            kind, shape = graph.get_dtype(output), graph.get_shape(output)
            one = graph.make_const(f"{node.name}_one", np.array(1, utils.map_onnx_to_numpy_type(kind)))
            rest = graph.make_node("Sub", [one.output[0], output], shapes=[shape], dtypes=[kind])
            graph.insert_node_on_output(rest, output)

    handler.tf_op("Erfc")(Erfc)


def ask_onnx(folder: Path) -> Ask:
    """ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = [each.name for each in session.get_outputs()]
    known = {each.name for each in session.get_inputs()}

    def ask(request: Request) -> dict[str, np.ndarray]:
        found = session.run(outputs, {name: value for name, value in request.items() if name in known})
        return dict(zip(outputs, found, strict=True))

    return _each(ask)


def to_litert(export: ExportedModel, folder: Path) -> dict[str, Any]:
    """Write `model.tflite`, from built-in operations alone; returns facts for the card of the conversion.

    LiteRT has loops over time only where the number of rows is known, so a model with such a loop takes one text at a time.
    """
    loops = any(node.op in _LISTS for node in _nodes(export.folder))
    rows = 1 if loops else None
    with _saved(export, names.SERVING, rows) as saved:
        _for_litert(saved, rows)
        model = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=[names.SERVING]).convert()
    (folder / "model.tflite").write_bytes(model)
    facts = {
        "converter": f"tf.lite of TensorFlow {tf.__version__}",
        "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
    }
    return facts | {"rows": rows}


def ask_litert(folder: Path) -> Ask:
    """LiteRT, on the CPU."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "model.tflite"))
    runner = interpreter.get_signature_runner(names.SERVING)
    known = set(runner.get_input_details())
    return _each(lambda request: runner(**{name: value for name, value in request.items() if name in known}))


def to_tfjs(export: ExportedModel, folder: Path) -> dict[str, Any]:
    """Write `model.json` and its weights; returns facts for the card of the conversion."""
    with _saved(export, names.SERVING_INT32) as saved:
        command = ["tensorflowjs_converter", "--input_format=tf_saved_model", "--output_format=tfjs_graph_model"]
        # Loops as functions: TensorFlow.js fails on the frames of older loops whose start is constant.
        command += ["--control_flow_v2=True", f"--signature_name={names.SERVING}", "--saved_model_tags=serve"]
        done = subprocess.run([*command, str(saved), str(folder)], capture_output=True, text=True, check=False)
    file = folder / "model.json"
    if done.returncode or not file.is_file():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        last = [line for line in said if "Error" in line or "Unsupported" in line or line is said[-1]][-1]
        raise SavedModelError(f"tensorflowjs_converter can't convert {str(export.folder)!r}: {last}")
    model = json.loads(file.read_text(encoding="utf-8"))
    _for_tfjs(model)
    file.write_text(json.dumps(model), encoding="utf-8")
    outputs = {name: output["name"] for name, output in model["signature"]["outputs"].items()}
    return {
        "converter": model.get("convertedBy", "tensorflowjs_converter"),
        "runtime": "TensorFlow.js",
        "nodes": outputs,
    }


def ask_tfjs(folder: Path) -> Ask:
    """TensorFlow.js in Node.js, on the CPU."""

    def ask(requests: Sequence[Request]) -> list[dict[str, np.ndarray] | str]:
        kinds = {"i": "int32", "u": "int32", "b": "bool", "f": "float32"}
        lines = [
            {
                name: {"shape": value.shape, "dtype": kinds[value.dtype.kind], "values": value.ravel().tolist()}
                for name, value in request.items()
            }
            for request in requests
        ]
        asked = "".join(json.dumps(line) + "\n" for line in lines)
        command = ["node", "-e", _ASK_JS, str(folder)]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or len(answers) != len(requests):
            last = ([line for line in done.stderr.splitlines() if line.strip()] or ["no message"])[-1]
            raise SavedModelError(f"Node.js can't ask {str(folder)!r}: {last}")
        return [each.get("error") or _arrays(each["answers"]) for each in answers]

    return ask


def _arrays(answers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Answers as JSON to arrays; JSON has null where a number isn't finite."""
    return {name: np.array(each["values"], np.float64).reshape(each["shape"]) for name, each in answers.items()}


def _each(ask: Callable[[Request], Mapping[str, np.ndarray]]) -> Ask:
    """A function of one request as one of several."""

    def ask_all(requests: Sequence[Request]) -> list[dict[str, np.ndarray] | str]:
        answers: list[dict[str, np.ndarray] | str] = []
        for request in requests:
            try:
                answers.append(dict(ask(request)))
            except Exception as error:  # each runtime has its own classes
                answers.append(reason(str(error)))
        return answers

    return ask_all


def _of_ids(export: ExportedModel, signature: str, rows: int | None = None) -> tuple[Any, list[tf.TensorSpec]]:
    """A function of the inputs in the card's order that returns the model's outputs, without class names; its inputs."""
    signed, outputs = export.signatures[signature], export.card["outputs"]
    taken = signed.structured_input_signature[1]
    inputs = [taken[each["name"]] for each in export.card["inputs"]]
    specs = [tf.TensorSpec((rows, *spec.shape[1:]), spec.dtype, name=spec.name) for spec in inputs]

    def serve(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        answers = signed(**{spec.name: value for spec, value in zip(specs, values, strict=True)})
        return {name: answers[name] for name in outputs}

    return tf.function(serve, input_signature=specs, autograph=False), specs


@contextmanager
def _saved(export: ExportedModel, signature: str, rows: int | None = None) -> Iterator[Path]:
    """A SavedModel of that function alone, without the lookup tables of other signatures, which converters stop on."""
    serve, _ = _of_ids(export, signature, rows)
    module = tf.Module()
    module.weights = list(export.signatures[signature].variables)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={names.SERVING: serve})
        _without_shortcuts(Path(folder))
        yield Path(folder)


def _without_shortcuts(folder: Path) -> None:
    """Every request takes the way that is right for all: LiteRT can't choose between branches of unknown lengths."""
    message = saved_model_message(folder)
    for function in message.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op in _CALLS and node.name.startswith(SHORTCUT):
                node.op = _CALLS[node.op]
                del node.input[0]  # what chooses
                node.attr["f"].CopyFrom(node.attr["else_branch"])
                for name in set(node.attr) - {"Tin", "Tout", "f"}:
                    del node.attr[name]
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())


def _nodes(folder: Path) -> Iterator[Any]:
    """The nodes of all functions of a SavedModel."""
    for function in saved_model_message(folder).meta_graphs[0].graph_def.library.function:
        yield from function.node_def


def _for_litert(folder: Path, rows: int | None) -> None:
    """Leave out EnsureShape, which LiteRT lacks; lists of a loop over time, of steps (batch, ...), get the number of rows."""
    message = saved_model_message(folder)
    for function in message.meta_graphs[0].graph_def.library.function:
        constants = {node.name: node for node in function.node_def if node.op == "Const"}
        for node in function.node_def:
            if node.op == "EnsureShape":
                node.op = "Identity"
                del node.attr["shape"]
            if node.op not in _LISTS or rows is None:
                continue
            for name in node.input:
                constant = constants.get(name.split(":")[0])
                shape = None if constant is None else tf.make_ndarray(constant.attr["value"].tensor)
                if constant is not None and shape is not None and shape.ndim == 1 and len(shape) > 1 and shape[0] == -1:
                    fixed = np.concatenate([[rows], shape[1:]]).astype(shape.dtype)
                    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(fixed))
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())


def _for_tfjs(model: dict[str, Any]) -> None:
    """Leave out what TensorFlow.js can't run: EnsureShape, whose shape it looks for among the inputs, and assertions."""
    inputs = model["signature"]["inputs"]  # of several inputs, the converter names some "query:0"
    model["signature"]["inputs"] = {name.split(":")[0]: each for name, each in inputs.items()}
    graph = model["modelTopology"]
    bodies = [graph["node"], *(each.get("nodeDef", []) for each in graph.get("library", {}).get("function", []))]
    for node in (node for body in bodies for node in body):
        if node["op"] == "EnsureShape":
            node["op"] = "Identity"
            node.get("attr", {}).pop("shape", None)
        # What a node waits for, such as an assertion, without reading it.
        node["input"] = [name for name in node.get("input", []) if not name.startswith("^")]
