"""PretrainedEmbedding: what it reads, what it writes down, and what it refuses."""

import json
import warnings

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.tables.builders import build_embedding
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.vectors.aligned import AlignedMatrix
from tests.variants import THOROUGH

IDS = np.array([[2, 3, 3, 0], [9, 1, 2, 2]])


@pytest.fixture
def layer(aligned):
    """A built layer over the tiny matrix, frozen."""
    return build_embedding(aligned)


def _model(layer, dtype="int64"):
    ids = keras.Input((None,), dtype=dtype)
    keras.utils.set_random_seed(0)
    features = keras.layers.GlobalAveragePooling1D()(layer(ids))
    return keras.Model(ids, keras.layers.Dense(2, name="head")(features))


def _ops_of(layer):
    """Types of the operations in the traced call, those inside its functions too."""
    call = tf.function(layer).get_concrete_function(tf.TensorSpec((None, 4), tf.int64))
    graph = call.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [node.op for node in nodes]


def test_rows_equal_the_matrix(layer, aligned):
    """The layer returns the row of each id, bit for bit."""
    np.testing.assert_array_equal(layer(IDS), aligned.values[IDS])


def test_matrix_equals_the_layer_at_every_id(layer):
    """matrix() is what the layer returns for arange(V)."""
    np.testing.assert_array_equal(layer.matrix(), layer(np.arange(10)))


def test_matrix_is_a_copy(layer, aligned):
    """Writing into the result of matrix() doesn't change the layer."""
    layer.matrix()[:] = 7
    np.testing.assert_array_equal(layer.matrix(), aligned.values)


def test_is_frozen_by_default(layer):
    """A table from build_embedding is not among the trainable variables until it is thawed."""
    assert (len(layer.trainable_variables), len(layer.non_trainable_variables)) == (0, 1)
    layer.trainable = True
    assert len(layer.trainable_variables) == 1


def test_config_does_not_hold_the_matrix(aligned):
    """The config of a layer does not grow with its table."""
    sizes = []
    for rows, width in ((10, 4), (10_000, 400)):
        layer = PretrainedEmbedding(rows, width, name="a")
        layer.build()
        sizes.append(len(json.dumps(keras.saving.serialize_keras_object(layer))))
    assert sizes[1] - sizes[0] < 20


def test_constructor_refuses_weights():
    """weights= would be lost on from_config, and costs four times the table."""
    with pytest.raises(ArgumentError, match=r"PretrainedEmbedding takes no weights=: build_embedding fills it"):
        PretrainedEmbedding(10, 4, weights=[np.zeros((10, 4))])


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_keras_file_round_trip(layer, tmp_path, dtype):
    """A model from a .keras file makes the same predictions, without a warning."""
    model = _model(layer, dtype)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Keras 3.10 warns so of every functional model that it has loaded.
        warnings.filterwarnings("ignore", r"(?s).*The structure of `inputs` doesn't match")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(IDS), model(IDS))


def test_weights_file_round_trip(layer, tmp_path):
    """A weights.h5 file fills a layer that came from a config, without a warning."""
    model = _model(layer)
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(clone(IDS), model(IDS))


def test_from_config_makes_zeros_and_warns_at_use(layer):
    """A layer from a config alone has no vectors; the warning names it."""
    clone = PretrainedEmbedding.from_config(layer.get_config())
    with pytest.warns(EmbkerasWarning, match="table of layer 'embedding' is all zeros: it was never filled"):
        rows = clone(IDS)
    np.testing.assert_array_equal(rows, np.zeros((2, 4, 4)))


def test_warns_once(layer):
    """The second use of an empty table is silent (a warning would be an error here)."""
    clone = PretrainedEmbedding.from_config(layer.get_config())
    with pytest.warns(EmbkerasWarning, match="layer 'embedding' is all zeros"):
        clone(IDS)
    clone(IDS)


def test_matrix_of_an_empty_clone_warns(layer):
    """matrix() counts as a use."""
    clone = PretrainedEmbedding.from_config(layer.get_config())
    clone.build()
    with pytest.warns(EmbkerasWarning, match="layer 'embedding' is all zeros"):
        clone.matrix()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_clone_warns_inside_fit(layer, jit_compile):
    """fit traces the call; the warning is issued once, outside the graph."""
    clone = keras.models.clone_model(_model(layer))
    clone.compile("sgd", loss="mse", jit_compile=jit_compile)
    with pytest.warns(EmbkerasWarning, match="layer 'embedding' is all zeros") as caught:
        clone.fit(IDS, np.zeros((2, 2)), verbose=0, epochs=2)
    assert len([each for each in caught if each.category is EmbkerasWarning]) == 1


def test_clone_with_weights_set_is_silent(layer):
    """set_weights before the first use is enough."""
    model = _model(layer)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(IDS), model(IDS))


def test_assign_table_fills_a_clone(layer, aligned):
    """assign_table, which the warning advises, works on a layer from a config."""
    clone = PretrainedEmbedding.from_config(layer.get_config())
    clone.build()
    clone.assign_table(aligned.values)
    np.testing.assert_array_equal(clone.matrix(), aligned.values)


def test_assign_table_in_several_blocks(layer, aligned, monkeypatch):
    """Every row is filled, also if the last block is smaller."""
    monkeypatch.setattr("embkeras.tables.row_io.BLOCK", 12)
    layer.assign_table(2 * aligned.values)
    np.testing.assert_array_equal(layer.matrix(), 2 * aligned.values)


@pytest.mark.parametrize("shape", [(9, 4), (10, 5)])
def test_assign_table_refuses_another_shape(layer, shape):
    """The error contains the layer, its shape and the one received."""
    received = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ArgumentError, match=rf"layer 'embedding' has the shape \(10, 4\)\. Received: {received}"):
        layer.assign_table(np.zeros(shape, np.float32))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(aligned, policy):
    """Rows come in the compute dtype; the table and matrix() stay float32."""
    layer = build_embedding(aligned, dtype=policy)
    assert layer(IDS).dtype.name == policy.removeprefix("mixed_")
    assert layer.variables[0].dtype == "float32" and layer.matrix().dtype == np.float32
    np.testing.assert_array_equal(layer.matrix(), aligned.values)


@pytest.mark.parametrize("make", [build_embedding, lambda aligned, **settings: _with_lora(aligned, **settings)])
def test_mixed_precision_casts_rows_and_not_the_table(aligned, make):
    """If only one layer has the policy, Keras would cast the whole table in each step."""
    layer = make(aligned, trainable=True, dtype="mixed_float16")
    graph = tf.function(layer).get_concrete_function(tf.zeros((1, 3), tf.int64)).graph
    cast = [str(op.inputs[0].shape) for op in graph.get_operations() if op.type == "Cast"]
    assert cast and not any(shape.startswith("(10, ") for shape in cast)


@pytest.mark.stock_keras
def test_stock_mixed_precision_casts_the_table():
    """If only the layer has the policy, Keras ignores its `autocast = False`."""
    layer = keras.layers.Embedding(10, 4, dtype="mixed_float16")
    layer.build()
    graph = tf.function(layer).get_concrete_function(tf.zeros((1, 3), tf.int64)).graph
    assert "(10, 4)" in [str(op.inputs[0].shape) for op in graph.get_operations() if op.type == "Cast"]


def _with_lora(aligned, **settings):
    layer = build_embedding(aligned, **settings)
    layer.enable_lora(2)
    return layer


def test_matrix_of_a_half_precision_table_is_float32(aligned):
    """matrix() of a float16 table is that table as float32."""
    layer = build_embedding(aligned, dtype="float16")
    assert layer.variables[0].dtype == "float16" and layer.matrix().dtype == np.float32
    np.testing.assert_array_equal(layer.matrix(), aligned.values.astype(np.float16).astype(np.float32))


def test_mask_marks_padding(layer):
    """Id 0 is masked and nothing else is."""
    np.testing.assert_array_equal(layer.compute_mask(IDS), IDS != 0)


def test_no_mask_without_mask_zero(aligned):
    """With mask_zero=False, id 0 is a token like any other."""
    assert build_embedding(aligned, mask_zero=False).compute_mask(IDS) is None


@pytest.mark.parametrize("bad", [-1, 10, 2**40])
@pytest.mark.parametrize("trainable", [False, True])
def test_ids_outside_are_refused(aligned, bad, trainable):
    """The error contains the rule, the id, its position and the layer."""
    layer = build_embedding(aligned, trainable=trainable)
    ids = IDS.copy()
    ids[1, 2] = bad
    with pytest.raises(ArgumentError, match=rf"\[0, 10\)\. Received: {bad} at position \[1, 2\] \(layer 'embedding'\)"):
        layer(ids)


def test_ids_outside_are_refused_in_a_graph(layer):
    """Inside a tf.function on CPU the gather raises, with value and position."""
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"indices\[0,1\] = -1 is not in \[0, 10\)"):
        tf.function(layer)(tf.constant([[2, -1]]))


@pytest.mark.parametrize("ids", [["cat"], [True], [1j]], ids=["str", "bool", "complex"])
def test_ids_that_are_not_numbers_are_refused(layer, ids):
    """Strings above all: they have to be encoded first."""
    with pytest.raises(ArgumentError, match=r"must be integers.*encode_batch.*dtype .*\(layer 'embedding'\)"):
        layer(np.array(ids))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fractional_ids_are_refused(layer, dtype):
    """3.5 is not cut to row 3."""
    with pytest.raises(
        ArgumentError, match=r"must be integers\. Received: 3\.5 at position \[0, 1\] \(layer 'embedding'\)"
    ):
        layer(np.array([[2, 3.5]], dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "float32"])
def test_id_dtypes(layer, aligned, dtype):
    """Every integer dtype works, and whole numbers as float32, which a Sequential passes."""
    np.testing.assert_array_equal(layer(IDS.astype(dtype)), aligned.values[IDS])


def test_small_id_dtype_over_a_large_table():
    """Ids of a dtype too small for input_dim are checked too."""
    layer = PretrainedEmbedding(300, 2)
    layer.build()
    layer.assign_table(np.ones((300, 2), np.float32))
    assert layer(np.array([[255]], "uint8")).shape == (1, 1, 2)


def test_sequential_without_an_input(layer, aligned):
    """A Sequential feeds float32 to its first layer."""
    model = keras.Sequential([layer, keras.layers.Flatten()])
    np.testing.assert_array_equal(model.predict(IDS, verbose=0), aligned.values[IDS].reshape(2, -1))


def test_reads_rows_and_not_the_table(layer):
    """The traced call gathers from the resource and never reads the variable."""
    ops = _ops_of(layer)
    assert "ResourceGather" in ops and "ReadVariableOp" not in ops


@pytest.mark.stock_keras
def test_stock_embedding_reads_the_whole_table():
    """keras.layers.Embedding reads the variable, which copies it after the first sparse update."""
    stock = keras.layers.Embedding(10, 4)
    stock.build()
    ops = _ops_of(stock)
    assert "ReadVariableOp" in ops and "ResourceGather" not in ops


@pytest.mark.stock_keras
def test_stock_embedding_takes_minus_one_for_the_last_row(aligned):
    """keras.layers.Embedding silently reads -1 as the last row."""
    stock = keras.layers.Embedding(10, 4)
    stock.build()
    stock.set_weights([aligned.values])
    np.testing.assert_array_equal(stock(np.array([-1])), aligned.values[-1:])


@pytest.mark.parametrize("traced", [False, True])
def test_gradient_is_slices(aligned, traced):
    """The gradient names rows, with duplicates kept, and is never as large as the table."""
    layer = build_embedding(aligned, trainable=True)

    def step(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(ids))
        (gradient,) = tape.gradient(loss, layer.trainable_variables)
        assert isinstance(gradient, tf.IndexedSlices)
        return gradient.indices

    indices = (tf.function(step) if traced else step)(tf.constant(IDS))
    np.testing.assert_array_equal(indices, IDS.reshape(-1))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_under_tf_function(layer, aligned, jit_compile):
    """Traced, and compiled by XLA, it returns the same rows."""
    rows = tf.function(layer, jit_compile=jit_compile)(tf.constant(IDS))
    np.testing.assert_array_equal(rows, aligned.values[IDS])


def test_ragged_ids_are_refused(layer):
    """The error says what to do."""
    with pytest.raises(ArgumentError, match=r"to_tensor\(\)\. Received: a RaggedTensor of shape \(2, None\)"):
        layer(tf.ragged.constant([[2], [3, 4]]))


def test_quantize(aligned):
    """int8 with one scale a row: ids are checked, rows and matrix() are near, nothing trains."""
    layer = build_embedding(aligned, trainable=True)
    layer.quantize("int8")
    assert layer.variables[0].dtype == "int8" and layer.trainable_variables == []
    steps = np.abs(aligned.values).max(axis=1, keepdims=True) / 127
    assert (np.abs(layer.matrix() - aligned.values) <= 0.51 * steps + 1e-7).all()
    np.testing.assert_array_equal(layer(IDS), layer.matrix()[IDS])
    with pytest.raises(ArgumentError, match=r"\[0, 10\)\. Received: -1 at position \[0, 0\] \(layer 'embedding'\)"):
        layer(np.array([[-1]]))


def test_a_quantized_table_is_not_filled(aligned):
    """Numbers would silently be cut to integers."""
    layer = build_embedding(aligned)
    layer.quantize("int8")
    with pytest.raises(ArgumentError, match="Layer 'embedding' is quantized"):
        layer.assign_table(aligned.values)


def test_quantize_a_model(aligned, tmp_path):
    """`model.quantize` reaches the layer, and the model's file contains the int8 table."""
    model = keras.Sequential([keras.Input((3,), dtype="int64"), build_embedding(aligned)])
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].quantization_mode == "int8"
    np.testing.assert_array_equal(loaded(IDS), model(IDS))


@pytest.mark.parametrize(
    ("make", "mode", "message"),
    [
        # The second is Keras', which refuses it first where it has no int4 itself.
        (build_embedding, "int4", r"mode .*\(layer 'embedding'\) must be one of int8\. Received: 'int4'|mode=int4"),
        (lambda aligned: _with_lora(aligned), "int8", "layer 'embedding' has LoRA"),
    ],
)
def test_quantize_is_refused(aligned, make, mode, message):
    """int4, which Keras unpacks as a whole in each call, and a table with LoRA."""
    with pytest.raises(ValueError, match=message):
        make(aligned).quantize(mode)


def test_quantize_with_a_configuration(aligned, monkeypatch):
    """It is Keras' own; an older Keras, which takes none, is named."""
    kind = getattr(keras.quantizers, "Int8QuantizationConfig", None)
    if kind is not None:
        layer = build_embedding(aligned)
        layer.quantize("int8", config=kind())
        assert layer.quantization_mode == "int8"
    layer = build_embedding(aligned)
    monkeypatch.setattr(keras.layers.Embedding, "quantize", lambda self, mode, type_check=True: None)
    with pytest.raises(ArgumentError, match=rf"config \(layer 'embedding'\) needs Keras 3\.12 .* {keras.__version__}"):
        layer.quantize("int8", config="int8")


_HEADS = {
    "Flatten": lambda: [keras.layers.Flatten(), keras.layers.Dense(2)],
    "Conv1D": lambda: [keras.layers.Conv1D(3, 2), keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(2)],
    "Dense": lambda: [keras.layers.Dense(3), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)],
}
_FORMS = {
    "whole": lambda aligned: build_embedding(aligned, trainable=True, mask_zero=False),
    "rows": lambda aligned: build_embedding(aligned, trainable=np.arange(10) > 0, mask_zero=False),
    "LoRA": lambda aligned: _with_lora(aligned, trainable=True, mask_zero=False),
    "int8": lambda aligned: build_embedding(aligned, trainable=np.arange(10) > 4, stored="int8", mask_zero=False),
}


@pytest.mark.parametrize(
    ("head", "optimizer"),
    [
        ("Flatten", lambda: RowWiseAdam(0.1)),
        ("Flatten", lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1)),
        pytest.param("Conv1D", lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1), marks=THOROUGH),
        pytest.param("Dense", lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1), marks=THOROUGH),
    ],
)
@pytest.mark.parametrize("form", _FORMS)
def test_padding_stays_zeros_without_a_mask(aligned, form, head, optimizer):
    """Layers that ignore masks read zeros for padding, before and after training, and pass it no gradient."""
    layer = _FORMS[form](aligned)
    model = keras.Sequential([keras.Input((5,), dtype="int64"), layer, *_HEADS[head]()])
    model.compile(optimizer(), loss="mse", jit_compile=False)
    ids = np.array([[2, 3, 5, 0, 0], [6, 7, 0, 0, 0], [8, 9, 1, 4, 0]])
    model.fit(ids, np.ones((3, 2)), epochs=3, verbose=0)
    assert not layer.matrix()[0].any() and not np.array(layer(np.zeros((1, 2), int))).any()
    assert (layer.matrix() != aligned.values).any()


def test_padding_gets_no_gradient(aligned):
    """Also where the rows are used so that their gradient is not zero."""
    layer = build_embedding(aligned, trainable=True, mask_zero=False)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(np.array([0, 2])))
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.trainable_variables[0]))
    assert not gradient.numpy()[0].any() and gradient.numpy()[2].all()


@pytest.mark.parametrize("arguments", [{"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_padding_in_other_modes_of_fit(aligned, arguments):
    """The weights are those of a plain fit, without a mask in later layers."""
    tables = []
    for each in (arguments, {"jit_compile": False}):
        keras.utils.set_random_seed(0)
        layer = build_embedding(aligned, trainable=True, mask_zero=False)
        model = keras.Sequential(
            [keras.Input((3,), dtype="int64"), layer, keras.layers.Flatten(), keras.layers.Dense(2)]
        )
        model.compile(RowWiseAdam(0.1), loss="mse", **each)
        model.fit(np.array([[2, 3, 0], [4, 0, 0]]), np.ones((2, 2)), epochs=3, shuffle=False, verbose=0)
        tables.append(layer.matrix())
    assert not tables[0][0].any()
    np.testing.assert_allclose(*tables, atol=1e-6)


def test_another_padding_id(aligned):
    """Without a mask, padding may have any id; None means that there is none."""
    vocabulary = Vocabulary(["cat", "[UNK]", "dog", ""], padding_id=3)
    layer = build_embedding(AlignedMatrix(np.ones((4, 2), np.float32), vocabulary), mask_zero=False)
    assert layer.padding_id == 3 and layer.matrix().any(axis=1).tolist() == [True, True, True, False]
    assert PretrainedEmbedding.from_config(layer.get_config()).padding_id == 3
    without = PretrainedEmbedding(4, 2, mask_zero=False)
    without.build()
    without.assign_table(np.ones((4, 2), np.float32))
    assert without.padding_id is None and without.matrix().all()


@pytest.mark.parametrize(
    ("mask_zero", "padding_id", "message"),
    [
        (True, 3, "padding_id must be 0, .* Received: 3"),
        (True, None, "padding_id must be 0, .* Received: None"),
        (False, 10, r"padding_id must be an integer in \[0, 10\), or None. Received: 10"),
        (False, True, r"padding_id must be an integer in \[0, 10\), or None. Received: True"),
    ],
)
def test_padding_id_is_checked(mask_zero, padding_id, message):
    """It must be a row of the table, and 0 if there is a mask."""
    with pytest.raises(ArgumentError, match=message):
        PretrainedEmbedding(10, 4, mask_zero=mask_zero, padding_id=padding_id)


def test_loaded_padding_is_zeros(aligned, tmp_path):
    """A file of another layer may have any numbers in that row."""
    ids = keras.Input((3,), dtype="int64")
    stock = keras.Model(ids, keras.layers.Embedding(10, 4, mask_zero=True, name="embedding")(ids))
    stock.save_weights(tmp_path / "model.weights.h5")
    layer = build_embedding(aligned)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        layer.load_own_variables({"0": file["layers/embedding/vars/0"][:]})
    assert not layer.matrix()[0].any() and layer.matrix()[1:].any(axis=1).all()


@pytest.mark.stock_keras
def test_stock_constant_initializer_writes_the_table_into_the_config():
    """`Constant(matrix)` makes the config larger than the table; the config of PretrainedEmbedding contains settings only."""
    matrix = np.random.default_rng(0).normal(size=(1_000, 20)).astype(np.float32)
    stock = keras.Sequential(
        [
            keras.Input((None,)),
            keras.layers.Embedding(1_000, 20, embeddings_initializer=keras.initializers.Constant(matrix)),
        ]
    )
    assert len(stock.to_json()) > matrix.nbytes


@pytest.mark.parametrize("name", ["weights", "embeddings_initializer"])
def test_other_ways_to_fill_the_table_are_refused(name):
    """Keras would ignore them, or need four times the memory of the table."""
    with pytest.raises(ArgumentError, match=f"takes no {name}="):
        PretrainedEmbedding(3, 2, **{name: "uniform"})


def test_table_with_nan_is_refused(layer):
    """The error contains the row."""
    table = np.ones((10, 4), np.float32)
    table[6, 1] = np.nan
    with pytest.raises(ArgumentError, match=r"'embedding' must be finite as float32.* in row 6"):
        layer.assign_table(table)


@pytest.mark.parametrize("use", [lambda layer: layer.matrix(), lambda layer: layer.assign_table(np.ones((3, 2)))])
def test_layer_that_is_not_built_has_no_table(use):
    """The error says what to do next."""
    with pytest.raises(ArgumentError, match="'fresh' has no table yet"):
        use(PretrainedEmbedding(3, 2, name="fresh"))


def test_saving_an_empty_clone_warns(aligned, tmp_path):
    """Saving a clone without its table warns too."""
    clone = keras.models.clone_model(keras.Sequential([keras.Input((2,), dtype="int64"), build_embedding(aligned)]))
    with pytest.warns(EmbkerasWarning, match="layer 'embedding' is all zeros"):
        clone.save(tmp_path / "clone.keras")
