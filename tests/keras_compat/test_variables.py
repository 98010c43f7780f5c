"""Marks of tables, the TensorFlow variables behind those of Keras, and the HDF5 group behind a store."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.keras_compat.variables import (
    hdf5_group,
    is_table,
    local,
    mark_stock_tables,
    mark_table,
    native,
    read_by_rows,
    reads_rows,
    reads_whole_table,
    replicas,
    stock_kernel,
    stock_table,
)
from tests import tiny


def _stock():
    layer = keras.layers.Embedding(4, 2)
    layer.build()
    return layer


def test_private_names_are_there():
    """When Keras or TensorFlow renames one, keras_compat/variables.py must change."""
    assert hasattr(_stock(), "_embeddings") and hasattr(_stock().embeddings, "_autocast")
    assert hasattr(_mirrored(), "_get")


@pytest.mark.parametrize(
    "layer", [keras.layers.Dense(2, lora_rank=1), keras.layers.EinsumDense("ab,bc->ac", 2, lora_rank=1)]
)
def test_the_kernel_without_lora(layer):
    """A variable where Keras' own `kernel` is the sum."""
    layer.build((None, 3))
    assert any(stock_kernel(layer) is weight for weight in layer.weights) and not isinstance(
        layer.kernel, keras.Variable
    )


def _mirrored():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        return tf.Variable(0.0)


def test_tables_are_known_by_their_mark():
    """Not by their name: our layers set the mark, and one call sets that of stock layers."""
    stock, dense = _stock(), keras.layers.Dense(2, name="embeddings")
    dense.build((None, 2))
    assert is_table(stock_table(tiny.embedding())) and reads_rows(stock_table(tiny.embedding()))
    assert not is_table(stock_table(stock))
    mark_stock_tables([stock, dense, keras.layers.Embedding(4, 2)])
    assert is_table(stock_table(stock)) and not reads_rows(stock_table(stock))
    assert reads_whole_table(stock_table(stock)) and not reads_whole_table(stock_table(tiny.embedding()))
    assert not any(is_table(each) for each in dense.variables)
    assert not is_table(tf.Variable(np.eye(2)))


def test_a_variable_that_is_read_by_rows_and_no_table():
    """The factors of LoRA: Keras must not cast them, and they are no tables."""
    variable = keras.Variable(np.eye(2), autocast=True)
    read_by_rows(variable, table=False)
    assert reads_rows(variable) and not is_table(variable)
    assert variable._autocast is False
    mark_table(variable)
    assert not is_table(variable)


def test_a_variable_that_no_layer_marks():
    """What gets a gradient by rows is a table; how its layer reads it is unknown."""
    variable = tf.Variable(np.eye(2))
    mark_table(variable)
    assert is_table(variable) and not reads_rows(variable) and not reads_whole_table(variable)


def test_variables_of_tensorflow():
    """One replica without a strategy; anything but a Keras variable is returned unchanged."""
    variable, plain = keras.Variable(np.eye(2)), tf.Variable(np.eye(2))
    assert native(variable) is variable.value and native(plain) is plain
    assert replicas(variable) == (variable.value,) and local(plain) is plain


def test_the_part_of_a_replica():
    """Under a strategy the container is opened."""
    mirrored = _mirrored()
    assert len(replicas(mirrored)) == 1 and isinstance(local(mirrored), tf.Variable)


def test_a_store_of_keras_has_its_group(tmp_path):
    """Saving a file hands the layer a store with a group; when Keras renames it, tables are saved as whole arrays."""
    groups = []

    class Seen(keras.layers.Layer):
        """Looks at the store."""

        def save_own_variables(self, store):
            """Note what the group is."""
            groups.append(hdf5_group(store))
            super().save_own_variables(store)

    keras.Sequential([keras.Input((2,)), Seen(), keras.layers.Dense(1)]).save_weights(tmp_path / "model.weights.h5")
    assert len(groups) == 1 and isinstance(groups[0], h5py.Group)


def test_other_stores_have_no_group():
    """A dictionary, and whatever else layers may be given."""
    assert hdf5_group({"0": np.eye(2)}) is None and hdf5_group(tiny) is None
