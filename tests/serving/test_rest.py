"""What goes over HTTP, and what may come back."""

import time

import pytest

from embkeras.errors import ServingError, ServingTimeoutError
from embkeras.serving.client import ServingClient
from tests.serving.servers import raw_server, says


def test_headers_are_sent():
    """A gateway may want to know who asks."""
    seen = []

    def answer(connection):
        seen.append(connection.recv(1 << 16).decode())
        connection.close()

    with raw_server(answer) as ((host, port), _):
        client = ServingClient(
            f"http://{host}:{port}/tf/", model="a b", headers={"Authorization": "Bearer x"}, retries=0
        )
        with pytest.raises(ServingError, match="cannot be reached"):
            client.metadata()
    assert seen[0].startswith("GET /tf/v1/models/a%20b/metadata HTTP/1.1\r\n")
    assert "Authorization: Bearer x\r\n" in seen[0]


def test_slow_drops_are_given_up_in_time():
    """Each byte comes soon enough for a socket's own time-out; all of them together do not."""

    def drip(connection):
        connection.recv(1 << 16)
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    start = time.monotonic()
    with raw_server(drip) as ((host, port), _):
        client = ServingClient(f"http://{host}:{port}", model="mood", timeout=0.3)
        with pytest.raises(ServingTimeoutError, match="did not answer within"):
            client.metadata()
    assert time.monotonic() - start < 0.9


def test_slow_answer_without_a_length_is_given_up_in_time():
    """Where it was shut, it seems to end: what came until then is no answer."""

    def drip(connection):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n{}")
        time.sleep(1)

    with raw_server(drip) as ((host, port), _):
        client = ServingClient(f"http://{host}:{port}", model="mood", timeout=0.3)
        with pytest.raises(ServingTimeoutError, match="did not answer within"):
            client.metadata()


@pytest.mark.parametrize(
    ("contents", "message", "attempts"),
    [
        (b"", r"cannot be reached: .*\(attempts: 3\)", 3),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "broke off in the middle of its answer", 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{", "broke off in the middle of its answer", 1),
        (b"\x00\x01\xff" * 9, "does not answer as HTTP does", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "an answer that is not JSON: <html>", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe", "an answer that is not JSON", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "an answer that is not JSON", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n[1]", "gave metadata that cannot be read", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "gave metadata that cannot be read", 1),
        (b"HTTP/1.1 302 Found\r\nLocation: http://h/\r\n\r\n", "answered 302", 1),
        (b"HTTP/1.1 502 Bad\r\n\r\n<html>bad\n gateway", "answered 502 .*: <html>bad gateway", 1),
        (b'HTTP/1.1 400 Bad\r\n\r\n{ "error": "Missing \\\'inputs\\\'" }', r"answered 400 .*Missing .'inputs", 1),
        (b"HTTP/1.1 400 Bad\r\n\r\n" + b"x" * 9999, r"answered 400 .*: x{500}\.\.\.$", 1),
    ],
)
def test_rubbish_over_http_is_named(contents, message, attempts):
    """Cut off, not HTTP, not JSON, not what was asked; sent again only where nothing had been answered."""
    with raw_server(says(contents)) as ((host, port), connections):
        client = ServingClient(f"http://{host}:{port}", model="mood", timeout=2.0)
        with pytest.raises(ServingError, match=message):
            client.metadata()
    assert len(connections) == attempts
