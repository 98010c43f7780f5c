"""RowWiseAdam: Adam whose cost follows the rows of a batch and not the size of the table.

Private names used here: `_momentums`, `_velocities` and `_get_variable_index` of Keras' Adam, whose slots are the only
ones that `.keras` files and `rebuild.py` know of, and `DistributedValues._get`, since TensorFlow has no public way to
reach a replica's own part inside an update. `tests/training/test_optimizers.py` fails when one of them goes.
"""

from typing import Any

import keras
import tensorflow as tf

from embkeras.errors import OptimizerError

_NOT_ROW_WISE = {
    "weight_decay": "it would move every row in each step, also words never seen",
    "clipnorm": "Keras takes the norm with each occurrence of a row counted by itself",
    "clipvalue": "Keras clips each occurrence of a row by itself",
    "global_clipnorm": "Keras hands over a dense gradient, as large as the table",
    "gradient_accumulation_steps": "Keras hands over a dense gradient, as large as the table",
    "loss_scale_factor": "Keras cannot divide slices of rows by it; wrap the optimizer in a LossScaleOptimizer",
    "use_ema": "it would average the whole table in each step",
    "amsgrad": "its third slot is not kept by rows",
}


@keras.saving.register_keras_serializable("embkeras")
class RowWiseAdam(keras.optimizers.Adam):
    """Adam (Kingma & Ba 2015) that updates only those rows of an embedding table that the batch names.

    It differs from `keras.optimizers.Adam` for gradients that come as slices of rows; others are updated as there:

    - Cost and memory traffic follow the rows of the batch. Keras makes the gradient dense, so each step costs the
      whole table.
    - The gradient of a row is the sum of its occurrences. Keras squares each occurrence by itself, which gives a word
      that occurs 100 times in a batch a first step of 10 times the learning rate.
    - Rows that are not in the batch do not move, and their moments stand still: lazy Adam, as in PyTorch's
      `SparseAdam`. Dense Adam keeps moving them by their moments.

    The bias correction counts the steps of the whole training, so a row that is first seen late, or a table that joins
    late, starts with steps of up to about 5 times the learning rate, as in Adam and `SparseAdam`.

    Use it with a `PretrainedEmbedding`; the stock `Embedding` copies the table in each step.

    Args:
        learning_rate: a float or a `LearningRateSchedule`.
        **adam_arguments: as for `keras.optimizers.Adam`. Weight decay, clipping, gradient accumulation, moving
            averages and amsgrad are refused: Keras applies them to the whole table. So is `loss_scale_factor`.

    Raises:
        OptimizerError: one of the refused settings, with the reason.

    Example:
        >>> RowWiseAdam(1e-3, weight_decay=0.01)
        Traceback (most recent call last):
            ...
        embkeras.errors.OptimizerError: RowWiseAdam does not take weight_decay=0.01: it would move every row ...
    """

    def __init__(self, learning_rate: Any = 1e-3, **adam_arguments: Any):
        for name, reason in _NOT_ROW_WISE.items():
            if adam_arguments.get(name):
                raise OptimizerError(f"RowWiseAdam does not take {name}={adam_arguments[name]!r}: {reason}.")
        super().__init__(learning_rate=learning_rate, **adam_arguments)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update the rows that `gradient` names, or the whole variable where the gradient is dense."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
        rate = tf.cast(learning_rate, dtype) * tf.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        index = self._get_variable_index(variable)
        table = _local(variable)
        first, second = _local(self._momentums[index].value), _local(self._velocities[index].value)

        rows, summed = sum_by_row(gradient)
        summed = tf.cast(summed, dtype)
        m = beta_1 * first.sparse_read(rows) + (1 - beta_1) * summed
        v = beta_2 * second.sparse_read(rows) + (1 - beta_2) * tf.square(summed)
        first.scatter_update(tf.IndexedSlices(m, rows))
        second.scatter_update(tf.IndexedSlices(v, rows))
        # Reading the rows and writing them is faster than scatter_sub, whose CPU kernel adds row by row.
        moved = table.sparse_read(rows) - rate * m / (tf.sqrt(v) + self.epsilon)
        table.scatter_update(tf.IndexedSlices(moved, rows))


def sum_by_row(gradient: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor]:
    """The distinct rows of a sliced gradient, shape (n,), and the sum of each one's occurrences, shape (n, D)."""
    rows, position = tf.unique(gradient.indices)
    return rows, tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))


def _local(variable: Any) -> Any:
    """This replica's part of a variable: under a distribution strategy the slots are containers."""
    return variable._get() if isinstance(variable, tf.distribute.DistributedValues) else variable
