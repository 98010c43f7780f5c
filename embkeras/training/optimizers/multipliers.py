"""RateMultipliers: factors of the learning rate for single layers or variables, by their addresses.

Scaling gradients does nothing under Adam, so the factor scales the update, and the decay with it.

An optimizer gets variables without their model, and `variable.path` is the same in two towers that each have a layer
`embedding`. So addresses are looked up among the layer paths of the model: `build` finds the model that is calling, and
schedules pass theirs to `set_model`. Without a model (in a custom loop), addresses are matched with `variable.path`.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from embkeras._checks import number, shown
from embkeras.errors import EmbkerasWarning, OptimizerError, UnknownLayerError
from embkeras.keras_compat.optimizers import StepHooks, key_of, model_of, trained_variables
from embkeras.keras_compat.variables import local
from embkeras.tables.addresses import match_variables, path_matches
from embkeras.training.rebuild import is_built


class RateMultipliers(StepHooks):
    """Base of optimizers that multiply the learning rate of some variables by a factor."""

    def __init__(self, *args: Any, learning_rate_multipliers: Mapping[str, float] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        factors = _checked(learning_rate_multipliers)
        self._addresses = tuple(factors)
        # One variable for all factors: they change between epochs without a retrace, and are saved with the model.
        self._multipliers: Any = None
        if factors:
            self._multipliers = self.add_variable(
                (len(factors),),
                initializer=lambda shape, dtype: tf.constant(list(factors.values()), dtype),
                name="multipliers",
            )
        self._address_of: dict[str, int | None] = {}  # place of the address, by variable of a known model
        self._paths: list[str] = []  # of the variables, from build() on
        self._matched: set[int] = set()  # places of addresses that match something
        self._warned: set[str] = set()

    def set_model(self, model: keras.Model) -> None:
        """Look the addresses up among the layer paths of a model.

        Raises:
            OptimizerError: an address matches no layer or variable of the model, or a bare name matches several layers.
                A model with layers that are not built yet is not checked.
        """
        if not self._addresses:
            return
        places: dict[str, int | None] = {key_of(self, variable): None for variable in model.weights}
        for place, address in enumerate(self._addresses):
            problem, found = "The layer has no weights.", []
            try:
                found = match_variables(model, address)
            except UnknownLayerError as error:
                problem = str(error)
            if found:
                self._matched.add(place)
            elif is_built(model):
                raise OptimizerError(
                    f"learning_rate_multipliers can't use {address!r}. {problem} An address is the path of a layer "
                    f'("q/embedding"), a glob ("encoder/**") or the path of a variable ("**/bias").'
                )
            for _, variable in found:
                key = key_of(self, variable)
                if places.get(key) is None:  # the first address that matches counts
                    places[key] = place
        self._address_of = {**self._address_of, **places}
        if self.built:
            self._find_places(trained_variables(self))

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots of `variables`, and find the multiplier of each."""
        model = model_of(self)
        if model is not None:
            self.set_model(model)
        super().build(variables)
        self._find_places(variables)

    def _find_places(self, variables: Sequence[keras.Variable]) -> None:
        """Find the address of each variable."""
        self._paths = [path_of(variable) for variable in variables]
        self._places = [self._place_of(variable) for variable in variables]
        self._matched.update(place for place in self._places if place is not None)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables by their gradients, as in Keras; warn once of addresses that match none of them."""
        super().apply(grads, trainable_variables)
        # Not in build(): without a model, layers that are frozen now and join later are unknown.
        for place, address in enumerate(self._addresses):
            if place not in self._matched:
                self._warn_once(
                    f"learning_rate_multipliers: {address!r} matches no variable that trains now. Variables: "
                    f"{', '.join(self._paths)}. To use layer paths, call set_model(model) before the first step."
                )

    @property
    def learning_rate_multipliers(self) -> dict[str, float]:
        """The current factor of each address."""
        if self._multipliers is None:
            return {}
        values = keras.ops.convert_to_numpy(self._multipliers)
        return {address: float(value) for address, value in zip(self._addresses, values, strict=True)}

    def set_multiplier(self, address: str, factor: float) -> None:
        """Change the factor of an address from the next step on, without a retrace.

        Raises:
            OptimizerError: an address that the optimizer was not created with, or a factor that is not finite and >= 0.
        """
        if address not in self._addresses:
            raise OptimizerError(
                f"{type(self).__name__} has multipliers for {', '.join(map(repr, self._addresses)) or 'no address'}. "
                f"Received: {shown(address)}. Create it with all addresses that will need one."
            )
        values = self.learning_rate_multipliers | _checked({address: factor})
        self._multipliers.assign(list(values.values()))

    def multiplier_of(self, variable: keras.Variable) -> float:
        """The current factor of a variable: 1.0 if no address matches it."""
        place = self._place_of(variable)
        return 1.0 if place is None else list(self.learning_rate_multipliers.values())[place]

    def get_config(self) -> dict[str, Any]:
        """The settings, with the current factors."""
        return {**super().get_config(), "learning_rate_multipliers": self.learning_rate_multipliers}

    def _multiplied(self, index: int, rate: Any) -> Any:
        """The rate of the variable with this index."""
        place = self._places[index]
        return rate if place is None else rate * tf.cast(local(self._multipliers)[place], rate.dtype)

    def _place_of(self, variable: Any) -> int | None:
        """The place of the first address that matches a variable: by `variable.path` if its model is unknown."""
        key, path = key_of(self, variable), path_of(variable)
        if key in self._address_of:
            return self._address_of[key]
        for place, address in enumerate(self._addresses):
            if path_matches(path, address):
                if self._paths.count(path) > 1:
                    raise OptimizerError(
                        f"learning_rate_multipliers: {address!r} matches {self._paths.count(path)} variables with the same "
                        f"path {path!r}. Call set_model(model) before the first step, and use its layer paths."
                    )
                return place
        return None

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, EmbkerasWarning, stacklevel=3)


def path_of(variable: Any) -> str:
    """The path of a Keras variable, or the name of a TensorFlow variable without ":0"."""
    return getattr(variable, "path", variable.name.removesuffix(":0"))


def _checked(factors: Any) -> dict[str, float]:
    """The factors by address.

    Raises:
        OptimizerError: not a mapping from strings to finite numbers >= 0.
    """
    if factors is None:
        return {}
    if not isinstance(factors, Mapping) or not all(isinstance(address, str) and address for address in factors):
        raise OptimizerError(
            f'learning_rate_multipliers must map addresses to factors, such as {{"q/embedding": 0.1}}. '
            f"Received: {shown(factors)}."
        )
    return {
        address: number(factor, f"The multiplier of {address!r}", least=0, error=OptimizerError)
        for address, factor in factors.items()
    }
