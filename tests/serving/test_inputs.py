"""How a request is brought into the one form that a model sees, next to the same rules written for a row at a time."""

import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.serving.inputs import Input, packed
from tests.variants import variants

PLAIN = ek.Vocabulary(["", "[UNK]", "a", "b"])
IN_FRONT = ek.Vocabulary.from_word_index({"a": 1, "b": 2, "c": 3, "\u00e9": 4})  # unknown words are dropped
LAST = ek.Vocabulary(["[UNK]", "a", "b", ""], padding_id=3, oov_ids=[0])
UNPADDED = ek.Vocabulary(["[UNK]", "a", "b"], padding_id=None, oov_ids=[0])


def _group(*encodings, **options):
    """Inputs of ids that share their time steps, and a feature for each step."""
    options |= {"group": "ids_0"}
    ids = [Input(f"ids_{k}", "ids", "int64", (None, None), each, **options) for k, each in enumerate(encodings)]
    return [*ids, Input("size", "feature", "float32", (None, None), **options)]


def _pack(inputs, xla=False):
    """A function: request -> what a model sees, and its first ids + 1 as an answer for each token of the request."""
    signature = {each.name: each.spec(tf.int64) for each in inputs}

    @tf.function(jit_compile=xla, input_signature=[signature])
    def pack(values):
        seen, places = packed(inputs, values, followed={"ids_0"})
        return seen, places["ids_0"].back(seen["ids_0"] + 1)

    return pack


def _requests(inputs, count):
    """Ids inside the table and outside, with no padding, some behind the words, or any; and texts without words."""
    rng = np.random.default_rng(0)
    for number in range(count):
        rows, time = rng.integers(0 if number > 8 else 1, 4), rng.integers(0 if number > 8 else 1, 7)
        lengths = rng.integers(1, time + 1, (rows, 1)) if time else np.zeros((rows, 1), int)
        behind = np.arange(time) >= (lengths if number % 3 else time)
        anywhere = rng.random((rows, time)) < (0.4 if number % 4 == 3 else 0)
        request = {"size": rng.random((rows, time)).astype("float32")}
        for each in inputs[:-1]:
            words = rng.integers(0, each.size, (rows, time))
            words = np.where(words == each.padding_id, each.oov_id or 1, words)
            words = np.where(rng.random((rows, time)) < (0.2 if number % 2 else 0), rng.choice([-1, each.size]), words)
            marks = (
                behind
                | anywhere
                | (rng.random((rows, time)) < (0.2 if each.name != "ids_0" and number % 5 == 4 else 0))
            )
            request[each.name] = words if each.padding_id is None else np.where(marks, each.padding_id, words)
        yield request


def _check(inputs, request, seen, answers):
    """Every word of a row is where it belongs, nothing else is a word, and its answer comes back to its place."""
    *ids, _ = inputs
    marked, first = [each for each in ids if each.padding_id is not None], ids[0]
    read = {
        each.name: np.where(
            (request[each.name] < 0) | (request[each.name] >= each.size), each.oov_id, request[each.name]
        )
        for each in ids
    }
    words = np.ones(request["size"].shape, bool)
    if marked:
        words = np.any([read[each.name] != each.padding_id for each in marked], axis=0)
    most, width = first.max_length or words.shape[1], seen["ids_0"].shape[1]
    before, behind = (
        (most - first.frame[1], first.frame[1]) if not first.in_front else (first.frame[0], most - first.frame[0])
    )
    places = [np.flatnonzero(row) for row in words]
    places = [[*row[:before], *row[len(row) - behind :]] if len(row) > most else row for row in places]
    longest = max((len(place) for place in places), default=1) if marked else min(words.shape[1], most)
    assert width == max(longest, first.min_length) or not len(words)
    for row, place in enumerate(places):
        count = len(place) if marked else width
        columns = slice(width - max(count, 1), None) if first.in_front else slice(0, max(count, 1))
        for each in ids:
            given = read[each.name][row][place] if len(place) else [each.oov_id]
            got = seen[each.name][row]
            assert got[columns][: len(given)].tolist() == list(given), each.name
            if each in marked:
                assert (np.delete(got, columns) == each.padding_id).all()
            assert ((got >= 0) & (got < each.size)).all(), each.name
        if len(place):
            assert seen["size"][row][columns][: len(place)].tolist() == request["size"][row][place].tolist()
        wanted = np.zeros(words.shape[1])
        wanted[place] = read["ids_0"][row][place] + 1
        assert answers[row].tolist() == wanted.tolist()


def _packed(encoding, xla, **options):
    """What a model sees of ids, as a function."""
    each = Input("token_ids", "ids", "int64", (None, None), encoding, group="token_ids", **options)
    pack = tf.function(lambda ids: packed([each], {"token_ids": ids})[0]["token_ids"], jit_compile=xla)
    return lambda ids: pack(tf.constant(ids, tf.int64)).numpy().tolist()


@pytest.mark.parametrize("xla", [False, True])
def test_padding_in_front_stays_there(xla):
    """For an encoding whose padding is at the start; ids outside are dropped where unknown words are."""
    pack = _packed(IN_FRONT, xla, min_length=2)
    ids = [[1, 0, 2, 0, 3, 0], [0, 0, 0, 9, 1, -1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 2, 3, 0]]
    assert pack(ids) == [[1, 2, 3], [0, 0, 1], [0, 0, 0], [0, 2, 3]]
    assert pack([[2]]) == [[0, 2]]


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize(
    "ids, wanted",
    [
        ([[2, 3], [3, 1]], [[2, 3], [3, 1]]),  # nothing to do
        ([[2, 3, 0, 0], [3, 0, 0, 0]], [[2, 3], [3, 0]]),  # padding behind the words
        ([[2, 3, 0], [0, 0, 0]], [[2, 3], [1, 0]]),  # and a text without any
        ([[2, 0, 3], [0, 0, 2]], [[2, 3], [2, 0]]),  # between words and in front
        ([[2, 9, 0], [-1, 0, 0]], [[2, 1], [1, 0]]),  # ids outside beside padding
        ([[2, 9], [3, 3]], [[2, 1], [3, 3]]),  # and without any
        ([[], []], [[1], [1]]),
    ],
)
def test_each_kind_of_request_is_packed(xla, ids, wanted):
    """A request without padding, or with padding behind the words alone, takes a shorter way to the same form."""
    assert _packed(PLAIN, xla)(ids) == wanted


LIMITS = [{}, {"min_length": 3}, {"min_length": 4, "max_length": 4}, {"max_length": 3}]
ENCODINGS = [(PLAIN,), (IN_FRONT,), (LAST,), (UNPADDED,), (PLAIN, PLAIN), (PLAIN, UNPADDED), (UNPADDED, LAST)]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("place", variants(range(len(ENCODINGS)), always=[0, 1, 3, 6]))
def test_each_request_is_read_as_row_by_row(place, limits):
    """Whatever its padding and ids: some take a shorter way to the same form."""
    inputs = _group(*ENCODINGS[place], **limits)
    pack = _pack(inputs)
    for request in _requests(inputs, 40):
        seen, answers = pack({name: tf.constant(value) for name, value in request.items()})
        _check(inputs, request, {name: each.numpy() for name, each in seen.items()}, answers.numpy())


@pytest.mark.parametrize("encodings", [(PLAIN,), (IN_FRONT,), (PLAIN, LAST)], ids=range(3))
def test_a_text_that_is_cut_keeps_its_special_tokens(encodings, monkeypatch):
    """An encoder's first one and its last one; the answers of tokens that were lost are zeros."""
    monkeypatch.setattr(Input, "frame", (1, 1))
    inputs = _group(*encodings, max_length=3)
    pack = _pack(inputs)
    for request in _requests(inputs, 20):
        seen, answers = pack({name: tf.constant(value) for name, value in request.items()})
        _check(inputs, request, {name: each.numpy() for name, each in seen.items()}, answers.numpy())


@pytest.mark.parametrize("encodings", [(PLAIN,), (IN_FRONT,), (PLAIN, UNPADDED)], ids=range(3))
def test_xla_reads_them_so_too(encodings):
    """The lengths of its graphs are fixed when they are compiled."""
    inputs = _group(*encodings, min_length=2)
    pack = _pack(inputs, xla=True)
    for request in _requests(inputs, 5):
        seen, answers = pack({name: tf.constant(value) for name, value in request.items()})
        _check(inputs, request, {name: each.numpy() for name, each in seen.items()}, answers.numpy())


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("words", [[2, 3, 2], [2, 3, 0], [2, 0, 3]])
def test_an_id_outside_is_refused_wherever_it_is(words, place):
    """Among words, and beside the padding of another input, which has such an id."""
    inputs = _group(PLAIN, UNPADDED, out_of_range="error")
    beside = [1, 2, 1]
    beside[place] = -1
    request = {"ids_0": [words], "ids_1": [beside], "size": np.zeros((1, 3), "float32")}
    given = {each.name: tf.constant(request[each.name], each.dtype) for each in inputs}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"ids_1 must lie in \[0, 3\).*-1"):
        _pack(inputs)(given)
