"""Requests that are malformed in ten ways; each must be refused, or answered as "[UNK]".

    python -m tests.serving.malformed FOLDER COUNT SEED

It runs in a process of its own, so that a crash is an exit code. Nine of ten requests go through the C API, half of them
as the bytes of a TensorProto, as a server gets them; then TensorFlow is imported and its signature gets the rest. The
program prints how many there were of each kind, and of each answer; a wrong answer ends it.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.serving.c_api import CApiError, Session, Tensor
from tests.serving.wire import field, fields, tensor_proto

OOV = 1
LARGEST = 1 << 18  # elements: a request of more is large, and not malformed
_EDGES = [-1, -2, -(2**31), -(2**63), 2**31 - 1, 2**31, 2**32, 2**32 + 3, 2**40, 2**62, 2**63 - 1]
_WRONG = ["float16", "float32", "float64", "int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64", "bool",
          "complex64", "complex128"]  # fmt: skip


def meant(ids: np.ndarray, size: int) -> np.ndarray:
    """How such ids must be read."""
    return np.where((ids < 0) | (ids >= size), OOV, ids)


class Malformed:
    """A seeded source of requests.

    Args:
        seed: of all that is drawn.
        size: of the vocabulary.
    """

    def __init__(self, seed: int, size: int):
        self.rng, self.size = np.random.default_rng(seed), size

    def ids(self) -> np.ndarray:
        """A few ids in range, (batch, time)."""
        return self.rng.integers(0, self.size, self.rng.integers(1, [5, 12]))

    def outside(self) -> np.ndarray:
        """Ids at the edges and anywhere in 64 bits."""
        ids = self.ids()
        far = self.rng.integers(-(2**63), 2**63 - 1, ids.shape, endpoint=True)
        near = self.rng.choice([*_EDGES, self.size, self.size + 1], ids.shape)
        return (
            self.rng.choice([ids, near, far], axis=0)
            if self.rng.random() < 0.1
            else np.choose(self.rng.integers(0, 3, ids.shape), [ids, near, far])
        )

    def wrong_type(self) -> np.ndarray:
        """Numbers of another type, NaN and infinity among them, or strings."""
        ids, dtype = self.ids(), self.rng.choice([*_WRONG, "object"])
        if dtype == "object":
            return np.array([b"%d" % id_ for id_ in ids.ravel()], object).reshape(ids.shape)
        wrong = ids.astype(dtype)
        if wrong.dtype.kind in "fc":
            wrong.flat[0] = self.rng.choice([np.nan, np.inf, 3.9])
        return wrong

    def wrong_rank(self) -> np.ndarray:
        """A number, a list, or more axes than two."""
        rank = self.rng.choice([0, 1, 3, 4, 5])
        return self.rng.integers(-5, self.size + 5, self.rng.integers(1, 4, rank)) if rank else np.int64(3)[...]

    def empty(self) -> np.ndarray:
        """No texts, no time, or neither."""
        return np.zeros(self.rng.permutation([0, self.rng.integers(0, 5)]), np.int64)

    def long(self) -> np.ndarray:
        """Many texts, or a very long one, with only ids out of range."""
        count = int(self.rng.integers(300, 3_000))
        return np.full(self.rng.permutation([1, count]), self.rng.choice(_EDGES))

    def array(self) -> tuple[str, np.ndarray]:
        """Any of these, with its kind."""
        kinds = ["outside", "wrong_type", "wrong_rank", "empty", "long"]
        kind = str(self.rng.choice(kinds, p=[0.5, 0.22, 0.2, 0.07, 0.01]))
        return kind, getattr(self, kind)()

    def proto(self) -> tuple[str, bytes]:
        """The bytes of a TensorProto, cut off, with flipped bits, with another shape or type."""
        _, value = self.array() if self.rng.random() < 0.5 else ("", self.ids())
        message, kind = tensor_proto(value), str(self.rng.choice(["cut", "flipped", "shape", "type", "rubbish"]))
        return kind, getattr(self, f"_{kind}")(message)

    def _cut(self, message: bytes) -> bytes:
        return message[: self.rng.integers(0, len(message))]

    def _flipped(self, message: bytes) -> bytes:
        flipped = bytearray(message)
        for place in self.rng.integers(0, min(len(message), 40), self.rng.integers(1, 4)):
            flipped[place] ^= 1 << self.rng.integers(0, 8)
        return bytes(flipped)

    def _shape(self, message: bytes) -> bytes:
        sizes = self.rng.choice([-1, 0, 1, 2, 7, 300, 2**31, 2**40, 2**62], self.rng.integers(0, 5))
        shape = b"".join(field(2, field(1, int(size))) for size in sizes)
        return b"".join(field(number, shape if number == 2 else value) for number, value in fields(message))

    def _type(self, message: bytes) -> bytes:
        other = int(self.rng.integers(0, 140))
        return b"".join(field(number, other if number == 1 else value) for number, value in fields(message))

    def _rubbish(self, message: bytes) -> bytes:
        return self.rng.bytes(int(self.rng.integers(0, 200)))

    def text(self) -> np.ndarray:
        """Texts that are not UTF-8, with NUL, of a thousand words, no texts."""
        count, length = int(self.rng.integers(0, 4)), int(self.rng.choice([0, 1, 20, 5_000]))
        texts = [self.rng.choice([self.rng.bytes(length), b"\0" * length, b"good " * length]) for _ in range(count)]
        return np.array([bytes(text) for text in texts], object)


def large(message: bytes) -> bool:
    """Whether a TensorProto claims a large shape that still fits into memory, which an export may accept."""
    try:
        shape = [value for number, value in fields(message) if number == 2 and isinstance(value, bytes)]
        sizes = [value for each in shape for number, size in fields(each) if number == 2 and isinstance(size, bytes)
                 for at, value in fields(size) if at == 1 and isinstance(value, int)]  # fmt: skip
    except ValueError:
        return False
    return LARGEST < np.prod([float(size) for size in sizes if size]) < 2**38


class Judge:
    """Sends requests and judges the answers.

    Args:
        ask: ids -> scores; raises one of `errors`.
        size: of the vocabulary.
        classes: scores of a text.
    """

    def __init__(self, ask: Callable[[Any], np.ndarray], errors: type | tuple, size: int, classes: int):
        self.ask, self.errors, self.size, self.classes = ask, errors, size, classes
        self.counts = Counter()

    def put(self, kind: str, request: Any, value: np.ndarray | None) -> None:
        """One request; `value` is what TensorFlow reads in it, or None if it can't."""
        try:
            scores = self.ask(request)
        except self.errors:
            # A well-formed request must be answered, except for an empty batch, which a layer may refuse.
            if value is not None and self._well_formed(value) and len(value):
                self._wrong(kind, value, "was refused")
            self.counts[f"{kind}: error"] += 1
            return
        if value is None or not self._well_formed(value):
            self._wrong(kind, value, f"was answered: {scores}")
        if len(value):
            wanted = self.ask(meant(value, self.size))
            if scores.shape != (len(value), self.classes) or not np.allclose(scores, wanted, rtol=0, atol=1e-6):
                self._wrong(kind, value, f"has the scores {scores} and not {wanted}")
        self.counts[f"{kind}: answer"] += 1

    def _well_formed(self, value: np.ndarray) -> bool:
        return value.dtype == np.int64 and value.ndim == 2

    def _wrong(self, kind: str, value: Any, what: str) -> None:
        raise SystemExit(f"{kind}: {value!r} {what}")


def through_c_api(source: Malformed, session: Session, count: int, classes: int) -> Counter:
    """Half as arrays, half as the bytes of protocol buffers, and every tenth as texts."""

    def ask(request: np.ndarray | bytes | Tensor) -> np.ndarray:
        return session.run("serving_default", {"token_ids": request})["scores"]

    judge = Judge(ask, CApiError, source.size, classes)
    for number in range(count):
        if number % 10 == 0:
            _put_text(source.text(), session, judge.counts)
        elif number % 2:
            kind, value = source.array()
            judge.put(kind, value, value)
        else:
            kind, message = source.proto()
            while large(message):
                kind, message = source.proto()
            try:
                tensor = Tensor.from_proto(message)
            except CApiError:
                judge.counts[f"{kind}: error"] += 1
                continue
            value = tensor.numpy() if tensor.dtype == "int64" and max(tensor.shape, default=1) <= LARGEST else None
            judge.put(kind, tensor, value)
    return judge.counts


def _put_text(texts: np.ndarray, session: Session, counts: Counter) -> None:
    """Any bytes are a text with unknown words."""
    try:
        scores = session.run("text", {"text": texts})["scores"]
    except CApiError as error:
        if len(texts):
            raise SystemExit(f"text: {texts!r} was refused: {error}") from error
        counts["text: error"] += 1
        return
    if len(scores) != len(texts) or not np.isfinite(scores).all():
        raise SystemExit(f"text: {texts!r} has the scores {scores}")
    counts["text: answer"] += 1


def through_tensorflow(source: Malformed, folder: Path, count: int, classes: int) -> Counter:
    """The signature, as Python loads it."""
    import tensorflow as tf  # not before the C API had its turn without it

    loaded = tf.saved_model.load(str(folder))

    def ask(request: np.ndarray) -> np.ndarray:
        tensor = tf.constant(request if request.dtype != object else request.tolist())
        return loaded.signatures["serving_default"](token_ids=tensor)["scores"].numpy()

    errors = (tf.errors.OpError, TypeError, ValueError)
    judge = Judge(ask, errors, source.size, classes)
    for _ in range(count):
        kind, value = source.array()
        judge.put(kind, value, value)
    return judge.counts


def known(session: Session) -> Iterator[np.ndarray]:
    """Scores of valid requests."""
    for length in (1, 2, 5, 9):
        yield session.ask("serving_default", token_ids=[list(range(2, 2 + length))])["scores"]


def main() -> None:
    """All of it, and the counts as JSON."""
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    card = json.loads((folder / "assets" / "embkeras.json").read_bytes())
    source, classes = Malformed(seed, card["vocabulary_size"]), len(card["class_names"])
    session = Session(folder)
    before = list(known(session))
    counts = through_c_api(source, session, count * 9 // 10, classes)
    in_python = through_tensorflow(source, folder, count - count * 9 // 10, classes)
    for scores, again in zip(before, known(session), strict=True):
        if not np.array_equal(scores, again):
            raise SystemExit(f"Afterwards the scores are {again} and no longer {scores}.")
    print(json.dumps({"c_api": counts, "tensorflow": in_python}))


if __name__ == "__main__":
    main()
