"""Variables: which are embedding tables, what TensorFlow holds behind them, and where weight files hold them.

A table is known by a mark on its variable. Layers of embkeras mark their own tables; `mark_stock_tables` marks those of
stock Embedding layers, which hold no mark until somebody sees the model.

Private names used here, because Keras and TensorFlow have no public way: `Embedding._embeddings` (the public `embeddings`
adds LoRA's whole product to the table), `Dense._kernel` and `EinsumDense._kernel` (likewise),
`Variable._autocast` (can only be set before the variable is made),
`DistributedValues._get` (the part of a variable that belongs to the current replica), and `_h5_entry_group` of the store
that Keras passes to `save_own_variables` (which publicly reads and writes whole arrays, several copies of a table).
"""

from collections.abc import Iterable
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from embkeras.keras_compat.private import Private, in_code, private_module, sample_layer

_SAVING = "keras.src.saving.saving_lib"
_VALUES = "tensorflow.python.distribute.values"
PRIVATE = (
    Private("keras.layers.Embedding", ("_embeddings",), sample_layer),
    Private("keras.layers.Dense", ("_kernel",), lambda: in_code(keras.layers.Dense.build)),
    Private("keras.layers.EinsumDense", ("_kernel",), lambda: in_code(keras.layers.EinsumDense.build)),
    Private("keras.Variable", ("_autocast",), lambda: sample_layer().embeddings),
    Private(f"{_VALUES}.DistributedValues", ("_get",), lambda: private_module(_VALUES).DistributedValues),
    Private(f"{_SAVING}.H5IOStore", ("_h5_entry_group",), lambda: in_code(private_module(_SAVING).H5IOStore.__init__)),
)


def read_by_rows(variable: keras.Variable, *, table: bool = True) -> None:
    """Mark a variable whose layer reads single rows of it, and stop Keras from casting it as a whole.

    With a dtype policy such as "mixed_float16" on the layer alone, Keras casts every variable that is read, whatever the
    layer's `autocast` is: the whole table in every step, and its gradient is dense.

    Args:
        variable: variable of shape (rows, width).
        table: whether it is an embedding table, one row a token id.
    """
    variable.row_reads, variable.embkeras_table = True, table
    variable._autocast = False


def mark_stock_tables(layers: Iterable[keras.layers.Layer]) -> None:
    """Mark the tables of the Embedding layers among `layers` that are built; other forms of a table mark their own."""
    for layer in layers:
        table = getattr(layer, "_embeddings", None) if isinstance(layer, keras.layers.Embedding) else None
        if table is not None:
            table.embkeras_table, table.row_reads = True, reads_rows(table)


def mark_table(variable: Any) -> None:
    """Mark a variable as an embedding table, unless its layer has said that it isn't."""
    if not hasattr(variable, "embkeras_table"):
        variable.embkeras_table = True


def mark_unbounded(variable: Any, rows: np.ndarray) -> None:
    """Say that further rows of a table, a bool array, are not pre-trained: no bound is measured from them."""
    variable.embkeras_unbounded = rows | unbounded_rows(variable)


def unbounded_rows(variable: Any) -> np.ndarray:
    """Which rows of a variable were marked so: bool, shape (rows,)."""
    return getattr(variable, "embkeras_unbounded", np.zeros(variable.shape[0], bool))


def is_table(variable: Any) -> bool:
    """Whether a variable is marked as an embedding table, one row a token id."""
    return getattr(variable, "embkeras_table", False)


def reads_rows(variable: Any) -> bool:
    """Whether the layer of a table reads the rows of a batch and never the whole table."""
    return getattr(variable, "row_reads", False)


def reads_whole_table(variable: Any) -> bool:
    """Whether a table belongs to a stock Embedding layer, which reads it as a whole."""
    return getattr(variable, "row_reads", None) is False


def stock_table(layer: keras.layers.Embedding) -> keras.Variable:
    """The table of a built Embedding layer, without LoRA's product."""
    return layer._embeddings


def stock_kernel(layer: keras.layers.Layer) -> keras.Variable:
    """The kernel of a built Dense or EinsumDense, without LoRA's product."""
    return layer._kernel


def native(variable: Any) -> Any:
    """The TensorFlow variable behind a Keras one; any other variable unchanged."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def replicas(variable: Any) -> tuple[Any, ...]:
    """The TensorFlow variables behind a Keras one, one a device: a MirroredVariable holds several."""
    variable = native(variable)
    return tuple(getattr(variable, "values", (variable,)))


def local(variable: Any) -> Any:
    """The current replica's part of a variable, which is a container under a distribution strategy."""
    variable = native(variable)
    return variable._get() if isinstance(variable, tf.distribute.DistributedValues) else variable


def hdf5_group(store: Any) -> h5py.Group | None:
    """The group of a layer's variables in an HDF5 file; None for any other store (`.npz`, dictionaries)."""
    group = getattr(store, "_h5_entry_group", None)
    return group if isinstance(group, h5py.Group) else None
