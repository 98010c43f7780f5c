"""Tied weights: the scores of a table's rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.tables.projection import EXCLUDED
from embkeras.tables.stand_ins import stand_ins
from embkeras.training.optimizers.rules import RowWiseAdam, RowWiseSGD
from tests import tiny

H = np.random.default_rng(7).normal(size=(3, 5, 4)).astype(np.float32)


def _lora(aligned, **arguments):
    layer = build_embedding(aligned, trainable=True, **arguments)
    layer.enable_lora(2)
    layer.lora_embeddings_a.assign(np.random.default_rng(2).normal(size=(10, 2)))
    return layer


def _quantized(aligned, **arguments):
    layer = build_embedding(aligned, **arguments)
    layer.quantize("int8")
    return layer


def _combined(aligned, **arguments):
    names = "static", "tuned"
    return combine_embeddings([build_embedding(aligned, name=each) for each in names], combine="mean", **arguments)


FORMS = {
    "frozen": build_embedding,
    "trainable": lambda aligned, **arguments: build_embedding(aligned, trainable=True, **arguments),
    "rows": lambda aligned, **arguments: build_embedding(aligned, trainable=np.arange(10) > 6, **arguments),
    "float16": lambda aligned, **arguments: build_embedding(aligned, stored="float16", **arguments),
    "int8": lambda aligned, **arguments: build_embedding(aligned, stored="int8", **arguments),
    "int8 and rows": lambda aligned, **arguments: build_embedding(
        aligned, trainable=np.arange(10) > 6, stored="int8", **arguments
    ),
    "LoRA": _lora,
    "quantized": _quantized,
    "combined": _combined,
}


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_products_with_the_matrix(aligned, form):
    """Of all rows, of the same candidates for all vectors, and of candidates for each; padding is left out."""
    layer = FORMS[form](aligned)
    expected = H @ layer.matrix().T
    expected[..., 0] = EXCLUDED
    np.testing.assert_allclose(layer.project(H), expected, rtol=1e-5, atol=1e-5)
    shared, own = np.array([7, 0, 3, 7]), np.random.default_rng(3).integers(0, 10, (3, 5, 6))
    np.testing.assert_allclose(layer.project(H, ids=shared), expected[..., shared], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        layer.project(H, ids=own), np.take_along_axis(expected, own, axis=-1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("form", [each for each in FORMS if each != "quantized"])  # Keras refuses that
def test_half_precision(aligned, form):
    """Scores are float16 and finite, and the probability of the padding is exactly 0."""
    layer = FORMS[form](aligned, dtype="mixed_float16")
    scores = tf.function(layer.project, jit_compile=True)(tf.constant(H))
    assert scores.dtype == tf.float16 and np.isfinite(scores).all()
    expected = H @ layer.matrix().T
    np.testing.assert_allclose(np.array(scores)[..., 1:], expected[..., 1:], atol=0.02)
    probabilities = np.array(tf.nn.softmax(scores))
    assert (probabilities[..., 0] == 0).all() and np.allclose(probabilities.sum(-1), 1, atol=0.01)


def _gradients(layer, use):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(use(layer)))
    return tape.gradient(loss, layer.trainable_variables)


def test_the_gradient_of_candidates_is_by_rows(aligned):
    """Together with that of the lookup; only their rows have one, and the padding has none."""
    layer = build_embedding(aligned, trainable=True)
    (gradient,) = _gradients(layer, lambda layer: layer.project(layer(np.array([[2, 0]])), ids=np.array([5, 0])))
    assert isinstance(gradient, tf.IndexedSlices)
    moved = tf.convert_to_tensor(gradient).numpy().any(axis=1)
    assert np.flatnonzero(moved).tolist() == [2, 5]


@pytest.mark.parametrize("form", ["trainable", "rows", "int8 and rows", "LoRA"])
def test_gradients_are_those_of_the_plain_product(aligned, form):
    """Of the scores of all rows; the padding has none."""
    layer = FORMS[form](aligned)
    ours = _gradients(layer, lambda layer: layer.project(H)[..., 1:])
    plain = _gradients(layer, lambda layer: tf.matmul(H, layer(np.arange(10)), transpose_b=True)[..., 1:])
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(one), tf.convert_to_tensor(other), rtol=1e-4, atol=1e-4)


def test_a_label_that_is_padding_can_be_dropped(aligned):
    """With a sample weight of 0 the loss and its gradients are finite: -inf would make them NaN."""
    layer = build_embedding(aligned, trainable=True)
    labels, weights = np.array([2, 0, 3]), np.array([1.0, 0.0, 1.0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(labels, layer.project(H[:, 0]), sample_weight=weights)
    gradient = tape.gradient(value, layer.trainable_variables[0])
    assert np.isfinite(value) and np.isfinite(gradient).all() and not np.array(gradient)[0].any()


def _language_model(layer, **arguments):
    """Functional: embedding, a dense layer, the scores of the next word."""
    ids = keras.Input((5,), dtype="int64")
    h = keras.layers.Dense(layer.output_dim, name="dense")(layer(ids))
    net = keras.Model(ids, layer.project(h), name="language")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(RowWiseAdam(0.05), loss=loss, **arguments)
    return net


@pytest.mark.parametrize("form", ["trainable", "rows", "LoRA", "combined"])
def test_functional_models_are_saved_and_train(aligned, form, tmp_path):
    """The layer is called twice; mask and scores are the same after a load, and the padding row is zeros."""
    layer = FORMS[form](aligned)
    net = _language_model(layer, jit_compile=form == "trainable")
    ids = np.array([[2, 3, 4, 0, 0], [5, 6, 7, 8, 0]])
    fit = {"epochs": 3, "verbose": 0}
    if form == "trainable":
        with pytest.warns(EmbkerasWarning, match="embeddings gets a dense gradient") as caught:
            history = net.fit(ids, ids, **fit)
        assert [each.category for each in caught].count(EmbkerasWarning) == 1
    else:
        history = net.fit(ids, ids, **fit)
    assert history.history["loss"][-1] < history.history["loss"][0]
    net.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    scores = net(ids)
    np.testing.assert_array_equal(loaded(ids), scores)
    assert net.output_shape == (None, 5, 10) and not layer.matrix()[0].any()
    assert np.array(scores._keras_mask).tolist() == (ids != 0).tolist()


def test_sampled_training_moves_the_rows_of_candidates(aligned):
    """In a functional model whose candidates are an input: without a warning, other rows stay bit-identical."""
    layer = build_embedding(aligned, trainable=True)
    ids, candidates = keras.Input((5,), dtype="int64"), keras.Input((3,), dtype="int64")
    h = keras.layers.GlobalAveragePooling1D()(layer(ids))
    net = keras.Model([ids, candidates], layer.project(h, ids=candidates))
    net.compile(RowWiseSGD(0.5), loss="mse")
    net.fit([np.array([[2, 3, 0, 0, 0]]), np.array([[4, 0, 5]])], np.ones((1, 3)), verbose=0)
    moved = (layer.matrix() != build_embedding(aligned).matrix()).any(axis=1)
    assert np.flatnonzero(moved).tolist() == [2, 3, 4, 5] and net.output_shape == (None, 3)


def test_a_stand_in_scores(aligned):
    """An export reads its own table for scores too."""

    class Twos:
        """A table of twos."""

        def __call__(self, ids):
            """Rows."""
            return tf.fill((*ids.shape, 4), 2.0)

        def scores(self, vectors):
            """Products."""
            return tf.matmul(vectors, tf.fill((10, 4), 2.0), transpose_b=True)

    layer = build_embedding(aligned)
    with stand_ins({layer: Twos()}):
        all_, some = layer.project(H[0]), layer.project(H[0], ids=np.array([3]))
    np.testing.assert_allclose(all_[:, 1:], np.repeat(H[0].sum(1, keepdims=True) * 2, 9, 1), rtol=1e-5)
    np.testing.assert_allclose(some, H[0].sum(1, keepdims=True) * 2, rtol=1e-5)


def test_lists(aligned):
    """What can be a tensor is one."""
    layer = build_embedding(aligned)
    np.testing.assert_array_equal(layer.project(H[0, 0].tolist(), [3, 4]), layer.project(H[0, 0])[3:5])


def test_without_padding(aligned):
    """Every row has a score where no id is padding."""
    layer = tiny.PretrainedEmbedding(10, 4, mask_zero=False)
    layer.build()
    layer.assign_table(aligned.values)
    np.testing.assert_allclose(layer.project(H), H @ aligned.values.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (
            H[..., :3],
            None,
            r"floats of shape \(\.\.\., 4\)\. Received: float32 of shape \(3, 5, 3\) \(layer 'embedding'",
        ),
        (H.astype(int), None, "Received: int64 of shape"),
        (H, np.zeros((3, 2), int), r"\(3, 5, 'n'\), for each vector its own\. Received: \(3, 2\)"),
        (H, np.zeros((), int), r"Received: \(\)"),
        (tf.ragged.constant([[1.0], []]), None, r"vectors as a dense tensor\. Received: .*Ragged"),
        (H, "cat", r"ids .*Received: \(\)"),
    ],
    ids=["width", "integers", "ids", "one id", "ragged", "a word"],
)
def test_what_does_not_fit_is_refused(aligned, vectors, ids, message):
    """With what was received and the layer."""
    with pytest.raises(ArgumentError, match=message):
        build_embedding(aligned).project(vectors, ids=ids)
