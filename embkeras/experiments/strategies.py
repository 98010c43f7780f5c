"""Strategy: how to treat an embedding table or an encoder, as data."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from typing import Any

import keras
import numpy as np

from embkeras._checks import flag, number, one_of, sequence, shown, strings, whole_number
from embkeras.encoders.layers import PROMPTS
from embkeras.encoders.lora import enable_lora
from embkeras.encoders.low_rank import LowRankKernel
from embkeras.encoders.reading import PretrainedEncoder
from embkeras.errors import ArgumentError
from embkeras.tables.addresses import as_refs, match_layers, walk
from embkeras.tables.builders import ARCHITECTURES, build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.training.class_means import fit_class_means
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from embkeras.vectors.aligned import AlignedMatrix
from embkeras.vectors.postprocess import rescale

_VECTORS = ("pretrained", "random")
_FORMS = tuple(inspect.signature(build_embedding).parameters)[1:]


@dataclass(frozen=True, eq=False)
class Strategy:
    """One way to treat an embedding table or an encoder: what it starts from, its form, and when it trains.

    For a table, `build_model(strategy)` calls `strategy.build_embedding(aligned)`; for an encoder, it calls
    `strategy.apply(model)` before it compiles the model, and builds it on `strategy.encoder(read)` if there are prompts.

    A strategy can be pickled if its parts can. Two strategies are equal only if they are the same object.

    Args:
        name: what tables and messages call it.
        vectors: what the table starts from: "pretrained" vectors, "random" numbers as a control (drawn again for each
            seed as a Keras Embedding draws them), an AlignedMatrix, or a function from the aligned matrix to another.
        embedding: arguments of `build_embedding`, such as `{"trainable": "oov"}` or `{"stored": "int8"}`; several of
            them in a list are tables side by side (the channels of Kim 2014), of one layer "embedding".
        lora_rank: train a LoRA of this rank instead of the table, or of `lora_layers`.
        schedule: when layers train: phases, or callbacks such as `gradual_unfreeze(["embedding", "encoder"])`. Each
            run gets a copy.
        learning_rate: the optimizer's learning rate at the start, in place of the one that the model was compiled
            with; a schedule may change it later.
        epochs: of its training, in place of those of the comparison.
        optimizer: further settings of the optimizer, in place of those that the model was compiled with: `anchor_decay`,
            `max_drift` and `learning_rate_multipliers` of the row-wise ones, or any that its class takes.
        freeze: names, paths or globs of layers that `apply` freezes.
        lora_layers: names, paths or globs of layers to which `apply` adds LoRA; what `freeze` names stays frozen beside it.
        prompts: how many virtual tokens `encoder` puts in front of every text.
        fit: trains the model in place of `model.fit`, with the same arguments, such as `fit_class_means`.
        few_labels: whether it suits fewer than 50 labelled texts, since it trains little beside the pre-trained part: a race
            on so few recommends it before others that it ties with.

    Raises:
        ArgumentError: an empty name, unknown vectors, an argument that `build_embedding` does not have, a rank, epochs or
            prompts below 1, a `fit` that is no function, a rate that is not positive, settings of another kind,
            `lora_layers` without a rank, or a schedule of other things or already in use.

    Examples:
        >>> gradual = Strategy("gradual", schedule=[Phase(0, freeze="embedding"), Phase(2, rate_factor=0.5)])
        >>> small = Strategy("int8", embedding={"stored": "int8"})
        >>> low_rank = Strategy("LoRA", embedding={"trainable": True}, lora_rank=4)
        >>> channels = Strategy("two channels", embedding=[{}, {"trainable": True}])
        >>> upper = Strategy("upper half", freeze=["token_embedding", "transformer_layer_[0-2]"], learning_rate=2e-5)
        >>> [strategy.name for strategy in (gradual, small, low_rank, channels, upper)]
        ['gradual', 'int8', 'LoRA', 'two channels', 'upper half']
    """

    name: str
    vectors: str | AlignedMatrix | Callable[[AlignedMatrix], AlignedMatrix] = field(default="pretrained", repr=False)
    embedding: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=dict)
    lora_rank: int | None = None
    schedule: Any = ()
    learning_rate: float | None = None
    epochs: int | None = None
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    freeze: Sequence[str] = ()
    lora_layers: Sequence[str] = ()
    prompts: int | None = None
    fit: Callable[..., keras.callbacks.History] | None = None
    few_labels: bool = False

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
        object.__setattr__(self, "embedding", self._checked_embedding(where))
        if not isinstance(self.optimizer, Mapping) or not all(isinstance(key, str) for key in self.optimizer):
            raise ArgumentError(
                f"optimizer must map settings of the optimizer, such as 'anchor_decay', to values. "
                f"Received: {shown(self.optimizer)} {where}."
            )
        object.__setattr__(self, "optimizer", dict(self.optimizer))
        for name in ("freeze", "lora_layers"):
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(strings((given,) if isinstance(given, str) else given, name)))
        if self.lora_layers and self.lora_rank is None:
            raise ArgumentError(f"lora_layers needs lora_rank. Received: {shown(self.lora_layers)} {where}.")
        if self.fit is not None and not callable(self.fit):
            raise ArgumentError(f"fit must be a function such as fit_class_means. Received: {shown(self.fit)} {where}.")
        object.__setattr__(self, "few_labels", flag(self.few_labels, "few_labels"))
        for name in ("lora_rank", "epochs", "prompts"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(value, name, least=1, where=where))
        if self.learning_rate is not None:
            rate = number(self.learning_rate, "learning_rate", above=0, where=where)
            object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "schedule", self._checked_schedule(where))

    def _checked_embedding(self, where: str) -> dict[str, Any] | tuple[dict[str, Any], ...]:
        single = isinstance(self.embedding, Mapping)
        forms = (self.embedding,) if single else tuple(sequence(self.embedding, "embedding"))
        if not forms or not all(isinstance(form, Mapping) and set(form) <= set(_FORMS) for form in forms):
            raise ArgumentError(
                f"embedding must map arguments of build_embedding ({', '.join(_FORMS)}) to values, or be a list of such. "
                f"Received: {shown(self.embedding)} {where}."
            )
        if self.lora_rank is not None and not single and not self.lora_layers:
            raise ArgumentError(f"LoRA takes one table. Received: {len(forms)} of them {where}.")
        return dict(forms[0]) if single else tuple(dict(form) for form in forms)

    def _checked_schedule(self, where: str) -> tuple[Any, ...]:
        single = isinstance(self.schedule, Phase | keras.callbacks.Callback) or not isinstance(self.schedule, Iterable)
        single = single or getattr(self.schedule, "ndim", 1) == 0  # an array without axes is Iterable, and refuses
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

        Returns:
            A layer from integer ids of any shape to vectors.

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
        if not isinstance(self.embedding, Mapping):
            names = [{"name": f"channel_{place}"} for place in range(len(self.embedding))]
            tables = [
                build_embedding(aligned, **{**name, **form}) for name, form in zip(names, self.embedding, strict=True)
            ]
            return combine_embeddings(tables)
        layer = build_embedding(aligned, **self.embedding)
        if self.lora_rank is not None and not self.lora_layers:
            layer.enable_lora(self.lora_rank)
        return layer

    def encoder(self, read: PretrainedEncoder, *, start: str | Sequence[str] | None = None) -> PretrainedEncoder:
        """The encoder on which `build_model` builds: with the prompts of this strategy, if it has any.

        Args:
            read: what `load_pretrained` returned.
            start: words that prompts begin as, such as the names of the classes; by default pieces drawn at random.

        Returns:
            `read` itself for a strategy without prompts, else a new object.

        Raises:
            ArgumentError: from `with_prompts`, for prompts that leave no room for a text, or unknown words.
        """
        return read if self.prompts is None else read.with_prompts(self.prompts, start=start)

    def apply(self, model: keras.Model) -> keras.Model:
        """Freeze the layers of `freeze`, and add LoRA to those of `lora_layers`; call it before `compile`.

        Args:
            model: not compiled yet.

        Returns:
            The same model.

        Raises:
            ArgumentError: from `enable_lora`.
            UnknownLayerError: a layer that the model doesn't have.

        Examples:
            >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2)])
            >>> len(Strategy("upper", freeze="a").apply(model).trainable_variables)
            2
        """
        for layer in match_layers(model, self.freeze):
            layer.trainable = False
        if self.lora_layers:
            enable_lora(model, int(self.lora_rank or 0), self.lora_layers)
        return model

    def check(self, model: keras.Model) -> None:
        """Refuse a model that lacks what this strategy changes: frozen layers, LoRA, or prompts.

        Args:
            model: what `build_model` returned.

        Raises:
            ArgumentError: a layer of `freeze` trains, one of `lora_layers` has no LoRA, or there are no prompts.
            UnknownLayerError: a layer that the model doesn't have.
        """
        if self.prompts is not None and not any(layer.name == PROMPTS for layer in model.layers):
            raise ArgumentError(
                f"Strategy {self.name!r} has prompts: build_model must build on strategy.encoder(read). "
                f"Received: a model without a layer {PROMPTS!r}."
            )
        frozen = match_layers(model, self.freeze)
        inside = {id(each): each for layer in frozen for each in (layer, *(inner for _, inner in walk(layer)))}
        trains = [each.name for each in inside.values() if each.trainable_weights and not has_lora(each)]
        lacking = [
            layer.name
            for layer in match_layers(model, self.lora_layers)
            if not any(has_lora(each) for each in (layer, *(inner for _, inner in walk(layer))))
        ]
        wrong = ([] if self.lora_layers else trains) or lacking
        if wrong:
            what = "has no LoRA" if self.lora_layers else "trains"
            raise ArgumentError(
                f"Strategy {self.name!r} changes layers of the model: build_model must call strategy.apply(model) before "
                f"model.compile(...). Received: a model whose layer {wrong[0]!r} {what}."
            )

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """New callbacks for one run."""
        if self.schedule and isinstance(self.schedule[0], Phase):
            return [TrainabilitySchedule(self.schedule)]
        return copy.deepcopy(list(self.schedule))


def has_lora(layer: keras.layers.Layer) -> bool:
    """Whether a layer itself has LoRA."""
    return isinstance(layer, LowRankKernel) or (isinstance(layer, PretrainedEmbedding) and layer.lora_enabled)


SETS = {
    "small": ("frozen", "fine-tuned", "shared map"),
    "default": ("phased", "frozen", "fine-tuned", "shared map", "random"),
}
_INSTEAD = {"lstm": {"shared map": "phased"}}  # what the small set has in place of what suits other layers


def default_strategies(
    unfreeze_epoch: int = 3,
    learning_rate: float | None = None,
    *,
    layer: str = "embedding",
    std: float = 0.1,
    which: str = "default",
    architecture: str | None = None,
) -> dict[str, Strategy]:
    """Ways to treat an embedding table, by name.

    - "phased": frozen, then trained from an epoch on; "frozen"; "fine-tuned" from the start
    - "shared map": the entries of the vectors are brought to a small standard deviation with one factor, and a map that all
      rows share and each row train from the start (`build_embedding(trainable="map+rows")`): `benchmarks/results/recipe.md`
      shows where it leads; "map": the map alone
    - "random": random vectors, trained from the start, as the control
    - "small rate": fine-tuned with a tenth of the learning rate; "anchored": fine-tuned, and pulled back to where it
      started; "oov rows": only the rows of words missing from the vectors train
    - "two channels": a frozen and a fine-tuned table side by side; "LoRA" of rank 4

    "small rate" and "anchored" need a model that is compiled with a row-wise optimizer.

    Args:
        unfreeze_epoch: the epoch, counted from 0, from which on the phased table trains.
        learning_rate: of all variables from that epoch on; by default it stays as it was.
        layer: name or path of the embedding layer.
        std: the standard deviation of the entries for the maps.
        which: "small" has frozen, fine-tuned and shared map; "default" the phased one and the control besides; "all" all.
        architecture: of the layers on the table, as `build_classifier` has it: with "lstm" the small set has the phased
            table in place of the shared map, which `benchmarks/results/recipe.md` shows to help with the others.

    Raises:
        ArgumentError: an unknown set or architecture.
        ScheduleError: an epoch that is not an integer >= 0, or a rate that is not positive.

    Examples:
        >>> list(default_strategies(which="small"))
        ['frozen', 'fine-tuned', 'shared map']
    """
    one_of(which, "which", (*SETS, "all"))
    trainable = {"trainable": True}
    small = {ref if isinstance(ref, str) else ref.name: 0.1 for ref in as_refs(layer, "layer", ArgumentError)}
    rescaled = methodcaller("transformed", partial(rescale, std=std))
    strategies = (
        Strategy("phased", schedule=unfreeze_at(unfreeze_epoch, layer, learning_rate=learning_rate)),
        Strategy("frozen", few_labels=True),
        Strategy("fine-tuned", embedding=trainable),
        Strategy("shared map", vectors=rescaled, embedding={"trainable": "map+rows"}),
        Strategy("random", vectors="random", embedding=trainable),
        Strategy("small rate", embedding=trainable, optimizer={"learning_rate_multipliers": small}),
        Strategy("anchored", embedding=trainable, optimizer={"anchor_decay": 0.01}),
        Strategy("oov rows", embedding={"trainable": "oov"}),
        Strategy("map", vectors=rescaled, embedding={"trainable": "map"}),
        Strategy("two channels", embedding=({}, trainable)),
        Strategy("LoRA", embedding=trainable, lora_rank=4),
    )
    chosen = list(SETS.get(which, [strategy.name for strategy in strategies]))
    if architecture is not None and which == "small":
        instead = _INSTEAD.get(one_of(architecture, "architecture", ARCHITECTURES), {})
        chosen = [instead.get(name, name) for name in chosen]
    return {strategy.name: strategy for strategy in strategies if strategy.name in chosen}


ENCODER_SETS = {
    "few": ("class means", "frozen", "prompts"),
    "default": ("frozen", "top block", "LoRA", "fine-tuned"),
}


def encoder_strategies(
    layer_groups: Sequence[Sequence[str]], *, top: int = 1, rank: int = 8, prompts: int = 8, which: str = "default"
) -> dict[str, Strategy]:
    """Ways to treat a contextual encoder, by name.

    - "frozen": the head alone trains; "top block": the last block too; "LoRA" in the upper half of the blocks, whose norms
      train with it; "fine-tuned": everything
    - for fewer than 50 labelled texts: "class means", the nearest mean wins (`fit_class_means`), and "prompts", virtual
      tokens in front of every text, which train with the head (Lester et al. 2021)

    `build_model(strategy)` builds on `strategy.encoder(read)`, and calls `strategy.apply(model)` before it compiles the
    model. Each has epochs and a learning rate of its own; `dataclasses.replace(strategy, epochs=2, learning_rate=None)`
    changes them, here so that the rate is the one that the model was compiled with, such as a `LinearDecay`.

    Args:
        layer_groups: names of the encoder's layers from the input up: the embeddings, then each block, as
            `load_pretrained(folder).layer_groups` has them.
        top: how many blocks train in "top block".
        rank: of the LoRA.
        prompts: how many virtual tokens.
        which: "few" has those for few labels, "default" the first four, "all" all.

    Raises:
        ArgumentError: no blocks, an unknown set, or a number out of range.

    Examples:
        >>> groups = [["token_embedding"], ["transformer_layer_0"], ["transformer_layer_1"]]
        >>> encoder_strategies(groups)["top block"].freeze
        ('token_embedding', 'transformer_layer_0')
        >>> list(encoder_strategies(groups, which="few"))
        ['class means', 'frozen', 'prompts']
    """
    one_of(which, "which", (*ENCODER_SETS, "all"))
    groups = [strings(group, "layer_groups") for group in sequence(layer_groups, "layer_groups")]
    if len(groups) < 2:
        raise ArgumentError(f"layer_groups must name the embeddings and at least one block. Received: {shown(groups)}.")
    top = whole_number(top, "top", least=1, most=len(groups) - 1)
    half = len(groups) - max(1, (len(groups) - 1) // 2)

    def names(part: Sequence[Sequence[str]]) -> list[str]:
        return [name for group in part for name in group]

    every = names(groups)
    strategies = (
        Strategy("class means", freeze=every, fit=fit_class_means, epochs=1, few_labels=True),
        Strategy("frozen", freeze=every, epochs=30, learning_rate=3e-3, few_labels=True),
        Strategy("prompts", freeze=every, prompts=prompts, epochs=10, learning_rate=1e-2, few_labels=True),
        Strategy("top block", freeze=names(groups[: len(groups) - top]), epochs=4, learning_rate=1e-4),
        Strategy(
            "LoRA",
            freeze=names(groups[:half]),
            lora_layers=names(groups[half:]),
            lora_rank=rank,
            epochs=4,
            learning_rate=1e-3,
        ),
        Strategy("fine-tuned", epochs=3, learning_rate=1e-4),
    )
    chosen = ENCODER_SETS.get(which, [strategy.name for strategy in strategies])
    return {strategy.name: strategy for strategy in strategies if strategy.name in chosen}
