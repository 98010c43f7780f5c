"""Trainability on a schedule: the callback that begins the phases, unfreeze_at and gradual_unfreeze."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import pandas as pd

from embkeras.errors import ScheduleError
from embkeras.keras_compat.optimizers import parts
from embkeras.tables.addresses import LayerRef, as_refs
from embkeras.training.rebuild import build_optimizer, introduce, knows_other_variables, rebuild_training
from embkeras.training.schedule.checks import check_distribution, warn_of_phases_not_reached
from embkeras.training.schedule.flags import Flags, trainable_parameters
from embkeras.training.schedule.patience import Monitor, Watch
from embkeras.training.schedule.phases import Phase, as_groups, check_epoch, check_phases, phase_at, top_down_phases
from embkeras.training.schedule.rates import Rates, rate_or_none
from embkeras.training.schedule.record import Record


class TrainabilitySchedule(keras.callbacks.Callback):
    """Freeze and unfreeze layers at chosen epochs, inside one `fit` call and under any Keras optimizer.

    Keras compiles the train step and builds the optimizer for the variables that are trainable when `fit` begins, so
    setting `layer.trainable` in a callback does nothing. This callback sets the flags and then rebuilds both; the
    optimizer state of all other variables, the step counter and a learning-rate schedule go on. A frozen layer costs
    no gradient and no optimizer slots, and the callback nothing at all within an epoch.

    A phase begins at its `start`, or sooner, when the patience of the one before is used up: then the best weights of
    that phase are restored first. After the last phase's patience, training stops. A phase that ends otherwise leaves
    the weights as they stand. Each epoch's logs get `phase`, counted from 1.

    A second `fit` begins the phases anew; one whose `initial_epoch` is where the last one ended goes on, and any other
    `initial_epoch` begins with the phase of that epoch and the learning rate that an unbroken run has there.

    Adam and its kin correct the bias of their moments by the global step, so the first updates of a variable that joins
    late are larger than the learning rate (about 5x): give a smaller rate from there on, or use `RowWiseAdam`.

    A model loaded from a file brings the flags it was saved with: name with `also` what has to train again later.

    Args:
        phases: in the order of their `start`.
        also: further layers that the schedule governs, so that they train in phases that do not freeze them.
        monitor: the value in the logs that patience looks at.
        mode: "min" or "max"; "auto" takes it from the compiled metric of that name, and a loss is to fall.
        min_delta: a change of less than this is no improvement.

    Attributes:
        history: DataFrame, one row a phase that ran: `phase` (from 1), `first_epoch`, `last_epoch` (from 0),
            `trainable_parameters`, `learning_rate` (at its beginning; NaN where the optimizer has several), `best` (of
            the monitored value; NaN without patience) and `ended`: "patience", "next phase", "training ended", or ""
            while it runs.

    Raises:
        ScheduleError: phases that contradict each other; when training begins, an optimizer whose rate cannot be
            set, a layer that would not train in a phase that thaws it, or a setting that Keras cannot distribute; at
            the end of an epoch, logs without the monitored value.
        UnknownLayerError: when training begins, a name that the model does not have.
        OptimizerError: when training begins, a learning rate multiplier that no variable matches.

    Example:
        >>> schedule = TrainabilitySchedule([Phase(0, freeze="embedding"), Phase(3, learning_rate=1e-4)])
        >>> [phase.start for phase in schedule.phases]
        [0, 3]
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        also: Sequence[LayerRef] | LayerRef = (),
        monitor: str = "val_loss",
        mode: str = "auto",
        min_delta: float = 0.0,
    ):
        super().__init__()
        self.phases = check_phases([phases] if isinstance(phases, Phase) else phases)
        self.also = as_refs(also, "also")
        self.monitor = Monitor(monitor, mode, min_delta)
        self._for: keras.Model | None = None
        self._optimizer: keras.optimizers.Optimizer | None = None
        self._record = Record()
        self._fit_begins = self._restored = False
        self._stopped: Watch | None = None

    @property
    def history(self) -> pd.DataFrame:
        """One row a phase that ran."""
        return self._record.table()

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse now what could not be done in a later epoch."""
        self._attach(self.model)
        self._flags.try_all()
        check_distribution(self.model)
        warn_of_phases_not_reached(self.phases, self.params)
        self._fit_begins, self._stopped = True, None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin the phase that `epoch` belongs to, if it has not begun."""
        begins, goes_on = self._fit_begins, self._restored or epoch == self._record.next_epoch
        self._fit_begins = self._restored = False
        anew = begins and not goes_on
        if anew:
            self._record = Record()
        index = self._record.phase_at(epoch, self.phases)
        if index is None:
            build_optimizer(self.model)
        elif begins or index != self._record.index:
            self._begin(self.model, index, epoch, anew)
            self._record.watch.check(self.model)
            self._say(self._announcement(index, epoch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the number of the phase, counted from 1, into the logs, and hand over if patience is used up."""
        self._record.epoch_ended(epoch, trainable_parameters(self.model))
        if any(phase.patience for phase in self.phases):
            value = self.monitor.value(logs or {}, epoch, self.model)
            self._be_patient(value, epoch)
        if logs is not None and self._record.index is not None:
            logs["phase"] = self._record.index + 1

    def on_train_end(self, logs: Any = None) -> None:
        """Note that the phase ended with the training."""
        if self._stopped is not None and any(part.use_ema for part in parts(self.model.optimizer)):
            self._stopped.restore_best(self.model)  # Keras has written the moving averages over them
        self._record.end("training ended")

    def apply(self, model: keras.Model, epoch: int) -> bool:
        """Set what `epoch` asks for on a compiled model, outside `fit` (custom loops, `train_on_batch`).

        Phases begin at their `start` here: patience has no part in it.

        Returns:
            Whether a custom loop has to trace its own step again: the set of trainable variables changed, or the
            learning rate became a schedule or a number. The optimizer and the model's train step are rebuilt already.
        """
        self._attach(model)
        index = phase_at(self.phases, check_epoch(epoch, "epoch"))
        if index is None:
            return False
        anew = self._record.index is not None and index < self._record.index
        if anew:
            self._record = Record()
        changed = self._begin(model, index, epoch, anew)
        self._record.epoch_ended(epoch, trainable_parameters(model))
        return changed

    def state(self) -> dict[str, Any]:
        """What a run needs to go on from the end of the last epoch: JSON values, and NumPy arrays at the top level.

        Take it after the schedule's own `on_epoch_end`. `stopped` says that patience has ended the training.
        """
        starts = [phase.start for phase in self.phases]
        rates = {"rate_phase": self._rates.index, "applied": self._rates.applied} if self._for is not None else {}
        # What stopped has its best weights still to write where moving averages come over them.
        record = replace(self._record, watch=self._stopped or self._record.watch)
        return {"starts": starts, "stopped": self._stopped is not None, **rates, **record.state()}

    def restore(self, model: keras.Model, state: dict[str, Any]) -> None:
        """Go on from `state` in the fit that begins or has begun: flags, the optimizer's variables, the kind of rate.

        The values of the model's and the optimizer's variables are to be assigned afterwards.

        Raises:
            ScheduleError: the state is that of other phases.
        """
        starts = [phase.start for phase in self.phases]
        if state.get("starts") != starts:
            raise ScheduleError(f"The saved state is that of phases from {state.get('starts')}. Received: {starts}.")
        self._attach(model)
        self._record = Record.from_state(state)
        if state["stopped"]:
            self._stopped, self._record.watch = self._record.watch, Watch()
        if self._record.index is not None:
            self._set_flags(model, self.phases[self._record.index])
        build_optimizer(model)
        if "applied" in state:
            self._rates.restore(state["rate_phase"], state["applied"])
        self._restored = True

    def _attach(self, model: keras.Model) -> None:
        """On a model or optimizer not seen before: find the layers, and begin with the first phase."""
        if model is self._for and model.optimizer is self._optimizer:
            self._flags.note()
        elif getattr(model, "optimizer", None) is None:
            raise ScheduleError(f"Model {model.name!r} has no optimizer: compile it before training.")
        else:
            self._flags, self._rates = Flags(model, self.phases, self.also), Rates(model, self.phases)
            self._for, self._optimizer, self._record = model, model.optimizer, Record()
        introduce(model)

    def _begin(self, model: keras.Model, index: int, epoch: int, anew: bool) -> bool:
        """Begin a phase, or go on with it in another fit; whether the train step is to be traced again."""
        changed = self._set_flags(model, self.phases[index])
        build_optimizer(model)
        steps = (self.params or {}).get("steps")
        retraced = self._rates.begin(index, epoch, steps, anew)
        self._record.begin(index, epoch, trainable_parameters(model), rate_or_none(model.optimizer))
        return changed or retraced

    def _set_flags(self, model: keras.Model, phase: Phase) -> bool:
        before = _variable_ids(model)
        self._flags.apply(phase)
        changed = before != _variable_ids(model) or knows_other_variables(model)
        if changed:
            rebuild_training(model)
        return changed

    def _be_patient(self, value: float, epoch: int) -> None:
        record = self._record
        phase = self.phases[record.index] if record.index is not None else None
        if phase is None or phase.patience is None:
            return
        record.watch.see(value, epoch, self.monitor, self.model)
        record.rows[-1]["best"] = record.watch.best
        if record.watch.wait < phase.patience:
            return
        record.watch.restore_best(self.model)
        record.end("patience")
        self._say(
            f"Phase {record.index + 1} of {len(self.phases)} ends with epoch {epoch}: {record.watch.says(self.monitor)}"
        )
        if record.index + 1 < len(self.phases):
            record.handed_over = True
        else:
            self.model.stop_training = True
            self._stopped, record.watch = record.watch, Watch()

    def _say(self, line: str) -> None:
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
    """A schedule that keeps `layers` frozen before `epoch` and trains them from it on.

    Args:
        epoch: the first epoch, counted from 0, in which the layers move.
        layers: names, paths ("encoder/block_3"), globs ("block_*") or layers.
        learning_rate: the optimizer's learning rate, for all variables, from `epoch` on: a number, or a
            `LearningRateSchedule` that counts its steps from there.

    Raises:
        ScheduleError: `epoch` is not an integer >= 0, no layers, or a rate that is not positive.

    Example:
        >>> len(unfreeze_at(3, "embedding", learning_rate=1e-4).phases)
        2
    """
    check_epoch(epoch, "epoch")
    refs = as_refs(layers, "unfreeze_at")
    if not refs:
        raise ScheduleError("unfreeze_at needs at least one layer. Received none.")
    frozen = [Phase(0, freeze=refs)] if epoch > 0 else []
    return TrainabilitySchedule([*frozen, Phase(epoch, learning_rate=learning_rate)], also=refs)


def gradual_unfreeze(
    layers: Sequence[LayerRef | Sequence[LayerRef]], *, start: int = 1, every: int = 1, decay: float = 2.6
) -> TrainabilitySchedule:
    """Thaw a model from the top down, one group of layers every few epochs, at falling rates.

    After ULMFiT (Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", arXiv:1801.06146,
    sections 3.2 and 3.3), which thaws the last layer first. There each lower layer trains at 1/2.6 of the rate of the
    one above it; here the rate of all that trains falls by `decay` at each thaw (a rate for one layer alone is a
    multiplier's business: `RowWiseAdam(learning_rate_multipliers=...)`).

    Args:
        layers: groups in the model's order, from the input to the output; each a name, path, glob or layer, or
            several of them. Layers in no group are left as they are.
        start: the epoch, counted from 0, in which the last group begins to move; before it, all groups are frozen.
        every: epochs from one thaw to the next.
        decay: each thaw divides the learning rate by it, except one at epoch 0; 1 leaves the rate.

    Raises:
        ScheduleError: no groups or an empty one, an epoch or a number of epochs that is none, or a decay that is not
            positive.

    Example:
        >>> [(phase.start, phase.freeze) for phase in gradual_unfreeze(["embedding", ["lstm", "norm"]], every=2).phases]
        [(0, ('embedding', 'lstm', 'norm')), (1, ('embedding',)), (3, ())]
    """
    groups = as_groups(layers, "gradual_unfreeze")
    phases = top_down_phases(groups, start, every, decay)
    return TrainabilitySchedule(phases, also=[ref for group in groups for ref in group])


def _variable_ids(model: keras.Model) -> set[int]:
    return {id(variable) for variable in model.trainable_variables}
