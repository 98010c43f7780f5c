"""How requests reach a server: what goes over HTTP, what may come back, and when a request is sent again."""

import time

import pytest

from embkeras.errors import ArgumentError, ServingError, ServingTimeoutError
from embkeras.serving import transports
from embkeras.serving.client import ServingClient
from embkeras.serving.transports import Gone, Unavailable, attempted, quoted
from tests.serving.servers import raw_server, says


@pytest.mark.parametrize(
    "url",
    ["localhost:8501", "ftp://h", "http://", "http://h:x", "http://h:0", "grpc://h/path", "http://h?a=1", 8501, None],
)
def test_bad_url_is_refused(url):
    """The message has the form of a URL and the schemes."""
    with pytest.raises(ArgumentError, match="url must be SCHEME://HOST:PORT, scheme http, https, grpc, grpcs"):
        ServingClient(url, model="mood")


def test_url_of_a_model_is_refused():
    """Many curl examples contain such a URL."""
    with pytest.raises(ArgumentError, match=r"url must end before /v1/models; pass the model's name as model="):
        ServingClient("http://h:8501/v1/models/mood:predict", model="mood")


def test_password_in_a_url_is_refused_and_not_shown():
    """Messages end up in logs."""
    with pytest.raises(ArgumentError, match="pass headers=") as caught:
        ServingClient("http://me:secret@h", model="mood")
    assert "secret" not in str(caught.value)


class _Server:
    """Raises these errors, one per request, and then answers."""

    def __init__(self, *errors):
        self.errors, self.given = list(errors), []

    def __call__(self, seconds):
        self.given.append(seconds)
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def pauses(monkeypatch):
    """Pauses are recorded instead of slept."""
    found = []
    monkeypatch.setattr(transports.time, "sleep", found.append)
    return found


def test_first_answer_is_taken(pauses):
    """The first attempt has all of the time."""
    server = _Server()
    assert attempted(server, 5.0, 2) == "answer"
    assert server.given[0] == pytest.approx(5.0, abs=0.5)
    assert pauses == []


def test_pauses_grow(pauses):
    """Each pause is about twice the previous one, and random, so that clients don't come back together."""
    assert attempted(_Server(*[Unavailable("no")] * 3), 60.0, 3) == "answer"
    assert all(wanted <= pause <= wanted + 0.1 for pause, wanted in zip(pauses, (0.05, 0.2, 0.4), strict=True))


@pytest.mark.parametrize("error", [ServingTimeoutError("late"), ServingError("refused"), Gone("which?")])
def test_other_errors_are_not_tried_again(pauses, error):
    """Above all after a timeout: the server may still be working."""
    server = _Server(error)
    with pytest.raises(type(error), match=str(error).replace("?", ".")):
        attempted(server, 5.0, 9)
    assert len(server.given) == 1


def test_no_attempt_begins_after_the_time(pauses):
    """The time left is too short for a pause and an attempt."""
    server = _Server(*[Unavailable("no")] * 9)
    start = time.monotonic()
    with pytest.raises(ServingError, match=r"no \(attempts: 1\)"):
        attempted(server, 0.01, 9)
    assert time.monotonic() - start < 1.0


def test_retries_are_counted(pauses):
    """No retries means one attempt."""
    server = _Server(*[Unavailable("no")] * 9)
    with pytest.raises(ServingError, match=r"no \(attempts: 1\)"):
        attempted(server, 5.0, 0)
    with pytest.raises(ServingError, match=r"no \(attempts: 4\)"):
        attempted(server, 60.0, 3)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [("a\n  b\t", "a b"), (b"a\xff", "a\\xff"), ({"a": 1}, "{'a': 1}"), ("x" * 501, "x" * 500 + "..."), (b"", "")],
)
def test_what_is_quoted_is_short_and_on_one_line(said, wanted):
    """Any message of a server."""
    assert quoted(said) == wanted


def test_headers_are_sent():
    """A gateway may need an Authorization header."""
    seen = []

    def answer(connection):
        seen.append(connection.recv(1 << 16).decode())
        connection.close()

    with raw_server(answer) as ((host, port), _):
        client = ServingClient(
            f"http://{host}:{port}/tf/", model="a b", headers={"Authorization": "Bearer x"}, retries=0
        )
        with pytest.raises(ServingError, match="can't be reached"):
            client.metadata()
    assert seen[0].startswith("GET /tf/v1/models/a%20b/metadata HTTP/1.1\r\n")
    assert "Authorization: Bearer x\r\n" in seen[0]


def test_slow_drops_are_given_up_in_time():
    """Each byte comes within a socket's own timeout, but the whole answer doesn't."""

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
    """The answer seems to end where the connection was shut, and must not be used."""

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
        (b"", r"can't be reached: .*\(attempts: 3\)", 3),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "closed the connection in the middle of its answer", 1),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{",
            "closed the connection in the middle of its answer",
            1,
        ),
        (b"\x00\x01\xff" * 9, "does not answer as HTTP does", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "an answer that is not JSON: <html>", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe", "an answer that is not JSON", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "an answer that is not JSON", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n[1]", "returned metadata that can't be read", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "returned metadata that can't be read", 1),
        (b"HTTP/1.1 302 Found\r\nLocation: http://h/\r\n\r\n", "answered 302", 1),
        (b"HTTP/1.1 502 Bad\r\n\r\n<html>bad\n gateway", "answered 502 .*: <html>bad gateway", 1),
        (b'HTTP/1.1 400 Bad\r\n\r\n{ "error": "Missing \\\'inputs\\\'" }', r"answered 400 .*Missing .'inputs", 1),
        (b"HTTP/1.1 400 Bad\r\n\r\n" + b"x" * 9999, r"answered 400 .*: x{500}\.\.\.$", 1),
    ],
)
def test_rubbish_over_http_is_named(contents, message, attempts):
    """Truncated, not HTTP, not JSON, not metadata; sent again only if nothing was answered."""
    with raw_server(says(contents)) as ((host, port), connections):
        client = ServingClient(f"http://{host}:{port}", model="mood", timeout=2.0)
        with pytest.raises(ServingError, match=message):
            client.metadata()
    assert len(connections) == attempts
