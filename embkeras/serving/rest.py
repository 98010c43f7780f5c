"""TensorFlow Serving's REST interface, by the standard library alone.

See https://www.tensorflow.org/tfx/serving/api_rest. Requests are in its columnar format, which names a tensor once and
not once a row. Proxies of the environment are not used, and redirections are not followed.
"""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, quote

import numpy as np

from embkeras.errors import ServingError, ServingTimeoutError
from embkeras.serving.attempts import Gone, Unavailable, quoted

_LARGEST_ANSWER = 1 << 28  # bytes: more than any batch of scores takes
_PIECE = 1 << 20


class RestTransport:
    """Asks over HTTP, with a connection of its own for each request: safe from several threads.

    Args:
        url: scheme, host, port, and a path if the server is behind one.
        headers: sent with each request.
    """

    compact = False  # numbers are written out: a type of fewer bytes saves nothing

    def __init__(self, url: SplitResult, headers: Mapping[str, str]):
        self.url, self.headers = url, dict(headers)
        self.where = f"{url.scheme}://{url.netloc}"

    def metadata(self, model: str, version: int | None, seconds: float) -> Any:
        """Version and signatures, as the server's JSON has them."""
        return self._answer("GET", f"{_path(model, version)}/metadata", None, seconds)

    def ask(
        self, model: str, version: int, signature: str, inputs: Mapping[str, np.ndarray], output: str, seconds: float
    ) -> np.ndarray:
        """One output of one signature."""
        columns = {name: array.tolist() for name, array in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}, separators=(",", ":")).encode("ascii")
        answer = self._answer("POST", f"{_path(model, version)}:predict", body, seconds)
        try:
            outputs = answer["outputs"]
            return np.array(outputs[output] if isinstance(outputs, dict) else outputs)
        except (LookupError, TypeError, ValueError) as error:  # ValueError: rows of several lengths
            raise ServingError(f"{self.where} gave an answer without {output!r}: {quoted(answer)}") from error

    def close(self) -> None:
        """Nothing is kept open."""

    def _answer(self, method: str, path: str, body: bytes | None, seconds: float) -> Any:
        """The JSON that comes back.

        Raises:
            Unavailable: the server is not there, or is not ready, or broke off before it answered.
            Gone: it has no such model.
            ServingTimeoutError: it took longer.
            ServingError: it refused the request, or what came back is no answer.
        """
        status, contents = self._exchanged(method, self.url.path.rstrip("/") + path, body, seconds)
        try:
            answer = json.loads(contents)
        except (ValueError, RecursionError) as error:
            if status == http.client.OK:
                raise ServingError(f"{self.where} gave an answer that is not JSON: {quoted(contents)}") from error
            answer = None  # old servers write messages that are no JSON
        if status == http.client.OK:
            return answer
        message = answer["error"] if isinstance(answer, dict) and "error" in answer else contents
        kind = {http.client.NOT_FOUND: Gone, http.client.SERVICE_UNAVAILABLE: Unavailable}.get(status, ServingError)
        raise kind(f"{self.where} answered {status} to {method} {path}: {quoted(message)}")

    def _exchanged(self, method: str, path: str, body: bytes | None, seconds: float) -> tuple[int, bytes]:
        """Status and contents of the answer."""
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        connection = kinds[self.url.scheme](self.url.hostname, self.url.port, timeout=seconds)
        headers = {"Content-Type": "application/json", "Connection": "close", **self.headers}
        answered = False
        with contextlib.closing(connection), _Watch(seconds) as watch:
            try:
                connection.connect()
                watch.begin(connection.sock)
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                answered = True
                with contextlib.closing(response):
                    contents = self._read(response)
                if watch.over:  # an answer without a length ends where it was cut
                    raise TimeoutError
            except (OSError, http.client.HTTPException) as error:
                if watch.over or isinstance(error, TimeoutError):
                    raise ServingTimeoutError(f"{self.where} did not answer within {seconds:.3g} s.") from error
                raise self._broken(error, answered) from error
        return response.status, contents

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The whole answer."""
        contents = bytearray()
        while piece := response.read(_PIECE):
            contents += piece
            if len(contents) > _LARGEST_ANSWER:
                raise http.client.HTTPException(f"an answer of more than {_LARGEST_ANSWER:,} bytes")
        if response.length:  # what is still to come; read(n) keeps silent about it
            raise http.client.IncompleteRead(bytes(contents), response.length)
        return bytes(contents)

    def _broken(self, error: Exception, answered: bool) -> ServingError:
        """What to raise for a connection that failed."""
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        if answered:
            return ServingError(f"{self.where} broke off in the middle of its answer: {reason}")
        if isinstance(error, ssl.SSLError):
            return ServingError(f"There is no secure connection to {self.where}: {reason}")
        if isinstance(error, OSError):
            return Unavailable(f"{self.where} cannot be reached: {reason}")
        return ServingError(f"{self.where} does not answer as HTTP does: {error!r}")


class _Watch:
    """Shuts a socket when the time is over: a socket's own time-out is for each of its reads, and not for them all."""

    def __init__(self, seconds: float):
        self.end, self.over, self.timer = time.monotonic() + seconds, False, None

    def __enter__(self) -> "_Watch":
        return self

    def begin(self, sock: socket.socket) -> None:
        """Watch this socket."""
        self.timer = threading.Timer(max(self.end - time.monotonic(), 0), self._shut, [sock])
        self.timer.daemon = True
        self.timer.start()

    def _shut(self, sock: socket.socket) -> None:
        self.over = True
        with contextlib.suppress(OSError):  # it was closed a moment ago
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not the method of a TLS socket, which takes its state away

    def __exit__(self, *_: object) -> None:
        if self.timer is not None:
            self.timer.cancel()


def _path(model: str, version: int | None) -> str:
    return f"/v1/models/{quote(model, safe='')}" + ("" if version is None else f"/versions/{version}")
