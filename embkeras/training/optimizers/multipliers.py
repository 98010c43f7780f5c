"""RateMultipliers: learning rates of single variables, as factors by patterns of their paths.

Scaling gradients does nothing under Adam, so it is the update that is scaled, and the decay with it.

Private name used here: `DistributedValues._get`, since TensorFlow has no public way to reach a replica's own part inside
an update. `tests/training/test_multipliers.py` fails when it goes.
"""

import math
import numbers
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from embkeras.errors import EmbkerasWarning, OptimizerError

_RULE = "learning_rate_multipliers maps regular expressions for variable paths to factors."


class RateMultipliers:
    """Mixin before a Keras optimizer that gives variables a factor of the learning rate."""

    def __init__(self, *args: Any, learning_rate_multipliers: Mapping[str, float] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        factors = _factors(learning_rate_multipliers)
        self._patterns = tuple(re.compile(_pattern(pattern)) for pattern in factors)
        values = [check_factor(value, f"The multiplier of {pattern!r}") for pattern, value in factors.items()]
        # One variable for all factors: they change between epochs without a retrace, and are saved with the model.
        self._multipliers = None
        if values:
            self._multipliers = self.add_variable(
                (len(values),), initializer=lambda shape, dtype: tf.constant(values, dtype), name="multipliers"
            )
        self._patterns_known = False
        self._warned: set[str] = set()

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Note which pattern each of the variables goes by."""
        super().build(variables)
        self._paths = [path_of(variable) for variable in variables]
        self._pattern_of = [self._first_pattern(path) for path in self._paths]

    def _multiplied(self, index: int, rate: Any) -> Any:
        """The rate of the variable of this index."""
        self._warn_of_unmatched()
        if self._pattern_of[index] is None:
            return rate
        return rate * tf.cast(read(self._multipliers, None)[self._pattern_of[index]], rate.dtype)

    @property
    def learning_rate_multipliers(self) -> dict[str, float]:
        """The factor of each pattern, as it stands now."""
        if self._multipliers is None:
            return {}
        values = keras.ops.convert_to_numpy(self._multipliers)
        return {each.pattern: float(value) for each, value in zip(self._patterns, values, strict=True)}

    def set_multiplier(self, pattern: str, factor: float) -> None:
        """Give the variables of `pattern` another factor from the next step on, without a retrace.

        Raises:
            OptimizerError: a pattern that the optimizer was not made with, or a factor that is not finite and >= 0.
        """
        known = [each.pattern for each in self._patterns]
        if pattern not in known:
            raise OptimizerError(
                f"{type(self).__name__} was made with multipliers for {', '.join(map(repr, known)) or 'no pattern'}. "
                f"Received: {pattern!r}."
            )
        values = self.learning_rate_multipliers | {pattern: check_factor(factor, f"The multiplier of {pattern!r}")}
        self._multipliers.assign(list(values.values()))

    def check_multipliers(self, paths: Iterable[str]) -> None:
        """Make sure that each pattern matches a path; a schedule asks with all variables of the model.

        Raises:
            OptimizerError: a pattern that matches none, with the paths that exist.
        """
        paths = list(paths)
        for each in self._patterns:
            if not any(each.fullmatch(path) for path in paths):
                raise OptimizerError(
                    f"learning_rate_multipliers: no variable matches {each.pattern!r}. Variables: {', '.join(paths)}."
                )
        self._patterns_known = True

    def _warn_of_unmatched(self) -> None:
        """Not before the first step: a model is also built when it is loaded, with layers frozen that will join."""
        for place, each in enumerate(self._patterns):
            if place not in self._pattern_of and not self._patterns_known:
                self._warn_once(
                    f"learning_rate_multipliers: no variable that trains now matches {each.pattern!r}. "
                    f"Variables: {', '.join(self._paths)}."
                )

    def _first_pattern(self, path: str) -> int | None:
        return next((place for place, each in enumerate(self._patterns) if each.fullmatch(path)), None)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, EmbkerasWarning, stacklevel=2)

    def get_config(self) -> dict[str, Any]:
        """The settings, with the factors as they stand."""
        return {**super().get_config(), "learning_rate_multipliers": self.learning_rate_multipliers}


def path_of(variable: Any) -> str:
    """The path of a Keras variable, or the name of one of TensorFlow's ("table:0"), which has none."""
    return getattr(variable, "path", variable.name.removesuffix(":0"))


def native(variable: Any) -> Any:
    """The variable of TensorFlow behind one of Keras, or itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def local(variable: Any) -> Any:
    """This replica's part of a variable: under a distribution strategy the slots are containers."""
    variable = native(variable)
    return variable._get() if isinstance(variable, tf.distribute.DistributedValues) else variable


def read(variable: Any, rows: Any) -> Any:
    """The whole variable, or these rows of it."""
    return tf.convert_to_tensor(local(variable)) if rows is None else local(variable).sparse_read(rows)


def check_factor(value: Any, what: str) -> float:
    """The value as a float, if it is finite and not negative.

    Raises:
        OptimizerError: it is not.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise OptimizerError(f"{what} must be a finite number >= 0. Received: {value!r}.")
    return float(value)


def _factors(factors: Any) -> dict[Any, Any]:
    if factors is not None and not isinstance(factors, Mapping):
        raise OptimizerError(f"{_RULE} Received: {factors!r}.")
    return dict(factors or {})


def _pattern(pattern: Any) -> str:
    if not isinstance(pattern, str):  # a compiled one would lose its flags in the config
        raise OptimizerError(f"{_RULE} Received: {pattern!r}.")
    try:
        re.compile(pattern)
    except re.error as error:
        raise OptimizerError(f"{_RULE} Received: {pattern!r} ({error}).") from error
    return pattern
