"""Strategy: how to treat an embedding table, as data."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from typing import Any

import keras
import numpy as np

from embkeras._checks import number, shown, whole_number
from embkeras.errors import ArgumentError
from embkeras.tables.builders import build_embedding
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from embkeras.vectors.aligned import AlignedMatrix
from embkeras.vectors.postprocess import rescale

_VECTORS = ("pretrained", "random")
_FORMS = tuple(inspect.signature(build_embedding).parameters)[1:]


@dataclass(frozen=True, eq=False)
class Strategy:
    """One way to treat an embedding table: what it starts from, its layer, and when it trains.

    A strategy can be pickled if its parts can. Two strategies are equal only if they are the same object.

    Args:
        name: what tables and messages call it.
        vectors: what the table starts from: "pretrained" vectors, "random" numbers as a control (drawn again for each
            seed as a Keras Embedding draws them), an AlignedMatrix, or a function from the aligned matrix to another.
        embedding: arguments of `build_embedding`, such as `{"trainable": "oov"}` or `{"stored": "int8"}`.
        lora_rank: train a LoRA of this rank instead of the table.
        schedule: when layers train: phases, or callbacks such as `gradual_unfreeze(["embedding", "encoder"])`. Each
            run gets a copy.
        learning_rate: the optimizer's learning rate at the start, in place of the one that the model was compiled
            with; a schedule may change it later.
        epochs: of its training, in place of those of the comparison.

    Raises:
        ArgumentError: an empty name, unknown vectors, an argument that `build_embedding` does not have, a rank or
            epochs below 1, a rate that is not positive, or a schedule of other things or already in use.

    Example:
        >>> gradual = Strategy("gradual", schedule=[Phase(0, freeze="embedding"), Phase(2, rate_factor=0.5)])
        >>> small = Strategy("int8", embedding={"stored": "int8"})
        >>> low_rank = Strategy("LoRA", embedding={"trainable": True}, lora_rank=4)
        >>> [strategy.name for strategy in (gradual, small, low_rank)]
        ['gradual', 'int8', 'LoRA']
    """

    name: str
    vectors: str | AlignedMatrix | Callable[[AlignedMatrix], AlignedMatrix] = field(default="pretrained", repr=False)
    embedding: Mapping[str, Any] = field(default_factory=dict)
    lora_rank: int | None = None
    schedule: Any = ()
    learning_rate: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ArgumentError(f"A strategy needs a name. Received: {shown(self.name)}.")
        where = f"(strategy {self.name!r})"
        known = isinstance(self.vectors, str) and self.vectors in _VECTORS
        if not (known or callable(self.vectors) or isinstance(self.vectors, AlignedMatrix)):
            raise ArgumentError(
                f"vectors must be one of {', '.join(_VECTORS)}, an AlignedMatrix, or a function of one. "
                f"Received: {shown(self.vectors)} {where}."
            )
        if not isinstance(self.embedding, Mapping) or not set(self.embedding) <= set(_FORMS):
            raise ArgumentError(
                f"embedding must map arguments of build_embedding ({', '.join(_FORMS)}) to values. "
                f"Received: {shown(self.embedding)} {where}."
            )
        object.__setattr__(self, "embedding", dict(self.embedding))
        for name in ("lora_rank", "epochs"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(value, name, least=1, where=where))
        if self.learning_rate is not None:
            rate = number(self.learning_rate, "learning_rate", above=0, where=where)
            object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "schedule", self._checked_schedule(where))

    def _checked_schedule(self, where: str) -> tuple[Any, ...]:
        single = isinstance(self.schedule, Phase | keras.callbacks.Callback) or not isinstance(self.schedule, Iterable)
        parts = (self.schedule,) if single else tuple(self.schedule)
        kinds = (Phase, keras.callbacks.Callback)
        if not any(all(isinstance(part, kind) for part in parts) for kind in kinds):
            raise ArgumentError(f"schedule must be phases or callbacks. Received: {shown(self.schedule)} {where}.")
        used = [part for part in parts if getattr(part, "model", None) is not None]
        if used:
            raise ArgumentError(
                f"schedule needs callbacks that have not been used: make a new one for the strategy. "
                f"Received: a {type(used[0]).__name__} that belongs to model {used[0].model.name!r} {where}."
            )
        return parts

    def build_embedding(self, aligned: AlignedMatrix) -> keras.layers.Layer:
        """The embedding layer of this strategy; call it in `build_model`.

        Args:
            aligned: what `align` returned.

        Raises:
            ArgumentError: from `build_embedding` or `enable_lora`, for settings that contradict each other.
        """
        if isinstance(self.vectors, AlignedMatrix):
            aligned = self.vectors
        elif callable(self.vectors):
            aligned = self.vectors(aligned)
        elif self.vectors == "random":
            drawn = np.array(keras.initializers.RandomUniform()(aligned.values.shape), np.float32)
            aligned = AlignedMatrix(drawn, aligned.vocabulary, aligned.found, aligned.how)
        layer = build_embedding(aligned, **self.embedding)
        if self.lora_rank is not None:
            layer.enable_lora(self.lora_rank)
        return layer

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """New callbacks for one run."""
        if self.schedule and isinstance(self.schedule[0], Phase):
            return [TrainabilitySchedule(self.schedule)]
        return copy.deepcopy(list(self.schedule))


def default_strategies(
    unfreeze_epoch: int = 3, learning_rate: float | None = None, *, layer: str = "embedding", std: float = 0.1
) -> dict[str, Strategy]:
    """Phased, frozen, fine-tuned from the start, a shared map, and random vectors as the control, by name.

    "shared map" brings the entries of the vectors to a small standard deviation with one factor, and trains a map that all
    rows share and each row from the start (`build_embedding(trainable="map+rows")`): `benchmarks/results/recipe.md` shows
    where it leads.

    Args:
        unfreeze_epoch: the epoch, counted from 0, from which on the phased table trains.
        learning_rate: of all variables from that epoch on; by default it stays as it was.
        layer: name or path of the embedding layer.
        std: the standard deviation of the entries for the shared map.

    Raises:
        ScheduleError: an epoch that is not an integer >= 0, or a rate that is not positive.
    """
    trainable = {"trainable": True}
    rescaled = methodcaller("transformed", partial(rescale, std=std))
    strategies = (
        Strategy("phased", schedule=unfreeze_at(unfreeze_epoch, layer, learning_rate=learning_rate)),
        Strategy("frozen"),
        Strategy("fine-tuned", embedding=trainable),
        Strategy("shared map", vectors=rescaled, embedding={"trainable": "map+rows"}),
        Strategy("random", vectors="random", embedding=trainable),
    )
    return {strategy.name: strategy for strategy in strategies}
