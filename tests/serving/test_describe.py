"""Models as their public tutorials build them: several inputs, answers for each token, other kinds of scores."""

import json
from functools import cached_property

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from tests.serving.c_api import CApiError, Session
from tests.variants import THOROUGH, variants

WORDS = ek.Vocabulary.from_texts(["a b c d e f g h i j", "k l m n"])
USERS = ek.Vocabulary(["", "[UNK]", "ann", "bob", "cid"])
V, TAGS = len(WORDS), 4
_KERAS = tuple(int(part) for part in keras.__version__.split(".")[:2])


def _ids(*shape, vocabulary=WORDS, seed=0):
    return np.random.default_rng(seed).integers(2, len(vocabulary), shape)


def _table(vocabulary=WORDS, **settings):
    rows = np.random.default_rng(0).normal(size=(len(vocabulary), 5)).astype("float32")
    return ek.build_embedding(ek.AlignedMatrix(rows, vocabulary), **settings)


class _Export(ek.ExportedModel):
    """An export that TensorFlow's C library answers for, the runtime inside TensorFlow Serving."""

    @cached_property
    def session(self):
        """The SavedModel in that library."""
        return Session(self.folder)

    def ask(self, signature, **inputs):
        """The answers of one signature."""
        texts = {name: [text.encode() for text in each] for name, each in inputs.items() if each.dtype.kind == "U"}
        return self.session.run(signature, inputs | {name: np.array(each, object) for name, each in texts.items()})


def _exported(model, path, vocabulary=WORDS, **settings):
    return _Export(ek.export_saved_model(model, path / "m", vocabulary=vocabulary, **settings))


def _tagger(length=None):
    """Named entities: a bidirectional LSTM, and a softmax for each token."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((length,), dtype="int64")
    hidden = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(_table()(ids))
    tags = layers.Dense(TAGS, activation="softmax")
    return keras.Model(ids, (layers.TimeDistributed(tags) if length else tags)(hidden))


@pytest.mark.parametrize("length", variants([None, 6], always=[None]))
def test_tagger(tmp_path, length):
    """Row k of the answer belongs to token k of the request, wherever the padding is; padding has zeros."""
    model = _tagger(length)
    export = _exported(model, tmp_path, class_names=["O", "PER", "LOC", "ORG"])
    text = _ids(1, 4)
    wanted = model.predict(np.pad(text, ((0, 0), (0, 2))) if length else text, verbose=0)[:, :4]
    for places in ([0, 1, 2, 3], [2, 3, 4, 5], [1, 3, 4, 8]):
        asked = np.zeros((1, 9), np.int64)
        asked[:, places] = text
        got = export.ask("serving_default", token_ids=asked)["scores"]
        np.testing.assert_allclose(got[:, places], wanted, atol=1e-5)
        assert got.shape == (1, 9, TAGS) and not np.delete(got, places, axis=1).any()
    batch = np.zeros((2, 6), np.int64)
    batch[0, 2:], batch[1, :1] = text, 3
    np.testing.assert_allclose(
        export.ask("serving_int32", token_ids=batch.astype("int32"))["scores"][:1, 2:], wanted, atol=1e-5
    )
    assert not export.ask("serving_default", token_ids=np.zeros((1, 3), np.int64))["scores"].any()
    texts = np.array([" ".join(WORDS.tokens[id_] for id_ in text[0]), "a"])
    np.testing.assert_allclose(export.ask("text", text=texts)["scores"][:1], wanted, atol=1e-5)
    (answer,) = export.card["answers"]
    assert (answer["kind"], answer["of"], answer["activation"]) == ("token", "token_ids", "softmax")
    assert "row k of `scores` belongs to row k of `token_ids`" in (export.folder / "README.md").read_text("utf-8")


def test_tagger_with_padding_in_front(tmp_path):
    """An encoding whose padding goes in front, as `pad_sequences` does."""
    old = ek.Vocabulary.from_word_index({token: place + 1 for place, token in enumerate("abcdef")})
    keras.utils.set_random_seed(0)
    table = layers.Embedding(len(old), 5)
    model = keras.Sequential(
        [keras.Input((5,), dtype="int64"), table, layers.LSTM(3, return_sequences=True), layers.Dense(2)]
    )
    export = _exported(model, tmp_path, old)
    wanted = model.predict(np.array([[0, 0, 3, 1, 2]]), verbose=0)[0, 2:]
    got = export.ask("serving_default", token_ids=np.array([[3, 1, 0, 2, 0, 0]]))["scores"][0]
    np.testing.assert_allclose(got[[0, 1, 3]], wanted, atol=1e-5)
    assert not got[[2, 4, 5]].any()


def test_siamese_pairs(tmp_path):
    """Two texts through one encoder, by position; the table is stored once, and padding of each is its own."""
    keras.utils.set_random_seed(0)
    words = keras.Input((None,), dtype="int64")
    encoder = keras.Model(words, layers.LSTM(4)(_table()(words)), name="encoder")
    left, right = (keras.Input((None,), dtype="int64", name=name) for name in ("question1", "question2"))
    pair = [encoder(left), encoder(right)]
    score = layers.Dense(1, activation="sigmoid")(layers.concatenate([*pair, layers.multiply(pair)]))
    model = keras.Model([left, right], score)
    export = _exported(model, tmp_path, class_names=["other", "duplicate"])
    first, second = _ids(2, 3), _ids(2, 5, seed=1)
    wanted = model.predict([first, second], verbose=0)
    padded = np.pad(first, ((0, 0), (2, 4))), np.pad(second, ((0, 0), (0, 1)))
    got = export.ask("serving_default", question1=padded[0], question2=padded[1])
    np.testing.assert_allclose(got["scores"], wanted, atol=1e-5)
    assert got["classes"].tolist() == [[b"other", b"duplicate"]] * 2
    assert sum(shape == (V, 5) for shape, _ in export.variables()) == 1
    assert export.card["answers"][0]["activation"] == "sigmoid" and export.card["answers"][0]["shape"] == [None, 1]
    texts = [" ".join(WORDS.tokens[id_] for id_ in row) for row in (first[0], second[0])]
    served = export.ask("text", question1=np.array(texts[:1]), question2=np.array(texts[1:]))["scores"]
    np.testing.assert_allclose(served, wanted[:1], atol=1e-5)
    assert "vectors" in export.ask("embed", token_ids=first)


def test_two_towers(tmp_path):
    """A recommender: a user's id and the words of an item, each with its own vocabulary."""
    keras.utils.set_random_seed(0)
    user, item = keras.Input((), dtype="int32", name="user"), keras.Input((None,), dtype="int64", name="item")
    query = layers.Dense(4)(layers.Embedding(len(USERS), 5, name="users")(user))
    words = layers.Dense(4)(layers.GlobalAveragePooling1D()(_table()(item)))
    model = keras.Model({"user": user, "item": item}, layers.Dot(1)([query, words]))
    export = _exported(model, tmp_path, {"user": USERS, "item": WORDS})
    ids = {"user": np.array([3, 99, 2]), "item": _ids(3, 4)}
    wanted = model.predict({"user": np.array([3, 1, 2]), "item": ids["item"]}, verbose=0)
    ids["item"] = np.pad(ids["item"], ((0, 0), (1, 3)))
    np.testing.assert_allclose(export.ask("serving_default", **ids)["scores"], wanted, atol=1e-5)
    texts = {
        "user": np.array([USERS.tokens[3]]),
        "item": np.array([" ".join(WORDS.tokens[id_] for id_ in ids["item"][0])]),
    }
    np.testing.assert_allclose(export.ask("text", **texts)["scores"], wanted[:1], atol=1e-5)
    assert [export.vocabularies[name].tokens for name in ("item", "user")] == [WORDS.tokens, USERS.tokens]
    assert {each["name"]: each["vocabulary_size"] for each in export.card["inputs"]} == {"item": V, "user": 5}
    for wrong, message in (
        ({"user": WORDS, "item": WORDS}, rf"'users' has 5 rows, but the vocabulary of input 'user' has {V} tokens"),
        ({"user": USERS}, "input 'item' .* is looked up in layer .*needs a vocabulary"),
        ({"user": USERS, "item": WORDS, "time": WORDS}, "must be by the inputs of model .*: item, user.*'time'"),
    ):
        with pytest.raises((SavedModelError, ArgumentError), match=message):
            ek.export_saved_model(model, tmp_path / "n", vocabulary=wrong)


@THOROUGH
def test_documents_of_sentences(tmp_path):
    """Hierarchical attention: words of each sentence, sentences of each document, both padded anywhere."""
    keras.utils.set_random_seed(0)
    words = keras.Input((5,), dtype="int64")
    sentence = keras.Model(words, layers.Bidirectional(layers.GRU(2))(_table(mask_zero=False)(words)))
    document = keras.Input((3, 5), dtype="int64")
    hidden = layers.GRU(3)(layers.TimeDistributed(sentence)(document))
    model = keras.Model(document, layers.Dense(2, activation="softmax")(hidden))
    export = _exported(model, tmp_path)
    asked, seen = np.zeros((2, 4, 8), np.int64), np.zeros((2, 3, 5), np.int64)
    seen[0, 0, :4], seen[0, 1, :2], seen[1, 0, :5] = _ids(4), _ids(2, seed=1), _ids(5, seed=2)
    asked[0, 1, 3:7], asked[0, 3, [0, 2]], asked[1, 0, :5] = seen[0, 0, :4], seen[0, 1, :2], seen[1, 0]
    wanted = model.predict(seen, verbose=0)
    np.testing.assert_allclose(export.ask("serving_default", token_ids=asked)["scores"], wanted, atol=1e-5)
    longer = np.full((1, 4, 6), 3)  # both axes are cut
    wanted = model.predict(longer[:, :3, :5], verbose=0)
    np.testing.assert_allclose(export.ask("serving_default", token_ids=longer)["scores"], wanted, atol=1e-5)
    folder = ek.export_saved_model(model, tmp_path / "strict", vocabulary=WORDS, long_texts="error", check=False)
    export = _Export(folder)
    with pytest.raises(CApiError, match=r"takes sentences of up to 5 tokens.*\[6\].*\[1\]"):
        export.ask("serving_default", token_ids=np.stack([np.zeros((2, 6), np.int64), np.full((2, 6), 3)]))
    with pytest.raises(CApiError, match=r"takes up to 3 sentences.*\[4\]"):
        export.ask("serving_default", token_ids=np.full((1, 4, 2), 3))


def test_text_plus_numbers(tmp_path):
    """Side features keep name, shape and type; several outputs, one of them a regression."""
    keras.utils.set_random_seed(0)
    title = keras.Input((None,), name="title")  # of floats, as in the guide to the functional API
    numbers, flags = keras.Input((3,), name="numbers"), keras.Input((2,), dtype="bool", name="flags")
    text = layers.LSTM(3)(_table()(title))
    both = layers.concatenate([text, numbers, layers.Lambda(lambda x: keras.ops.cast(x, "float32"))(flags)])
    outputs = {"priority": layers.Dense(1)(both), "tags": layers.Dense(3, activation="sigmoid")(both)}
    model = keras.Model([title, numbers, flags], outputs)
    export = _exported(model, tmp_path)
    ids, side = _ids(2, 4), np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    marks = np.array([[True, False], [False, False]])
    wanted = model.predict([ids, side, marks], verbose=0)
    got = export.ask("serving_default", title=np.pad(ids, ((0, 0), (1, 2))), numbers=side, flags=marks)
    for name in outputs:
        np.testing.assert_allclose(got[name], wanted[name], atol=1e-5)
    assert [(each["name"], each["kind"], each["dtype"], each["shape"]) for each in export.card["inputs"]] == [
        ("title", "ids", "int64", [None, None]),
        ("numbers", "feature", "float32", [None, 3]),
        ("flags", "feature", "bool", [None, 2]),
    ]
    assert {each["name"]: each["activation"] for each in export.card["answers"]} == {
        "priority": None,
        "tags": "sigmoid",
    }
    text = " ".join(WORDS.tokens[id_] for id_ in ids[0])
    got = export.ask("text", title=np.array([text]), numbers=side[:1], flags=marks[:1])
    np.testing.assert_allclose(got["tags"], wanted["tags"][:1], atol=1e-5)


@THOROUGH
def test_sequence_to_sequence(tmp_path):
    """The answers follow the tokens of the decoder, whatever the length of the encoder's text."""
    keras.utils.set_random_seed(0)
    source, target = (keras.Input((None,), dtype="int64", name=name) for name in ("encoder_inputs", "decoder_inputs"))
    table = _table()
    _, *state = layers.LSTM(3, return_state=True)(table(source))
    hidden = layers.LSTM(3, return_sequences=True)(table(target), initial_state=state)
    model = keras.Model([source, target], layers.Dense(V, activation="softmax")(hidden))
    export = _exported(model, tmp_path)
    left, right = _ids(1, 6), _ids(1, 3, seed=1)
    wanted = model.predict([left, right], verbose=0)
    got = export.ask(
        "serving_default", encoder_inputs=np.pad(left, ((0, 0), (2, 1))), decoder_inputs=np.pad(right, ((0, 0), (1, 2)))
    )
    np.testing.assert_allclose(got["scores"][:, 1:4], wanted, atol=1e-5)
    assert export.card["answers"][0]["of"] == "decoder_inputs"


@THOROUGH
@pytest.mark.skipif(_KERAS < (3, 13), reason="concatenate can't mix inputs with and without a mask")
def test_inputs_that_share_their_time_steps(tmp_path):
    """Words and parts of speech of the same tokens, and a number for each: they are moved together."""
    keras.utils.set_random_seed(0)
    kinds = ek.Vocabulary(["", "[UNK]", "noun", "verb"])
    words, parts = (keras.Input((None,), dtype="int64", name=name) for name in ("words", "parts"))
    lengths = keras.Input((None, 1), name="lengths")
    joined = layers.concatenate([_table()(words), layers.Embedding(4, 2, mask_zero=True, name="kinds")(parts), lengths])
    hidden = layers.LSTM(3, return_sequences=True)(joined)
    model = keras.Model([words, parts, lengths], layers.Dense(2)(hidden))
    export = _exported(model, tmp_path, {"words": WORDS, "parts": kinds})
    ids, tags = _ids(1, 4), np.array([[2, 3, 1, 2]])
    size = np.random.default_rng(0).normal(size=(1, 4, 1)).astype("float32")
    wanted = model.predict([ids, tags, size], verbose=0)
    pad = [(0, 0), (2, 1)]
    request = {"words": np.pad(ids, pad), "parts": np.pad(tags, pad), "lengths": np.pad(size, [*pad, (0, 0)])}
    got = export.ask("serving_default", **request)["scores"]
    np.testing.assert_allclose(got[:, 2:6], wanted, atol=1e-5)
    assert [each["beside"] for each in export.card["inputs"]] == [None, "words", "words"]
    with pytest.raises(CApiError, match="parts must have the time steps of words"):
        export.ask("serving_default", **{**request, "parts": tags})


@pytest.mark.skipif(_KERAS < (3, 15), reason="TimeDistributed counts time steps up to 3.13")
def test_time_distributed_of_any_length_is_refused(tmp_path):
    """Keras returns as many rows as the batch has texts; the reason names the layer and what to use."""
    ids = keras.Input((None,), dtype="int64")
    model = keras.Model(ids, layers.TimeDistributed(layers.Dense(2))(_table()(ids)))
    with pytest.raises(
        SavedModelError, match=r"one row for each token\. keras\.layers\.TimeDistributed .*Received 1 in text"
    ):
        ek.export_saved_model(model, tmp_path, vocabulary=WORDS)


def test_multi_label(tmp_path):
    """The card says that scores are of a sigmoid, each label for itself."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int64")
    model = keras.Model(ids, layers.Dense(3, activation="sigmoid")(layers.GlobalAveragePooling1D()(_table()(ids))))
    export = _exported(model, tmp_path, class_names=["x", "y", "z"], out_of_range="error")
    np.testing.assert_allclose(export.scores(_ids(2, 3)), model.predict(_ids(2, 3), verbose=0), atol=1e-5)
    assert (
        json.loads((export.folder / "assets" / "embkeras.json").read_bytes())["answers"][0]["activation"] == "sigmoid"
    )


@pytest.mark.parametrize("bias", [-9.0, 9.0])
def test_two_classes_and_one_score(tmp_path, bias):
    """The score is the probability of the second class."""
    ids = keras.Input((None,), dtype="int64")
    score = layers.Dense(1, activation="sigmoid", bias_initializer=keras.initializers.Constant(bias))
    model = keras.Model(ids, score(layers.GlobalAveragePooling1D()(_table()(ids))))
    export = _exported(model, tmp_path, class_names=["no", "yes"], check=False)
    (label,), (probability,) = export.predict(["a b"])["label"], export.predict(["a b"])["probability"]
    assert label == ("yes" if bias > 0 else "no") and 0.9 < probability < 1


def test_two_names_for_a_score_that_is_no_probability(tmp_path):
    """A logit has no threshold of its own."""
    ids = keras.Input((None,), dtype="int64")
    model = keras.Model(ids, layers.Dense(1)(layers.GlobalAveragePooling1D()(_table()(ids))))
    with pytest.raises(ArgumentError, match=r"or two if the score is a sigmoid's.* Received: 2 names"):
        ek.export_saved_model(model, tmp_path, vocabulary=WORDS, class_names=["no", "yes"])


def test_a_layer_that_drops_the_mask_is_blamed_and_not_a_cell(tmp_path):
    """The LSTM heeds masks; the layer in front of it drops them."""
    ids = keras.Input((None,), dtype="int64")
    wide = layers.Conv1D(3, 3, padding="same", name="wide")(_table()(ids))
    model = keras.Model(ids, layers.Dense(2)(layers.LSTM(3)(wide)))
    with pytest.raises(SavedModelError, match=r"These layers ignore the mask: wide\."):
        ek.export_saved_model(model, tmp_path, vocabulary=WORDS)


def test_strings_are_refused_with_the_way_to_split_the_model(tmp_path):
    """The message has the two lines, and what they make has the scores of the whole."""
    text = keras.Input((), dtype="string", name="text")
    ids = layers.TextVectorization(
        standardize=tf.strings.lower, vocabulary=["a", "b", "c"], output_sequence_length=4, name="words"
    )(text)
    hidden = layers.Flatten()(layers.Embedding(5, 3)(ids))
    model = keras.Model(text, layers.Dense(2)(hidden))
    with pytest.raises(SavedModelError, match=r"takes strings \(text\)") as refused:
        ek.export_saved_model(model, tmp_path / "m", vocabulary=WORDS)
    lines = [line.strip() for line in str(refused.value).splitlines() if line.startswith("    ")]
    found = {"model": model, "keras": keras}
    exec("\n".join(lines), found)
    vocabulary = ek.Vocabulary.from_layer(model.get_layer("words"))
    export = _exported(found["model_of_ids"], tmp_path, vocabulary)
    texts = tf.constant(["A b, x", "c"])
    np.testing.assert_allclose(export.scores(model.get_layer("words")(texts).numpy()), model(texts), atol=1e-5)


class Positions(layers.Layer):
    """Vectors of tokens plus those of their positions, as Keras' tutorial on transformers adds them, with a mask."""

    def __init__(self, most):
        super().__init__()
        # Keras gives both the path "positions/embedding".
        self.words, self.positions = _table(name="embedding"), layers.Embedding(most, 5, name="embedding")

    def call(self, ids):
        """Token ids."""
        return self.words(ids) + self.positions(ops.arange(0, ops.shape(ids)[-1]))

    def compute_mask(self, ids, mask=None):
        """Zero is padding."""
        return ops.not_equal(ids, 0)


class Block(layers.Layer):
    """An encoder block of the same tutorial, which heeds the mask."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(num_heads=2, key_dim=5)
        self.dense = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(5)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.supports_masking = True

    def call(self, vectors, mask=None):
        """Vectors of tokens."""
        attended = self.attention(vectors, vectors, attention_mask=None if mask is None else mask[:, None, :])
        between = self.norms[0](vectors + attended)
        return self.norms[1](between + self.dense(between))


@THOROUGH
def test_transformer_of_any_length(tmp_path):
    """Positions count from the first token, wherever the padding is; longer texts are cut where the table ends."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int64")
    hidden = Block()(Positions(9)(ids))
    scores = layers.Dense(2, activation="softmax", name="scores")(layers.GlobalAveragePooling1D()(hidden))
    model = keras.Model(ids, [scores, layers.Dense(V, activation="softmax", name="words")(hidden)])
    path = ek.export_saved_model(model, tmp_path, vocabulary=WORDS)
    session, export = Session(path), ek.ExportedModel(path, trusted=False)
    assert (export.card["min_length"], export.card["max_length"]) == (1, 9)
    assert "up to 9 tokens; longer texts are cut" in (path / "README.md").read_text("utf-8")
    text = _ids(1, 5)
    wanted = model.predict(text, verbose=0)
    for front, behind in ((0, 0), (0, 9), (2, 1), (6, 0)):
        got = session.run("serving_default", {"token_ids": np.pad(text, ((0, 0), (front, behind)))})
        np.testing.assert_allclose(got["scores"], wanted[0], atol=1e-5)
        np.testing.assert_allclose(got["words"][:, front : front + 5], wanted[1], atol=1e-5)
    longer = np.concatenate([_ids(1, 14), np.pad(text, ((0, 0), (0, 9)))])
    got = session.run("serving_int32", {"token_ids": longer.astype("int32")})["scores"]
    np.testing.assert_allclose(got, np.concatenate([model.predict(longer[:1, :9], verbose=0)[0], wanted[0]]), atol=1e-5)
    assert session.run("serving_default", {"token_ids": text[:0]})["words"].shape[::2] == (0, V)


def test_masked_language_model_with_a_padding_mask(tmp_path):
    """Of fixed length, as BERT takes its texts: a caller sends ids alone, and the mask is made from them."""
    keras.utils.set_random_seed(0)
    ids, mask = (keras.Input((8,), dtype="int32", name=name) for name in ("token_ids", "padding_mask"))
    hidden = layers.Embedding(V, 6)(ids) + layers.Embedding(8, 6)(ops.arange(8))
    attended = layers.MultiHeadAttention(2, 3)(hidden, hidden, attention_mask=ops.cast(mask, "bool")[:, None, :])
    hidden = layers.LayerNormalization()(hidden + attended)
    model = keras.Model({"token_ids": ids, "padding_mask": mask}, layers.Dense(V, activation="softmax")(hidden))
    path = ek.export_saved_model(model, tmp_path, vocabulary=WORDS)
    session, text = Session(path), _ids(1, 5)
    whole = np.pad(text, ((0, 0), (0, 3)))
    wanted = model.predict({"token_ids": whole, "padding_mask": np.sign(whole)}, verbose=0)[:, :5]
    for front, behind in ((0, 0), (0, 3), (2, 1), (7, 4)):
        got = session.run("serving_default", {"token_ids": np.pad(text, ((0, 0), (front, behind)))})["scores"]
        np.testing.assert_allclose(got[:, front : front + 5], wanted, atol=1e-5)
        assert not np.delete(got, range(front, front + 5), axis=1).any()
    asked = np.array([" ".join(WORDS.tokens[id_] for id_ in text[0]).encode()], object)
    np.testing.assert_allclose(session.run("text", {"text": asked})["scores"][:, :5], wanted, atol=1e-5)


@THOROUGH
def test_layers_of_keras_hub(tmp_path):
    """A translator of keras-hub's encoder and decoder, and an encoder with an explicit mask."""
    hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed").layers
    keras.utils.set_random_seed(0)
    source, target = (keras.Input((None,), name=name) for name in ("encoder_inputs", "decoder_inputs"))
    tables = [hub.TokenAndPositionEmbedding(V, 20, 4, mask_zero=True) for _ in range(2)]
    encoded = hub.TransformerEncoder(8, 2)(tables[0](source))
    decoded = hub.TransformerDecoder(8, 2)(tables[1](target), encoded)
    translator = keras.Model([source, target], layers.Dense(V, activation="softmax")(decoded))
    session = Session(ek.export_saved_model(translator, tmp_path / "translator", vocabulary=WORDS))
    left, right = _ids(1, 6), _ids(1, 3, seed=1)
    request = {
        "encoder_inputs": np.pad(left, ((0, 0), (2, 1))),
        "decoder_inputs": np.pad(right, ((0, 0), (1, 2))),
    }
    got = session.run("serving_default", request)["scores"][:, 1:4]
    np.testing.assert_allclose(got, translator.predict([left, right], verbose=0), atol=1e-5)
    ids, mask = (keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask"))
    vectors = hub.TokenAndPositionEmbedding(V, 12, 4)(ids)
    first = hub.TransformerEncoder(8, 2)(vectors, padding_mask=mask)[:, 0]
    model = keras.Model({"token_ids": ids, "padding_mask": mask}, layers.Dense(2)(first))
    session = Session(ek.export_saved_model(model, tmp_path / "encoder", vocabulary=WORDS))
    wanted = model.predict({"token_ids": left, "padding_mask": np.ones_like(left)}, verbose=0)
    for front, behind in ((0, 0), (0, 4), (2, 1), (9, 0)):
        got = session.run("serving_default", {"token_ids": np.pad(left, ((0, 0), (front, behind)))})["scores"]
        np.testing.assert_allclose(got, wanted, atol=1e-5)
