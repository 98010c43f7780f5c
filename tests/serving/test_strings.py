"""Models of strings: which are split by themselves, and that texts have the scores of the whole model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.check import check_saved_model
from embkeras.serving.columns import encoded_inputs
from embkeras.serving.strings import check_texts, split_strings

WORDS = ["a", "b", "c", "d"]
TEXTS = ["a b zz", "c", "A, b! C's", "a a a a b c", "d"]


def words(**settings):
    """A layer with these words."""
    return layers.TextVectorization(vocabulary=WORDS, **settings)


def mean(ids):
    """A row of scores for ids."""
    return layers.GlobalAveragePooling1D()(layers.Embedding(6, 3, mask_zero=True)(ids))


@pytest.fixture(scope="module")
def pairs():
    """Two inputs of strings that share a layer, of shapes (batch,) and (batch, 1), beside numbers."""
    keras.utils.set_random_seed(0)
    query = keras.Input((), dtype="string", name="query")
    item = keras.Input((1,), dtype="string", name="item")
    numbers = keras.Input((2,), name="numbers")
    both, table, pool = words(name="words"), layers.Embedding(6, 3, mask_zero=True), layers.GlobalAveragePooling1D()
    rows = [pool(table(both(each))) for each in (query, item)]
    outputs = layers.Dense(1)(layers.concatenate([*rows, numbers]))
    return keras.Model({"query": query, "item": item, "numbers": numbers}, outputs)


@pytest.fixture(scope="module")
def exported(pairs, tmp_path_factory):
    """Its export."""
    return ek.ExportedModel(ek.export_saved_model(pairs, tmp_path_factory.mktemp("pairs") / "pairs"))


def test_texts_have_the_scores_of_the_whole_model(pairs, exported):
    """In one batch, marks and spaces and capitals as in the layer; ids take the other signatures."""
    numbers = np.random.default_rng(0).random((len(TEXTS), 2)).astype(np.float32)
    query, item = np.array(TEXTS), np.array(TEXTS[::-1])
    whole = {"query": tf.constant(query), "item": tf.constant(item[:, None]), "numbers": tf.constant(numbers)}
    wanted = pairs.predict(whole, verbose=0)
    answers = exported.ask("text", query=query, item=item, numbers=numbers)
    np.testing.assert_allclose(answers["scores"], wanted, atol=1e-5)
    layer = pairs.get_layer("words")
    ids = exported.scores({"query": layer(query).numpy(), "item": layer(item).numpy(), "numbers": numbers})
    np.testing.assert_allclose(ids, wanted, atol=1e-5)
    check_saved_model(exported.folder)


def test_the_model_is_as_it_was(pairs, exported):
    """Its inputs, and its layers' outputs, from which others build models."""
    assert pairs.layers[-1].output is pairs.outputs[0]
    assert {tensor.name: tensor.dtype for tensor in pairs.inputs} == {
        "query": "string",
        "item": "string",
        "numbers": "float32",
    }


def test_other_scores_are_found(pairs, exported, monkeypatch):
    """If the signature had other scores than the whole model, the export would be refused with the text."""
    split = split_strings(pairs, None)
    check_texts(split, exported)
    ask = exported.ask
    more = lambda signature, **sent: {"scores": ask(signature, **sent)["scores"] + 5e-5 * ("," in sent["item"][0])}  # noqa: E731
    monkeypatch.setattr(exported, "ask", more)
    with pytest.raises(SavedModelError, match=r"'text' has other scores than model .*'scores' differs by \S+e-05 for "):
        check_texts(split, exported)


@pytest.mark.parametrize("length", [None, 3])
def test_a_sequential_model(tmp_path, length):
    """Texts as long as they are; or cut as the layer cuts them, by a model that knows no padding."""
    reading = [layers.Embedding(6, 3, mask_zero=length is None), layers.LSTM(2) if length is None else layers.Flatten()]
    model = keras.Sequential([keras.Input((1,), dtype="string"), words(output_sequence_length=length), *reading])
    export = ek.ExportedModel(
        ek.export_saved_model(model, tmp_path, vocabulary=ek.Vocabulary.from_layer(model.layers[0]))
    )
    wanted = [model(tf.constant([[text]]))[0] for text in TEXTS]
    np.testing.assert_allclose(export.ask("text", text=np.array(TEXTS))["scores"], wanted, atol=1e-5)
    assert export.card["max_length"] == length


CITIES = {  # a token with a space is one token; others are new, or those of padding and unknown ones
    "city": ["New York", "Oslo", "Ulm", "new york", "", "[UNK]"],
    "user": ["ann", "zoe 1", "zoe 2", "zoe 3", "", "[UNK]"],
}


@pytest.fixture(scope="module")
def trips():
    """Single strings of both shapes, padding in one and several OOV ids in the other, beside a text."""
    keras.utils.set_random_seed(0)
    city, user = keras.Input((1,), dtype="string", name="city"), keras.Input((), dtype="string", name="user")
    text = keras.Input((), dtype="string", name="text")
    cities = layers.StringLookup(vocabulary=["New York", "Oslo", "A\tB"], mask_token="", name="cities")(city)
    users = layers.StringLookup(vocabulary=["ann", "bob"], num_oov_indices=3, name="users")(user)
    rows = [layers.Flatten()(layers.Embedding(5, 3)(cities)), layers.Embedding(5, 3)(users), mean(words()(text))]
    return keras.Model([city, user, text], layers.Dense(2, activation="softmax")(layers.concatenate(rows)))


def test_single_strings_are_tokens(trips, tmp_path):
    """Looked up as they are written in the signature, in `predict`, and by the encoder of a client."""
    folder = ek.export_saved_model(trips, tmp_path)
    export, encoder = ek.ExportedModel(folder, trusted=False), ek.TextEncoder(folder)
    strings = CITIES | {"text": ["a b", "c", "zz", "d", "a", "b"]}
    tensors = [tf.constant(strings["city"])[:, None], tf.constant(strings["user"]), tf.constant(strings["text"])]
    wanted = np.array(trips(tensors))
    answers = export.ask("text", **{name: np.array(values) for name, values in strings.items()})
    np.testing.assert_allclose(answers["scores"], wanted, atol=1e-5)
    predicted = export.predict(strings)
    np.testing.assert_allclose(predicted["probability"], wanted.max(axis=1), atol=1e-5)
    ids = encoder.encode(strings)
    asked = encoded_inputs(strings, export.card, encoder.vocabularies, "cut")
    for name in CITIES:
        layer_ids = trips.get_layer({"city": "cities", "user": "users"}[name])(tf.constant(strings[name])).numpy()
        assert ids[name].tolist() == asked[name].tolist() == layer_ids.tolist(), name
    np.testing.assert_allclose(export.scores(ids), wanted, atol=1e-5)
    assert encoder.vocabularies["city"].encode("New York").tolist() == [2]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_sequential_model_of_single_strings(shape):
    """Such as one tower of a recommender: its ids are those of the layer, one for each row."""
    lookup = layers.StringLookup(vocabulary=["ann", "bob"])
    model = keras.Sequential([keras.Input(shape, dtype="string"), lookup, layers.Embedding(3, 2)])
    split = split_strings(model, None)
    assert split.model.inputs[0].shape == (None,) and split.layers and len(split.vocabulary) == 3
    strings = tf.reshape(tf.constant(["bob", "zz"]), (2, *shape))
    np.testing.assert_array_equal(split.model(np.array([2, 0])), model(strings))


def of_text(make, shape=()):
    """A model of one input of strings."""
    text = keras.Input(shape, dtype="string", name="text")
    return keras.Model(text, make(text))


REFUSED = {
    "two layers": lambda text: layers.add([mean(words()(text)), mean(words()(text))]),
    "a layer before it": lambda text: mean(words()(keras.ops.reshape(text, (-1,)))),
    "another use": lambda text: layers.add(
        [mean(words()(text)), layers.Embedding(5, 3)(layers.StringLookup(vocabulary=["a"])(text))]
    ),
    "settings of its own": lambda text: mean(words(standardize=tf.strings.lower)(text)),
    "n-grams": lambda text: mean(words(ngrams=2)(text)),
    "counts": lambda text: layers.Dense(2)(layers.TextVectorization(vocabulary=WORDS, output_mode="count")(text)),
    "two lookups": lambda text: layers.add(
        [layers.Embedding(5, 3)(layers.StringLookup(vocabulary=["a"])(text)) for _ in range(2)]
    ),
    "one-hot vectors": lambda text: layers.Dense(1)(layers.StringLookup(vocabulary=["a"], output_mode="one_hot")(text)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_uses_of_strings_are_refused(what):
    """With the two lines that split the model by hand."""
    refused(of_text(REFUSED[what]))


@pytest.mark.parametrize("shape", [(None,), (2,)])
def test_strings_already_split_are_refused(shape):
    """A text is split into the tokens that the layer looks up nowhere in the model."""
    refused(of_text(lambda text: layers.Embedding(5, 3)(layers.StringLookup(vocabulary=WORDS)(text)), shape))


def refused(model):
    """The model is not split, and the error says how."""
    with pytest.raises(SavedModelError, match=r"takes strings \(text\)(?s:.*)ids = model.get_layer\('"):
        split_strings(model, None)


def test_another_vocabulary_is_refused(pairs):
    """That of the layer may be given too, and those of other inputs must be."""
    own = ek.Vocabulary.from_layer(pairs.get_layer("words"))
    assert set(split_strings(pairs, own).vocabulary) == {"query", "item"}
    other = ek.Vocabulary(["[PAD]", "[UNK]", "x"])
    for given in (other, {"item": other}):
        with pytest.raises(ArgumentError, match=r"strings '(query|item)' is that of layer 'words'"):
            split_strings(pairs, given)


def test_a_model_of_ids_is_left_alone():
    """And what is no model: the export says so."""
    for model in (keras.Sequential([keras.Input((None,), dtype="int64"), layers.Embedding(6, 3)]), "model"):
        split = split_strings(model, "v")
        assert split.model is model and split.vocabulary == "v" and split.whole is None
