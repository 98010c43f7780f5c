"""MultiWorkerModel: a Keras model whose fit runs on several workers, and the mixin that makes any model one."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from embkeras.errors import DistributionError
from embkeras.keras_compat.optimizers import StepHooks, parts
from embkeras.keras_compat.variables import native
from embkeras.keras_compat.versions import check_versions
from embkeras.keras_compat.workers import WorkerHooks, spans_workers
from embkeras.tables.addresses import walk
from embkeras.training.workers.agreement import check_agreement
from embkeras.training.workers.weighing import Weighing, check_losses, weighed

_GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.CancelledError)


class MultiWorkerFit(WorkerHooks):
    """Mixin before a Keras model: `fit`, `evaluate` and `predict` run on several workers, which they don't in Keras.

    `class Mine(MultiWorkerFit, YourModel)` for a subclass of `keras.Model`; for `keras.Model(inputs, outputs)` there is
    `MultiWorkerModel`. What it does and refuses is the same.
    """

    _weighing: Weighing | None = None
    _agreed = False

    def check_model(self: Any) -> None:
        """Refuse what fails in TensorFlow without a reason.

        Raises:
            DistributionError: a variable of the model or the optimizer was made outside the strategy's scope, or a setting
                that Keras can't distribute.
        """
        strategy = self.distribute_strategy
        if not spans_workers(strategy):
            return
        check_versions()
        for part in parts(self.optimizer):
            if part.gradient_accumulation_steps:
                raise DistributionError(
                    f"Keras can't accumulate gradients on several workers: its train step fails. Received: "
                    f"{type(part).__name__}(gradient_accumulation_steps={part.gradient_accumulation_steps})."
                )
            _check_clipping(part)
            if _is_outside(part.iterations, strategy):
                raise DistributionError(
                    f"The optimizer must be made inside `with strategy.scope():`, and an optimizer named by a text, such "
                    f'as compile("adam"), compiled there. Received: {type(part).__name__} of model {self.name!r}, made '
                    f"outside the scope."
                )
        for variable in self.weights:
            if _is_outside(variable, strategy):
                raise DistributionError(
                    f"All layers must be made inside `with strategy.scope():`. Received: variable {variable.path!r} of "
                    f"model {self.name!r}, made outside the scope."
                )
        for setting, value in (("steps_per_execution", 1), ("run_eagerly", False)):
            if getattr(self, setting) != value:
                raise DistributionError(
                    f"Keras computes wrong steps on several workers with this setting. Compile model {self.name!r} with "
                    f"{setting}={value}. Received: {setting}={getattr(self, setting)}."
                )

    def check_train_step(self: Any) -> None:
        """Refuse what would train other weights than one process over the joined batches.

        Raises:
            DistributionError: the model was made outside the scope while TF_CONFIG names several workers; a loss is no
                mean; or BatchNormalization would keep other statistics on each worker.
        """
        if not spans_workers(self.distribute_strategy):
            workers = _workers_in_environment()
            if workers > 1:
                raise DistributionError(
                    f"TF_CONFIG names {workers} workers, but model {self.name!r} was made outside the scope of a "
                    f"MultiWorkerMirroredStrategy: each worker would train alone on all the data. Make it inside `with "
                    f"strategy.scope():`. Received: {type(self.distribute_strategy).__name__}."
                )
            return
        self._agreed = False
        check_losses(self)
        for path, layer in walk(self):
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not layer.synchronized:
                raise DistributionError(
                    f"On several workers a BatchNormalization layer that trains needs synchronized=True: otherwise each "
                    f"worker normalizes by its own rows and keeps its own statistics. Received: layer {path!r} of model "
                    f"{self.name!r}."
                )

    @functools.wraps(keras.Model.fit)
    def fit(self: Any, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as Keras does; before the first step, the workers compare what they are about to train."""
        self._agreed = False
        return super().fit(*args, **kwargs)  # type: ignore[misc]

    def compute_loss(
        self: Any, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss, as Keras computes it; masks of the outputs are noted."""
        if self._weighing is not None:
            self._weighing.see(self, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training=training)  # type: ignore[misc]

    def replica_step(self: Any, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The train step, with the loss of each replica weighed by its rows."""

        @functools.wraps(step)
        def one_step(data: Any) -> Any:
            x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            self._weighing = weighing = Weighing(x)
            try:
                with weighed(self.optimizer, weighing.weigh):
                    logs = step(data)
            finally:
                self._weighing = None
            if not weighing.used:
                raise DistributionError(
                    f"A train_step of your own must call loss = self.optimizer.scale_loss(loss) before it takes the "
                    f"gradient: there the loss is weighed where workers have different numbers of rows. Received: "
                    f"{type(self).__name__}.train_step (model {self.name!r}), which doesn't."
                )
            return logs

        return one_step

    def worker_step(self: Any, function: Callable[[Any], Any], *, trains: bool) -> Callable[[Any], Any]:
        """The compiled step, which says what happened when another worker is gone."""

        def step(iterator: Any) -> Any:
            try:
                if trains and not self._agreed:
                    check_agreement(self)
                    self._agreed = True
                return function(iterator)
            except _GONE as error:
                raise DistributionError(
                    f"A worker is gone or can't be reached, so model {self.name!r} can't train on, and no model of this "
                    f"process can. Start the script again on all workers: ResumableBackup continues from the last epoch "
                    f"that was saved. TensorFlow says: {_in_short(error)}"
                ) from error

        return step


@keras.saving.register_keras_serializable("embkeras")
class MultiWorkerModel(MultiWorkerFit, keras.Model):
    """`keras.Model(inputs, outputs)` whose `fit`, `evaluate` and `predict` run on several workers.

    In Keras 3 a model's `fit` fails under `tf.distribute.MultiWorkerMirroredStrategy`. Start the same script once per
    worker, with `TF_CONFIG` set as TensorFlow wants it, make the model and the optimizer inside `strategy.scope()`, and
    pass all the data to every worker: TensorFlow gives each one its part of each batch, and `batch_size` is that of the
    joined batch. Then all workers have the same weights, bit for bit, and these are within rounding those of one process
    over the joined batches. Without `TF_CONFIG` this is an ordinary model.

    Rows count alike, also in a last batch that can't be divided: the loss of each worker is weighed by its rows, or by
    the tokens that a mask lets count. Gradients of a table travel as rows.

    When `fit` begins, the workers compare their weights, optimizers, epochs, data (of arrays the first and last 1,000
    rows) and, if Keras shuffles, their seeds. What differs is an error on all of them. The order of a `tf.data` pipeline
    isn't compared: give `shuffle` a seed.

    If a worker dies, the others raise `DistributionError` within seconds, and must be started again too. A
    `ResumableBackup` then continues.

    Raises:
        DistributionError: from `fit`: the optimizer, a layer or the whole model was made outside the scope; the workers
            differ; `steps_per_execution` above 1, `run_eagerly`, accumulated or clipped gradients (but `clipnorm` and
            `clipvalue` of our row-wise optimizers), a loss that isn't a mean, or a BatchNormalization that trains
            without `synchronized=True`; a worker is gone.

    Examples:
        >>> inputs = keras.Input((3,))
        >>> model = MultiWorkerModel(inputs, keras.layers.Dense(1)(inputs))
        >>> model.compile("sgd", loss="mse")
        >>> history = model.fit(keras.ops.ones((4, 3)), keras.ops.ones((4, 1)), verbose=0)
        >>> history.epoch
        [0]
    """


def _check_clipping(optimizer: Any) -> None:
    """Refuse norms and bounds that Keras takes of each worker's gradient, before it adds them up."""
    after_the_sum = ("clipnorm", "clipvalue") if isinstance(optimizer, StepHooks) else ()
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        if getattr(optimizer, name) is not None and name not in after_the_sum:
            raise DistributionError(
                f"On several workers Keras clips the gradient of each worker, not their sum, so the step is another one "
                f"than that of one process. Leave {name} out, or clip rows with RowWiseAdam(clipnorm=...), which clips "
                f"the sum. Received: {type(optimizer).__name__}({name}={getattr(optimizer, name)})."
            )


def _is_outside(variable: Any, strategy: tf.distribute.Strategy) -> bool:
    value = native(variable)
    return not isinstance(value, tf.distribute.DistributedValues) or value.distribute_strategy is not strategy


def _workers_in_environment() -> int:
    cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().as_dict()
    return sum(len(cluster.get(job, ())) for job in ("chief", "worker"))


def _in_short(error: tf.errors.OpError) -> str:
    lines = [line for line in error.message.splitlines() if "Collective ops is aborted by" in line]
    return (lines or error.message.splitlines() or [type(error).__name__])[-1][:300]
