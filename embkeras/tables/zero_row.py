"""A row of a variable that stays zeros whoever trains or assigns the variable: the row of the padding.

Masking the gradient where rows are looked up is not enough: a model that also uses the table as a matrix (tied weights) has
a gradient for every row. Keras optimizers apply the constraint of a variable after each step, as
`variable.assign(variable.constraint(variable))`, which reads and writes the whole table. So the variable says that it has a
constraint, which zeroes the one row in place and leaves nothing to assign: a step still costs the rows of its batch.
"""

from typing import Any

import keras
import tensorflow as tf

from embkeras.keras_compat.variables import local, replicas

_DONE = object()  # what the constraint returns instead of a value


class _ZeroRow(keras.Variable):
    """A variable with a row of zeros; `keep_zero` makes it of an ordinary one, since layers make their variables themselves."""

    zero_row: int

    @property
    def constraint(self) -> Any:
        """The user's constraint, if any, and the row of zeros."""
        return self._constrained

    @constraint.setter
    def constraint(self, value: Any) -> None:
        keras.Variable.constraint.fset(self, value)

    def _constrained(self, variable: Any) -> Any:
        users = own_constraint(self)
        if users is not None:
            return users(variable)  # `assign` zeroes the row
        self._clear()
        return _DONE

    def assign(self, value: Any) -> Any:
        """Assign a value, apart from the row of zeros."""
        if value is _DONE:
            return self.value
        assigned = super().assign(value)
        self._clear()
        return assigned

    def _clear(self) -> None:
        """Write the zeros, on every replica; inside a step of a replica on its own part."""
        one = tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
        for part in (local(self),) if one else replicas(self):
            zeros = tf.zeros((1, *part.shape[1:]), part.dtype)
            part.scatter_update(tf.IndexedSlices(zeros, tf.constant([self.zero_row])))


def keep_zero(variable: keras.Variable, row: int | None) -> None:
    """Keep a row that is zeros so, under every optimizer and assignment; None for no row."""
    if row is not None:
        variable.__class__ = _ZeroRow
        variable.zero_row = row


def own_constraint(variable: Any) -> Any:
    """The constraint that the user gave a variable, or None."""
    if isinstance(variable, _ZeroRow):
        return keras.Variable.constraint.fget(variable)
    return getattr(variable, "constraint", None)
