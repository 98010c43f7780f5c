"""WordDropout: which ids it replaces, when, and what stays as it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ExportedModel
from embkeras.tables.word_dropout import WordDropout
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.resume.backup import ResumableBackup
from tests import tiny
from tests.tables.test_partial_rows import VOCABULARY
from tests.training.resume.test_backup import Dies, Dying

WORDS = np.random.default_rng(0).integers(0, 10, (200, 50))


def _model(layer=None, *, trainable=True, optimizer=None, **compile_arguments):
    """Word dropout, a table, its mean and a dense layer "head"."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int64")
    dropped = (layer or WordDropout(0.5, seed=3, name="words"))(ids)
    mean = keras.layers.GlobalAveragePooling1D()(tiny.embedding(trainable=trainable)(dropped))
    net = keras.Model(ids, keras.layers.Dense(3, "softmax", name="head")(mean))
    net.compile(optimizer or RowWiseAdam(0.01), loss="sparse_categorical_crossentropy", **compile_arguments)
    return net


def test_inference_is_the_identity():
    """The ids are unchanged."""
    np.testing.assert_array_equal(WordDropout(0.9)(WORDS), WORDS)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_of_words(rate):
    """In training this share of the words becomes the OOV id; the others and padding stay."""
    dropped = WordDropout(rate, seed=0)(WORDS, training=True).numpy()
    changed = dropped != WORDS
    assert (dropped[changed] == 1).all() and not changed[WORDS == 0].any()
    assert abs(changed[WORDS > 1].mean() - rate) < 0.02


def test_positions_are_drawn_evenly():
    """Every position and every word can be replaced."""
    changed = np.mean([(WordDropout(0.5, seed=seed)(WORDS, training=True).numpy() == 1) for seed in range(40)], axis=0)
    assert abs(changed[WORDS > 1] - 0.5).max() < 0.4 and (changed[WORDS == 0] == 0).all()


def test_rate_of_nothing():
    """With a rate of 0, training is like inference."""
    np.testing.assert_array_equal(WordDropout(0)(WORDS, training=True), WORDS)


def test_other_ids():
    """The ids of another vocabulary; without padding any id may be replaced."""
    dropped = WordDropout(0.5, oov_id=0, padding_id=None, seed=0)(WORDS, training=True).numpy()
    assert (dropped[dropped != WORDS] == 0).all() and (dropped == 0).mean() > 0.5
    dropped = WordDropout(0.5, oov_id=3, padding_id=7, seed=0)(WORDS, training=True).numpy()
    np.testing.assert_array_equal(dropped == 7, WORDS == 7)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
@pytest.mark.parametrize("training", [False, True])
def test_dtype_is_kept(dtype, training):
    """Also under mixed precision, in which float16 would lose ids above 2048."""
    ids = tf.constant([[3, 200, 0]], dtype)
    layer = WordDropout(0.5, dtype="mixed_float16", seed=1)
    dropped = layer(ids, training=training)
    assert dropped.dtype == ids.dtype
    assert layer(keras.KerasTensor((None, 3), dtype)).dtype == dtype


def test_large_ids_survive_mixed_precision():
    """float32 ids, which a Sequential without an Input passes, are not rounded."""
    assert WordDropout(0.0, dtype="mixed_float16")(tf.constant([[4097.0]])).numpy().tolist() == [[4097.0]]


def test_symbolic_shape():
    """Batch and time may be unknown."""
    layer = WordDropout(0.5, seed=0)
    assert layer(keras.Input((None,), dtype="int32")).shape == (None, None)
    traced = tf.function(lambda ids: layer(ids, training=True)).get_concrete_function(
        tf.TensorSpec((None, None), tf.int64)
    )
    for ids in (WORDS, WORDS[:1, :3]):
        assert traced(tf.constant(ids)).shape == ids.shape


def test_ragged_ids_are_refused():
    """Already in inference, not only once training begins."""
    with pytest.raises(ArgumentError, match=r"Layer 'words' takes padded ids: ids\.to_tensor\(0\)\. .*RaggedTensor"):
        WordDropout(0.5, name="words")(tf.ragged.constant([[1, 2], [3]]))


def test_a_seed_repeats_the_draws():
    """The same seed draws the same words, other ones in each call; without a seed, layers differ."""
    first, second = (WordDropout(0.5, seed=4) for _ in range(2))
    draws = [first(WORDS, training=True).numpy() for _ in range(2)]
    assert (draws[0] != draws[1]).any()
    for draw in draws:
        np.testing.assert_array_equal(second(WORDS, training=True), draw)


def test_config_round_trip():
    """A layer from the config has the same settings and name."""
    layer = WordDropout(0.25, oov_id=2, padding_id=None, seed=7, name="words")
    copy = WordDropout.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    np.testing.assert_array_equal(copy(WORDS, training=True), layer(WORDS, training=True))


def test_keras_file(tmp_path):
    """A model with the layer can be saved and loaded, and predicts the same."""
    net = _model(optimizer="sgd")
    net.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("words").get_config() == net.get_layer("words").get_config()
    np.testing.assert_array_equal(loaded(tiny.IDS), net(tiny.IDS))


def test_mask_of_the_embedding_behind_it():
    """The embedding masks the same positions in training as in inference, however many words are replaced."""
    layer, embedding = WordDropout(0.99, seed=0), tiny.embedding()
    np.testing.assert_array_equal(embedding.compute_mask(layer(WORDS, training=True)), WORDS != 0)


@pytest.mark.parametrize("arguments", [{"run_eagerly": True}, {"jit_compile": True}, {"jit_compile": False}], ids=str)
def test_in_every_mode_of_fit(arguments):
    """The row of [UNK], which is in no text, is read and moves; a row that is never read stays."""
    net = _model(**arguments)
    rows = np.where(tiny.IDS == 1, 2, tiny.IDS)
    net.fit(rows, tiny.LABELS, epochs=1, batch_size=4, verbose=0)
    moved = (tiny.table_of(net) != tiny.TABLE).any(axis=1)
    assert moved[1] and not moved[tiny.UNSEEN]


def test_without_it_the_row_stays():
    """Without the layer, training never reads the row of [UNK]."""
    net = _model(WordDropout(0.0, name="words"))
    net.fit(np.where(tiny.IDS == 1, 2, tiny.IDS), tiny.LABELS, epochs=1, batch_size=4, verbose=0)
    np.testing.assert_array_equal(tiny.table_of(net)[1], tiny.TABLE[1])


def test_resumed_training_draws_the_next_words(tmp_path):
    """Training that was interrupted and resumed ends with the same weights as without interruption."""
    net = _model()
    tiny.fit(net)
    with pytest.raises(Dies):
        tiny.fit(_model(), callbacks=[ResumableBackup(tmp_path / "state"), Dying(6)])
    resumed = _model()
    tiny.fit(resumed, callbacks=[ResumableBackup(tmp_path / "state"), Dying(None)])
    assert tiny.apart(net, resumed) == 0
    seed = resumed.get_layer("words").seed_generator.state
    np.testing.assert_array_equal(seed, net.get_layer("words").seed_generator.state)


def test_export_does_not_drop(tmp_path):
    """An export returns what the model predicts."""
    net = _model()
    export_saved_model(net, tmp_path, vocabulary=VOCABULARY)
    scores = ExportedModel(tmp_path).scores(tiny.IDS)
    np.testing.assert_allclose(scores, net.predict(tiny.IDS, verbose=0), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 1.0}, r"rate must be a number >= 0 and < 1\. Received: 1\.0"),
        ({"rate": -0.1}, r"rate must be .* Received: -0\.1"),
        ({"rate": True}, r"rate must be .* Received: True"),
        ({"rate": float("nan")}, r"rate must be .* Received: nan"),
        ({"rate": "0.5"}, r"rate must be .* Received: '0\.5'"),
        ({"oov_id": None}, r"oov_id must be an integer >= 0\. Received: None"),
        ({"oov_id": -1}, r"oov_id must be an integer >= 0\. Received: -1"),
        ({"padding_id": 0.0}, r"padding_id must be an integer >= 0\. Received: 0\.0"),
        ({"oov_id": 0}, r"oov_id and padding_id must differ.* Received: 0"),
        ({"seed": 1.5}, r"seed must be an integer >= 0\. Received: 1\.5"),
    ],
    ids=str,
)
def test_arguments_are_checked(arguments, message):
    """Invalid rates, ids and seeds are refused."""
    with pytest.raises(ArgumentError, match=message):
        WordDropout(**{"rate": 0.5, **arguments})
