"""How requests reach TensorFlow Serving: over REST with `requests`, or over gRPC with the official stubs."""

import contextlib
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urlsplit

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry

from embkeras._checks import shown
from embkeras.errors import ArgumentError, MissingDependencyError, ServingError, ServingTimeoutError
from embkeras.serving.reasons import refusal, root_cause

_QUOTED = 500  # characters of a server's message
_LARGEST_ANSWER = 1 << 28  # bytes: more than any batch of scores takes
_PIECE = 1 << 20
_RPC_PORT = 8500
# A server that comes back is found within a second. gRPC's own pause grows to two minutes without any attempt.
_RPC_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),  # the default of 4 MB is 64 texts of 16,000 classes
]

Answer = TypeVar("Answer")


class Unavailable(ServingError):
    """The server was not there, closed the connection before it answered, or is not ready: the request may be sent again."""


class Gone(ServingError):
    """The server has no such model, or no longer this version of it."""


def attempted(ask: Callable[[float], Answer], timeout: float, retries: int) -> Answer:
    """The answer of `ask(seconds left)`, which is called again after Unavailable, up to `retries` times.

    All attempts together take up to `timeout` seconds.
    """
    end = time.monotonic() + timeout
    retry = Retry(total=retries, backoff_factor=0.1, backoff_jitter=0.1)
    while True:
        try:
            return ask(max(end - time.monotonic(), 1e-3))
        except Unavailable as error:
            last = ServingError(f"{error} (attempts: {len(retry.history) + 1})")
            try:
                retry = retry.increment(error=error)
            except MaxRetryError:
                raise last from error
            # urllib3 sends the second attempt at once; many clients must not come back together.
            pause = max(retry.get_backoff_time(), random.uniform(0.05, 0.15))
            if time.monotonic() + pause >= end:
                raise last from error
            time.sleep(pause)


def quoted(message: Any) -> str:
    """The beginning of a server's message, on one line; of an assertion of the model, what it says."""
    text = message.decode("utf-8", "backslashreplace") if isinstance(message, bytes) else str(message)
    text = refusal(text) or text
    text = " ".join(text[: 2 * _QUOTED].split())
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."


def parsed_url(url: str) -> SplitResult:
    """The parts of a server's address: scheme, host, port and, for REST, a path."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in TRANSPORTS and parts.hostname and (parts.port is None or parts.port > 0)
    except (ValueError, TypeError, AttributeError):
        valid = False
    if valid and parts.username is not None:  # not quoted: messages end up in logs
        raise ArgumentError("A URL can't contain a name or password: pass headers={'Authorization': ...}.")
    if valid and "/v1/models" in parts.path:
        raise ArgumentError(f"url must end before /v1/models; pass the model's name as model=. Received: {shown(url)}.")
    if not valid or parts.query or parts.fragment or (parts.path.strip("/") and parts.scheme.startswith("grpc")):
        raise ArgumentError(f"url must be SCHEME://HOST:PORT, scheme {', '.join(TRANSPORTS)}. Received: {shown(url)}.")
    return parts


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers that can be sent as they are: printable ASCII. No message shows a value."""
    headers = {} if headers is None else headers
    if not isinstance(headers, Mapping):
        raise ArgumentError(f"headers must be a mapping of names to strings. Received: {type(headers).__name__}.")
    for name, value in headers.items():
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() for text in (name, value)):
            raise ArgumentError(f"headers must be printable ASCII. Received: {shown(name)}, whose value is not shown.")
    return dict(headers)


class RestTransport:
    """Sends requests over HTTP (https://www.tensorflow.org/tfx/serving/api_rest), with one connection per request: thread-safe.

    Requests use the columnar format, which names a tensor once instead of once per row. Proxies and credentials of the
    environment are not used, and redirects are not followed.
    """

    compact = False  # numbers are written out: a smaller type saves nothing

    def __init__(self, url: SplitResult, headers: Mapping[str, str]):
        self.url, self.headers = url, dict(headers)
        self.where = f"{url.scheme}://{url.netloc}"
        system = ssl.get_default_verify_paths()  # honours SSL_CERT_FILE
        self._certificates = system.cafile or system.capath or True

    def metadata(self, model: str, version: int | str | None, seconds: float) -> Any:
        """Version and signatures, as in the server's JSON."""
        return self._answer("GET", f"{_model_path(model, version)}/metadata", None, seconds)

    def ask(
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> list[np.ndarray]:
        """Some outputs of one signature."""
        columns = {name: array.tolist() for name, array in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}, separators=(",", ":")).encode("ascii")
        answer = self._answer("POST", f"{_model_path(model, version)}:predict", body, seconds)
        try:
            found = answer["outputs"]
            return [np.array(found[output] if isinstance(found, dict) else found) for output in outputs]
        except (LookupError, TypeError, ValueError) as error:  # ValueError: rows of different lengths
            raise ServingError(
                f"{self.where} returned an answer without {', '.join(map(repr, outputs))}: {quoted(answer)}"
            ) from error

    def close(self) -> None:
        """Nothing stays open."""

    def _answer(self, method: str, path: str, body: bytes | None, seconds: float) -> Any:
        """The JSON of the answer."""
        status, contents = self._exchange(method, self.url.path.rstrip("/") + path, body, seconds)
        try:
            answer = json.loads(contents)
        except (ValueError, RecursionError) as error:
            if status == requests.codes.ok:
                raise ServingError(f"{self.where} returned an answer that is not JSON: {quoted(contents)}") from error
            answer = None  # some errors are plain text
        if status == requests.codes.ok:
            return answer
        message = answer.get("error", contents) if isinstance(answer, dict) else contents
        kind = {404: Gone, 503: Unavailable}.get(status, ServingError)
        raise kind(f"{self.where} answered {status} to {method} {path}: {quoted(message)}")

    def _exchange(self, method: str, path: str, body: bytes | None, seconds: float) -> tuple[int, bytes]:
        """Status and contents of the answer."""
        headers = {"Content-Type": "application/json", "Connection": "close", **self.headers}
        contents, answered, adapter = bytearray(), False, _Adapter(seconds)
        with requests.Session() as session:
            session.trust_env = False
            session.verify = self._certificates
            session.mount(self.where, adapter)
            try:
                options = {"timeout": seconds, "stream": True, "allow_redirects": False}
                response = session.request(method, self.where + path, data=body, headers=headers, **options)
                answered = True
                for piece in response.iter_content(_PIECE):
                    contents += piece
                    if len(contents) > _LARGEST_ANSWER:
                        raise ServingError(f"{self.where} returned an answer of more than {_LARGEST_ANSWER:,} bytes.")
                if adapter.expired:  # an answer without a length ends where it was cut
                    raise requests.Timeout
            except requests.RequestException as error:
                timed_out = isinstance(error, requests.Timeout) or isinstance(root_cause(error), TimeoutError)
                if adapter.expired or timed_out:
                    raise ServingTimeoutError(f"{self.where} did not answer within {seconds:.3g} s.") from error
                raise self._failure(error, answered) from error
        return response.status_code, bytes(contents)

    def _failure(self, error: requests.RequestException, answered: bool) -> ServingError:
        """What to raise for a connection that failed."""
        cause = root_cause(error)
        reason = getattr(cause, "strerror", None) or str(cause) or repr(cause)
        if answered:
            return ServingError(f"{self.where} closed the connection in the middle of its answer: {reason}")
        if isinstance(cause, ssl.SSLError):
            return ServingError(f"There is no secure connection to {self.where}: {reason}")
        if isinstance(cause, HTTPException) and not isinstance(cause, OSError):
            return ServingError(f"{self.where} does not answer as HTTP does: {cause!r}")
        return Unavailable(f"{self.where} can't be reached: {reason}")


def _model_path(model: str, version: int | str | None) -> str:
    """The path of a version, by its number or its label."""
    which = (
        ""
        if version is None
        else f"/labels/{quote(version, safe='')}"
        if isinstance(version, str)
        else f"/versions/{version}"
    )
    return f"/v1/models/{quote(model, safe='')}{which}"


class _Adapter(HTTPAdapter):
    """Shuts its connection when the time is up. A socket's own timeout is for each read, not for the whole answer."""

    def __init__(self, seconds: float):
        self.end, self.expired = time.monotonic() + seconds, False
        self.timer: threading.Timer | None = None
        super().__init__()

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        """The pool of connections for a request."""
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        connect = pool.ConnectionCls.connect

        def connect_until_end(connection: Any) -> None:
            connect(connection)
            self.timer = threading.Timer(max(self.end - time.monotonic(), 0), self._shut, [connection.sock])
            self.timer.daemon = True
            self.timer.start()

        pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), {"connect": connect_until_end})
        return pool

    def _shut(self, sock: socket.socket) -> None:
        self.expired = True
        with contextlib.suppress(OSError):  # it was closed a moment ago
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not the method of a TLS socket, which drops its state

    def close(self) -> None:
        """Close the connection, and stop the clock."""
        if self.timer is not None:
            self.timer.cancel()
        super().close()


class RpcTransport:
    """Sends requests over one gRPC channel, which stays open and is thread-safe.

    It uses the official stubs (extra `serving`), which import TensorFlow. Ids are sent as the raw content of a tensor,
    int32 if they fit, and only the requested output comes back. Headers are sent as gRPC metadata.
    """

    compact = True  # int32 ids take half the bytes

    def __init__(self, url: SplitResult, headers: Mapping[str, str]):
        try:
            import grpc
            from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
        except ImportError:
            raise MissingDependencyError(
                'gRPC needs tensorflow-serving-api and grpcio: python -m pip install "embkeras[serving]".'
            ) from None
        self._grpc, self._predict, self._metadata = grpc, predict_pb2, get_model_metadata_pb2
        self.where = f"{url.scheme}://{url.netloc}"
        self.headers = [(name.lower(), value) for name, value in headers.items()]
        host = f"[{url.hostname}]" if ":" in str(url.hostname) else url.hostname
        target = f"{host}:{url.port or _RPC_PORT}"
        if url.scheme == "grpcs":
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(), _RPC_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, _RPC_OPTIONS)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def metadata(self, model: str, version: int | str | None, seconds: float) -> Any:
        """Version and signatures, in the form of the REST interface's JSON."""
        from google.protobuf import json_format

        request = self._metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name(request.model_spec, model, version)
        response = self._call(self._stub.GetModelMetadata, request, seconds)
        signatures = self._metadata.SignatureDefMap()
        try:
            response.metadata["signature_def"].Unpack(signatures)
        except Exception as error:  # anything protobuf raises for a damaged message
            raise ServingError(f"{self.where} returned metadata that can't be read: {error}") from error
        return {
            "model_spec": {"version": response.model_spec.version.value},
            "metadata": {"signature_def": json_format.MessageToDict(signatures, preserving_proto_field_name=True)},
        }

    def ask(
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> list[np.ndarray]:
        """Some outputs of one signature."""
        import tensorflow as tf

        request = self._predict.PredictRequest(output_filter=outputs)
        self._name(request.model_spec, model, version)
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        found = self._call(self._stub.Predict, request, seconds).outputs
        arrays = []
        for output in outputs:
            if output not in found:
                raise ServingError(f"{self.where} returned an answer without {output!r}: {', '.join(sorted(found))}")
            try:
                arrays.append(tf.make_ndarray(found[output]))
            except (TypeError, ValueError) as error:
                raise ServingError(f"{self.where} returned a tensor {output!r} that can't be read: {error}") from error
        return arrays

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _name(self, spec: Any, model: str, version: int | str | None) -> None:
        spec.name = model
        if isinstance(version, str):
            spec.version_label = version
        elif version is not None:
            spec.version.value = version

    def _call(self, method: Any, request: Any, seconds: float) -> Any:
        """The response."""
        codes = self._grpc.StatusCode
        try:
            return method(request, timeout=seconds, metadata=self.headers)
        except self._grpc.RpcError as error:
            if error.code() is codes.DEADLINE_EXCEEDED:
                raise ServingTimeoutError(f"{self.where} did not answer within {seconds:.3g} s.") from error
            kind = {codes.UNAVAILABLE: Unavailable, codes.NOT_FOUND: Gone}.get(error.code(), ServingError)
            raise kind(f"{self.where} answered {error.code().name}: {quoted(error.details())}") from error


TRANSPORTS: dict[str, type[RestTransport] | type[RpcTransport]] = {  # by the scheme of a URL
    "http": RestTransport,
    "https": RestTransport,
    "grpc": RpcTransport,
    "grpcs": RpcTransport,
}
