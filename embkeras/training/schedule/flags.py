"""Which layers train in a phase: the flags that its words ask for, and how they are written.

Keras keeps one flag a layer, and setting it sets that of every layer inside. What the author of a model froze inside a
layer would so be lost when a schedule freezes and thaws that layer. The author's flags are therefore noted before the
first one is written, and each layer's flag is worked out by itself.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import keras

from embkeras.errors import ScheduleError
from embkeras.tables.addresses import LayerRef, match_layers, own_weights, walk
from embkeras.training.schedule.phases import Phase

# layer -> (what its author had set, what a schedule wrote last). It outlives a schedule, so that another one for the
# same model does not take what the first one froze for the author's wish.
_NOTED: WeakKeyDictionary = WeakKeyDictionary()
# model -> its own weights outside every layer (of subclassed models), each with what its author had set
_OWN: WeakKeyDictionary = WeakKeyDictionary()


class Flags:
    """The trainable flags of one model under the phases of one schedule."""

    def __init__(self, model: keras.Model, phases: Sequence[Phase], also: Sequence[LayerRef]):
        self.model, self.phases = model, phases
        freezable = [ref for phase in phases for ref in phase.freeze] + list(also)
        # Named by `freeze` or `also`, a layer is meant to train where it is not frozen.
        self.claimed = match_layers(model, freezable)
        self.governed = match_layers(model, [ref for phase in phases for ref in phase.named] + list(also))
        self._only = any(phase.train is not None for phase in phases)
        self.note()

    def note(self) -> None:
        """Take what stands now, where no schedule wrote it, for what the author set."""
        self._tree = list(_with_ancestors(self.model))
        for place in self._tree:
            _note(place.layer)
        own = _OWN.setdefault(self.model, {})
        for weight in own_weights(self.model):
            own.setdefault(id(weight), (weight, weight.trainable))

    def apply(self, phase: Phase) -> None:
        """Set the flags of every layer for `phase`.

        Raises:
            ScheduleError: a layer that should train now does not.
        """
        self.note()
        self._write(self._wanted(phase))
        if self._only:
            for weight, flag in _OWN[self.model].values():
                weight.trainable = flag and phase.train is None
        self._check(phase)

    def try_all(self) -> None:
        """Set the flags of every phase, so that what cannot be done is refused, and put them back."""
        before = {id(place.layer): place.layer.trainable for place in self._tree}
        own = [(weight, weight.trainable) for weight, _ in _OWN[self.model].values()]
        try:
            for phase in self.phases:
                self.apply(phase)
        finally:
            self._write(before)
            for weight, flag in own:
                weight.trainable = flag

    def describe(self, phase: Phase) -> str:
        """What stands and what trains now, in words."""
        still = [layer.name for layer in self.governed if not layer.trainable]
        if phase.train is not None:
            still = ["everything else"]
        moving = [layer.name for layer in self.governed if layer.trainable]
        parts = [
            f"{what}: {', '.join(dict.fromkeys(names))}"
            for what, names in (("frozen", still), ("unfrozen", moving))
            if names
        ]
        if self.model.built:
            parts.append(f"{trainable_parameters(self.model):,} trainable parameters")
        return "; ".join(parts)

    def _wanted(self, phase: Phase) -> dict[int, bool]:
        """The flag of each layer that the phase has a say in, by the layer's id."""
        governed = {id(layer) for layer in self.governed}
        if phase.train is None:
            frozen, training = _ids(match_layers(self.model, phase.freeze)), governed
        else:
            frozen, training = set(), _ids(match_layers(self.model, phase.train))
        flags: dict[int, list[bool]] = {}
        for place in self._tree:
            flag = self._flag_of(place, frozen, training, governed)
            if flag is None and self._only:
                flag = phase.train is None and _author(place.layer)
            if flag is not None:
                flags.setdefault(id(place.layer), []).append(flag)
        # A layer that several layers hold: one that freezes it is enough, and so is one that is to train.
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
        # Inside a layer that its author had frozen, what was frozen one by one is not known: it goes with its parent.
        held = _author(inside[-1]) and not _author(place.layer)
        return not held or id(place.layer) in governed

    def _write(self, wanted: dict[int, bool]) -> None:
        """Parents before children, and again until all is right: setting a flag sets those of all layers inside."""
        layers = [place.layer for place in self._tree if id(place.layer) in wanted]
        for _ in layers:  # as many rounds as could be needed; the second is nearly always the last
            wrong = [layer for layer in layers if layer.trainable != wanted[id(layer)]]
            if not wrong:
                break
            for layer in layers:
                if layer.trainable != wanted[id(layer)]:
                    layer.trainable = wanted[id(layer)]
        for place in self._tree:
            _NOTED[place.layer] = (_author(place.layer), place.layer.trainable)

    def _check(self, phase: Phase) -> None:
        claimed = self.claimed if phase.train is None else match_layers(self.model, phase.train)
        training = {id(variable) for variable in self.model.trainable_variables}
        for layer in claimed:
            variables = layer.trainable_variables
            if not layer.built or self._is_meant_to_stand(layer, phase):
                continue
            if not variables or not all(id(variable) in training for variable in variables):
                alone = layer.trainable and not variables
                reason = "it has no trainable variables" if alone else "a layer around it is frozen"
                raise ScheduleError(f"Layer {layer.name!r} cannot train from epoch {phase.start} on: {reason}.")

    def _is_meant_to_stand(self, layer: keras.layers.Layer, phase: Phase) -> bool:
        """Whether the phase freezes a layer by its name, or with the layer around it.

        Where an earlier phase froze both by name, and this one the outer alone, the inner was to thaw: it cannot.
        """
        frozen = _ids(match_layers(self.model, phase.freeze))
        if id(layer) in frozen:
            return True
        around = {id(each) for place in self._tree if place.layer is layer for each in place.ancestors}
        earlier = [_ids(match_layers(self.model, each.freeze)) for each in self.phases if each.start < phase.start]
        dropped = any(id(layer) in ids and around & ids for ids in earlier)
        return bool(around & frozen) and not dropped


@dataclass(frozen=True)
class _Place:
    """A layer at one place of the tree of layers, and the layers around it, outermost first."""

    layer: keras.layers.Layer
    ancestors: list[keras.layers.Layer] = field(default_factory=list)


def trainable_parameters(model: keras.Model) -> int:
    """How many numbers the optimizer moves."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def weights_that_may_move(model: keras.Model) -> list[keras.Variable]:
    """The model's weights, without those of layers whose flag says that they stand still.

    The statistics of a BatchNormalization that trains are among them, though no optimizer moves them.
    """
    still = {id(weight) for _, layer in walk(model) if not layer.trainable for weight in own_weights(layer)}
    return [weight for weight in model.weights if id(weight) not in still]


def _with_ancestors(model: keras.Model) -> Iterator[_Place]:
    around: dict[str, keras.layers.Layer] = {}
    for path, layer in walk(model):
        names = path.split("/")
        prefixes = ["/".join(names[:length]) for length in range(1, len(names))]
        yield _Place(layer, [around[prefix] for prefix in prefixes if prefix in around])
        around[path] = layer


def _note(layer: keras.layers.Layer) -> None:
    """Take the present flag for the author's, unless a schedule wrote it."""
    noted = _NOTED.get(layer)
    if noted is None or noted[1] != layer.trainable:
        _NOTED[layer] = (layer.trainable, layer.trainable)


def _author(layer: keras.layers.Layer) -> bool:
    return _NOTED[layer][0]


def _ids(layers: Sequence[keras.layers.Layer]) -> set[int]:
    return {id(layer) for layer in layers}
