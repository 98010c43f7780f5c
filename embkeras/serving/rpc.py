"""TensorFlow Serving's gRPC interface, by its official stubs (extra `serving`), which bring TensorFlow along.

Ids travel as the raw content of a tensor, int32 where they fit; of the answer only the output that is wanted comes back.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult

import numpy as np

from embkeras.errors import MissingDependencyError, ServingError, ServingTimeoutError
from embkeras.serving.attempts import Gone, Unavailable, quoted

_PORT = 8500
# A server that comes back is found within a second. gRPC's own pause grows to two minutes, in which nothing is tried.
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
_OPTIONS += [("grpc.max_receive_message_length", 1 << 28)]  # bytes; the default of 4 MB is 64 texts of 16,000 classes


class RpcTransport:
    """Asks over one channel, which is kept open and safe from several threads.

    Args:
        url: scheme ("grpc", or "grpcs" for TLS), host and port.
        headers: sent with each request, as gRPC's metadata.

    Raises:
        MissingDependencyError: the stubs are not installed.
    """

    compact = True  # int32 ids take half the bytes

    def __init__(self, url: SplitResult, headers: Mapping[str, str]):
        self._load()
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        self.where = f"{url.scheme}://{url.netloc}"
        self.headers = [(name.lower(), value) for name, value in headers.items()]
        target = f"{host}:{url.port or _PORT}"
        if url.scheme == "grpcs":
            self._channel = self._grpc.secure_channel(target, self._grpc.ssl_channel_credentials(), _OPTIONS)
        else:
            self._channel = self._grpc.insecure_channel(target, _OPTIONS)
        self._stub = self._service.PredictionServiceStub(self._channel)

    def _load(self) -> None:
        """The stubs, on first use: they import TensorFlow."""
        try:
            import grpc
            from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
        except ImportError:
            raise MissingDependencyError(
                'Asking over gRPC needs tensorflow-serving-api and grpcio: python -m pip install "embkeras[serving]".'
            ) from None
        self._grpc, self._service = grpc, prediction_service_pb2_grpc
        self._predict, self._metadata = predict_pb2, get_model_metadata_pb2

    def metadata(self, model: str, version: int | None, seconds: float) -> Any:
        """Version and signatures, in the form of the REST interface's JSON."""
        from google.protobuf import json_format

        request = self._metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name(request.model_spec, model, version)
        response = self._call(self._stub.GetModelMetadata, request, seconds)
        signatures = self._metadata.SignatureDefMap()
        try:
            response.metadata["signature_def"].Unpack(signatures)
        except Exception as error:  # whatever protobuf makes of a damaged message
            raise ServingError(f"{self.where} gave metadata that cannot be read: {error}") from error
        return {
            "model_spec": {"version": response.model_spec.version.value},
            "metadata": {"signature_def": json_format.MessageToDict(signatures, preserving_proto_field_name=True)},
        }

    def ask(
        self, model: str, version: int, signature: str, inputs: Mapping[str, np.ndarray], output: str, seconds: float
    ) -> np.ndarray:
        """One output of one signature."""
        import tensorflow as tf

        request = self._predict.PredictRequest(output_filter=[output])
        self._name(request.model_spec, model, version)
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        response = self._call(self._stub.Predict, request, seconds)
        if output not in response.outputs:
            raise ServingError(f"{self.where} gave an answer without {output!r}: {', '.join(sorted(response.outputs))}")
        try:
            return tf.make_ndarray(response.outputs[output])
        except (TypeError, ValueError) as error:
            raise ServingError(f"{self.where} gave a tensor {output!r} that cannot be read: {error}") from error

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _name(self, spec: Any, model: str, version: int | None) -> None:
        spec.name = model
        if version is not None:
            spec.version.value = version

    def _call(self, method: Any, request: Any, seconds: float) -> Any:
        """The response.

        Raises:
            Unavailable: the server is not there, is not ready, or broke off.
            Gone: it has no such model.
            ServingTimeoutError: it took longer.
            ServingError: whatever else it said.
        """
        codes = self._grpc.StatusCode
        try:
            return method(request, timeout=seconds, metadata=self.headers)
        except self._grpc.RpcError as error:
            if error.code() is codes.DEADLINE_EXCEEDED:
                raise ServingTimeoutError(f"{self.where} did not answer within {seconds:.3g} s.") from error
            kind = {codes.UNAVAILABLE: Unavailable, codes.NOT_FOUND: Gone}.get(error.code(), ServingError)
            raise kind(f"{self.where} answered {error.code().name}: {quoted(error.details())}") from error
