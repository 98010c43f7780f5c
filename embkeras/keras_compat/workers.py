"""`fit` of Keras under `tf.distribute.MultiWorkerMirroredStrategy`, which fails in stock Keras for two causes.

1. `_maybe_symbolic_build`, with which `fit` and `evaluate` begin, reduces a batch over the replicas, and can't use the
   PerReplica that comes back. Here it gets the shapes of a batch, and no batch is drawn: from a generator it would be
   lost, and a shuffled dataset would go on to its next order.
2. `reduce_per_replica` takes the mean of each metric along axis 0 of the workers, and a scalar has no axis 0. So here a
   step returns vectors of length 1.

Private names used here, because `fit` has no public way in between: `_maybe_symbolic_build` and `_make_function` of
models; `_distributed_dataset` of the epoch iterator, and `_value_specs` of what TensorFlow says of its batches;
TensorFlow's `context.global_seed`, which decides how Keras shuffles arrays and can only be set publicly.
`tests/test_workers.py` shows both failures, so that it fails when Keras mends them.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from embkeras.keras_compat.private import NAME, Private, in_code, of_module, private_module

_CONTEXT, _VALUES = "tensorflow.python.eager.context", "tensorflow.python.distribute.values"
_TRAINER = "keras.src.backend.tensorflow.trainer"
PRIVATE = (
    Private(
        f"{_TRAINER}.TFEpochIterator",
        ("_distributed_dataset",),
        lambda: in_code(private_module(_TRAINER).TFEpochIterator.__init__),
    ),
    Private(
        f"{_VALUES}.PerReplicaSpec",
        ("_value_specs",),
        lambda: in_code(private_module(_VALUES).PerReplicaSpec.__init__),
    ),
    Private("keras.Model", ("_maybe_symbolic_build", "_make_function"), lambda: keras.Model(name=NAME)),
    of_module(_CONTEXT, "global_seed"),
)


class WorkerHooks:
    """Mixin before `keras.Model`: makes `fit` run on several workers, and lets a subclass see what goes through it."""

    def check_model(self) -> None:
        """Called when `fit`, `evaluate` or `train_on_batch` begins, under any strategy."""

    def check_train_step(self) -> None:
        """Called when the train step is made, under any strategy."""

    def replica_step(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The train step as each replica of each worker takes it, where there are several workers."""
        return step

    def worker_step(self, function: Callable[[Any], Any], *, trains: bool) -> Callable[[Any], Any]:
        """The compiled train or test step as `fit` and `evaluate` call it, where there are several workers."""
        return function

    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        self.check_model()
        if iterator is not None and spans_workers(self.distribute_strategy):
            data_batch = tree.map_structure(_of_one_replica, iterator._distributed_dataset.element_spec)
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)  # type: ignore[misc]

    def _make_function(self: Any, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        trains = step_function == self.train_step
        if trains:
            self.check_train_step()
        if not spans_workers(self.distribute_strategy):
            return super()._make_function(step_function)  # type: ignore[misc]
        step = self.replica_step(step_function) if trains else step_function

        @functools.wraps(step_function)
        def vectors(data: Any) -> Any:
            return tree.map_structure(lambda value: tf.expand_dims(value, 0), step(data))

        return self.worker_step(super()._make_function(vectors), trains=trains)  # type: ignore[misc]


def spans_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy joins several processes that train in step."""
    resolver = strategy.cluster_resolver if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else None
    return resolver is not None and bool(resolver.cluster_spec().jobs)


def global_seed() -> int | None:
    """What `tf.random.set_seed` or `keras.utils.set_random_seed` has set; None for nothing."""
    return private_module(_CONTEXT).global_seed()


def _of_one_replica(spec: Any) -> Any:
    """Shape and dtype of a tensor of a batch, from those on all replicas of this worker."""
    return getattr(spec, "_value_specs", (spec,))[0]
