"""Tables written and read in blocks: the same files as Keras' own, in both directions, without a second table."""

import tracemalloc

import h5py
import keras
import numpy as np
import pytest

from embkeras.tables.builders import build_embedding
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.row_io import copy_of_table, copy_rows, fill_table, load_variable, row_blocks, save_variable

ROWS, WIDTH = 4_000, 250
VALUES = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
VALUES[0] = 0  # padding
PLACE = "layers/pretrained_embedding/vars"  # where Keras puts the layer in a weights.h5 file: the name of its class


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 52 rows, of which the last one is smaller."""
    monkeypatch.setattr("embkeras.tables.row_io.BLOCK", 52 * WIDTH)


@pytest.fixture
def keras_only(monkeypatch):
    """A function after whose call Keras alone saves and loads the layer."""

    def switch():
        monkeypatch.setattr("embkeras.tables.row_io.hdf5_group", lambda _: None)

    return switch


@pytest.fixture
def without_keras(monkeypatch):
    """Keras' saving and loading of an Embedding fail."""
    for name in ("save_own_variables", "load_own_variables"):
        monkeypatch.setattr(keras.layers.Embedding, name, lambda *_: pytest.fail("Keras' own code ran"))


def _model(dtype=None, *, filled=True):
    layer = PretrainedEmbedding(ROWS, WIDTH, mask_zero=False, name="embedding", dtype=dtype)
    model = keras.Sequential([keras.Input((3,), dtype="int64"), layer, keras.layers.Flatten()])
    if filled:
        layer.assign_table(VALUES)
        layer(np.array([[1]]))  # from here on TensorFlow copies the table in each whole read
    return model


def _table(model):
    return model.get_layer("embedding").matrix()


def _peak(work):
    """NumPy's and Python's memory at its highest while `work` runs, in tables."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / VALUES.nbytes
    finally:
        tracemalloc.stop()


def test_rows_come_in_blocks_and_in_order():
    """Every row once, from the first to the last, and no more at once than a block."""
    layer = _model().get_layer("embedding")
    blocks = list(row_blocks(layer.variables[0]))
    assert [part.start for part, _ in blocks] == list(range(0, ROWS, 52)) and max(len(rows) for _, rows in blocks) == 52
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), VALUES)


def test_fill_and_copy():
    """copy_of_table returns what fill_table wrote."""
    variable = _model(filled=False).get_layer("embedding").variables[0]
    fill_table(variable, VALUES)
    np.testing.assert_array_equal(copy_of_table(variable), VALUES)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_round_trip_without_keras(tmp_path, without_keras, name):
    """Both kinds of file are written and read in blocks; this fails if Keras renames the private attribute of its store."""
    _save(_model(), tmp_path / name)
    np.testing.assert_array_equal(_table(_load(tmp_path / name)), VALUES)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_keras_reads_what_is_saved_here(tmp_path, keras_only, name):
    """A file saved in blocks loads by Keras' own code."""
    _save(_model(), tmp_path / name)
    keras_only()
    np.testing.assert_array_equal(_table(_load(tmp_path / name)), VALUES)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_what_keras_saved_is_read_here(tmp_path, keras_only, monkeypatch, name):
    """A file that Keras wrote in one piece loads in blocks."""
    with monkeypatch.context() as patch:
        patch.setattr("embkeras.tables.row_io.hdf5_group", lambda _: None)
        _save(_model(), tmp_path / name)
    np.testing.assert_array_equal(_table(_load(tmp_path / name)), VALUES)


def test_file_is_laid_out_as_keras_does(tmp_path, keras_only):
    """Same group, key, dtype, layout and size on disk."""
    _save(_model(), tmp_path / "own.weights.h5")
    keras_only()
    _save(_model(), tmp_path / "stock.weights.h5")
    with h5py.File(tmp_path / "own.weights.h5") as own, h5py.File(tmp_path / "stock.weights.h5") as stock:
        for file in (own, stock):
            assert list(file[PLACE]) == ["0"] and file[PLACE].attrs["name"] == "embedding"
        ours, theirs = own[PLACE]["0"], stock[PLACE]["0"]
        assert (ours.dtype, ours.shape, ours.chunks) == (theirs.dtype, theirs.shape, theirs.chunks)
        assert ours.id.get_storage_size() == theirs.id.get_storage_size()


def test_matrix_costs_one_table():
    """matrix() makes one copy, which it returns."""
    layer = _model().get_layer("embedding")
    assert _peak(layer.matrix) < 1.1


def test_weights_files_cost_a_block(tmp_path):
    """weights.h5 is written and read without a table in NumPy's memory."""
    model, path = _model(), tmp_path / "model.weights.h5"
    assert _peak(lambda: model.save_weights(path)) < 0.2
    assert _peak(lambda: model.load_weights(path)) < 0.2


def test_keras_files_cost_the_file(tmp_path):
    """Keras keeps a whole small .keras file in memory while it saves and loads; the layer adds nothing."""
    model, path = _model(), tmp_path / "model.keras"
    assert 1 <= _peak(lambda: model.save(path)) < 1.4
    assert 1 <= _peak(lambda: keras.saving.load_model(path)) < 1.4


@pytest.mark.stock_keras
def test_stock_files_cost_tables(tmp_path, keras_only):
    """Keras needs one or two more tables in NumPy's memory, besides those in TensorFlow's."""
    keras_only()
    model, path = _model(), tmp_path / "model.weights.h5"
    assert _peak(lambda: model.save_weights(path)) > 1.9
    assert _peak(lambda: model.load_weights(path)) > 0.9


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16"])
def test_other_dtypes(tmp_path, dtype):
    """Tables of other dtypes load unchanged; Keras itself saves and loads bfloat16."""
    model = _model(dtype)
    _save(model, tmp_path / "model.keras")
    loaded = _load(tmp_path / "model.keras")
    assert loaded.get_layer("embedding").variables[0].dtype == model.get_layer("embedding").variables[0].dtype
    np.testing.assert_array_equal(_table(loaded), _table(model))


@pytest.mark.parametrize("before, after", [("float32", "float16"), ("float16", "float32"), ("bfloat16", "float32")])
def test_weights_of_another_dtype(tmp_path, before, after):
    """Weights are cast to the dtype of the layer that loads them."""
    source, target = _model(before), _model(after, filled=False)
    source.save_weights(tmp_path / "model.weights.h5")
    target.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(_table(target), _table(source), rtol=1e-3, atol=1e-4)


def test_sharded_files(tmp_path):
    """Keras writes sharded weights files, whose bytes it counts; they are read in blocks."""
    model = keras.Sequential([keras.Input((3,), dtype="int64"), _layer("embedding")])
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=0.1)
    loaded = keras.models.clone_model(model)
    loaded.load_weights(tmp_path / "model.weights.json")
    np.testing.assert_array_equal(loaded.layers[0].matrix(), VALUES)


def test_folder(tmp_path):
    """A model that was saved with `save(folder, zipped=False)` can be loaded."""
    (tmp_path / "model").mkdir()
    _model().save(tmp_path / "model", zipped=False)
    np.testing.assert_array_equal(_table(keras.saving.load_model(tmp_path / "model")), VALUES)


def test_weights_out_of_a_keras_file(tmp_path):
    """load_weights reads a .keras file too, as a stream inside the archive."""
    _save(_model(), tmp_path / "model.keras")
    model = _model(filled=False)
    model.load_weights(tmp_path / "model.keras")
    np.testing.assert_array_equal(_table(model), VALUES)


def test_store_that_is_a_dictionary():
    """A dictionary, which Keras uses for .npz, takes and returns whole arrays."""
    layer, store = _layer("embedding"), {}
    save_variable(store, "0", layer.variables[0])
    np.testing.assert_array_equal(store["0"], VALUES)
    layer.save_own_variables(store)
    fresh = _layer("fresh", filled=False)
    load_variable(store, "0", fresh.variables[0])
    np.testing.assert_array_equal(fresh.matrix(), VALUES)
    fresh.load_own_variables({key: np.asarray(value) for key, value in store.items()})
    np.testing.assert_array_equal(fresh.matrix(), VALUES)


def test_quantized_table(tmp_path):
    """Table and scales are saved and loaded."""
    model = keras.Sequential([keras.Input((3,), dtype="int64"), _layer("embedding")])
    model.layers[0].quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = _load(tmp_path / "model.keras").layers[0]
    assert loaded.quantization_mode == "int8"
    np.testing.assert_array_equal(loaded.matrix(), model.layers[0].matrix())


def test_another_shape_is_refused_by_keras(tmp_path):
    """The message is Keras' own."""
    _model().save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        del file[PLACE]["0"]
        file[PLACE]["0"] = VALUES[1:]
    with pytest.raises(ValueError, match=r"shape of the target variable and the shape of the target value"):
        _model(filled=False).load_weights(tmp_path / "model.weights.h5")


def test_another_number_of_variables_is_refused_by_keras(tmp_path):
    """A file with a second variable for the layer is refused, and the table not read."""
    _model().save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        file[PLACE]["1"] = VALUES
    with pytest.raises(ValueError, match=r"'embedding' expected 1 variables, but received 2"):
        _model(filled=False).load_weights(tmp_path / "model.weights.h5")


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_table_outside_the_file_is_refused(tmp_path, kind):
    """A weights file can't make the layer read another file, under any Keras."""
    path = tmp_path / "model.weights.h5"
    _model().save_weights(path)
    with h5py.File(path, "a") as file, h5py.File(tmp_path / "other.h5", "w") as other:
        other["table"] = VALUES
        del file[PLACE]["0"]
        if kind == "link":
            file[PLACE]["0"] = h5py.ExternalLink("other.h5", "/table")
        elif kind == "external":
            raw = [(str(tmp_path / "raw"), 0, VALUES.nbytes)]
            file[PLACE].create_dataset("0", VALUES.shape, "float32", external=raw)
        else:
            layout = h5py.VirtualLayout(VALUES.shape, "float32")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "table", VALUES.shape)
            file[PLACE].create_virtual_dataset("0", layout)
    with pytest.raises(ValueError, match=r"embedding/embeddings' are in another file"):
        _model(filled=False).load_weights(path)


def test_compressed_file_is_read(tmp_path):
    """A file that was rewritten with compression loads in blocks."""
    path = tmp_path / "model.weights.h5"
    _model().save_weights(path)
    with h5py.File(path, "a") as file:
        del file[PLACE]["0"]
        file[PLACE].create_dataset("0", data=VALUES, chunks=(100, WIDTH), compression="gzip")
    assert np.array_equal(_table(_load(path)), VALUES)


def test_mark_for_optimizers(aligned, tmp_path):
    """The table's variable is marked as read by rows: in a new layer, one from a config, and one from a file."""
    layer = build_embedding(aligned)
    model = keras.Sequential([keras.Input((3,), dtype="int64"), layer])
    model.save(tmp_path / "model.keras")
    for each in (layer, keras.models.clone_model(model).layers[0], _load(tmp_path / "model.keras").layers[0]):
        assert each.variables[0].row_reads is True


@pytest.mark.parametrize("values", [None, np.full((5, 2), 9, np.float32)], ids=["kept", "given"])
@pytest.mark.parametrize("width", [2, None])
def test_copy_rows(values, width):
    """Known rows come from their source, others from the values or stay; in blocks, also for one-dimensional variables."""
    shape = (5, width) if width else (5,)
    old, new = np.arange(5 * (width or 1), dtype="float32").reshape(shape), np.zeros(shape, "float32")
    before, after = keras.Variable(old), keras.Variable(new)
    sources = np.array([4, -1, 0, 0, -1])
    values = values if values is None or width else values[:, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embkeras.tables.row_io.BLOCK", 4)
        copy_rows(before, after, sources, values)
    expected = np.where(
        (sources >= 0).reshape(-1, *[1] * (len(shape) - 1)), old[sources], 9 if values is not None else 0
    )
    np.testing.assert_array_equal(after, expected)


def _layer(name, *, filled=True):
    layer = PretrainedEmbedding(ROWS, WIDTH, name=name)
    layer.build()
    if filled:
        layer.assign_table(VALUES)
    return layer


def _save(model, path):
    (model.save if path.suffix == ".keras" else model.save_weights)(path)


def _load(path):
    if path.suffix == ".keras":
        return keras.saving.load_model(path)
    model = _model(filled=False)
    model.load_weights(path)
    return model
