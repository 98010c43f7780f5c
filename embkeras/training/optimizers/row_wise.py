"""RowWise: what turns a Keras optimizer into one whose cost follows the rows of a batch and not the size of the table.

An optimizer of the family names its slots and gives its rule as a function of tensors. The rule does not know whether
it is given a whole variable or the rows of a batch; reading, summing, decay, rates and writing are done here.

Private names used here, because Keras offers no public way: `_get_variable_index`, `_var_key`, `_trainable_variables`,
`_use_weight_decay`, `_distribution_strategy` of its optimizers, and the hooks `_clip_gradients` and
`_apply_weight_decay`. `tests/training/test_row_wise.py` fails when one of them goes.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from embkeras.errors import OptimizerError
from embkeras.tables.row_io import load_table, save_table
from embkeras.training.optimizers.multipliers import RateMultipliers, check_factor, local, native, path_of, read

_REFUSED = {
    "gradient_accumulation_steps": "Keras hands over a dense gradient, as large as the table",
    "loss_scale_factor": "Keras cannot divide slices of rows by it; wrap the optimizer in a LossScaleOptimizer",
    "use_ema": "it would average the whole table in each step",
}


class RowWise(RateMultipliers):
    """Mixin before a Keras optimizer: gradients that come as slices of rows update these rows and no others.

    A class of the family says in `_slots` which attributes of the Keras optimizer hold a slot for each variable, in
    `_decays` by which factor a slot shrinks in a step without gradient, and gives its arithmetic in `_rule`.
    """

    def __init__(
        self,
        *args: Any,
        anchor_decay: float = 0.0,
        catch_up: bool = False,
        row_warmup: int = 0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self._check_settings()
        if isinstance(row_warmup, bool) or not isinstance(row_warmup, int) or row_warmup < 0:
            raise OptimizerError(f"row_warmup must be a number of updates: an integer >= 0. Received: {row_warmup!r}.")
        self.anchor_decay = check_factor(anchor_decay, "anchor_decay")
        self.catch_up, self.row_warmup = bool(catch_up), row_warmup
        self._present: set[Any] = set()
        self._ever: set[Any] = set()

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make the slots of `variables`: those of the Keras optimizer, the birth steps, and those of embedding tables."""
        if self.built:
            return
        self._check_settings()  # again: a MultiOptimizer sets its own loss_scale_factor on those inside it
        with tf.init_scope():  # also when the first step is being traced: the values of variables are needed here
            super().build(variables)
            tables = [_is_table(variable) for variable in variables]
            self._births = [self._birth_of(variable) for variable in variables]
            self._anchors, self._row_steps, self._row_counts = (
                [
                    make(variable) if wanted and table else None
                    for variable, table in zip(variables, tables, strict=True)
                ]
                for wanted, make in (
                    (self.anchor_decay, self._anchor_of),
                    (self.catch_up, lambda variable: self._column_of(variable, "row_step", self._now())),
                    (self.row_warmup, lambda variable: self._column_of(variable, "row_count", 0)),
                )
            )
        self._warn_at_build(variables, tables)
        self._present = {self._var_key(variable) for variable in variables}
        self._ever |= self._present

    # What a class of the family says ---------------------------------------------------------------------------------

    def _slots(self) -> Sequence[list[keras.Variable]]:
        raise NotImplementedError

    def _decays(self) -> Sequence[float]:
        raise NotImplementedError

    def _rule(self, gradient: Any, slots: Sequence[Any], rate: Any, step: Any) -> tuple[Any, Sequence[Any]]:
        """What is to be subtracted from the value, and the new slots; `step` counts from 1 since the variable joined."""
        raise NotImplementedError

    # The step --------------------------------------------------------------------------------------------------------

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update the rows that `gradient` names, or the whole variable where the gradient is dense."""
        index, dtype = self._get_variable_index(variable), variable.dtype
        rows = None
        if isinstance(gradient, tf.IndexedSlices):
            self._check_row_slots(index)
            rows, gradient = sum_by_row(gradient)
        else:
            self._warn_of_dense_gradient(index)
        gradient = self._clipped(tf.cast(gradient, dtype))
        now = tf.cast(self.iterations, "int64") + 1
        rate = self._rate(index, tf.cast(learning_rate, dtype), rows)
        holders = [slots[index] for slots in self._slots()]
        held = self._caught_up(index, [read(holder, rows) for holder in holders], rows, now)
        step = tf.cast(now - read(self._births[index], None), dtype)
        change, held = self._rule(gradient, held, rate, step)
        for holder, value in zip(holders, held, strict=True):
            _write(holder, rows, value)
        value = read(variable, rows)
        # Reading the rows and writing them is faster than scatter_sub, whose CPU kernel adds row by row.
        _write(variable, rows, self._decayed(index, variable, value, rate, rows) - change)

    def _rate(self, index: int, rate: Any, rows: Any) -> Any:
        """The rate of this variable: a scalar, or (n, 1) where rows have rates of their own."""
        rate = self._multiplied(index, rate)
        if self._row_counts[index] is not None:
            seen = read(self._row_counts[index], rows) + 1
            _write(self._row_counts[index], rows, seen)
            rate = rate * tf.minimum(tf.cast(seen, rate.dtype) / self.row_warmup, 1.0)[:, None]
        return rate

    def _caught_up(self, index: int, held: list[Any], rows: Any, now: Any) -> list[Any]:
        """The slots after the decay of the steps in which these rows had no gradient."""
        if self._row_steps[index] is None:
            return held
        missed = now - 1 - read(self._row_steps[index], rows)
        _write(self._row_steps[index], rows, tf.fill(tf.shape(missed), now))
        return [
            value if decay == 1 else value * tf.pow(tf.cast(decay, value.dtype), tf.cast(missed, value.dtype))[:, None]
            for value, decay in zip(held, self._decays(), strict=True)
        ]

    def _decayed(self, index: int, variable: Any, value: Any, rate: Any, rows: Any) -> Any:
        """The value after weight decay and decay toward the anchor, both decoupled from the gradient."""
        before = value
        if self.weight_decay is not None and self._use_weight_decay(variable):
            value = value - before * tf.cast(self.weight_decay, value.dtype) * rate
        if self._anchors[index] is not None:
            value = value - (before - read(self._anchors[index], rows)) * tf.cast(self.anchor_decay, value.dtype) * rate
        return value

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing here: Keras would decay every row. `update_step` decays what it updates, at the variable's rate."""

    def _clip_gradients(self, gradients: Sequence[Any]) -> list[Any]:
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

    def _now(self) -> int:
        return int(keras.ops.convert_to_numpy(self.iterations))

    def _birth_of(self, variable: keras.Variable) -> keras.Variable:
        """The optimizer's step when `variable` joined, so that bias is corrected by the steps it has really taken."""
        now = self._now()
        return self.add_variable(
            (),
            initializer=lambda shape, dtype: tf.constant(now, dtype),
            dtype="int64",
            aggregation="only_first_replica",
            name=_slot_name(variable, "birth"),
        )

    def _anchor_of(self, variable: keras.Variable) -> keras.Variable:
        key = self._var_key(variable)
        if key in self._ever and key not in self._present:
            self._warn_once(
                f"{path_of(variable)} joins again after it was trained: anchor_decay now pulls toward the table as it "
                f"stands, and no longer toward the rows that it first joined with."
            )
        anchor = self.add_variable_from_reference(variable, name="anchor")
        anchor.assign(native(variable))
        return anchor

    def _column_of(self, variable: keras.Variable, what: str, value: int) -> keras.Variable:
        """One integer a row."""
        with self._distribution_strategy.extended.colocate_vars_with(native(variable)):
            return self.add_variable(
                variable.shape[:1],
                initializer=lambda shape, dtype: tf.fill(shape, tf.constant(value, dtype)),
                dtype="int64",
                name=_slot_name(variable, what),
            )

    def _check_settings(self) -> None:
        for setting, reason in _REFUSED.items():
            value = getattr(self, setting)
            if value:
                raise OptimizerError(f"{type(self).__name__} does not take {setting}={value!r}: {reason}.")

    def _check_row_slots(self, index: int) -> None:
        wanted = [
            setting
            for setting, slots in (
                ("anchor_decay", self._anchors),
                ("catch_up", self._row_steps),
                ("row_warmup", self._row_counts),
            )
            if getattr(self, setting) and slots[index] is None
        ]
        if wanted:
            raise OptimizerError(
                f"{wanted[0]} is for embedding tables, which are known by the name 'embeddings' of their variable. "
                f"Received a gradient by rows for {path_of(self._trainable_variables[index])!r}."
            )

    # What is said once -----------------------------------------------------------------------------------------------

    def _warn_at_build(self, variables: Sequence[keras.Variable], tables: list[bool]) -> None:
        for variable, table in zip(variables, tables, strict=True):
            if table and not getattr(variable, "row_reads", False):
                self._warn_once(
                    f"{path_of(variable)} belongs to a stock Embedding layer, which copies the whole table in each step "
                    f"after the first. The result is right; a layer from build_embedding is as fast as its rows."
                )
            if table and getattr(variable, "constraint", None) is not None:
                self._warn_once(
                    f"{path_of(variable)} has a constraint, which Keras applies to all its rows after each step: that costs "
                    f"the whole table, and may move rows that no batch names. Received: {variable.constraint!r}."
                )

    def _warn_of_dense_gradient(self, index: int) -> None:
        known = self._trainable_variables[index]
        if _is_table(known):
            self._warn_once(
                f"{path_of(known)} gets a dense gradient, so each step costs the whole table and moves all its rows. "
                f"A regularizer on the table does that, and so does using it a second time as a matrix."
            )

    # Files -----------------------------------------------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Write the slots as Keras does, those of tables in blocks, so that none is held twice."""
        for place, variable in enumerate(self.variables):
            if len(variable.shape) != 2 or not save_table(store, str(place), variable):
                store[str(place)] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Read the slots from any file that Keras can read, those of tables in blocks."""
        if len(store.keys()) != len(self.variables):
            super().load_own_variables(store)  # which says why it reads nothing
            return
        for place, variable in enumerate(self.variables):
            if len(variable.shape) != 2 or not load_table(store, str(place), variable):
                variable.assign(store[str(place)])

    def get_config(self) -> dict[str, Any]:
        """The settings; the multipliers as they stand."""
        return {
            **super().get_config(),
            "anchor_decay": self.anchor_decay,
            "catch_up": self.catch_up,
            "row_warmup": self.row_warmup,
        }


def sum_by_row(gradient: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor]:
    """The distinct rows of a sliced gradient, shape (n,), and the sum of each one's occurrences, shape (n, D)."""
    rows, position = tf.unique(gradient.indices)
    summed = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
    # Where the ids are the result of a tf.unique or a mask, XLA's unique counts their padding as further rows, behind
    # the others and without a gradient; -1 is no row, so it does not write them. Elsewhere there are none.
    occurs = tf.range(tf.size(position)) < tf.size(gradient.indices)
    count = tf.reduce_max(tf.where(occurs, position, -1)) + 1
    return tf.where(tf.range(tf.size(rows)) < count, rows, -1), summed


def _is_table(variable: Any) -> bool:
    """A gradient does not exist yet when slots are made, so tables are known by the name that Keras gives them."""
    return len(variable.shape) == 2 and path_of(variable).rsplit("/", 1)[-1] == "embeddings"


def _slot_name(variable: keras.Variable, what: str) -> str:
    return f"{path_of(variable).replace('/', '_')}_{what}"


def _write(variable: Any, rows: Any, value: Any) -> None:
    if rows is None:
        local(variable).assign(value)
    else:
        local(variable).scatter_update(tf.IndexedSlices(value, rows))
