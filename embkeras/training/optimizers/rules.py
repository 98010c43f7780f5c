"""Optimizers whose cost follows the rows of a batch: Adam, AdamW, Adagrad and SGD, each as a rule for `RowWise`."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from embkeras._checks import flag
from embkeras.errors import OptimizerError
from embkeras.keras_compat.optimizers import adagrad_slots, adam_slots
from embkeras.training.optimizers.multipliers import path_of
from embkeras.training.optimizers.row_wise import RowWise

_BIASES = ("bias", "beta", "gamma")  # names of the variables that `decay_biases` is about


@keras.saving.register_keras_serializable("embkeras")
class RowWiseAdam(RowWise, keras.optimizers.Adam):
    """Adam (Kingma & Ba 2015) that updates only those rows of an embedding table that are in the batch.

    It differs from `keras.optimizers.Adam` for gradients that come as slices of rows:

    - Cost and memory traffic follow the rows of the batch. Keras makes the gradient dense, so each step costs the
      whole table.
    - The gradient of a row is the sum of its occurrences. Keras squares each occurrence by itself, which gives a word
      that occurs 100 times in a batch a first step of 10 times the learning rate.
    - Rows that are not in the batch don't move, and their moments don't change: lazy Adam, as in PyTorch's
      `SparseAdam`. Dense Adam keeps moving them by their moments.
    - Weight decay reaches the rows of the batch alone, and clipping counts each row once, with its summed gradient.

    And for all variables: bias is corrected by the steps since a variable joined, not by those of the whole training.
    So a table that is unfrozen late starts at the learning rate; Keras' Adam starts it at about 5 times the rate.

    Use it with a layer from `build_embedding`; the stock `Embedding` copies the table in each step.

    Args:
        learning_rate: a float or a `LearningRateSchedule`.
        learning_rate_multipliers: factors of the rate by address: the path of a layer, for all its variables
            (`{"q/embedding": 0.1}`), a glob (`"encoder/**"`), or the path of a variable (`"**/bias"`). They scale
            update and decay. The first address that matches counts; `set_multiplier` changes a factor between epochs.
        anchor_decay: the share of the way back to its start, 0 to 1, that each row of the batch goes in an update,
            whatever the learning rate (L2-SP, Li, Grandvalet & Davoine 2018, decoupled). The start is the table when it
            began to train. Costs one more table, in memory and in files. A table that is frozen and unfrozen again has
            lost its slots: it then starts from what it is at that moment.
        max_drift: the furthest that a row may move from its start, as a multiple of the L2 norm that it had there, such
            as 0.5. A row of the batch that would move further stops at that distance. Costs one more table too. Rows of
            zeros are free, and so are those of words without a vector, if the layer is from `build_embedding`.
        **kwargs: as for `keras.optimizers.Adam`, except gradient accumulation and moving averages, which Keras applies
            to the whole table, and `loss_scale_factor`.

    Raises:
        OptimizerError: an unsupported setting, an invalid factor, or, when training begins, an address that
            matches no layer or variable of the model.

    Examples:
        >>> RowWiseAdam(1e-3, learning_rate_multipliers={"embedding": 0.5}).learning_rate_multipliers
        {'embedding': 0.5}
        >>> RowWiseAdam(1e-3, use_ema=True)
        Traceback (most recent call last):
            ...
        embkeras.errors.OptimizerError: RowWiseAdam doesn't support use_ema=True: it would average the whole table ...
    """

    def _slots(self) -> Sequence[list[keras.Variable]]:
        return adam_slots(self)

    def _rule(self, gradient: Any, slots: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
        m, v, *largest = slots
        beta_1, beta_2 = tf.cast(self.beta_1, step.dtype), tf.cast(self.beta_2, step.dtype)
        rate = rate * tf.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        m = m + (gradient - m) * (1 - self.beta_1)
        v = v + (tf.square(gradient) - v) * (1 - self.beta_2)
        largest = [tf.maximum(each, v) for each in largest]
        return m * rate / (tf.sqrt((largest or [v])[0]) + self.epsilon), [m, v, *largest]


@keras.saving.register_keras_serializable("embkeras")
class RowWiseAdamW(RowWiseAdam, keras.optimizers.AdamW):
    """`RowWiseAdam` with decoupled weight decay (Loshchilov & Hutter 2019) on the rows of the batch.

    Keras' AdamW moves every row of a table in each step, also words that training never saw.

    Args:
        *args: `learning_rate`, a float or a `LearningRateSchedule`; then `weight_decay`, in units of the learning rate. Both
            can be named too.
        decay_biases: False leaves biases, and the scales and shifts of normalisations, without decay, as is usual when an
            encoder is fine-tuned (Devlin et al. 2019). It is saved with the model; what `exclude_from_weight_decay` names
            is not.
        **kwargs: as for `RowWiseAdam`.

    Raises:
        OptimizerError: as for `RowWiseAdam`, and a `decay_biases` that is no bool.

    Examples:
        >>> RowWiseAdamW(1e-3, weight_decay=0.01).weight_decay
        0.01
    """

    def __init__(self, *args: Any, decay_biases: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.decay_biases = flag(decay_biases, "decay_biases", error=OptimizerError)

    def _decay_of(self, variable: Any) -> float | None:
        """None also for biases and normalisations that are left without."""
        small = (
            len(variable.shape) < 2 or path_of(variable).rpartition("/")[2] in _BIASES
        )  # an attention's are matrices
        return super()._decay_of(variable) if self.decay_biases or not small else None

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), "decay_biases": self.decay_biases}


@keras.saving.register_keras_serializable("embkeras")
class RowWiseAdagrad(RowWise, keras.optimizers.Adagrad):
    """Adagrad (Duchi, Hazan & Singer 2011) that updates only those rows of a table that are in the batch.

    Args:
        learning_rate: a float or a `LearningRateSchedule`.
        **kwargs: as for `keras.optimizers.Adagrad` and `RowWiseAdam`.

    Raises:
        OptimizerError: as for `RowWiseAdam`.

    Examples:
        >>> RowWiseAdagrad(0.1, initial_accumulator_value=0.2).initial_accumulator_value
        0.2
    """

    def _slots(self) -> Sequence[list[keras.Variable]]:
        return adagrad_slots(self)

    def _rule(self, gradient: Any, slots: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
        (total,) = slots
        total = total + tf.square(gradient)
        return rate * gradient / tf.sqrt(total + self.epsilon), [total]


@keras.saving.register_keras_serializable("embkeras")
class RowWiseSGD(RowWise, keras.optimizers.SGD):
    """SGD with momentum (Polyak 1964; Nesterov 1983) that updates only those rows of a table that are in the batch.

    Args:
        learning_rate: a float or a `LearningRateSchedule`.
        **kwargs: as for `keras.optimizers.SGD` and `RowWiseAdam`. The momentum of a row stays as it is in the
            steps in which the row is not in the batch.

    Raises:
        OptimizerError: as for `RowWiseAdam`.

    Examples:
        >>> RowWiseSGD(0.1, momentum=0.9).momentum
        0.9
    """

    def _slots(self) -> Sequence[list[keras.Variable]]:
        return [self.momentums] if self.momentum else []

    def _rule(self, gradient: Any, slots: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
        change = gradient * rate
        if not slots:
            return change, []
        m = slots[0] * tf.cast(self.momentum, gradient.dtype) - change
        return (change - m * self.momentum if self.nesterov else -m), [m]
