"""Trainability on a schedule: the callback that begins the phases, unfreeze_at and gradual_unfreeze."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import pandas as pd

from embkeras._checks import number, whole_number
from embkeras.errors import EmbkerasWarning, ScheduleError
from embkeras.keras_compat.optimizers import parts
from embkeras.keras_compat.versions import check_versions
from embkeras.tables.addresses import LayerRef, as_refs
from embkeras.training.rebuild import (
    build_optimizer,
    introduce,
    knows_other_variables,
    other_optimizers,
    rebuild_training,
)
from embkeras.training.schedule.actions import Action, some_refs
from embkeras.training.schedule.flags import Flags, trainable_parameters
from embkeras.training.schedule.movement import Thawed
from embkeras.training.schedule.phases import Phase, check_epoch, check_phases, phase_at
from embkeras.training.schedule.progress import Monitor, Progress
from embkeras.training.schedule.rates import Rates, rate_or_none


class TrainabilitySchedule(keras.callbacks.Callback):
    """Freeze and unfreeze layers at chosen epochs, inside one `fit` call and under any Keras optimizer.

    Keras compiles the train step and builds the optimizer for the variables that are trainable when `fit` begins, so
    setting `layer.trainable` in a callback does nothing. This callback sets the flags and then rebuilds both; the
    optimizer state of all other variables, the step counter and a learning-rate schedule are kept. A frozen layer costs
    no gradient and no optimizer slots, and the callback nothing at all within an epoch.

    A phase begins at its `start`, or sooner, when the patience of the previous phase runs out: then the best weights of
    that phase are restored first. After the last phase's patience, training stops. A phase that ends otherwise leaves
    the weights as they are. Each epoch's logs get `phase`, counted from 1.

    A second `fit` starts the phases again. If its `initial_epoch` is where the last fit ended, it continues instead; any
    other `initial_epoch` begins with the phase of that epoch and the learning rate that an unbroken run has there.

    Adam and its relatives correct the bias of their moments by the global step, so the first updates of a variable that
    joins late are larger than the learning rate (about 5x): set a smaller rate from there on, or use `RowWiseAdam`.

    A model loaded from a file has the flags it was saved with: name with `also` what must train again later.

    Args:
        phases: in the order of their `start`.
        also: further layers that the schedule governs, so that they train in phases that don't freeze them.
        monitor: the value in the logs that patience looks at.
        mode: "min" or "max"; "auto" takes it from the compiled metric of that name, and a loss should fall.
        min_delta: a smaller change is no improvement.

    Attributes:
        history: DataFrame, one row for each phase that ran: `phase` (from 1), `first_epoch`, `last_epoch` (from 0),
            `trainable_parameters`, `learning_rate` (at its beginning; NaN if the optimizer has several), `best` (of the
            monitored value; NaN without patience) and `ended`: "patience", "next phase", "training ended", or "" while
            it runs.

    Raises:
        ScheduleError: phases that contradict each other; when training begins, an optimizer whose rate can't be set, a
            layer that would not train in a phase that unfreezes it, or a setting that Keras can't distribute; at the
            end of an epoch, logs without the monitored value.
        UnknownLayerError: when training begins, a name that the model doesn't have.
        OptimizerError: when training begins, a learning rate multiplier that no variable matches.

    Examples:
        >>> schedule = TrainabilitySchedule([Phase(0, freeze="embedding"), Phase(3, learning_rate=1e-4)])
        >>> [phase.start for phase in schedule.phases]
        [0, 3]
    """

    def __init__(
        self,
        phases: Sequence[Phase] | Phase,
        *,
        also: Sequence[LayerRef] | LayerRef = (),
        monitor: str = "val_loss",
        mode: str = "auto",
        min_delta: float = 0.0,
    ):
        super().__init__()
        self.phases = check_phases(phases)
        self.also = as_refs(also, "also")
        self.monitor = Monitor(monitor, mode, min_delta)
        self._for: Any = None
        self._optimizer: Any = None
        self._flags: Flags
        self._rates: Rates
        self._progress = Progress()
        self._begun: list[Action] = []
        self._thawed: Thawed | None = None
        self._fit_begins = self._restored = False

    @property
    def history(self) -> pd.DataFrame:
        """One row for each phase that ran."""
        return self._progress.table()

    def set_model(self, model: keras.Model) -> None:
        """Let the actions make room in the model, before another callback sees its variables."""
        check_versions()
        super().set_model(model)
        self._prepare(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse now what couldn't be done in a later epoch."""
        self._attach(self.model)
        self._flags.try_all()
        _check_distribution(self.model)
        _warn_of_unreached_phases(self.phases, self.params)
        _warn_of_other_rates(self.phases, self.model)
        self._fit_begins = True
        if self._progress.stopped:
            self._progress.reset_patience()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin the phase that `epoch` belongs to, if it has not begun."""
        begins = self._fit_begins
        restart = begins and not (self._restored or epoch == self._progress.next_epoch)
        self._fit_begins = self._restored = False
        if restart:
            self._progress = Progress()
        index = self._progress.phase_at(epoch, self.phases)
        if index is None:
            build_optimizer(self.model)
        elif begins or index != self._progress.phase:
            before = _variable_ids(self.model)
            self._begin(self.model, index, epoch, restart)
            self._thawed = Thawed(self._flags.governed, _variable_ids(self.model) - before)
            self._progress.check_weights(self.model)
            self._print(self._announcement(index, epoch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the number of the phase, counted from 1, into the logs, and end it if its patience has run out."""
        progress = self._progress
        self._warn_of_unmoved(epoch)
        progress.end_epoch(epoch, trainable_parameters(self.model))
        if any(phase.patience for phase in self.phases):
            self._watch(self.monitor.value(logs or {}, epoch, self.model), epoch)
        if logs is not None and progress.phase is not None:
            logs["phase"] = progress.phase + 1

    def on_train_end(self, logs: Any = None) -> None:
        """Note that the phase ended with the training."""
        if self._progress.stopped and any(part.use_ema for part in parts(self.model.optimizer)):
            self._progress.restore_best(self.model)  # Keras has written the moving averages over them
        self._progress.end("training ended")

    def apply(self, model: keras.Model, epoch: int) -> bool:
        """Set what `epoch` asks for on a compiled model, outside `fit` (custom loops, `train_on_batch`).

        Phases begin at their `start` here: patience is ignored.

        Args:
            model: the compiled model.
            epoch: the epoch that is to begin, counted from 0.

        Returns:
            Whether a custom loop must trace its own step again: the set of trainable variables changed, or the learning
            rate became a schedule or a number. The optimizer and the model's train step are rebuilt already.
        """
        before = _variable_ids(model)
        self._attach(model)
        index = phase_at(self.phases, check_epoch(epoch, "epoch"))
        if index is None:
            return before != _variable_ids(model)
        restart = self._progress.phase is not None and index < self._progress.phase
        if restart:
            self._progress = Progress()
        retraced = self._begin(model, index, epoch, restart)
        self._progress.end_epoch(epoch, trainable_parameters(model))
        return retraced or before != _variable_ids(model)

    def state(self) -> dict[str, Any]:
        """What a run needs to continue from the end of the last epoch: JSON values, and NumPy arrays at the top level.

        Take it after the schedule's own `on_epoch_end`. `stopped` says that patience has ended the training.
        """
        starts = [phase.start for phase in self.phases]
        seen = self._for is not None
        rates = {"rate_phase": self._rates.index, "applied": self._rates.applied} if seen else {}
        return {"starts": starts, **rates, **self._progress.state()}

    def restore(self, model: keras.Model, state: dict[str, Any]) -> None:
        """Continue from `state` in the fit that begins or has begun: flags, the optimizer's variables, the kind of rate.

        Assign the values of the model's and the optimizer's variables afterwards.

        Args:
            model: the compiled model.
            state: the `state` of a schedule with the same phases.

        Raises:
            ScheduleError: the state belongs to other phases.
        """
        starts = [phase.start for phase in self.phases]
        if state.get("starts") != starts:
            raise ScheduleError(
                f"The saved state belongs to a schedule whose phases start at {state.get('starts')}. Continue with the "
                f"same phases, or delete the state. Received: {starts}."
            )
        self._attach(model)
        self._progress = Progress.from_state(state)
        if self._progress.phase is not None:
            self._set_flags(model, self.phases[self._progress.phase])
        build_optimizer(model)
        if "applied" in state:
            self._rates.restore(state["rate_phase"], state["applied"])
        self._restored = True

    def _attach(self, model: keras.Model) -> None:
        """With a model or optimizer not seen before: find the layers, and start with the first phase."""
        if getattr(model, "optimizer", None) is None:
            raise ScheduleError(f"Model {model.name!r} has no optimizer: compile it before training.")
        self._prepare(model)
        if model is self._for and model.optimizer is self._optimizer:
            self._flags.note()
        else:
            self._flags, self._rates = Flags(model, self.phases, self.also), Rates(model, self.phases)
            self._for, self._optimizer = model, model.optimizer
            self._progress, self._begun = Progress(), []
        introduce(model)

    def _prepare(self, model: keras.Model) -> None:
        actions = [action for phase in self.phases for action in phase.actions]
        for kind in dict.fromkeys(type(action) for action in actions):
            kind.prepare([action for action in actions if type(action) is kind], model)

    def _begin(self, model: keras.Model, index: int, epoch: int, restart: bool) -> bool:
        """Begin a phase, or continue it in another fit; returns whether the train step must be traced again."""
        phase = self.phases[index]
        changed = self._set_flags(model, phase)
        build_optimizer(model)
        retraced = self._rates.begin(index, epoch, (self.params or {}).get("steps"), restart)
        self._begin_actions(model, index)
        self._progress.begin(index, epoch, trainable_parameters(model), rate_or_none(model.optimizer))
        return changed or retraced

    def _begin_actions(self, model: keras.Model, index: int) -> None:
        lasting = [action for phase in self.phases[:index] for action in phase.actions if action.lasts]
        current = [*lasting, *self.phases[index].actions]
        for action in self._begun:
            if not action.lasts and not any(action is each for each in current):
                action.undo(model)
        for action in current:
            action.begin(model)
        self._begun = current

    def _set_flags(self, model: keras.Model, phase: Phase) -> bool:
        before = _variable_ids(model)
        self._flags.apply(phase)
        changed = before != _variable_ids(model) or knows_other_variables(model)
        if changed:
            rebuild_training(model)
        return changed

    def _watch(self, value: float, epoch: int) -> None:
        """Count an epoch's value for patience, and end the phase when it has run out."""
        progress = self._progress
        patience = self.phases[progress.phase].patience if progress.phase is not None else None
        if progress.phase is None or patience is None:
            return
        progress.see(value, epoch, self.monitor, self.model)
        if progress.wait < patience:
            return
        last = progress.phase + 1 == len(self.phases)
        progress.run_out_of_patience(self.model, last=last)
        self._print(
            f"Phase {progress.phase + 1} of {len(self.phases)} ends with epoch {epoch}: "
            f"{progress.why_patience_ran_out(self.monitor)}"
        )
        if last:
            self.model.stop_training = True

    def _warn_of_unmoved(self, epoch: int) -> None:
        """Warn, at the end of the epoch in which layers were thawed, of those that the train step left out."""
        unmoved = self._thawed.unmoved(self.model.optimizer) if self._thawed else ()
        self._thawed = None
        for layer in unmoved:
            warnings.warn(
                f"Layer {layer.name!r} was unfrozen at epoch {epoch}, but none of its weights has changed since. Does a "
                f"train_step of your own keep a list of variables from before? Read self.trainable_variables in every "
                f"call, and don't wrap train_step in a tf.function of your own.",
                EmbkerasWarning,
                stacklevel=2,
            )

    def _print(self, line: str) -> None:
        if self.params.get("verbose"):
            print(line)

    def _announcement(self, index: int, epoch: int) -> str:
        rate = rate_or_none(self.model.optimizer)
        return (
            f"Phase {index + 1} of {len(self.phases)} begins (epoch {epoch}, counted from 0): "
            f"{self._flags.describe(self.phases[index])}" + (f"; learning rate {rate:.3g}" if rate is not None else "")
        )


def unfreeze_at(
    epoch: int, layers: LayerRef | Sequence[LayerRef], *, learning_rate: Any = None
) -> TrainabilitySchedule:
    """A schedule that keeps `layers` frozen before `epoch` and trains them from then on.

    Args:
        epoch: the first epoch, counted from 0, in which the layers train.
        layers: names, paths ("encoder/block_3"), globs ("block_*") or layers.
        learning_rate: the optimizer's learning rate, for all variables, from `epoch` on: a number, or a
            `LearningRateSchedule` that counts its steps from there.

    Returns:
        A callback for `fit`.

    Raises:
        ScheduleError: an epoch below 0, no layers, or a rate that is not positive.

    Examples:
        >>> len(unfreeze_at(3, "embedding", learning_rate=1e-4).phases)
        2
    """
    check_epoch(epoch, "epoch")
    refs = some_refs(layers, "unfreeze_at")
    frozen = [Phase(0, freeze=refs)] if epoch > 0 else []
    return TrainabilitySchedule([*frozen, Phase(epoch, learning_rate=learning_rate)], also=refs)


def gradual_unfreeze(
    layers: Sequence[LayerRef | Sequence[LayerRef]], *, start: int = 1, every: int = 1, decay: float = 2.6
) -> TrainabilitySchedule:
    """Unfreeze a model from the top down, one group of layers every few epochs, at falling learning rates.

    After ULMFiT (Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", arXiv:1801.06146,
    sections 3.2 and 3.3), which unfreezes the last layer first. There each lower layer trains at 1/2.6 of the rate of
    the one above it; here the rate of everything that trains falls by `decay` each time (for a rate of one layer alone,
    use a multiplier: `RowWiseAdam(learning_rate_multipliers=...)`).

    Args:
        layers: groups in the model's order, from the input to the output; each a name, path, glob or layer, or several
            of them. Layers in no group stay as they are.
        start: the epoch, counted from 0, in which the last group begins to train; before it, all groups are frozen.
        every: epochs between one group and the next.
        decay: divides the learning rate each time a group joins, except at epoch 0; 1 leaves the rate as it is.

    Returns:
        A callback for `fit`.

    Raises:
        ScheduleError: no groups or an empty one, a layer in two groups, a start below 0, `every` below 1, or a decay
            that is not positive.

    Examples:
        >>> [(phase.start, phase.freeze) for phase in gradual_unfreeze(["embedding", ["lstm", "norm"]], every=2).phases]
        [(0, ('embedding', 'lstm', 'norm')), (1, ('embedding',)), (3, ())]
    """
    single = isinstance(layers, str | keras.layers.Layer) or not isinstance(layers, Iterable)
    groups = [as_refs(group, "gradual_unfreeze") for group in ([layers] if single else layers)]
    refs = [ref for group in groups for ref in group]
    if not groups or not all(groups):
        raise ScheduleError(f"gradual_unfreeze needs groups of at least one layer. Received: {layers!r}.")
    if len(set(refs)) < len(refs):
        twice = next(ref for place, ref in enumerate(refs) if ref in refs[:place])
        raise ScheduleError(f"gradual_unfreeze takes each layer once, in one group. Received: {twice!r} twice.")
    check_epoch(start, "start")
    whole_number(every, "every", least=1, error=ScheduleError)
    number(decay, "decay", above=0, error=ScheduleError)
    phases = [Phase(0, freeze=refs)] if start > 0 else []
    for place in range(len(groups)):
        begin = start + place * every
        frozen = [ref for group in groups[: len(groups) - 1 - place] for ref in group]
        phases.append(Phase(begin, freeze=frozen, rate_factor=1 / decay if begin > 0 and decay != 1 else None))
    return TrainabilitySchedule(phases, also=refs)


def _variable_ids(model: keras.Model) -> set[int]:
    return {id(variable) for variable in model.trainable_variables}


def _check_distribution(model: keras.Model) -> None:
    """Refuse accumulated gradients on several replicas, where Keras' own train step fails.

    Batches that don't divide by the replicas can't be seen from here: Keras fails on the first one, and weighs the
    parts of a smaller last batch otherwise than a single replica does.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    for part in parts(model.optimizer) if replicas > 1 else ():
        if part.gradient_accumulation_steps:
            raise ScheduleError(
                f"Keras can't accumulate gradients on several replicas: its train step fails. Train without "
                f"accumulation, or on one replica. Received: {type(part).__name__}(gradient_accumulation_steps="
                f"{part.gradient_accumulation_steps}) on {replicas} replicas (model {model.name!r})."
            )


def _warn_of_unreached_phases(phases: Sequence[Phase], params: dict[str, Any]) -> None:
    """Warn of a phase that this fit can't reach, unless the patience of an earlier one may begin it sooner."""
    epochs = params.get("epochs")
    late = [index for index, phase in enumerate(phases) if epochs is not None and phase.start >= epochs]
    if late and not any(earlier.patience for earlier in phases[: late[0]]):
        warnings.warn(
            f"This fit ends before epoch {epochs} (epochs count from 0), so the phase that begins at epoch "
            f"{phases[late[0]].start} is not reached. Train longer, or continue with fit(initial_epoch={epochs}, ...).",
            EmbkerasWarning,
            stacklevel=3,
        )


def _warn_of_other_rates(phases: Sequence[Phase], model: keras.Model) -> None:
    """Warn of optimizers of a custom `train_step` whose learning rates no phase sets."""
    others = other_optimizers(model) if any(phase.rate for phase in phases) else {}
    if others:
        warnings.warn(
            f"Phases set the learning rate of model.optimizer alone. Model {model.name!r} also holds "
            f"{', '.join(f'model.{name}' for name in others)}: set their rates yourself, or train with model.optimizer.",
            EmbkerasWarning,
            stacklevel=3,
        )
