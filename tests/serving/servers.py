"""Servers for tests: they answer like TensorFlow Serving, in this process, with any runtime for the export.

What runs it is a `Runner`: `InTensorFlow` below, or anything else with its two methods.
"""

import contextlib
import json
import re
import socket
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2


class Refused(Exception):
    """What a runner raises for a request that the export refuses."""


class Runner(Protocol):
    """Runs one version of an export."""

    def signatures(self) -> dict[str, meta_graph_pb2.SignatureDef]:
        """The signatures, as they stand in saved_model.pb."""

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output of a signature. Raises Refused."""


class InTensorFlow:
    """Runs an export by TensorFlow's own loader."""

    def __init__(self, folder: Path):
        message = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        self._signatures = dict(message.meta_graphs[0].signature_def)
        self._loaded = tf.saved_model.load(str(folder))

    def signatures(self):
        """As `Runner` says."""
        return self._signatures

    def run(self, signature, inputs):
        """As `Runner` says."""
        try:
            tensors = {name: tf.constant(array) for name, array in inputs.items()}
            answers = self._loaded.signatures[signature](**tensors)
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise Refused(str(error)) from error
        return {name: answer.numpy() for name, answer in answers.items()}


class Model:
    """A model at a server: versions by their numbers, and a record of what was asked.

    Attributes:
        versions: number -> Runner; tests may add and remove some while the server runs.
        labels: label -> number, as in models.config.
        asked: (version, signature, inputs) of every request for a prediction, in order.
        filters: the outputs that each gRPC request for a prediction asked for.
        faults: functions that answer in the model's place, one a request for scores: the first is taken off the list.
            A REST fault gets the handler, a gRPC fault the context.
    """

    def __init__(self, name: str, versions: dict[int, Runner]):
        self.name, self.versions = name, dict(versions)
        self.asked, self.faults, self.filters, self.labels = [], [], [], {}

    def version(self, name: str, number: int | None, label: str | None = None) -> int:
        """The version that is meant. Raises LookupError as TensorFlow Serving words it."""
        if label and label not in self.labels:
            raise LookupError(f"Unrecognized servable version label: {label}")
        number = self.labels[label] if label else number
        number = max(self.versions, default=None) if number is None else number
        if name != self.name or number not in self.versions:
            raise LookupError(f"Servable not found for request: Specific({name}, {number})")
        return number

    def run(self, number: int, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs."""
        self.asked.append((number, signature, inputs))
        return self.versions[number].run(signature, inputs)

    def fault(self, signature: str):
        """The next fault, for a request for scores."""
        return self.faults.pop(0) if self.faults and signature.startswith("serving_") else None


@contextlib.contextmanager
def rest_server(model: Model):
    """TensorFlow Serving's REST interface; yields its URL."""

    class Handler(_Rest):
        served = model

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Rest(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    served: Model
    _PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata|:predict)")

    def do_GET(self):
        """Metadata."""
        self._answer("/metadata", self._metadata)

    def do_POST(self):
        """Predictions."""
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(":predict", self._predict)

    def _answer(self, verb, answer):
        match = self._PATH.fullmatch(self.path)
        try:
            if not match or match[4] != verb:
                raise ValueError(f"Malformed request: {self.command} {self.path}")
            answer(self.served.version(match[1], int(match[2]) if match[2] else None, match[3]))
        except LookupError as error:
            self.send(404, {"error": error.args[0]})
        except (Refused, ValueError) as error:
            self.send(400, {"error": str(error)})

    def _metadata(self, number):
        described = {
            name: json_format.MessageToDict(
                signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for name, signature in self.served.versions[number].signatures().items()
        }
        spec = {"name": self.served.name, "signature_name": "", "version": str(number)}
        self.send(200, {"model_spec": spec, "metadata": {"signature_def": {"signature_def": described}}})

    def _predict(self, number):
        request = json.loads(self.body)
        signature = request.get("signature_name", "serving_default")
        fault = self.served.fault(signature)
        if fault is not None:
            fault(self)
            return
        described = self.served.versions[number].signatures()
        if signature not in described:
            raise ValueError(f'Serving signature name: "{signature}" not found in signature def')
        if not described[signature].inputs:
            raise ValueError(f"Failed to get input map for signature: {signature}")
        answers = self.served.run(number, signature, _columns(request["inputs"], described[signature].inputs))
        written = {name: _strings(array).tolist() for name, array in answers.items()}
        self.send(200, {"outputs": written if len(written) > 1 else next(iter(written.values()))})

    def send(self, status, answer):
        """Send JSON, or bytes as they are."""
        contents = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        self.wfile.write(contents)

    def log_message(self, *_):
        """Say nothing."""


def _columns(inputs, described):
    """Tensors of a request in the columnar format, of the types that the signature has."""
    if not isinstance(inputs, dict):
        inputs = {next(iter(described)): inputs}
    arrays = {}
    for name, info in described.items():
        if name not in inputs:
            raise ValueError(f"Missing named input: {name} in 'inputs' object.")
        array = np.array(inputs[name])
        dtype = tf.as_dtype(info.dtype)
        if array.size and dtype.is_integer and array.dtype.kind != "i":
            raise ValueError(f"JSON Value: {array.flat[0]} Type: Number is not of expected type: {dtype.name}")
        arrays[name] = array.astype(dtype.as_numpy_dtype)
    return arrays


def _strings(array):
    return np.array([each.decode() for each in array.flat]).reshape(array.shape) if array.dtype == object else array


@contextlib.contextmanager
def grpc_server(model: Model):
    """TensorFlow Serving's gRPC interface, with the official stubs; yields its URL."""
    import grpc
    from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            spec = request.model_spec
            model.filters.append(list(request.output_filter))
            number = self._version(spec, context)
            signature = spec.signature_name or "serving_default"
            fault = model.fault(signature)
            if fault is not None:
                return fault(context)
            if signature not in model.versions[number].signatures():
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.')
            inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            try:
                answers = model.run(number, signature, inputs)
            except Refused as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except LookupError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, error.args[0])
            response = predict_pb2.PredictResponse()
            response.model_spec.name, response.model_spec.version.value = spec.name, number
            for name in request.output_filter or answers:
                response.outputs[name].CopyFrom(tf.make_tensor_proto(answers[name]))
            return response

        def GetModelMetadata(self, request, context):
            number = self._version(request.model_spec, context)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name, response.model_spec.version.value = request.model_spec.name, number
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in model.versions[number].signatures().items():
                signatures.signature_def[name].CopyFrom(signature)
            response.metadata["signature_def"].Pack(signatures)
            return response

        def _version(self, spec, context):
            try:
                number = spec.version.value if spec.HasField("version") else None
                return model.version(spec.name, number, spec.version_label)
            except LookupError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, error.args[0])

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None)


@contextlib.contextmanager
def raw_server(*handles):
    """A TCP server that does one of these with each connection, in turn, and the last with all that follow.

    Gives (host, port) and the list of connections so far.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            handle = handles[min(len(connections), len(handles) - 1)]
            connections.append(connection)
            threading.Thread(target=_handled, args=(handle, connection), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname(), connections
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.close()


def _handled(handle, connection):
    with contextlib.suppress(OSError):
        handle(connection)


def refuse(where: Any, status: int, code: str, message: str) -> None:
    """A fault of `Model`: an HTTP status where it gets a handler, a gRPC code where it gets a context."""
    if hasattr(where, "send"):
        where.send(status, {"error": message})
    else:
        import grpc

        where.abort(getattr(grpc.StatusCode, code), message)


def hang(connection: Any) -> None:
    """Say nothing, and keep the line. (A fault of `Model`, too: there it holds the request for a while.)"""
    if isinstance(connection, socket.socket):
        connection.recv(1 << 16)
    time.sleep(1.0)


def says(contents: bytes):
    """What `raw_server` does with a connection: read a request, say this, hang up."""

    def say(connection):
        connection.recv(1 << 16)
        connection.sendall(contents)
        connection.close()

    return say


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
