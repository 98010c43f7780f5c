"""The share of each replica in the gradient of a step, when the replicas have different numbers of rows.

Keras averages the loss over the rows of each replica and divides it by the number of replicas: a mean of means, which is
the mean over all rows only if each replica has as many. So the loss of a replica is multiplied by its number of rows over
the mean number of rows. Where a mask says which tokens count, tokens are counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from embkeras.errors import DistributionError
from embkeras.keras_compat.graph import mask_of


def check_losses(model: Any) -> None:
    """Refuse losses that are no mean over rows.

    Raises:
        DistributionError: a loss with another reduction.
    """
    for loss in tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", "mean")
        if reduction not in ("mean", "sum_over_batch_size"):
            raise DistributionError(
                f"On several workers a loss must be the mean over the rows of a batch: Keras divides it by the number of "
                f"workers. Leave `reduction` out. Received: {type(loss).__name__}(reduction={reduction!r}) in model "
                f"{model.name!r}."
            )


class Weighing:
    """The share of this replica in the step that is being traced."""

    def __init__(self, x: Any):
        self._counted: Any = tf.shape(next(each for each in tree.flatten(x) if each is not None))[0]
        self.used = False

    def see(self, model: keras.Model, outputs: Any) -> None:
        """Count what the loss will be a mean over: the rows, or the tokens that a mask lets count."""
        masks = [mask_of(output) for output in tree.flatten(outputs)]
        if all(mask is None for mask in masks):
            return
        if len(masks) > 1:
            raise DistributionError(
                f"On several workers, a model with several outputs can't have masks on them: each loss would be the mean "
                f"over other tokens. Pass sample weights of 0 and 1 in their place. Received: model {model.name!r} with "
                f"{len(masks)} outputs, {sum(mask is not None for mask in masks)} of them with a mask."
            )
        self._counted = tf.math.count_nonzero(masks[0])

    def weigh(self, loss: Any) -> Any:
        """The loss of this replica, times its share."""
        self.used = True
        own = tf.cast(self._counted, tf.float32)
        context = tf.distribute.get_replica_context()
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, own)
        return loss * tf.cast(tf.math.divide_no_nan(own * context.num_replicas_in_sync, total), loss.dtype)


@contextmanager
def weighed(optimizer: Any, weigh: Callable[[Any], Any]) -> Iterator[None]:
    """Within this context the optimizer weighs the loss that it takes the gradient of, and not the one that is logged."""
    scale_loss = optimizer.scale_loss
    optimizer.scale_loss = lambda loss: scale_loss(weigh(loss))
    try:
        yield
    finally:
        del optimizer.scale_loss
