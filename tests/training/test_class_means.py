"""fit_class_means: the nearest mean wins, how sure the scores are, callbacks, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.training.class_means import fit_class_means

RNG = np.random.default_rng(0)
LABELS = np.arange(30) % 3
VECTORS = RNG.normal(size=(30, 4)).astype("float32") + 1.5 * np.eye(4, dtype="float32")[LABELS]


def classifier(classes=3, **last):
    """A frozen layer and a dense one, compiled."""
    inputs = keras.Input((4,))
    below = keras.layers.Dense(5, trainable=False, name="below")(keras.layers.Dropout(0.5)(inputs))
    scores = keras.layers.Dense(classes, **{"activation": "softmax", "name": "scores"} | last)(below)
    model = keras.Model(inputs, scores)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def model():
    """One model for all tests that set its last layer."""
    keras.utils.set_random_seed(0)
    return classifier()


def distances(model, vectors=VECTORS, labels=LABELS, weights=None):
    """Squared distances of texts to class means, below the last layer."""
    below = vectors @ model.get_layer("below").get_weights()[0]
    weights = np.ones(len(labels)) if weights is None else weights
    means = np.stack([np.average(below[labels == each], axis=0, weights=weights[labels == each]) for each in range(3)])
    return ((below[:, None] - means) ** 2).sum(axis=2)


def test_the_nearest_class_mean_wins(model):
    """Scores fall with the squared distance to the mean, by one factor; dropout and layers below change nothing."""
    before = model.get_layer("below").get_weights()[0]
    history = fit_class_means(model, VECTORS, LABELS)
    scores = model.predict(VECTORS, verbose=0)
    nearest = distances(model)
    np.testing.assert_array_equal(scores.argmax(axis=1), nearest.argmin(axis=1))
    differences = (nearest[:, 1] - nearest[:, 0], np.log(scores[:, 0] / scores[:, 1]))
    factors = differences[1] / differences[0]
    assert factors.min() == pytest.approx(factors.max(), rel=1e-2) and factors.min() > 0
    np.testing.assert_array_equal(model.get_layer("below").get_weights()[0], before)
    assert history.history["accuracy"] == [pytest.approx((nearest.argmin(axis=1) == LABELS).mean())]


def test_weights_of_texts_count_in_the_means(model):
    """A text of weight 0 is as one that isn't there."""
    weights = np.where(np.arange(30) < 24, 1.0, 0.0)
    fit_class_means(model, VECTORS, LABELS, sample_weight=weights)
    weighed = model.get_layer("scores").get_weights()
    fit_class_means(model, VECTORS[:24], LABELS[:24])
    kernel, bias = model.get_layer("scores").get_weights()
    np.testing.assert_allclose(kernel / np.abs(kernel).max(), weighed[0] / np.abs(weighed[0]).max(), rtol=1e-4)
    np.testing.assert_allclose(bias / np.abs(kernel).max(), weighed[1] / np.abs(weighed[0]).max(), rtol=1e-4, atol=1e-6)


def test_few_texts_never_make_it_certain(model):
    """Two texts a class that are far apart: the sharpness ends where (n + 1) / (n + 2) is reached."""
    vectors, labels = np.repeat(10 * np.eye(4, dtype="float32")[:3], 2, axis=0), np.repeat(np.arange(3), 2)
    vectors += RNG.normal(size=vectors.shape).astype("float32")
    fit_class_means(model, vectors, labels)
    own = model.predict(vectors, verbose=0)[np.arange(6), labels]
    assert own.min() > 0.5 and own.mean() < 0.9


@pytest.mark.parametrize("draw", range(6))
def test_the_sharpness_is_that_of_the_paper(model, draw):
    """The one of those tried under which Platt's targets are most likely, each text scored without itself; by hand."""
    rng = np.random.default_rng(draw)
    vectors = (rng.normal(size=(9, 4)) + draw / 2 * np.eye(4)[np.arange(9) % 3]).astype("float32")
    labels = np.arange(9) % 3
    fit_class_means(model, vectors, labels)
    below = vectors @ model.get_layer("below").get_weights()[0]
    own, away = [], []
    for text, label in enumerate(labels):
        others = [(labels == each) & ((np.arange(9) != text) | (each != label)) for each in range(3)]
        away.append([((below[text] - below[rows].mean(axis=0)) ** 2).sum() for rows in others])
        own.append(((below[text] - below[labels == label].mean(axis=0)) ** 2).sum())

    def unlikely(sharpness):
        scores = -sharpness * (np.array(away, np.float64) - np.min(away, axis=1, keepdims=True))
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        targets = np.where(labels[:, None] == np.arange(3), 4 / 5, 1 / 5 / 2)  # three texts a class
        return -(targets * logs).sum()

    wanted = min(np.geomspace(1e-4, 1000, 57) / np.mean(own), key=unlikely)
    means = np.stack([below[labels == each].mean(axis=0) for each in range(3)])
    np.testing.assert_allclose(model.get_layer("scores").get_weights()[0], 2 * wanted * means.T, rtol=1e-3)


def test_callbacks_see_one_epoch(model):
    """With the validation's figures; the epochs that a strategy passes on have no effect."""
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, sorted(logs))))
    fit_class_means(model, VECTORS, LABELS, validation_data=(VECTORS, LABELS), callbacks=[watch], epochs=7)
    assert seen == [(0, ["accuracy", "loss", "val_accuracy", "val_loss"])]


def test_validation_data_as_fit_takes_them(model):
    """With weights, of which 0 leaves a text out, and as a dataset."""
    wrong = np.where(np.arange(30) < 24, LABELS, (LABELS + 1) % 3)
    weights = np.where(np.arange(30) < 24, 1.0, 0.0)
    pair = fit_class_means(model, VECTORS, LABELS, validation_data=(VECTORS[:24], LABELS[:24])).history
    weighed = fit_class_means(model, VECTORS, LABELS, validation_data=(VECTORS, wrong, weights)).history
    batches = tf.data.Dataset.from_tensor_slices((VECTORS[:24], LABELS[:24])).batch(8)
    in_batches = fit_class_means(model, VECTORS, LABELS, validation_data=batches, shuffle=False).history
    assert weighed["val_loss"][0] * 30 / 24 == pytest.approx(pair["val_loss"][0], rel=1e-5)
    assert in_batches["val_loss"] == pytest.approx(pair["val_loss"], rel=1e-5)


@pytest.mark.parametrize("held_out", [5, (VECTORS,), (VECTORS, LABELS, LABELS, LABELS), (VECTORS, None)])
def test_validation_data_that_are_refused(model, held_out):
    """Before the layer changes."""
    before = model.get_layer("scores").get_weights()[0]
    with pytest.raises(ArgumentError, match=r"validation_data must be \(inputs, labels\).* Received: (5|\()"):
        fit_class_means(model, VECTORS[::-1], LABELS, validation_data=held_out)
    np.testing.assert_array_equal(model.get_layer("scores").get_weights()[0], before)


def test_no_callbacks(model):
    """None is no callbacks, as for `fit`."""
    assert "loss" in fit_class_means(model, VECTORS, LABELS, callbacks=None).history


@pytest.mark.parametrize(
    "inputs", [None, tf.data.Dataset.from_tensor_slices((VECTORS, LABELS))], ids=["none", "dataset"]
)
def test_inputs_are_arrays(model, inputs):
    """Labels would have to be read out of a dataset."""
    with pytest.raises(ArgumentError, match=r"x must be the inputs.* Received: (None|<_TensorSliceDataset)"):
        fit_class_means(model, inputs, LABELS)


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (LABELS[:29], {}, "29 labels"),
        (LABELS % 2, {}, "no text of class 2"),
        (LABELS + 1, {}, "Received: 3 at place 2"),
        (LABELS + 0.5, {}, "dtype float64"),
        (LABELS, {"sample_weight": np.ones(29)}, r"shape \(29,\)"),
        (LABELS, {"sample_weight": -np.ones(30)}, "-1.0 at place 0"),
        (LABELS, {"sample_weight": np.where(LABELS == 1, np.inf, 1)}, "inf at place 1"),
        (LABELS, {"sample_weight": (LABELS > 0) * 1.0}, "none for class 0"),
        (LABELS, {"sample_weight": ["much"] * 30}, "sample_weight .*'much'"),
        (LABELS, {"batch_size": 0}, "batch_size"),
    ],
)
def test_data_that_are_refused(model, labels, settings, message):
    """With what is wrong, and where."""
    with pytest.raises(ArgumentError, match=message):
        fit_class_means(model, VECTORS, labels, **settings)


def test_vectors_that_are_not_finite_are_refused(model):
    """A mean of NaN would answer every text with class 0."""
    vectors = VECTORS.copy()
    vectors[4, 0] = np.nan
    with pytest.raises(ArgumentError, match="others for text 4"):
        fit_class_means(model, vectors, LABELS)


def test_models_that_are_refused():
    """No graph, no softmax, no bias, or not compiled."""
    bare = keras.Sequential([keras.layers.Dense(3, activation="softmax")])
    bare.compile("adam", "sparse_categorical_crossentropy")
    for wrong in (bare, classifier(activation="sigmoid"), classifier(use_bias=False)):
        with pytest.raises(ArgumentError, match="a Dense layer with a bias and softmax"):
            fit_class_means(wrong, VECTORS, LABELS)
    with pytest.raises(ArgumentError, match="compiled Keras model"):
        fit_class_means(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), VECTORS, LABELS)
