"""Tables stored in fewer bytes."""

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.errors import ArgumentError
from embkeras.serving.export import export_saved_model
from embkeras.serving.local import ExportedModel
from embkeras.tables.builders import build_embedding
from embkeras.tables.storage import STORAGE, StoredAccuracy, stored_accuracy
from embkeras.text.vocabulary import Vocabulary
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.schedule.callback import unfreeze_at
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny

MASK = np.isin(np.arange(10), [1, 3, 7])
VOCABULARY = Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(8))], counts=np.arange(10)[::-1])
ALIGNED = AlignedMatrix(tiny.TABLE, VOCABULARY)
STORED = ("float16", "int8")


def _int8(table):
    """What int8 with one scale a row keeps, in plain NumPy."""
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    return np.round(np.divide(table, scales, out=np.zeros_like(table), where=scales > 0)) * scales


KEPT = {
    "float32": lambda table: table,
    "float16": lambda table: table.astype(np.float16).astype(np.float32),
    "int8": _int8,
}


def _fitted(layer, optimizer="sgd", **arguments):
    keras.utils.set_random_seed(0)
    head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, "softmax")]
    net = keras.Sequential([keras.Input((5,), dtype="int64"), layer, *head])
    net.compile(optimizer, loss="sparse_categorical_crossentropy")
    tiny.fit(net, **arguments)
    return net


@pytest.mark.parametrize("stored", STORED)
def test_rows_are_those_of_numpy(stored):
    """Without trainable rows, the layer returns the stored rows, and zeros for padding."""
    layer = build_embedding(ALIGNED, stored=stored)
    assert layer.variables[0].dtype == stored and layer.trainable_variables == []
    np.testing.assert_allclose(layer(np.arange(10)), KEPT[stored](tiny.TABLE), atol=1e-6)
    np.testing.assert_array_equal(layer.matrix(), layer(np.arange(10)))
    assert not layer.matrix()[0].any()


@pytest.mark.parametrize("stored", STORED)
def test_accuracy_of_the_stored_table(stored):
    """The smallest and the mean cosine are those of NumPy, rows of zeros left out."""
    accuracy = build_embedding(ALIGNED, stored=stored).accuracy
    one, other = tiny.TABLE[1:].astype(np.float64), KEPT[stored](tiny.TABLE)[1:].astype(np.float64)
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert accuracy.smallest_cosine == pytest.approx(cosines.min(), abs=1e-6)
    assert accuracy.mean_cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert accuracy.smallest_cosine < 1 and "at least" in str(accuracy)


def test_accuracy_of_plain_tables():
    """float32 is exact, so nothing is reported; a table of zeros has nothing to compare."""
    assert build_embedding(ALIGNED, trainable=MASK).accuracy is None
    assert stored_accuracy(np.zeros((2, 3)), np.zeros((2, 3))) == StoredAccuracy(1, 1)


@pytest.mark.parametrize("stored", STORED)
def test_rows_that_train_are_float32(stored):
    """They start from the given values and move; the stored base stays bit-identical."""
    layer = build_embedding(ALIGNED, trainable=MASK, stored=stored)
    np.testing.assert_array_equal(layer.matrix()[MASK], tiny.TABLE[MASK])
    before = layer.matrix()
    base = [np.array(variable) for variable in layer.non_trainable_variables]
    _fitted(layer, optimizers.AdamW(0.05, weight_decay=0.1))
    for variable, was in zip(layer.non_trainable_variables, base, strict=True):
        np.testing.assert_array_equal(variable, was)
    np.testing.assert_array_equal((layer.matrix() != before).any(axis=1), MASK)


def test_int8_takes_a_quarter():
    """The base takes a half or a quarter of the bytes, plus one scale a row."""
    layer = build_embedding(AlignedMatrix(np.ones((1000, 100), np.float32), _vocabulary(1000)), stored="int8")
    stored = sum(np.array(variable).nbytes for variable in layer.variables)
    assert stored == 1000 * 100 + 4 * 1000


def _vocabulary(size):
    return Vocabulary(["", "[UNK]", *(f"w{place}" for place in range(size - 2))])


def test_int8_with_rows_that_train(tmp_path):
    """Thawed at epoch 2, trained, saved and loaded, it continues bit for bit."""
    layer = build_embedding(ALIGNED, trainable=MASK, stored="int8")
    net = _fitted(layer, RowWiseAdam(0.05), callbacks=[unfreeze_at(2, "embedding")])
    loaded = tiny.fit_on_from_a_file(net, tmp_path)
    assert tiny.apart(net, loaded) == 0
    same = ~MASK
    np.testing.assert_array_equal(layer.matrix()[same], _int8(tiny.TABLE)[same])


@pytest.mark.parametrize("stored", STORED)
def test_mixed_precision(stored):
    """Rows come in the compute dtype."""
    layer = build_embedding(ALIGNED, trainable=MASK, stored=stored, dtype="mixed_float16")
    assert layer(tiny.IDS).dtype == "float16" and layer.trainable_variables[0].dtype == "float32"
    _fitted(layer, epochs=1)


@pytest.mark.parametrize("arguments", [{"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_in_other_modes_of_fit(arguments):
    """int8 with rows that train: the weights are those of a plain fit."""
    nets = []
    for each in (arguments, {"jit_compile": False}):
        layer = build_embedding(ALIGNED, trainable=MASK, stored="int8")
        keras.utils.set_random_seed(0)
        head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, "softmax")]
        net = keras.Sequential([keras.Input((5,), dtype="int64"), layer, *head])
        net.compile(RowWiseAdam(0.05), "sparse_categorical_crossentropy", **each)
        tiny.fit(net, epochs=2)
        nets.append(net)
    assert tiny.apart(*nets) <= 1e-6


@pytest.mark.parametrize("stored", STORED)
def test_export(stored, tmp_path):
    """The export returns the scores of the model and stores the table as small."""
    aligned = AlignedMatrix(np.random.default_rng(0).normal(size=(5000, 64)), _vocabulary(5000))
    net = _fitted(build_embedding(aligned, trainable=np.arange(5000) == 1, stored=stored), epochs=1)
    folder = export_saved_model(net, tmp_path, vocabulary=aligned.vocabulary)
    ids = np.random.default_rng(1).integers(0, 5000, (4, 5))
    np.testing.assert_allclose(ExportedModel(tmp_path).scores(ids), net.predict(ids, verbose=0), atol=1e-6)
    size = sum(file.stat().st_size for file in (folder / "variables").iterdir())
    assert size < 1.3 * 5000 * 64 * np.dtype(stored).itemsize


@pytest.mark.parametrize("trainable", [False, MASK], ids=["frozen", "rows"])
def test_quantize_makes_the_base_int8(trainable):
    """In a model that trains already, the trainable rows keep their values and their optimizer slots."""
    layer = build_embedding(ALIGNED, trainable=trainable, stored="float16")
    net = _fitted(layer, optimizers.Adam(0.05))
    before = layer.matrix()
    net.quantize("int8")
    assert layer.stored == "int8" and [variable.dtype for variable in layer.variables].count("int8") == 1
    expected = np.where(layer.trainable_mask[:, None], before, _int8(before))
    np.testing.assert_allclose(layer.matrix(), expected, atol=1e-6)
    assert layer.accuracy.smallest_cosine > 0.999
    tiny.fit(net, epochs=1)
    assert (layer.matrix() != before)[layer.trainable_mask].all()


def test_quantize_takes_int8_alone():
    """Quantizing twice changes nothing; another mode is refused."""
    layer = build_embedding(ALIGNED, trainable=MASK, stored="int8")
    before = layer.matrix()
    layer.quantize("int8")
    np.testing.assert_array_equal(layer.matrix(), before)
    if tiny.KERAS < (3, 13):  # Keras 3.10 looks at the mode before the layer does
        with pytest.raises(ValueError, match="Received: mode=int4"):
            layer.quantize("int4")
        return
    with pytest.raises(ArgumentError, match=r"mode of quantize .* one of int8\. Received: 'int4'"):
        layer.quantize("int4")


def test_encode_keeps_extremes():
    """Zero rows stay zero, the largest number of a row is exact up to rounding, and signs are kept."""
    values, scales = STORAGE["int8"].encode(np.array([[0, 0], [-300.0, 1]], np.float32))
    assert values.tolist() == [[0, 0], [-127, 0]] and scales.tolist() == pytest.approx([1, 300 / 127])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stored": "int4"}, "stored must be one of float32, float16, int8. Received: 'int4'"),
        (
            {"stored": "int8", "trainable": True},
            'trains as a whole .* float32. Received: trainable=True with stored="int8"',
        ),
    ],
)
def test_arguments_are_checked(arguments, message):
    """An unknown dtype, and one that can't train."""
    with pytest.raises(ArgumentError, match=message):
        build_embedding(ALIGNED, **arguments)


@pytest.mark.parametrize("stored", STORAGE)
def test_registry(stored):
    """Each way decodes what it encoded, and row_bytes is the real size."""
    way = STORAGE[stored]
    values, scales = way.encode(tiny.TABLE)
    np.testing.assert_allclose(way.decode(values, scales), KEPT[stored](tiny.TABLE), atol=1e-6)
    assert way.row_bytes(4) * 10 == values.nbytes + (0 if scales is None else scales.nbytes)
    assert way.encode(np.zeros((0, 4), np.float32))[0].shape == (0, 4)


@pytest.mark.parametrize(
    ("value", "settings", "message"),
    [
        (7e4, {"stored": "float16"}, "'embedding' must be finite as float16.* in row 1, whose largest is 70000"),
        (7e4, {"dtype": "float16"}, "'embedding' must be finite as float16.* in row 1, whose largest is 70000"),
        (1e39, {"stored": "int8"}, r"'embedding' must be finite as int8.* in row 1, whose largest is 1e\+39"),
        (1e39, {"dtype": "bfloat16"}, r"'embedding' must be finite as bfloat16.* in row 1, whose largest is 1e\+39"),
    ],
)
def test_numbers_that_a_table_cannot_hold(value, settings, message):
    """They would become infinity in the table without an error."""
    matrix = np.zeros((10, 4))
    matrix[1:] = value
    with pytest.raises(ArgumentError, match=message):
        build_embedding(ALIGNED, **settings).assign_table(matrix)


def test_float16_refuses_to_encode_what_it_cannot_hold():
    """Also without a layer, as in an export."""
    with pytest.raises(ArgumentError, match=r"float16 holds numbers up to 65504\. Received: 70000"):
        STORAGE["float16"].encode(np.full((1, 2), 7e4, np.float32))
