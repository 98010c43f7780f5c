"""Which layers and variables train in a phase, and how Keras' flags are set for it.

Keras keeps one flag a layer, and setting it sets that of every layer inside. A schedule that froze and unfroze a layer
would so lose what the user froze inside it. The user's flags are therefore noted before the first one is written, and
each layer's flag is worked out by itself.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import keras

from embkeras.errors import ScheduleError
from embkeras.keras_compat.layers import may_train
from embkeras.tables.addresses import LayerRef, match_layers, match_variables, own_weights, variables_named, walk
from embkeras.training.rebuild import is_built
from embkeras.training.schedule.phases import Phase


class _Noted(NamedTuple):
    """What is known of a layer's flag."""

    users: bool  # the user's flag
    written: bool  # the flag that a schedule wrote last
    starts_frozen: bool  # the user's flag is only where a layer from `build_embedding` starts


# It outlives a schedule, so that another one for the same model doesn't take what the first one froze for the user's wish.
_NOTED: WeakKeyDictionary[keras.layers.Layer, _Noted] = WeakKeyDictionary()
# model -> its own weights outside every layer (of subclassed models), each with the user's flag
_OWN: WeakKeyDictionary[keras.Model, dict[int, tuple[keras.Variable, bool]]] = WeakKeyDictionary()
# layer -> its variables that Freeze or TrainVariables froze one by one
_HELD: WeakKeyDictionary[keras.layers.Layer, list[keras.Variable]] = WeakKeyDictionary()


class Flags:
    """The trainable flags of one model under the phases of one schedule."""

    def __init__(self, model: keras.Model, phases: Sequence[Phase], also: Sequence[LayerRef]):
        self.model, self.phases = model, phases
        freezable = [ref for phase in phases for ref in phase.freeze] + list(also)
        # Layers that `freeze` or `also` names must train in phases that don't freeze them.
        self.claimed = self._matched(freezable)
        self.governed = self._matched([ref for phase in phases for ref in phase.named] + list(also))
        self._only = any(phase.train is not None for phase in phases)
        self.note()

    def note(self) -> None:
        """Take each flag that no schedule wrote for the user's."""
        self._tree = list(_with_ancestors(self.model))
        for place in self._tree:
            noted, flag = _NOTED.get(place.layer), place.layer.trainable
            if noted is None or noted.written != flag:
                starts_frozen = noted is None and getattr(place.layer, "starts_frozen", False)
                _NOTED[place.layer] = _Noted(flag, flag, starts_frozen)
        own = _OWN.setdefault(self.model, {})
        for weight in own_weights(self.model):
            own.setdefault(id(weight), (weight, weight.trainable))

    def apply(self, phase: Phase) -> None:
        """Set the flags of every layer for `phase`.

        Raises:
            ScheduleError: a layer or variable that should train now can't.
            UnknownLayerError: no variable has an address of the phase.
        """
        self.note()
        self._release()
        chosen = self._chosen(phase)
        wanted = self._wanted(phase)
        partial = {}  # layers of which only some variables train
        for place in self._tree if chosen else ():
            if not wanted.get(id(place.layer)) and any(id(w) in chosen for w in own_weights(place.layer)):
                partial[id(place.layer)] = place.layer
        self._write(wanted | dict.fromkeys(partial, True))
        for layer in partial.values():
            self._hold(layer, {id(w) for w in own_weights(layer)} - chosen)
        frozen = {id(variable) for variable in variables_named(self.model, phase.freeze).values()}
        for place in self._tree if frozen else ():
            self._hold(place.layer, frozen)
        if self._only:
            for key, (weight, flag) in _OWN[self.model].items():
                weight.trainable = flag and (phase.train is None or key in chosen)
        self._check(phase, chosen)

    def _matched(self, refs: Sequence[LayerRef]) -> list[keras.layers.Layer]:
        """The layers that are named; names of variables don't count."""
        variables = variables_named(self.model, refs)
        return match_layers(self.model, [ref for ref in refs if ref not in variables])

    def _hold(self, layer: keras.layers.Layer, variables: set[int]) -> None:
        """Freeze some of a layer's variables, by their ids."""
        held = [weight for weight in own_weights(layer) if weight.trainable and id(weight) in variables]
        if held:
            _HELD.setdefault(layer, []).extend(held)
        for weight in held:
            weight.trainable = False

    def try_all(self) -> None:
        """Set the flags of every phase and check its actions, so that what can't be done is refused; put the flags back."""
        before = {id(place.layer): place.layer.trainable for place in self._tree}
        own = [(weight, weight.trainable) for weight, _ in _OWN[self.model].values()]
        try:
            for phase in self.phases:
                self.apply(phase)
                for action in phase.actions:
                    action.check(self.model, phase.start)
        finally:
            self._release()
            self._write(before)
            for weight, flag in own:
                weight.trainable = flag

    def describe(self, phase: Phase) -> str:
        """What is frozen and what trains now, in words."""
        frozen = [layer.name for layer in self.governed if not layer.trainable]
        frozen += [str(ref) for ref in variables_named(self.model, phase.freeze)]
        if phase.train is not None:
            frozen = ["everything else"]
        partial = set(_HELD) if phase.train is not None else set()  # named by their parts
        training = [layer.name for layer in self.governed if layer.trainable and layer not in partial]
        training += [str(ref) for ref in variables_named(self.model, phase.train or ())]
        lists = [
            f"{what}: {', '.join(dict.fromkeys(names))}"
            for what, names in (("frozen", frozen), ("unfrozen", training), ("still frozen", self._frozen_inside()))
            if names
        ]
        lists += [text for action in phase.actions if (text := action.describe())]
        if self.model.built:
            lists.append(f"{trainable_parameters(self.model):,} trainable parameters")
        return "; ".join(lists)

    def _frozen_inside(self) -> list[str]:
        """Paths of layers whose own weights all stay frozen inside a governed layer that trains."""
        training, paths = {id(layer) for layer in self.governed if layer.trainable}, []
        for place in self._tree:
            if not training.isdisjoint(id(layer) for layer in place.ancestors):
                weights = own_weights(place.layer)
                if weights and not (place.layer.trainable and any(weight.trainable for weight in weights)):
                    paths.append(place.path)
        return paths

    def _chosen(self, phase: Phase) -> set[int]:
        """Ids of the variables that TrainVariables names."""
        if phase.train_variables and not is_built(self.model):
            raise ScheduleError(
                f"TrainVariables needs the variables of model {self.model.name!r}, which is not built yet: give it an "
                f"Input, or call it once before fit. Received: {', '.join(phase.train_variables)}."
            )
        found = [match_variables(self.model, address) for address in phase.train_variables]
        named = variables_named(self.model, phase.train or ()).values()
        return {id(variable) for pairs in found for _, variable in pairs} | {id(variable) for variable in named}

    def _release(self) -> None:
        """Give variables that were frozen one by one the flag of their layer again."""
        for place in self._tree:
            for weight in _HELD.pop(place.layer, ()):
                weight.trainable = place.layer.trainable and may_train(place.layer, weight)  # LoRA came in between

    def _wanted(self, phase: Phase) -> dict[int, bool]:
        """The flag of each layer that the phase decides about, by the layer's id."""
        governed = {id(layer) for layer in self.governed}
        if phase.train is None:
            frozen, training = _ids(self._matched(phase.freeze)), governed
        else:
            frozen, training = set(), _ids(self._matched(phase.train))
        flags: dict[int, list[bool]] = {}
        for place in self._tree:
            flag = self._flag_of(place, frozen, training, governed)
            if flag is None and self._only:
                flag = phase.train is None and _users_flag(place.layer)
            if flag is not None:
                flags.setdefault(id(place.layer), []).append(flag)
        # A layer inside several layers: one that freezes it is enough, and so is one that trains it.
        among = all if phase.train is None else any
        return {key: among(each) for key, each in flags.items()}

    def _flag_of(self, place: "_Place", frozen: set[int], training: set[int], governed: set[int]) -> bool | None:
        around = [id(layer) for layer in place.ancestors]
        if id(place.layer) in frozen or frozen.intersection(around):
            return False
        if id(place.layer) in training:
            return True
        inside = [layer for layer in place.ancestors if id(layer) in training]
        if not inside:
            return None
        # Inside a layer that the user froze as a whole, nobody knows what was frozen by itself: it follows its parent. So
        # does a table that its builder froze.
        frozen_alone = _users_flag(inside[-1]) and not _users_flag(place.layer)
        kept_frozen = frozen_alone and not _NOTED[place.layer].starts_frozen
        return not kept_frozen or id(place.layer) in governed

    def _write(self, wanted: dict[int, bool]) -> None:
        """Parents before children, and repeatedly: setting a flag sets those of all layers inside."""
        layers = [place.layer for place in self._tree if id(place.layer) in wanted]
        for _ in layers:  # the most rounds that could be needed; nearly always two are enough
            wrong = [layer for layer in layers if layer.trainable != wanted[id(layer)]]
            if not wrong:
                break
            for layer in wrong:
                layer.trainable = wanted[id(layer)]
        for place in self._tree:
            _NOTED[place.layer] = _NOTED[place.layer]._replace(written=place.layer.trainable)

    def _check(self, phase: Phase, chosen: set[int]) -> None:
        claimed = self.claimed if phase.train is None else self._matched(phase.train)
        training = {id(variable) for variable in self.model.trainable_variables}
        for layer in claimed:
            variables = layer.trainable_variables
            if not layer.built or self._is_frozen_on_purpose(layer, phase):
                continue
            if not variables or not all(id(variable) in training for variable in variables):
                empty = layer.trainable and not variables
                reason = "it has no trainable variables" if empty else "a layer around it is frozen"
                raise ScheduleError(f"Layer {layer.name!r} can't train from epoch {phase.start} on: {reason}.")
        named = variables_named(self.model, phase.train or ())
        if chosen and not chosen & training:
            every = ", ".join(map(str, (*phase.train_variables, *named)))
            raise ScheduleError(
                f"None of the variables {every} can train from epoch {phase.start} on: they are not trainable weights, "
                f"or the model is frozen as a whole."
            )

    def _is_frozen_on_purpose(self, layer: keras.layers.Layer, phase: Phase) -> bool:
        """Whether the phase freezes a layer by its name, or with the layer around it.

        If an earlier phase froze both by name, and this one only the outer, the inner was meant to train: it can't.
        """
        frozen = _ids(self._matched(phase.freeze))
        if id(layer) in frozen:
            return True
        around = {id(each) for place in self._tree if place.layer is layer for each in place.ancestors}
        earlier = [_ids(self._matched(each.freeze)) for each in self.phases if each.start < phase.start]
        dropped = any(id(layer) in ids and around & ids for ids in earlier)
        return bool(around & frozen) and not dropped


@dataclass(frozen=True)
class _Place:
    """A layer at one place of the tree of layers, and the layers around it, outermost first."""

    path: str
    layer: keras.layers.Layer
    ancestors: list[keras.layers.Layer]


def trainable_parameters(model: keras.Model) -> int:
    """How many numbers the optimizer updates."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def weights_that_may_move(model: keras.Model) -> dict[int, keras.Variable]:
    """The model's weights by their place among all of them, without those of frozen layers.

    The statistics of a BatchNormalization that trains are included, although no optimizer updates them.
    """
    frozen = {id(weight) for _, layer in walk(model) if not layer.trainable for weight in own_weights(layer)}
    return {place: weight for place, weight in enumerate(model.weights) if id(weight) not in frozen}


def _with_ancestors(model: keras.Model) -> Iterator[_Place]:
    around: dict[str, keras.layers.Layer] = {}
    for path, layer in walk(model):
        names = path.split("/")
        prefixes = ["/".join(names[:length]) for length in range(1, len(names))]
        yield _Place(path, layer, [around[prefix] for prefix in prefixes if prefix in around])
        around[path] = layer


def _users_flag(layer: keras.layers.Layer) -> bool:
    return _NOTED[layer].users


def _ids(layers: Sequence[keras.layers.Layer]) -> set[int]:
    return {id(layer) for layer in layers}
