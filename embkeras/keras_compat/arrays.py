"""Arrays as `fit` reads them: in its batches and order, and split into training and validation rows.

Private names used here, because the data of a `fit` must be those of another one: Keras' `ArrayDataAdapter` and
`train_validation_split`; and `_eval_epoch_iterator` of models, where Keras keeps the validation data of a `fit` that an
error ended. `tests/keras_compat/test_arrays.py` fails when one of them goes.
"""

import inspect
from typing import Any

import keras
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.keras_compat.private import Private, in_code, of_module, private_module

_ADAPTER = "keras.src.trainers.data_adapters.array_data_adapter"
_SLICING = "keras.src.trainers.data_adapters.array_slicing"
_CACHED = "_eval_epoch_iterator"

PRIVATE = (
    of_module(_ADAPTER, "ArrayDataAdapter"),
    of_module(_SLICING, "train_validation_split"),
    Private("keras.Model.fit", (_CACHED,), lambda: in_code(inspect.unwrap(keras.Model.fit))),
)


def batches_of(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None,
    shuffle: Any = False,
    class_weight: Any = None,
) -> tf.data.Dataset:
    """The batches that `fit` makes of the same arguments, in the same order.

    Raises:
        ArgumentError: what Keras refuses, such as arrays of different lengths.
    """
    try:
        adapter = private_module(_ADAPTER).ArrayDataAdapter(
            x, y, sample_weight, batch_size=batch_size, shuffle=shuffle, class_weight=class_weight
        )
        return adapter.get_tf_dataset()
    except ValueError as error:
        raise ArgumentError(f"Keras can't make batches of these data: {error}") from error


def split_rows(arrays: Any, share: float) -> tuple[Any, Any]:
    """The training rows of arrays, and the last `share` of all rows, as `validation_split` takes them.

    Raises:
        ArgumentError: what Keras refuses, such as too few rows.
    """
    try:
        return private_module(_SLICING).train_validation_split(arrays, validation_split=share)
    except ValueError as error:
        raise ArgumentError(f"Keras can't split these data: {error} Received: validation_split={share!r}.") from error


def forget_validation(model: keras.Model) -> None:
    """Remove the validation data of a `fit` that an error ended: `fit` itself does so only where it ends well."""
    vars(model).pop(_CACHED, None)
