"""The client over REST and gRPC, with faults of the server and of the connection."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import (
    ArgumentError,
    MissingDependencyError,
    SavedModelError,
    ServingError,
    ServingTimeoutError,
    VocabularyError,
)
from embkeras.serving.client import ServingClient
from embkeras.serving.text_encoder import TextEncoder
from tests.processes import run_python, started
from tests.serving.servers import (
    InTensorFlow,
    Model,
    free_port,
    grpc_server,
    hang,
    raw_server,
    refuse,
    rest_server,
    says,
)

ROOT = Path(__file__).parents[2]
TEXTS = ["good day", "a bad day that goes on and on", "", "so so", "good"]
VOCABULARY = ek.Vocabulary.from_texts([*TEXTS, "it ends"])


def _export(path, vocabulary, seed=0, **arguments):
    """A small classifier with three classes, exported without a check."""
    keras.utils.set_random_seed(seed)
    matrix = np.random.default_rng(seed).normal(size=(len(vocabulary), 4)).astype("float32")
    model = ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 3, architecture="mean")
    arguments = {"class_names": ["no", "so", "yes"], "check": False} | arguments
    return ek.export_saved_model(model, path, vocabulary=vocabulary, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The export that is served."""
    return _export(tmp_path_factory.mktemp("export") / "mood", VOCABULARY)


@pytest.fixture(scope="module")
def runner(folder):
    """The export, loaded."""
    return InTensorFlow(folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A later version, whose vocabulary has two words swapped."""
    tokens = list(VOCABULARY.tokens)
    tokens[2], tokens[3] = tokens[3], tokens[2]
    vocabulary = ek.Vocabulary(tokens, tokenizer=VOCABULARY.tokenizer)
    return InTensorFlow(_export(tmp_path_factory.mktemp("other") / "mood", vocabulary, seed=1))


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """A later version with the same vocabulary, other weights and other class names."""
    path = tmp_path_factory.mktemp("newer") / "mood"
    return InTensorFlow(_export(path, VOCABULARY, seed=2, class_names=["NO", "SO", "YES"]))


@pytest.fixture(scope="module")
def encoder(folder):
    """The text encoder of the export."""
    return TextEncoder(folder)


@pytest.fixture
def model(runner):
    """A model at a server, with one version."""
    return Model("mood", {1: runner})


@pytest.fixture
def rest(model):
    """The URL of a REST server."""
    with rest_server(model) as url:
        yield url


@pytest.fixture
def rpc(model):
    """The URL of a gRPC server."""
    pytest.importorskip("tensorflow_serving", reason="the stubs come with the extra `serving`")
    with grpc_server(model) as url:
        yield url


@pytest.fixture(params=["rest", "rpc"])
def url(request):
    """The URL of each kind of server."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(url, encoder):
    """A client that gives up quickly."""
    with ServingClient(url, encoder=encoder, timeout=5.0) as client:
        yield client


def _wanted(runner, texts=TEXTS, output="scores"):
    """What the export answers for each text alone."""
    rows = [runner.run("serving_default", {"token_ids": VOCABULARY.encode(text)[None]}) for text in texts]
    return np.concatenate([row[output] for row in rows])


def _asked(model):
    """Requests for scores, as (version, signature, ids)."""
    return [(number, name, inputs["token_ids"]) for number, name, inputs in model.asked if name.startswith("serving_")]


# What it answers


def test_scores_are_those_of_the_export(client, runner):
    """The scores are the export's, in the order of the texts, however they are batched."""
    scores = client.scores([VOCABULARY.encode(text) for text in TEXTS])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, _wanted(runner), atol=1e-6)


def test_scores_of_an_array(client, runner):
    """Ids of shape (batch, time), padded by the caller."""
    np.testing.assert_allclose(client.scores(VOCABULARY.encode_batch(TEXTS)), _wanted(runner), atol=1e-6)


def test_predict_names_the_best_class(client, runner):
    """Text, label, probability."""
    table = client.predict(TEXTS)
    scores = _wanted(runner)
    assert table["text"].tolist() == TEXTS
    assert table["label"].tolist() == [["no", "so", "yes"][best] for best in scores.argmax(axis=1)]
    np.testing.assert_allclose(table["probability"], scores.max(axis=1), atol=1e-6)


def test_nothing_is_asked_of_nothing(client):
    """Without texts there are no rows, and the shape can be concatenated with others."""
    assert client.predict([]).shape == (0, 3)
    assert client.scores([]).shape == client.scores(np.zeros((0, 4), int)).shape == (0, 3)


def test_metadata_says_what_is_served(client, encoder):
    """Version, signatures with types and shapes, and the export's card."""
    said = client.metadata()
    assert (said["model"], said["version"]) == ("mood", 1)
    assert said["signatures"]["serving_default"]["inputs"] == {"token_ids": ("int64", (None, None))}
    assert said["signatures"]["serving_int32"]["outputs"]["scores"] == ("float32", (None, 3))
    assert set(said["signatures"]) == {"serving_default", "serving_int32", "text", "embed", "card"}
    assert said["card"] == encoder.card


def test_several_threads_ask_one_client(client, runner):
    """Each gets its own answer."""
    wanted, got = _wanted(runner), {}

    def ask(place):
        got[place] = client.scores([VOCABULARY.encode(TEXTS[place])] * 3)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, scores in got.items():
        np.testing.assert_allclose(scores, np.repeat(wanted[place : place + 1], 3, axis=0), atol=1e-6)
    assert len(got) == len(TEXTS)


def test_another_output_can_be_asked(runner, rest):
    """Outputs are chosen by name; the error for an unknown one lists the outputs."""
    client = ServingClient(rest, model="mood")
    with pytest.raises(ServingError, match="has no output 'mood', only classes, scores"):
        client.scores([[2]], output="mood")


def test_class_names_can_be_asked(url, encoder):
    """As strings, one row a text."""
    with ServingClient(url, encoder=encoder) as client:
        assert client.scores([[2], [2, 3, 4]], output="classes").tolist() == [["no", "so", "yes"]] * 2
        assert client.scores([], output="classes").shape == (0, 3)


def test_class_names_that_are_none_are_refused(url, encoder, runner, monkeypatch):
    """Numbers are no strings."""
    real = runner.run

    def run(signature, inputs):
        return (
            real(signature, inputs) if signature == "card" else {"scores": np.ones((1, 3)), "classes": np.ones((1, 3))}
        )

    monkeypatch.setattr(runner, "run", run)
    refused = pytest.raises(ServingError, match=r"type float64 and shape \(1, 3\), instead of strings")
    with ServingClient(url, encoder=encoder) as client, refused:
        client.scores([[2]], output="classes")


@pytest.mark.parametrize("leading", [True, False])
def test_vectors_are_rows_of_the_table(url, encoder, runner, model, leading):
    """One array a text, without padding, in the order of the texts."""
    ids = [[2, 3, 4], [5], [], [3, 2]]
    wanted = runner.run("embed", {"token_ids": np.arange(len(VOCABULARY))[None]})["vectors"][0]
    with ServingClient(url, encoder=encoder, batch_size=3, leading_padding=leading) as client:
        vectors = client.vectors(ids)
        assert client.vectors([]) == []
        with pytest.raises(ArgumentError, match=r"token_ids must lie in .* at text 1"):
            client.vectors([[1], [99]])
    assert [each.dtype for each in vectors] == [np.float32] * 4
    for row, each in zip(ids, vectors, strict=True):
        np.testing.assert_allclose(each, wanted[np.array(row, int)], atol=1e-6)


def test_model_without_vectors_says_so(url, encoder, runner, monkeypatch):
    """The error lists its signatures."""
    signatures = {name: each for name, each in runner.signatures().items() if name != "embed"}
    monkeypatch.setattr(runner, "signatures", lambda: signatures)
    refused = pytest.raises(ServingError, match=r"no signature 'embed' .* Its signatures: .*serving_default")
    with ServingClient(url, encoder=encoder) as client, refused:
        client.vectors([[2]])


# What it sends


def test_batches_are_of_like_lengths(url, model, encoder, runner):
    """Two per request, shortest first, each with a zero in front; the answers are in the order of the texts."""
    with ServingClient(url, encoder=encoder, batch_size=2) as client:
        np.testing.assert_allclose(client.predict(TEXTS)["probability"], _wanted(runner).max(axis=1), atol=1e-6)
    assert [ids.shape for _, _, ids in _asked(model)] == [(2, 2), (2, 3), (1, 9)]
    assert all((ids[:, 0] == 0).all() for _, _, ids in _asked(model))


def test_padding_in_front_can_be_left_out(url, model, encoder):
    """For a server without batching."""
    with ServingClient(url, encoder=encoder, leading_padding=False) as client:
        client.scores([[3, 4], []])
    ((_, _, ids),) = _asked(model)
    assert ids.tolist() == [[0, 0], [3, 4]]


def test_a_text_without_tokens_is_one_column(url, model, encoder, runner):
    """JSON has no array of shape (1, 0)."""
    for leading in (True, False):
        with ServingClient(url, encoder=encoder, leading_padding=leading) as client:
            np.testing.assert_allclose(client.scores([[]]), _wanted(runner, [""]), atol=1e-6)
    assert [ids.tolist() for _, _, ids in _asked(model)] == [[[0]], [[0]]]


def test_grpc_sends_int32_where_every_id_fits(rpc, model):
    """int32 takes half the bytes; one id beyond int32 makes its batch int64."""
    with ServingClient(rpc, model="mood") as client:
        client.scores([[2, 3]])
        client.scores([[2, 2**31]])
        client.scores([[2, -(2**31)]])
    kinds = [(name, ids.dtype) for _, name, ids in _asked(model)]
    assert kinds == [("serving_int32", np.int32), ("serving_default", np.int64), ("serving_int32", np.int32)]


def test_grpc_asks_for_scores_alone(rpc, model, encoder):
    """The class names would come back with each text."""
    with ServingClient(rpc, encoder=encoder) as client:
        client.predict(TEXTS)
    assert model.filters == [["card"], ["scores"]]


def test_rest_asks_serving_default(rest, model, encoder):
    """JSON writes numbers as text, so int32 saves nothing."""
    ServingClient(rest, encoder=encoder).scores([[2, 3]])
    assert [name for _, name, _ in _asked(model)] == ["serving_default"]


def test_vocabulary_without_padding_is_sent_by_lengths(url, model, tmp_path):
    """Without a padding id, texts of different lengths are sent apart, with nothing in front."""
    plain = ek.Vocabulary(["[UNK]", *"abcd"], padding_id=None, oov_ids=(0,), tokenizer=VOCABULARY.tokenizer)
    ids = keras.Input((None,), dtype="int64")
    mean = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(len(plain), 2)(ids))
    net = keras.Model(ids, keras.layers.Dense(2, activation="softmax")(mean))
    folder = ek.export_saved_model(net, tmp_path / "mood", vocabulary=plain, check=False)
    model.versions = {1: InTensorFlow(folder)}
    with ServingClient(url, encoder=folder) as client:
        table = client.predict(["a b", "c", "b a", "d"])
    assert [ids.tolist() for _, _, ids in _asked(model)] == [[[3], [4]], [[1, 2], [2, 1]]]
    for text, probability in zip(table["text"], table["probability"], strict=True):
        alone = model.versions[1].run("serving_default", {"token_ids": plain.encode(text)[None]})["scores"]
        assert probability == pytest.approx(alone.max(), abs=1e-6)


def test_server_that_fills_up_batches_gives_the_same_scores(client, model, runner):
    """TensorFlow Serving pads requests of different lengths with their first number, which is padding already."""
    for text in TEXTS:
        client.scores([VOCABULARY.encode(text)])
    rows = [ids[0] for _, _, ids in _asked(model)]
    longest = max(map(len, rows))
    batch = np.stack([np.pad(ids, (0, longest - len(ids)), constant_values=ids[0]) for ids in rows])
    scores = runner.run("serving_default", {"token_ids": batch.astype(np.int64)})["scores"]
    np.testing.assert_allclose(scores, _wanted(runner), atol=1e-6)


def test_model_of_one_length_is_asked_in_full(url, model, tmp_path):
    """The padding in front doesn't count towards the length."""
    ids = keras.Input((3,), dtype="int64")
    flat = keras.layers.Flatten()(keras.layers.Embedding(len(VOCABULARY), 2)(ids))
    folder = ek.export_saved_model(
        keras.Model(ids, keras.layers.Dense(2)(flat)),
        tmp_path / "mood",
        vocabulary=VOCABULARY,
        check=False,
        long_texts="error",
    )
    model.versions = {1: InTensorFlow(folder)}
    with ServingClient(url, encoder=folder, long_texts="cut") as client:
        np.testing.assert_allclose(
            client.scores([[2, 3, 4]]),
            model.versions[1].run("serving_default", {"token_ids": np.array([[2, 3, 4]])})["scores"],
            atol=1e-6,
        )
        with pytest.raises(ServingError, match=r"takes texts of up to 3 tokens. Received 4 in text 0\.$"):
            client.scores([[2, 3, 4, 5]])
        texts = ["good day so bad", "good"]
        cut = model.versions[1].run("serving_default", {"token_ids": VOCABULARY.encode_batch(texts, 3)})["scores"]
        np.testing.assert_allclose(client.predict(texts)["probability"], cut.max(axis=1), atol=1e-6)
    with (
        ServingClient(url, encoder=folder) as client,
        pytest.raises(ArgumentError, match=r"texts of up to 3 tokens\. Received 4 in text 1\."),
    ):
        client.predict(["good", "good day so bad"])


# What is compared


def test_other_vocabulary_is_refused(url, model, encoder, other):
    """The server's ids mean other words, so nothing is sent."""
    model.versions = {1: other}
    with (
        ServingClient(url, encoder=encoder) as client,
        pytest.raises(SavedModelError, match=r"'mood' at .*, version 1, has another vocabulary than the encoder"),
    ):
        client.predict(TEXTS)
    assert _asked(model) == []


def test_without_an_encoder_nothing_is_compared(url, model, other):
    """A caller who sends ids is responsible for their meaning."""
    model.versions = {1: other}
    with ServingClient(url, model="mood") as client:
        assert client.scores([[2, 3]]).shape == (1, 3)


def test_vocabulary_is_compared_once(client, model):
    """The card is requested once, not for each call."""
    for _ in range(3):
        client.predict(TEXTS)
    assert [name for _, name, _ in model.asked].count("card") == 1


def test_requests_name_the_version_that_was_compared(client, model, encoder, other):
    """A later version with another vocabulary isn't used while the compared version exists."""
    client.predict(TEXTS)
    model.versions[2] = other
    client.predict(TEXTS)
    assert {number for number, _, _ in _asked(model)} == {1}


def test_newer_version_is_found_when_the_time_has_come(url, model, encoder, newer):
    """With its own weights and class names."""
    with ServingClient(url, encoder=encoder, refresh=0.0) as client:
        client.predict(TEXTS)
        model.versions[2] = newer
        table = client.predict(TEXTS)
    wanted = _wanted(newer)
    assert table["label"].tolist() == [["NO", "SO", "YES"][best] for best in wanted.argmax(axis=1)]
    np.testing.assert_allclose(table["probability"], wanted.max(axis=1), atol=1e-6)


def test_version_that_goes_is_left(client, model, newer):
    """All texts are sent to the newer version, even if the old one disappears between two batches."""
    client.batch_size = 2
    client.predict(TEXTS)

    model.versions[2] = newer
    real = model.run
    calls = []

    def run(number, signature, inputs):
        calls.append(number)
        if calls == [1, 1]:
            del model.versions[1]
            raise LookupError("Servable not found for request: Specific(mood, 1)")
        return real(number, signature, inputs)

    model.run = run
    table = client.predict(TEXTS)
    np.testing.assert_allclose(table["probability"], _wanted(newer).max(axis=1), atol=1e-6)
    assert calls == [1, 1, 2, 2, 2, 2]  # two of the first, the card of the second, its three batches


def test_version_of_ones_own_is_kept(url, model, encoder, newer):
    """The caller's version is used even if there is a newer one, and its loss is an error."""
    model.versions[2] = newer
    with ServingClient(url, encoder=encoder, version=1) as client:
        client.predict(TEXTS)
        del model.versions[1]
        with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(mood, 1\)"):
            client.predict(TEXTS)
    assert {number for number, _, _ in _asked(model)} == {1}


def test_version_is_named_by_its_label(url, model, encoder, newer, runner):
    """The server knows which number it is; when the label moves, the client follows."""
    model.versions[2], model.labels = newer, {"stable": 1}
    with ServingClient(url, encoder=encoder, version="stable", refresh=0.0) as client:
        np.testing.assert_allclose(client.predict(TEXTS)["probability"], _wanted(runner).max(axis=1), atol=1e-6)
        assert client.metadata()["version"] == 1
        model.labels["stable"] = 2
        np.testing.assert_allclose(client.predict(TEXTS)["probability"], _wanted(newer).max(axis=1), atol=1e-6)
        del model.labels["stable"]
        with pytest.raises(ServingError, match="Unrecognized servable version label: stable"):
            client.predict(TEXTS)


def test_export_that_does_not_say_its_vocabulary_is_refused(url, model, encoder, runner, monkeypatch):
    """An export without the signature `card`."""
    old = {name: each for name, each in runner.signatures().items() if name != "card"}
    monkeypatch.setattr(runner, "signatures", lambda: old)
    with (
        ServingClient(url, encoder=encoder) as client,
        pytest.raises(SavedModelError, match=r"doesn't say which vocabulary it uses \(no signature 'card'\)"),
    ):
        client.predict(TEXTS)
    with ServingClient(url, model="mood") as client:  # nor which id is padding: nothing is put in front
        client.scores([[2, 3], [4]])
    assert [ids.tolist() for _, _, ids in _asked(model)] == [[[4]], [[2, 3]]]


# What it refuses before it asks


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2],
        [[1.0, 2.0]],
        [["a"]],
        [[True]],
        [[[1]]],
        np.zeros((1, 2, 3), int),
        np.zeros((1, 2)),
        "ab",
        None,
        [[2**70]],
    ],
)
def test_what_is_no_batch_of_ids_is_refused(encoder, ids):
    """Floats, bools, strings, other shapes, huge integers."""
    client = ServingClient(f"http://127.0.0.1:{free_port()}", encoder=encoder)
    with pytest.raises(ArgumentError, match=r"token_ids must be integers \(batch, time\), or one .*Received: "):
        client.scores(ids)


@pytest.mark.parametrize("bad", [-1, len(VOCABULARY), 2**31, 2**40])
def test_ids_outside_the_table_are_refused(encoder, bad):
    """With an encoder, the client knows the range."""
    client = ServingClient(f"http://127.0.0.1:{free_port()}", encoder=encoder)
    rule = rf"token_ids must lie in \[0, {len(VOCABULARY)}\)\. Received: {bad} at text 1"
    with pytest.raises(ArgumentError, match=rule):
        client.scores([[1], [2, bad]])


def test_ids_beyond_int64_are_refused():
    """They would wrap to negative ids."""
    client = ServingClient(f"http://127.0.0.1:{free_port()}", model="mood")
    with pytest.raises(ArgumentError, match=rf"Received: {2**63} at text 0"):
        client.scores(np.array([[2**63]], np.uint64))


def test_predict_needs_an_encoder_and_texts(encoder):
    """The error says what is missing; a single string would be read letter by letter."""
    with pytest.raises(ArgumentError, match="predict needs an encoder"):
        ServingClient("http://h", model="mood").predict(["a"])
    with pytest.raises(ArgumentError, match="Received: 'good'"):
        ServingClient("http://h", encoder=encoder).predict("good")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout": 0}, r"timeout must be a number > 0\. Received: 0"),
        ({"timeout": float("inf")}, r"timeout must be a number > 0\. Received: inf"),
        ({"retries": -1}, r"retries must be an integer >= 0\. Received: -1"),
        ({"retries": 1.5}, r"retries must be an integer >= 0\. Received: 1\.5"),
        ({"batch_size": 0}, r"batch_size must be an integer >= 1\. Received: 0"),
        ({"batch_size": True}, r"batch_size must be an integer >= 1\. Received: True"),
        ({"refresh": None}, r"refresh must be a number >= 0\. Received: None"),
        ({"version": -1}, r"version must be an integer from 0 to \d+\. Received: -1"),
        ({"version": ""}, r"version must be a number or a label\. Received: ''"),
        ({"model": None}, r"model must be the name of the model at the server\. Received: None"),
        ({"encoder": 3}, r"encoder must be a TextEncoder or the path of one\. Received: int"),
        ({"headers": {"X": "a\r\nY: b"}}, r"headers must be printable ASCII\. Received: 'X', whose value is not shown"),
        ({"headers": "X: a"}, r"headers must be a mapping of names to strings\. Received: str"),
    ],
)
def test_arguments_are_checked(arguments, message):
    """Each error names the rule and the value."""
    with pytest.raises(ArgumentError, match=message):
        ServingClient("http://h", **({"model": "mood"} | arguments))


def test_grpc_without_its_packages_names_the_extra(monkeypatch):
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "embkeras\[serving\]"'):
        ServingClient("grpc://h", model="mood")


# Faults of the server


def test_refusal_quotes_the_server(url, tmp_path, model, encoder):
    """The client quotes an export that refuses ids outside its table."""
    model.versions = {1: InTensorFlow(_export(tmp_path / "mood", VOCABULARY, out_of_range="error"))}
    with (
        ServingClient(url, model="mood") as client,
        pytest.raises(ServingError, match=r"(400|INVALID_ARGUMENT).*token_ids must lie in \[0, "),
    ):
        client.scores([[2**31]])
    assert len(_asked(model)) == 1


def test_error_of_the_server_is_quoted_and_not_repeated(client, model):
    """500 can have any cause, so the request isn't sent again."""
    model.faults = [lambda where: refuse(where, 500, "INTERNAL", "out of memory")] * 2
    with pytest.raises(ServingError, match=r"(500|INTERNAL).*out of memory"):
        client.predict(TEXTS)
    assert len(model.faults) == 1


def test_server_that_is_not_ready_is_asked_again(client, model, runner):
    """503 and UNAVAILABLE: TensorFlow Serving's queue is full, or the model is still being loaded."""
    model.faults = [lambda where: refuse(where, 503, "UNAVAILABLE", "queue is full")] * 2
    np.testing.assert_allclose(client.predict(TEXTS)["probability"], _wanted(runner).max(axis=1), atol=1e-6)
    assert model.faults == []


def test_server_that_stays_unready_is_given_up(client, model):
    """The client stops after the allowed attempts; the message counts them."""
    model.faults = [lambda where: refuse(where, 503, "UNAVAILABLE", "queue is full")] * 9
    with pytest.raises(ServingError, match=r"queue is full.*\(attempts: 3\)"):
        client.predict(TEXTS)
    assert len(model.faults) == 6


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_server_that_is_not_there(scheme):
    """The error has the address, the reason and the number of attempts."""
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving")
    with (
        ServingClient(f"{scheme}://127.0.0.1:{free_port()}", model="mood", retries=1) as client,
        pytest.raises(ServingError, match=rf"{scheme}://127.0.0.1:.*[Cc]onnection refused.*\(attempts: 2\)"),
    ):
        client.scores([[1]])


def test_unknown_model_is_named(url, encoder):
    """TensorFlow Serving's own words, and no second attempt."""
    with (
        ServingClient(url, model="other", encoder=encoder) as client,
        pytest.raises(ServingError, match=r"(404|NOT_FOUND).*Servable not found for request: Specific\(other"),
    ):
        client.predict(TEXTS)


def test_server_that_hangs_is_given_up_in_time(client, model):
    """The request isn't sent again: the server may still be working."""
    client.predict(TEXTS)
    client.timeout = 0.3
    model.faults = [hang] * 2
    start = time.monotonic()
    with pytest.raises(ServingTimeoutError, match=r"did not answer within 0\.3 s"):
        client.predict(TEXTS)
    assert time.monotonic() - start < 0.9
    assert len(model.faults) == 1


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_line_without_an_answer_is_given_up_in_time(scheme):
    """A port that accepts connections and nothing else; the error is a TimeoutError too."""
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving")
    with (
        raw_server(hang) as ((host, port), connections),
        ServingClient(f"{scheme}://{host}:{port}", model="mood", timeout=0.3) as client,
        pytest.raises(TimeoutError, match="did not answer within"),
    ):
        client.scores([[1]])
    assert len(connections) == 1


def test_line_that_breaks_once_is_mended(model, rest, encoder, runner):
    """The first connection is cut, the second is answered."""
    model.faults = [lambda handler: handler.connection.close()]
    table = ServingClient(rest, encoder=encoder).predict(TEXTS)
    np.testing.assert_allclose(table["probability"], _wanted(runner).max(axis=1), atol=1e-6)
    assert model.faults == []


@pytest.mark.parametrize("contents", [b"\x00\x01\xff" * 9, b"HTTP/1.1 200 OK\r\n\r\n{}", b""], ids=repr)
def test_rubbish_over_grpc_is_named(contents):
    """A server that speaks another protocol."""
    pytest.importorskip("tensorflow_serving")
    with (
        raw_server(says(contents)) as ((host, port), _),
        ServingClient(f"grpc://{host}:{port}", model="mood", timeout=1.0, retries=0) as client,
        pytest.raises(ServingError, match=rf"grpc://{host}:{port} (answered UNAVAILABLE|did not answer)"),
    ):
        client.metadata()


def test_rest_port_without_tls(rest):
    """https for a server without TLS."""
    client = ServingClient(rest.replace("http", "https"), model="mood")
    with pytest.raises(ServingError, match="There is no secure connection to https://"):
        client.metadata()


def test_bfloat16_scores_come_as_float32(url, encoder, runner, monkeypatch):
    """NumPy has no such type, but its values fit; JSON has only numbers."""
    scores = np.array([[0.25, 0.125, 0.625]], np.float32)
    real, described = runner.run, {}
    for name, signature in runner.signatures().items():
        described[name] = type(signature).FromString(signature.SerializeToString())
        if name != "card":
            described[name].outputs["scores"].dtype = tf.bfloat16.as_datatype_enum

    def run(signature, inputs):
        answer = scores if url.startswith("http") else tf.cast(scores, "bfloat16").numpy()
        return real(signature, inputs) if signature == "card" else {"scores": answer}

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "signatures", lambda: described)
    with ServingClient(url, encoder=encoder) as client:
        answer = client.scores([[2]])
    assert answer.dtype == np.float32 and answer.tolist() == scores.tolist()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((2, 3)), r"type float64 and shape \(2, 3\), instead of numbers of shape \(1, 3\)"),
        (np.zeros((1, 4)), r"shape \(1, 4\), instead of numbers of shape \(1, 3\)"),
        (np.zeros(3), r"shape \(3,\), instead of numbers of shape \(1, 3\)"),
        (np.array([[b"a", b"b", b"c"]], object), "instead of numbers of shape"),
        (np.array([[True, False, True]]), "type bool and shape"),
        (np.array([[0.1, float("nan"), 0.2]]), r"returned NaN for text 0, .* \(Under XLA"),
        (np.array([[0.1, float("inf"), 0.2]]), r"returned infinity for text 0, which is no score\.$"),
        (np.array([[0.1, -float("inf"), 0.2]]), "returned infinity for text 0"),
    ],
)
def test_scores_that_are_none_are_named(url, model, encoder, runner, monkeypatch, scores, message):
    """Another shape, other types, NaN."""
    real = runner.run

    def run(signature, inputs):
        return real(signature, inputs) if signature == "card" else {"scores": scores, "classes": scores}

    monkeypatch.setattr(runner, "run", run)
    with ServingClient(url, encoder=encoder) as client, pytest.raises(ServingError, match=message):
        client.predict(["good"])


@pytest.mark.parametrize(
    "answer",
    [{"outputs": {"other": [[1]]}}, {"outputs": [[1], [1, 2]]}, {"outputs": None}, {"predictions": [[1]]}, [], 3],
)
def test_answer_of_another_form_is_named(rest, model, encoder, answer):
    """JSON, but not TensorFlow Serving's columns."""
    model.faults = [lambda handler: handler.send(200, answer)]
    with pytest.raises(ServingError, match=r"returned an answer (without 'scores'|of type object)"):
        ServingClient(rest, encoder=encoder).predict(["good"])


def test_answer_without_end_is_refused(rest, model, encoder, monkeypatch):
    """The client stops reading beyond the size of any batch of scores."""
    monkeypatch.setattr("embkeras.serving.transports._LARGEST_ANSWER", 5000)
    monkeypatch.setattr("embkeras.serving.transports._PIECE", 1000)
    model.faults = [lambda handler: handler.send(200, b" " * 10_000)]
    with pytest.raises(ServingError, match="an answer of more than 5,000 bytes"):
        ServingClient(rest, encoder=encoder).predict(["good"])


def test_card_that_is_none_is_named(rest, model, encoder, runner, monkeypatch):
    """The signature `card` must return a card."""
    monkeypatch.setattr(runner, "run", lambda *_: {"card": np.array([b"{}"], object)})
    with pytest.raises(ServingError, match="has a card that is damaged"):
        ServingClient(rest, encoder=encoder).predict(["good"])


def test_text_that_cannot_be_encoded_is_refused(rest, tmp_path, model):
    """The vocabulary's error is raised."""
    plain = ek.Vocabulary(VOCABULARY.tokens)
    folder = _export(tmp_path / "mood", plain)
    with pytest.raises(VocabularyError, match="has no tokenizer"):
        ServingClient(rest, encoder=folder).predict(["good"])


def test_rest_client_loads_no_tensorflow(folder, rest, runner):
    """Texts become labels in a fresh process without TensorFlow."""
    code = (
        "import sys; from embkeras.serving.client import ServingClient\n"
        "print(ServingClient(sys.argv[1], encoder=sys.argv[2]).predict(['good day'])['label'][0])\n"
        "print(sorted({'tensorflow', 'keras', 'grpc'} & set(sys.modules)))"
    )
    done = run_python("-c", code, rest, folder)
    best = ["no", "so", "yes"][_wanted(runner, ["good day"])[0].argmax()]
    assert done.stdout.split("\n")[:2] == [best, "[]"]


def test_runtime_without_python_gives_the_same_scores(folder, encoder, runner):
    """TensorFlow's C API behind gRPC, in a process of its own: the runtime that TensorFlow Serving wraps."""
    pytest.importorskip("tensorflow_serving")
    command = (sys.executable, "-m", "tests.serving.c_api_server", folder, "mood")
    with started(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        url = f"grpc://127.0.0.1:{int(process.stdout.readline())}"
        with ServingClient(url, encoder=encoder, batch_size=2) as client:
            table = client.predict(TEXTS)
    np.testing.assert_allclose(table["probability"], _wanted(runner).max(axis=1), atol=1e-5)


# Several inputs


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A model of a text, a single id and numbers; it has scores, and tags for each token. And its export."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    text, user = keras.Input((None,), dtype="int64", name="text_ids"), keras.Input((), dtype="int64", name="user")
    size = keras.Input((2,), name="size")
    words = layers.LSTM(3, return_sequences=True)(layers.Embedding(len(VOCABULARY), 4, mask_zero=True)(text))
    beside = layers.concatenate([layers.Embedding(4, 2)(user), size, layers.GlobalAveragePooling1D()(words)])
    model = keras.Model([text, user, size], {"scores": layers.Dense(3)(beside), "tags": layers.Dense(2)(words)})
    vocabularies = {"text_ids": VOCABULARY, "user": ek.Vocabulary(["", "[UNK]", "ann", "bob"])}
    path = tmp_path_factory.mktemp("several") / "mood"
    return model, ek.export_saved_model(model, path, vocabulary=vocabularies, check=False)


@pytest.fixture
def inputs():
    """Three rows."""
    texts = [VOCABULARY.encode(text) for text in ("good day", "a bad day that goes on", "so so")]
    return {"text_ids": texts, "user": [2, 3, 1], "size": np.random.default_rng(0).normal(size=(3, 2))}


@pytest.mark.parametrize("leading", [True, False])
def test_several_inputs(several, inputs, leading):
    """A dictionary of inputs, batch by batch; what is for each token belongs to the tokens that were sent."""
    model, folder = several
    served = Model("mood", {1: InTensorFlow(folder)})
    with (
        rest_server(served) as url,
        ServingClient(url, encoder=folder, timeout=5.0, batch_size=2, leading_padding=leading) as client,
    ):
        scores, tags = client.scores(inputs), client.scores(inputs, output="tags")
        with pytest.raises(ArgumentError, match=r"takes .*text_ids.*: pass scores\(\) a dictionary"):
            client.scores([[2, 3]])
        with pytest.raises(ArgumentError, match=r"user must lie in \[0, 4\)\. Received: 9 at text 1"):
            client.scores(inputs | {"user": [2, 9, 1]})
    assert tags.shape == (3, 6, 2)
    for row, ids in enumerate(inputs["text_ids"]):
        one = [ids[None], np.array(inputs["user"][row : row + 1]), inputs["size"][row : row + 1].astype("float32")]
        wanted = model(one)
        np.testing.assert_allclose(scores[row], wanted["scores"][0], atol=1e-5)
        np.testing.assert_allclose(tags[row, : len(ids)], wanted["tags"][0], atol=1e-5)
        assert not tags[row, len(ids) :].any()
    export = ek.ExportedModel(folder)
    np.testing.assert_allclose(export.scores(inputs), scores, atol=1e-5)
    encoded = TextEncoder(folder).encode({"text_ids": ["good day", "so"]})
    assert encoded["text_ids"].tolist() == VOCABULARY.encode_batch(["good day", "so"]).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, r"'size' must be float32 of shape \(any, 2\)"),
        (
            {"size": np.zeros((3, 1))},
            r"'size' must be float32 of shape \(any, 2\)\. Received: float64 of shape \(3, 1\)",
        ),
        ({"user": [1, 2]}, "the same number of rows.* 2 of user"),
        ({"user": [1.5, 2, 3]}, r"'user' must be int64 of shape \(any\)\. Received: float64"),
        ({"text_ids": [[1.5]] * 3}, "Input 'text_ids': token_ids must be integers"),
        ({"more": [1]}, "takes the inputs .*'more'"),
    ],
)
def test_inputs_that_do_not_fit(several, inputs, change, message):
    """The error names the input."""
    with pytest.raises(ArgumentError, match=message):
        ek.ExportedModel(several[1]).scores(inputs | change)
