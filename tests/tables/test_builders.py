"""build_embedding and build_classifier: arguments, and answers that do not depend on padding."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embkeras.errors import ArgumentError
from embkeras.tables.builders import build_classifier, build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.tables.pooling import MaskedMean
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix

ARCHITECTURES = ["lstm", "cnn", "mean"]
TEXTS = [[2], [3, 4], [5, 6, 7, 8], [9, 2, 9, 2, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]]


def _padded(text, length):
    return np.array([text + [0] * (length - len(text))], np.int64)


@pytest.fixture(scope="module")
def models():
    """One small classifier of each architecture; the padding row of their table isn't zero."""
    keras.utils.set_random_seed(0)
    values = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    aligned = AlignedMatrix(values, Vocabulary(["", "[UNK]", *"abcdefgh"]))
    return {name: build_classifier(aligned, 3, architecture=name, units=5) for name in ARCHITECTURES}


def test_build_embedding_takes_only_an_aligned_matrix():
    """A bare array has no vocabulary; the error says how to add one."""
    with pytest.raises(ArgumentError, match=r"wrap your own matrix as AlignedMatrix.*Received: ndarray"):
        build_embedding(np.eye(3))


@pytest.mark.parametrize("trainable", ["all", 1, None])
def test_trainable_must_be_known(aligned, trainable):
    """A truthy string doesn't make the whole table trainable."""
    with pytest.raises(ArgumentError, match=rf'trainable must be True, False, "oov" or .*\. Received: {trainable!r}'):
        build_embedding(aligned, trainable=trainable)


@pytest.mark.parametrize("dtype", ["int32", "int8_from_float32", "float8_from_float32", "words", 5], ids=str)
def test_a_dtype_that_is_not_of_floats_is_refused(aligned, dtype):
    """It would cut the vectors to whole numbers; a table is quantized when it is filled."""
    with pytest.raises(ArgumentError, match=rf"type of floats .* Received: {dtype!r} \(layer 'table'\)"):
        build_embedding(aligned, dtype=dtype, name="table")
    with pytest.raises(ArgumentError, match=rf"type of floats .* Received: {dtype!r} \(layer 'both'\)"):
        combine_embeddings([build_embedding(aligned)], output_dim=1, dtype=dtype, name="both")


@pytest.mark.parametrize("dtype", [None, "float64", "mixed_bfloat16", keras.DTypePolicy("mixed_float16")], ids=str)
def test_dtypes_of_floats(aligned, dtype):
    """Types and policies, as any Keras layer takes them."""
    layer = build_embedding(aligned, dtype=dtype)
    assert layer(np.array([[2]])).dtype == keras.dtype_policies.get(dtype).compute_dtype


@pytest.mark.parametrize("name", ["embedding", "words.2-x_y"])
def test_name_and_flags_reach_the_layer(aligned, name):
    """The layer is built, and has the given name and flags."""
    layer = build_embedding(aligned, trainable=True, mask_zero=False, name=name)
    assert (layer.name, layer.trainable, layer.mask_zero, layer.built) == (name, True, False, True)


@pytest.mark.parametrize("name", ["word table", "tïble", "a/b", "a:b", "_words", "", 5])
def test_a_name_that_no_graph_can_have_is_refused(aligned, name):
    """Now, and not by TensorFlow in fit, after which Keras puts it before the names of later models' variables."""
    with pytest.raises(ArgumentError, match=rf"name must be a string of ASCII letters, .* Received: {name!r}"):
        build_embedding(aligned, name=name)
    with pytest.raises(ArgumentError, match=rf"name must be a string of ASCII letters, .* Received: {name!r}"):
        build_classifier(aligned, 2, name=name)


def test_mask_zero_needs_padding_at_id_zero():
    """Without a padding id, id 0 is a word, and a mask would hide it."""
    aligned = AlignedMatrix(np.eye(2, dtype="float32"), Vocabulary(["[UNK]", "cat"], padding_id=None, oov_ids=(0,)))
    with pytest.raises(ArgumentError, match=r"hide id 0, which is '\[UNK\]' and not padding \(padding_id=None\)"):
        build_embedding(aligned, mask_zero=True)
    assert build_embedding(aligned).mask_zero is build_embedding(aligned, mask_zero=False).mask_zero is False
    behind = AlignedMatrix(np.eye(2, dtype="float32"), Vocabulary(["cat", ""], padding_id=1, oov_ids=()))
    with pytest.raises(ArgumentError, match=r"hide id 0, which is 'cat' and not padding \(padding_id=1\)"):
        build_embedding(behind)


def test_unknown_architecture(aligned):
    """The architectures that exist are listed."""
    with pytest.raises(ArgumentError, match=r"one of lstm, cnn, mean\. Received: 'gru'"):
        build_classifier(aligned, 2, architecture="gru")


def test_an_architecture_of_your_own(aligned):
    """A layer, or a function of the vectors, whose mask reaches the layers that it calls."""
    texts = [*TEXTS, []]
    for own in (keras.layers.GRU(3), lambda vectors: MaskedMean()(keras.layers.Dense(3)(vectors))):
        model = build_classifier(aligned, 2, architecture=own)
        alone = [model(_padded(text, len(text)))[0] for text in texts]
        np.testing.assert_allclose(model(np.concatenate([_padded(text, 9) for text in texts])), alone, atol=1e-6)
        assert model.get_layer("scores").kernel.shape == (3, 2)


@pytest.mark.parametrize(
    ("own", "received"),
    [
        (
            lambda vectors: keras.ops.mean(vectors, axis=1),
            r"\[.*\] for a text of id 1, and \[.*\] with 8 ids of padding",
        ),
        (
            lambda vectors: keras.ops.max(vectors, axis=1),
            r"\[.*\] for a text of id 1, and \[.*\] with 8 ids of padding",
        ),
        (keras.layers.GlobalAveragePooling1D(), r"\[nan, .*\] for a text of id 0, and \[nan, "),
        (keras.layers.Dense(3), r"<KerasTensor shape=\(None, None, 3\)"),
        (lambda vectors: keras.layers.RepeatVector(2)(MaskedMean()(vectors)), r"<KerasTensor shape=\(None, 2, 4\)"),
        (lambda vectors: None, "None"),
        (keras.layers.GRU, "<class"),
        (np.ones(3), "array"),
    ],
    ids=["mean", "max", "empty", "each word", "two", "nothing", "class", "array"],
)
def test_an_architecture_that_padding_changes_is_refused(aligned, own, received):
    """With what it returned, alone and padded; so is one that returns something else than a vector for each text."""
    with pytest.raises(ArgumentError, match=f"architecture must .*Received: {received}"):
        build_classifier(aligned, 2, architecture=own)


def test_a_layer_of_your_own_is_for_one_model(aligned):
    """The second would begin with what the first has learnt; a function says that it shall."""
    own = keras.layers.GRU(3, name="mine")
    first = build_classifier(aligned, 2, architecture=own)
    with pytest.raises(ArgumentError, match=r"share its weights.*Received: layer 'mine'"):
        build_classifier(aligned, 2, architecture=own)
    assert build_classifier(aligned, 2, architecture=lambda vectors: own(vectors)).get_layer("mine") is own
    assert first.get_layer("mine") is own


def test_an_architecture_of_your_own_has_its_own_units(aligned):
    """Units beside it would be ignored."""
    with pytest.raises(ArgumentError, match="Received: units=8"):
        build_classifier(aligned, 2, architecture=keras.layers.GRU(3), units=8)


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"num_classes": 1}, "num_classes .* Received: 1"),
        ({"num_classes": "2"}, "num_classes .* Received: '2'"),
        ({"num_classes": 2, "units": 0}, "units .* Received: 0"),
        ({"num_classes": 2, "dropout": 1.0}, "dropout .* Received: 1.0"),
        ({"num_classes": 2, "dropout": -0.1}, "dropout .* Received: -0.1"),
        ({"num_classes": 2, "name": "a/b"}, "name .* Received: 'a/b'"),
    ],
)
def test_sizes_are_checked(aligned, arguments, received):
    """Fewer than two classes, no units, or a dropout outside [0, 1)."""
    with pytest.raises(ArgumentError, match=received):
        build_classifier(aligned, **arguments)


def test_classifier_needs_a_mask(aligned):
    """Without a mask, padding would change the scores; the error names the layer."""
    with pytest.raises(ArgumentError, match=r"mask_zero=True\. Received: layer 'words'"):
        build_classifier(build_embedding(aligned, mask_zero=False, name="words"), 2)


def test_classifier_refuses_what_is_neither_matrix_nor_layer():
    """build_embedding refuses a bare array."""
    with pytest.raises(ArgumentError, match="Received: ndarray"):
        build_classifier(np.eye(3), 2)


def test_classifier_takes_a_stock_layer():
    """A stock Embedding with a mask works too."""
    model = build_classifier(keras.layers.Embedding(10, 4, mask_zero=True), 2, architecture="mean")
    assert model(np.array([[2, 3]])).shape == (1, 2)


@pytest.mark.parametrize("trainable", [False, True])
def test_classifier_passes_trainable_on(aligned, trainable):
    """The layer made inside gets the flag."""
    assert (
        build_classifier(aligned, 2, architecture="mean", trainable=trainable).get_layer("embedding").trainable
        is trainable
    )


def test_classifier_rescales_where_it_is_asked_to(aligned):
    """The table it makes, by one factor; a layer made before is refused, as are numbers <= 0."""
    rescaled = build_classifier(aligned, 2, architecture="mean", rescale=0.1).get_layer("embedding").matrix()
    plain = build_classifier(aligned, 2, architecture="mean").get_layer("embedding").matrix()
    assert rescaled[aligned.found].std() == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_allclose(rescaled, plain * (0.1 / plain[aligned.found].std()), rtol=1e-5)
    with pytest.raises(ArgumentError, match=r"layer 'words' was made before.*Received: rescale=0\.1"):
        build_classifier(build_embedding(aligned, name="words"), 2, rescale=0.1)
    with pytest.raises(ArgumentError, match=r"rescale must be a number > 0\. Received: -1"):
        build_classifier(aligned, 2, rescale=-1)


@pytest.mark.parametrize("trainable", [True, False, "oov"])
def test_classifier_refuses_trainable_with_a_layer(aligned, trainable):
    """A layer keeps its own setting, so the argument would be ignored."""
    layer = build_embedding(aligned, trainable=True, name="words")
    with pytest.raises(ArgumentError, match=rf"layer 'words' was made before.*Received: trainable={trainable!r}"):
        build_classifier(layer, 2, architecture="mean", trainable=trainable)
    assert build_classifier(layer, 2, architecture="mean").get_layer("words").trainable


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_input_and_output_of_a_classifier(models, architecture):
    """int64 ids named token_ids go in, probabilities named scores come out."""
    model = models[architecture]
    assert (model.inputs[0].name, model.inputs[0].dtype, model.inputs[0].shape) == ("token_ids", "int64", (None, None))
    assert model.output_names == ["scores"] and model.output_shape == (None, 3)
    np.testing.assert_allclose(np.sum(model(np.array(TEXTS[-1:])), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("text", TEXTS, ids=len)
def test_padding_does_not_change_the_scores(models, architecture, text):
    """A text alone equals itself padded to any length, below the width of a convolution too."""
    alone = models[architecture](np.array([text]))
    for more in (1, 2, 4, 21):
        padded = models[architecture](_padded(text, len(text) + more))
        np.testing.assert_allclose(padded, alone, atol=1e-6, err_msg=f"{more} ids of padding")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_batch_does_not_change_the_scores(models, architecture):
    """In a batch with others, one of them empty, each text gets the scores that it gets alone."""
    batch = models[architecture](np.concatenate([_padded(text, 9) for text in [*TEXTS, []]]))
    alone = [models[architecture](_padded(text, len(text)))[0] for text in [*TEXTS, []]]
    np.testing.assert_allclose(batch, alone, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=25, deadline=None)
@given(text=st.lists(st.integers(1, 9), max_size=8), more=st.integers(0, 12))
def test_any_text_padded_to_any_length(models, architecture, text, more):
    """The scores are the same for any ids and any padding."""
    model = models[architecture]
    padded = model(_padded(text, len(text) + more))
    np.testing.assert_allclose(padded, model(_padded(text, len(text))), atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("length", [0, 1, 3, 12])
def test_empty_text_has_finite_scores(models, architecture, length):
    """The scores of only padding, and of no time steps at all, are probabilities and not NaN."""
    scores = models[architecture](np.zeros((2, length), np.int64))
    assert np.isfinite(scores).all() and np.allclose(np.sum(scores, axis=1), 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_depend_on_the_text(models, architecture):
    """The classifier doesn't pass the tests above by returning a constant."""
    first, second = models[architecture](np.array([[2, 3, 4], [7, 8, 9]]))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keras_file_round_trip(models, architecture, tmp_path):
    """A model from a .keras file returns the same scores; no custom_objects are needed."""
    models[architecture].save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    ids = np.array(TEXTS[-1:])
    np.testing.assert_array_equal(loaded(ids), models[architecture](ids))
    np.testing.assert_allclose(loaded(_padded(TEXTS[0], 1)), models[architecture](_padded(TEXTS[0], 7)), atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_clone_with_weights_equals_the_model(models, architecture):
    """The config of a model rebuilds its architecture."""
    clone = keras.models.clone_model(models[architecture])
    clone.set_weights(models[architecture].get_weights())
    ids = np.array(TEXTS[-1:])
    np.testing.assert_array_equal(clone(ids), models[architecture](ids))


def _dense(model, name, inputs):
    kernel, bias = model.get_layer(name).get_weights()
    return inputs @ kernel + bias


def _softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def test_cnn_against_numpy(models):
    """The largest output of each filter over the windows within the text, by loops."""
    model = models["cnn"]
    table = model.get_layer("embedding").matrix()
    for text in TEXTS:
        features = []
        for convolution in model.get_layer("encoder").convolutions:
            kernel, bias = convolution.get_weights()
            vectors = np.zeros((max(len(text), len(kernel)), 4), np.float32)
            vectors[: len(text)] = table[text]
            windows = [vectors[i : i + len(kernel)] for i in range(len(vectors) - len(kernel) + 1)]
            answers = [np.maximum(np.einsum("td,tdf->f", window, kernel) + bias, 0) for window in windows]
            features.append(np.max(answers, axis=0))
        expected = _softmax(_dense(model, "scores", np.concatenate(features)))
        np.testing.assert_allclose(model(_padded(text, 11))[0], expected, atol=1e-6, err_msg=str(text))


def test_mean_against_numpy(models):
    """Mean of the rows, hidden layer, softmax."""
    model = models["mean"]
    table = model.get_layer("embedding").matrix()
    for text in TEXTS:
        hidden = np.maximum(_dense(model, "hidden", table[text].mean(axis=0)), 0)
        expected = _softmax(_dense(model, "scores", hidden))
        np.testing.assert_allclose(model(_padded(text, 11))[0], expected, atol=1e-6, err_msg=str(text))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_of_the_table_stays_sliced(aligned, architecture):
    """No encoder makes the gradient as large as the table."""
    import tensorflow as tf

    model = build_classifier(aligned, 2, architecture=architecture, units=3, trainable=True)
    table = model.get_layer("embedding").trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(np.array([[2, 3, 0]]))[:, 0])
    (gradient,) = tape.gradient(loss, table)
    assert isinstance(gradient, tf.IndexedSlices)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_row_gets_no_gradient(aligned, architecture):
    """Training a classifier moves the rows that it reads, except that of id 0."""
    model = build_classifier(aligned, 2, architecture=architecture, units=3, trainable=True, dropout=0.0)
    model.compile(keras.optimizers.SGD(1.0), loss="sparse_categorical_crossentropy")
    model.fit(np.array([[2, 3, 0, 0], [4, 0, 0, 0]]), np.array([0, 1]), epochs=2, verbose=0)
    moved = np.abs(model.get_layer("embedding").matrix() - aligned.values).max(axis=1)
    assert moved[0] == 0 and (moved[[2, 3, 4]] > 0).all() and (moved[5:] == 0).all()
