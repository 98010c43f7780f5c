"""A PredictionService over gRPC that asks a SavedModel through the C API: what TensorFlow Serving is, in small.

    python -m tests.serving.c_api_server FOLDER NAME     # prints its port, and serves until standard input ends

It knows `Predict` and `GetModelMetadata`, and reads and writes their messages itself: the official classes import
TensorFlow, and this process is to have none in Python.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from tests.serving.c_api import CApiError, Session, Tensor
from tests.serving.wire import entry, field, fields, mapping, tensor_proto

SERVICE = "tensorflow.serving.PredictionService"
_MAP_OF_SIGNATURES = b"type.googleapis.com/tensorflow.serving.SignatureDefMap"


class _Refused(Exception):
    """A status and what to say with it."""


class Service:
    """The two methods, from bytes to bytes.

    Args:
        folder: the folder of one version.
        name: what the model is called.
    """

    def __init__(self, folder: str, name: str):
        self.session, self.name = Session(folder), name

    def predict(self, request: bytes) -> bytes:
        """PredictRequest{1: ModelSpec, 2: name -> TensorProto} to PredictResponse{1: name -> TensorProto, 2: ModelSpec}."""
        signature = self._signature(request)
        if signature not in self.session.signatures:
            raise _Refused(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.')
        inputs = mapping(request, 2)
        if inputs.keys() != self.session.inputs[signature].keys():
            missing = sorted(self.session.inputs[signature].keys() ^ inputs.keys())
            raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Inputs are not those of the signature: {missing}.")
        try:
            fed = {name: Tensor.from_proto(value) for name, value in inputs.items()}
            answers = self.session.run(signature, fed)
        except CApiError as error:
            raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        outputs = b"".join(entry(1, name, tensor_proto(value)) for name, value in answers.items())
        return outputs + field(2, self._spec(signature))

    def metadata(self, request: bytes) -> bytes:
        """GetModelMetadataResponse{1: ModelSpec, 2: "signature_def" -> Any{SignatureDefMap}}."""
        self._signature(request)
        signatures = b"".join(entry(1, name, value) for name, value in self.session.signatures.items())
        packed = field(1, _MAP_OF_SIGNATURES) + field(2, signatures)
        return field(1, self._spec("")) + entry(2, "signature_def", packed)

    def _signature(self, request: bytes) -> str:
        """The signature that a request names; the model must be ours."""
        spec = dict(fields(dict(fields(request)).get(1, b"")))
        if spec.get(1, b"").decode() != self.name:
            raise _Refused(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.get(1, b'').decode()})"
            )
        return spec.get(3, b"").decode() or "serving_default"

    def _spec(self, signature: str) -> bytes:
        """ModelSpec{1: name, 2: Int64Value{1: version}, 3: signature}."""
        return field(1, self.name.encode()) + field(2, field(1, 1)) + field(3, signature.encode())


def _handler(method: Callable[[bytes], bytes]) -> grpc.RpcMethodHandler:
    """A method for gRPC, bytes in and out."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return method(request)
        except _Refused as refused:
            context.abort(*refused.args)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    return grpc.unary_unary_rpc_method_handler(answer)


def start(service: Service, threads: int = 8) -> tuple[grpc.Server, int]:
    """A server of this machine only, and its port."""
    server = grpc.server(ThreadPoolExecutor(threads))
    methods = {"Predict": _handler(service.predict), "GetModelMetadata": _handler(service.metadata)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main() -> None:
    """Serve until standard input ends; the last line says that no TensorFlow was loaded in Python."""
    server, port = start(Service(sys.argv[1], sys.argv[2]))
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None).wait()
    print({name: name in sys.modules for name in ("tensorflow", "keras", "embkeras")}, flush=True)


if __name__ == "__main__":
    main()
