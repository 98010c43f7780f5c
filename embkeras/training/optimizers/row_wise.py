"""RowWise: makes the cost of a Keras optimizer follow the rows of a batch, not the size of the table.

A subclass names its slots and gives its update rule as a function of tensors. The rule does not know whether it gets a
whole variable or the rows of a batch: reading, summing, decay, rates and writing happen here.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._checks import number
from embkeras.errors import OptimizerError
from embkeras.keras_compat.optimizers import index_of, key_of, trained_variables, weight_decay_of
from embkeras.keras_compat.variables import (
    is_table,
    local,
    mark_stock_tables,
    mark_table,
    native,
    reads_whole_table,
    unbounded_rows,
)
from embkeras.keras_compat.versions import check_versions
from embkeras.tables.addresses import walk
from embkeras.tables.row_io import load_variable, row_blocks, save_variable
from embkeras.tables.zero_row import own_constraint
from embkeras.training.optimizers.multipliers import RateMultipliers, path_of

_REFUSED = {
    "gradient_accumulation_steps": "Keras passes on a dense gradient, as large as the table",
    "loss_scale_factor": "Keras can't divide a gradient by rows by it; wrap the optimizer in a LossScaleOptimizer",
    "use_ema": "it would average the whole table in each step",
}
_ROUNDING = 1e-6  # relative, of sums of float32


class RowWise(RateMultipliers):
    """Mixin before a Keras optimizer: a gradient by rows updates those rows and no others.

    A subclass returns from `_slots` the attributes of the Keras optimizer that hold a slot for each variable, and has
    its arithmetic in `_rule`.
    """

    def __init__(self, *args: Any, anchor_decay: float = 0.0, max_drift: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._check_settings()
        self.anchor_decay = number(anchor_decay, "anchor_decay", least=0, most=1, error=OptimizerError)
        self.max_drift = None if max_drift is None else number(max_drift, "max_drift", above=0, error=OptimizerError)
        self._present: set[str] = set()
        self._ever: set[str] = set()

    def _slots(self) -> Sequence[list[keras.Variable]]:
        raise NotImplementedError

    def _rule(self, gradient: Any, slots: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
        """What to subtract from the value, and the new slots; `step` counts from 1 since the variable joined."""
        raise NotImplementedError

    def set_model(self, model: keras.Model) -> None:
        """Tell the optimizer which model it trains: its layer paths, and the tables of its stock Embedding layers.

        `fit`, `train_on_batch`, loading and schedules do this themselves. In a custom loop, call it before the first
        step if `learning_rate_multipliers` need layer paths, or stock Embedding layers an anchor.

        Raises:
            OptimizerError: an address of `learning_rate_multipliers` matches no layer or variable of the model, or a
                bare name matches several layers. A model with layers that are not built yet is not checked.
        """
        mark_stock_tables(layer for _, layer in walk(model))
        super().set_model(model)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots of `variables`: those of the Keras optimizer, and birth step, anchor and radius of each."""
        if self.built:
            return
        check_versions()
        self._check_settings()  # again: a MultiOptimizer sets its own loss_scale_factor on those inside it
        with tf.init_scope():  # needed when the first step is being traced: the values of variables are read here
            super().build(variables)
            self._births = [self._birth_of(variable) for variable in variables]
            anchored = [bool(self._measured_from_anchor()) and is_table(variable) for variable in variables]
            self._anchors = [
                self._anchor_of(variable) if wanted else None
                for variable, wanted in zip(variables, anchored, strict=True)
            ]
            self._radii = [
                self._radius_of(variable) if wanted and self.max_drift else None
                for variable, wanted in zip(variables, anchored, strict=True)
            ]
        self._warn_at_build(variables)
        self._present = {key_of(self, variable) for variable in variables}
        self._ever |= self._present

    # The step --------------------------------------------------------------------------------------------------------

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables by their gradients; on the first call, mark those with a gradient by rows as tables."""
        variables = None if trainable_variables is None else list(trainable_variables)
        if not self.built and variables is not None:
            grads = list(grads)
            for gradient, variable in zip(grads, variables, strict=False):  # Keras compares their numbers
                if isinstance(gradient, tf.IndexedSlices):
                    mark_table(variable)
        super().apply(grads, variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update the rows that `gradient` names, or the whole variable if the gradient is dense."""
        index, dtype = index_of(self, variable), variable.dtype
        rows = None
        if isinstance(gradient, tf.IndexedSlices):
            self._check_anchor(index)
            rows, gradient = sum_by_row(gradient)
        else:
            self._warn_of_dense_gradient(index)
        gradient = self._clipped(tf.cast(gradient, dtype))
        rate = self._multiplied(index, tf.cast(learning_rate, dtype))
        step = tf.cast(tf.cast(self.iterations, "int64") + 1 - _read(self._births[index], None), dtype)
        slots = [held[index] for held in self._slots()]
        change, held = self._rule(gradient, [_read(slot, rows) for slot in slots], rate, step)
        for slot, value in zip(slots, held, strict=True):
            _write(slot, rows, value)
        # Reading the rows and writing them is faster than scatter_sub, whose CPU kernel adds row by row.
        _write(variable, rows, self._bounded(index, self._decayed(index, variable, rate, rows) - change, rows))

    def _decayed(self, index: int, variable: Any, rate: Any, rows: Any) -> Any:
        """The value after weight decay, and after a share of the way back to the anchor; both decoupled from the gradient."""
        value = before = _read(variable, rows)
        decay = self._decay_of(variable)
        if decay is not None:
            value = value - before * tf.cast(decay, value.dtype) * rate
        anchor = self._anchors[index]
        if anchor is not None:
            value = value - (before - _read(anchor, rows)) * tf.cast(self.anchor_decay, value.dtype)
        return value

    def _decay_of(self, variable: Any) -> float | None:
        """The weight decay of a variable, None without."""
        return weight_decay_of(self, variable)

    def _bounded(self, index: int, value: Any, rows: Any) -> Any:
        """The value, moved back to the surface of the ball around its anchor where it left it."""
        radius = self._radii[index]
        if radius is None:
            return value
        anchor, limit = _read(self._anchors[index], rows), tf.cast(_read(radius, rows), value.dtype)[:, None]
        step = value - anchor
        length = tf.norm(step, axis=1, keepdims=True)
        return tf.where(length > limit, anchor + step * (limit / length), value)

    def clip_globally(self, gradients: Sequence[Any]) -> list[Any]:
        """Clip by the global norm, in which a row counts once with the sum of its occurrences; slices stay slices."""
        if not self.global_clipnorm:
            return list(gradients)
        norm = tf.linalg.global_norm(
            [sum_by_row(each)[1] if isinstance(each, tf.IndexedSlices) else each for each in gradients]
        )
        return tf.clip_by_global_norm(gradients, self.global_clipnorm, use_norm=norm)[0]

    def _clipped(self, gradient: Any) -> Any:
        """The gradient of one variable, its rows summed, clipped by its own norm or by value."""
        if self.clipnorm:
            return tf.clip_by_norm(gradient, self.clipnorm)
        if self.clipvalue:
            return tf.clip_by_value(gradient, -self.clipvalue, self.clipvalue)
        return gradient

    # Slots of our own ------------------------------------------------------------------------------------------------

    def _birth_of(self, variable: keras.Variable) -> keras.Variable:
        """The optimizer's step when `variable` joined, so that bias is corrected by the steps it has really taken."""
        now = int(keras.ops.convert_to_numpy(self.iterations))
        return self.add_variable(
            (),
            initializer=lambda shape, dtype: tf.constant(now, dtype),
            dtype="int64",
            aggregation="only_first_replica",
            name=f"{path_of(variable).replace('/', '_')}_birth",
        )

    def _anchor_of(self, variable: keras.Variable) -> keras.Variable:
        key = key_of(self, variable)
        if key in self._ever and key not in self._present:
            self._warn_once(
                f"{path_of(variable)} joins again after it was trained: {self._measured_from_anchor()} is now measured "
                f"from its current rows, no longer from those that it first joined with."
            )
        anchor = self.add_variable_from_reference(variable, name="anchor")
        anchor.assign(native(variable))
        return anchor

    def _radius_of(self, variable: keras.Variable) -> keras.Variable:
        """How far each row may be from its anchor; rows that are not pre-trained, and rows of zeros, may go anywhere."""
        lengths = np.concatenate([np.linalg.norm(rows.astype(np.float64), axis=1) for _, rows in row_blocks(variable)])
        if not lengths.any():
            self._warn_once(
                f"max_drift bounds no row of {path_of(variable)}: all begin as zeros, as those beside a shared map do, and "
                f"have no norm to measure by."
            )
        free = unbounded_rows(variable) | (lengths == 0)
        # A little less than asked for, so that rounding takes no row outside.
        share = max(0.0, (self.max_drift or 0) * (1 - _ROUNDING) - _ROUNDING)
        radii = np.where(free, np.inf, share * lengths)
        return self.add_variable(
            (len(radii),),
            initializer=lambda shape, dtype: tf.constant(radii, dtype),
            dtype="float32",
            aggregation="only_first_replica",
            name=f"{path_of(variable).replace('/', '_')}_radius",
        )

    def _measured_from_anchor(self) -> str:
        """The settings in use that need the table as it joined."""
        return " and ".join(name for name in ("anchor_decay", "max_drift") if getattr(self, name))

    # Checks and warnings ---------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        for setting, reason in _REFUSED.items():
            value = getattr(self, setting)
            if value:
                raise OptimizerError(f"{type(self).__name__} doesn't support {setting}={value!r}: {reason}.")

    def _check_anchor(self, index: int) -> None:
        settings = self._measured_from_anchor()
        if settings and self._anchors[index] is None:
            raise OptimizerError(
                f"{settings} works on the tables of embedding layers. Received a gradient by rows for "
                f"{path_of(trained_variables(self)[index])!r}, which was not known as one when the optimizer was built: "
                f"call set_model(model) before build(), or leave {settings} out."
            )

    def _warn_at_build(self, variables: Sequence[keras.Variable]) -> None:
        for variable in filter(is_table, variables):
            if reads_whole_table(variable):
                self._warn_once(
                    f"{path_of(variable)} belongs to a stock Embedding layer, which copies the whole table in each step "
                    f"after the first. The result is right, but a layer from build_embedding is faster."
                )
            if own_constraint(variable) is not None:
                self._warn_once(
                    f"{path_of(variable)} has a constraint, which Keras applies to all its rows after each step: that "
                    f"costs the whole table, and may move rows that are in no batch. Received: {own_constraint(variable)!r}."
                )

    def _warn_of_dense_gradient(self, index: int) -> None:
        variable = trained_variables(self)[index]
        if is_table(variable):
            self._warn_once(
                f"{path_of(variable)} gets a dense gradient, so each step costs the whole table and moves all its rows. "
                f"A regularizer on the table causes that, and so does a second use of it as a matrix; "
                f"layer.project(vectors, ids=...) reads only the rows of candidates."
            )

    # Files -----------------------------------------------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Write the slots as Keras does, those of tables in blocks, so that none is held twice."""
        for place, variable in enumerate(self.variables):
            save_variable(store, str(place), variable)

    def load_own_variables(self, store: Any) -> None:
        """Read the slots from any file that Keras can read, those of tables in blocks."""
        if len(store.keys()) != len(self.variables):
            super().load_own_variables(store)  # which warns that it reads nothing, and why
            return
        for place, variable in enumerate(self.variables):
            load_variable(store, str(place), variable)

    def get_config(self) -> dict[str, Any]:
        """The settings, with the current multipliers."""
        return {**super().get_config(), "anchor_decay": self.anchor_decay, "max_drift": self.max_drift}


def sum_by_row(gradient: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor]:
    """The distinct rows of a sliced gradient, shape (n,), and the sum of each one's occurrences, shape (n, D)."""
    rows, position = tf.unique(gradient.indices)
    summed = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
    # If the ids are the result of a tf.unique or a mask, XLA's unique counts their padding as further rows, after the
    # others and without a gradient; -1 is no row, so nothing is written for them. Elsewhere there are none.
    occurs = tf.range(tf.size(position)) < tf.size(gradient.indices)
    count = tf.reduce_max(tf.where(occurs, position, -1)) + 1
    return tf.where(tf.range(tf.size(rows)) < count, rows, -1), summed


def _read(variable: Any, rows: Any) -> Any:
    """The whole variable, or these rows of it."""
    return tf.convert_to_tensor(local(variable)) if rows is None else local(variable).sparse_read(rows)


def _write(variable: Any, rows: Any, value: Any) -> None:
    if rows is None:
        local(variable).assign(value)
    else:
        local(variable).scatter_update(tf.IndexedSlices(value, rows))
