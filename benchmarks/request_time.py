"""The time of the processor that a request takes in the TensorFlow C API, next to Keras' `model.export` of the same model.

One thread, both exports in one process: they take turns of a few milliseconds, so that a busy machine slows both alike. The
requests wait in TensorFlow's memory, and nothing but `TF_SessionRun` is timed. "full": texts of 50 words. "padded": texts of
realistic lengths, padded behind to the longest of their batch; one alone has no padding. The bound is 1.05 times the time of
`model.export`, or 10 microseconds more, whichever is larger.

With `--onnx`, the same for ONNX Runtime: `serving_default` converted by tf2onnx, next to a graph written by hand that only
looks the words up, averages them and scores the average (the `mean` model, without any guarantee: no padding, no ids outside
the table). It needs `pip install tf2onnx onnxruntime`. With `--write`, the table goes to results/request_time.md.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"

import numpy as np
from machine import machine_line

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the C API of the tests

ROWS, WIDTH, TIME = 20_000, 100, 50
ARCHITECTURES = ("mean", "cnn", "lstm")
BATCHES, KINDS = (1, 32), ("full", "padded")
BOUND, MORE = 1.05, 10e-6
TURN, LONGEST, FEWEST = 0.004, 20, 20  # seconds of a turn, seconds of a row, turns of a slow model


def requests_of(kind: str, batch: int, count: int = 20) -> list[np.ndarray]:
    """Requests of int64 ids."""
    rng, requests = np.random.default_rng(0), []
    for _ in range(count):
        lengths = np.clip(rng.lognormal(2.7, 0.9, batch), 1, 256).astype(int) if kind == "padded" else [TIME] * batch
        ids = np.zeros((batch, max(lengths)), np.int64)
        for row, length in zip(ids, lengths, strict=True):
            row[:length] = rng.integers(2, ROWS, length)
        requests.append(ids)
    return requests


def c_api(folder: Path, requests: Sequence[np.ndarray]) -> Callable[[int], None]:
    """A function that asks an export for a request by its number."""
    from tests.serving.c_api import _POINTER, Session, Tensor, _Output, library

    session, tensors, call = Session(folder), [Tensor.of(ids) for ids in requests], library()
    (place,), answers = session.inputs["serving_default"].values(), session.outputs["serving_default"].values()
    places, fed = (_Output * 1)(place), [(_POINTER * 1)(tensor.pointer) for tensor in tensors]
    asked, found, status = (_Output * len(answers))(*answers), (_POINTER * len(answers))(), call.TF_NewStatus()

    def ask(number: int) -> None:
        call.TF_SessionRun(
            session.pointer, None, places, fed[number], 1, asked, found, len(asked), None, 0, None, status
        )
        if call.TF_GetCode(status):
            raise SystemExit(call.TF_Message(status).decode())
        for answer in found:
            call.TF_DeleteTensor(answer)

    ask.tensors = tensors  # they live as long as the function
    return ask


def onnx_runtime(model: Any, requests: Sequence[np.ndarray]) -> Callable[[int], None]:
    """The same for a model of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda number: session.run(None, {name: requests[number]})


def handwritten(table: np.ndarray, kernels: Sequence[np.ndarray]) -> Any:
    """token_ids -> scores: rows of the table, their mean, two layers, and nothing else."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = ("table", "kernel_1", "bias_1", "kernel_2", "bias_2")
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    stored = [numpy_helper.from_array(value, name) for name, value in zip(names, (table, *kernels), strict=True)]
    nodes = [
        helper.make_node("Gather", ["table", "token_ids"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "kernel_1", "bias_1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "kernel_2", "bias_2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    takes = [helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["batch", "time"])]
    returns = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph(nodes, "by_hand", takes, returns, [*stored, axes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=onnx.IR_VERSION_2023_5_5)


def converted(folder: Path) -> Any:
    """`serving_default` of an export as an ONNX model."""
    import tensorflow as tf
    import tf2onnx

    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(signature, lower_control_flow=False)
    made, _ = tf2onnx.convert._convert_common(
        frozen.graph.as_graph_def(),
        name="embkeras",
        opset=18,
        inputs_as_nchw=None,
        input_names=[tensor.name for tensor in frozen.inputs if tensor.dtype != tf.resource],
        output_names=[tensor.name for tensor in frozen.outputs],
    )
    return made


def taken(ways: dict[str, Callable[[int], None]], count: int, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of a request of each way, one figure a turn."""
    for ask in ways.values():
        for number in range(3 * count):
            ask(number % count)
    start = time.process_time()
    for number in range(count):
        next(iter(ways.values()))(number)
    once = max(time.process_time() - start, 1e-6)
    passes = max(1, int(TURN / once))
    rounds = max(FEWEST, min(rounds, int(LONGEST / (passes * once * len(ways)))))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds):
        for name in list(ways)[:: 1 if round_ % 2 else -1]:
            ask, start = ways[name], time.process_time()
            for _ in range(passes):
                for number in range(count):
                    ask(number)
            found[name].append((time.process_time() - start) / passes / count)
    return {name: np.array(seconds) for name, seconds in found.items()}


def row(label: str, found: dict[str, np.ndarray]) -> str:
    """A line of the table: the smallest time of each, and the median ratio of turns side by side."""
    first, second = found.values()
    ratio, more = float(np.median(second / first)), second.min() - first.min()
    held = "yes" if ratio <= BOUND or more <= MORE else "no"
    times = f"{first.min() * 1e6:,.1f} | {second.min() * 1e6:,.1f} | {more * 1e6:+.1f}"
    return f"| {label} | {times} | {second.min() / first.min():.3f} | {ratio:.3f} | {held} |"


def main() -> None:
    """Each model, batch and kind of request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES, help="these models")
    parser.add_argument("--onnx", action="store_true", help="ONNX Runtime too")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results/request_time.md")
    options = parser.parse_args()
    import embkeras as ek

    rounds = 60 if options.quick else 300
    table = np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32)
    vocabulary = ek.Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(ROWS - 2))])
    lines = [
        "# The time of a request",
        "",
        machine_line("tensorflow", "keras", "onnxruntime"),
        "",
        "| model | first, us | second, us | more | of the smallest | median of turns | within the bound |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)

    def shown(label: str, found: dict[str, np.ndarray]) -> None:
        lines.append(row(label, found))
        print(lines[-1], flush=True)

    for architecture in options.only:
        model = ek.build_classifier(ek.AlignedMatrix(table, vocabulary), 2, architecture=architecture)
        with tempfile.TemporaryDirectory() as folder:
            stock = Path(folder, "stock")
            model.export(stock, verbose=False)
            ours = ek.export_saved_model(model, Path(folder, "ours"), vocabulary=vocabulary, check=False)
            for batch in BATCHES:
                for kind in KINDS:
                    requests = requests_of(kind, batch)
                    ways = {name: c_api(path, requests) for name, path in (("stock", stock), ("ours", ours))}
                    shown(f"{architecture}, batch {batch}, {kind}", taken(ways, len(requests), rounds))
            if options.onnx and architecture == "mean":
                _, *layers = (each.numpy() for each in (model.weights[0], *model.trainable_weights[-4:]))
                made = {"by hand": handwritten(table, layers), "converted": converted(ours)}
                for batch in BATCHES:
                    requests = requests_of("full", batch)
                    ways = {name: onnx_runtime(each, requests) for name, each in made.items()}
                    shown(f"ONNX mean, batch {batch}, full", taken(ways, len(requests), rounds))
    bound = f"at most {BOUND} times the first in the median of turns, or {MORE * 1e6:.0f} us more in the smallest"
    lines += [
        "",
        f"First: `model.export`, or the graph by hand; second: the export; up to {rounds} turns of each. The bound: {bound}.",
        f"{os.getloadavg()[0]:.1f} processes were at work on the machine at the end.",
    ]
    print("\n".join(lines[-3:]))
    if options.write:
        Path(__file__).with_name("results").joinpath("request_time.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
