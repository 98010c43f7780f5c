"""ResumableBackup: a training that died continues as if nothing had happened.

`killed.py` beside this file really kills processes. The other tests stand in for a new process: Keras' session cleared,
generators seeded anew, everything made again, in a fit that an exception ended.
"""

import functools
import json
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import callbacks as stock
from keras import optimizers

from embkeras.errors import ArgumentError, EmbkerasWarning, OutputError, ResumeError
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.optimizers.rules import RowWiseAdam
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule.callback import TrainabilitySchedule, unfreeze_at
from embkeras.training.schedule.phases import Phase
from tests import tiny
from tests.processes import run_python
from tests.training.resume.killed import PLACES
from tests.variants import THOROUGH, variants

_EPOCHS = 4


class Dies(Exception):
    """What ends a fit here."""


class Dying(keras.callbacks.Callback):
    """Ends the fit after so many of its steps; never for None."""

    def __init__(self, step):
        super().__init__()
        self.step, self.done = step, 0

    def on_train_batch_end(self, batch, logs=None):
        """Look whether it is time."""
        self.done += 1
        if self.done == self.step:
            raise Dies

    def state(self):
        """None."""
        return {}

    def restore(self, model, state):
        """Nothing."""


def model(optimizer, *, dtype=None):
    """The table inside an inner model, Dropout, BatchNormalization and a head; eager, which is faster here."""
    ids = keras.Input((5,), dtype="int64")
    mean = keras.layers.GlobalAveragePooling1D(dtype=dtype)(tiny.embedding(dtype=dtype)(ids))
    encoder = keras.Model(ids, mean, name="encoder")
    ids = keras.Input((5,), dtype="int64")
    dropped = keras.layers.Dropout(0.5, dtype=dtype)(encoder(ids))
    features = keras.layers.BatchNormalization(dtype=dtype)(dropped)
    net = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax", dtype=dtype)(features), name="tiny")
    net.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=dtype is None)
    return net


def process(
    folder, optimizer, callbacks=lambda: (), *, step=None, epochs=_EPOCHS, dtype=None, backup=None, **arguments
):
    """A run of the script as if in a process of its own: the model and its History, or None if it died."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    net = model(optimizer(), dtype=dtype)
    backup = backup or ResumableBackup(folder)
    named = {"batch_size": 4, "shuffle": True, "validation_split": 0.25, **arguments}
    try:
        every = [backup, *callbacks(), Dying(step)]
        return net, net.fit(tiny.IDS, tiny.LABELS, epochs=epochs, verbose=0, callbacks=every, **named)
    except Dies:
        return None


def _no_backup():
    """A callback in the place of the backup that does nothing."""
    callback = keras.callbacks.Callback()
    callback.state, callback.restore = dict, lambda net, state: None
    return callback


@functools.cache
def whole_run():
    """The run with Adam that never dies, for tests that only compare."""
    return process(None, _adam, backup=_no_backup())


def contents(net):
    """All variables of a model and its optimizer, as bytes."""
    return [keras.ops.convert_to_numpy(each).tobytes() for each in [*net.variables, *net.optimizer.variables]]


def assert_equal_runs(run, other):
    """Weights, the optimizer's state and the History are equal bit for bit."""
    assert contents(run[0]) == contents(other[0])
    assert run[1].epoch == other[1].epoch
    assert json.dumps(run[1].history) == json.dumps(other[1].history)


# ---------------------------------------------------------------------------------------------- processes that are killed


def test_killed_and_run_again_equals_never_killed(tmp_path):
    """SIGKILL twice in one training; all variables and the History are equal bit for bit, and no file is left."""
    for number in range(len(PLACES)):
        run_python("-m", "tests.training.resume.killed", tmp_path, number, returncode=-signal.SIGKILL)
        assert (tmp_path / "state" / "state.npz").exists() == (number > 0)
    run_python("-m", "tests.training.resume.killed", tmp_path, len(PLACES))
    with np.load(tmp_path / "never.npz") as whole, np.load(tmp_path / "killed.npz") as again:
        assert again.files == whole.files
        for name in whole.files:
            assert again[name].tobytes() == whole[name].tobytes(), name
    assert sorted(each.name for each in tmp_path.iterdir()) == ["killed.npz", "never.npz"]


# ------------------------------------------------------------------------------------------------------ settings of training

SETTINGS = {
    "EMA": lambda: optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3),
    "loss scale": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01), dynamic_growth_steps=3),
    "accumulation": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "rate schedule": lambda: optimizers.SGD(optimizers.schedules.CosineDecay(0.5, 12), momentum=0.9),
    "MultiOptimizer": lambda: tiny.since("MultiOptimizer")(
        tiny.since("OptimizerMap")(optimizers.SGD(0.1, momentum=0.9), {"embedding/.*": optimizers.Adam(0.01)})
    ),
    "schedule-free": lambda: tiny.since("ScheduleFreeAdamW")(0.01),
    "Nadam": lambda: optimizers.Nadam(0.01),
    "RowWiseAdam": lambda: RowWiseAdam(0.01),
}


@pytest.mark.parametrize("name", variants(SETTINGS, always=["EMA", "loss scale", "MultiOptimizer", "RowWiseAdam"]))
def test_resumes_after_the_toggle(tmp_path, name):
    """Dies after the table of a nested model was unfrozen: BatchNormalization, Dropout and the optimizer continue.

    Three epochs of two steps, and what an optimizer does every third step, so that the state is saved between.
    """
    short = {"epochs": 3, "batch_size": 6, "validation_split": 0.0}

    def run(step=None):
        return process(
            tmp_path / "state", SETTINGS[name], lambda: [unfreeze_at(1, "encoder/embedding")], step=step, **short
        )

    assert run(step=5) is None
    assert_equal_runs(run(), run())


@THOROUGH
def test_resumes_a_multi_optimizer_that_maps_by_a_function(tmp_path):
    """It knows the optimizers inside it only when it is built, which is after the state has been read."""

    def optimizer():
        inner = [optimizers.SGD(0.1, momentum=0.9), optimizers.Adam(0.01)]
        return tiny.since("MultiOptimizer")(lambda variable: inner["head" in variable.path])

    def run(step=None):
        return process(tmp_path / "state", optimizer, step=step)

    assert run(step=8) is None
    assert_equal_runs(run(), run())


@THOROUGH
def test_resumes_in_mixed_precision(tmp_path):
    """float16 with a loss that is scaled by Keras itself."""

    def run(step=None):
        return process(tmp_path / "s", lambda: optimizers.Adam(0.01), unfreeze, step=step, dtype="mixed_float16")

    def unfreeze():
        return [unfreeze_at(1, "encoder/embedding")]

    assert run(step=8) is None
    assert_equal_runs(run(), run())


def _patient_run(backup, step=None):
    """A run in two phases with patience, and its schedule."""
    phases = [Phase(0, freeze="encoder/embedding", patience=1), Phase(9, rate_factor=0.5, patience=1)]
    schedule = TrainabilitySchedule(phases, monitor="val_loss")
    run = process(None, lambda: optimizers.Adam(0.3), lambda: [schedule], step=step, epochs=12, backup=backup)
    return run, schedule


@functools.cache
def _whole_patient_run():
    return _patient_run(_no_backup())


@pytest.mark.parametrize("step", [5, 11], ids=["first phase", "second phase"])
def test_resumes_in_phases_with_patience(tmp_path, step):
    """Best value, waiting and best weights of the phase continue, and so does the schedule's table."""
    whole, of_whole = _whole_patient_run()
    assert _patient_run(ResumableBackup(tmp_path), step)[0] is None
    again, schedule = _patient_run(ResumableBackup(tmp_path))
    assert_equal_runs(again, whole)
    assert schedule.history.equals(of_whole.history)
    assert len(of_whole.history) == 2 and len(whole[1].epoch) < 12


@pytest.mark.parametrize("first", variants([True, False], always=[False]), ids=["before", "after"])
def test_counters_of_keras_callbacks_go_on(tmp_path, first):
    """EarlyStopping, ReduceLROnPlateau, ModelCheckpoint and DriftMonitor do what they would have done; in any order."""
    made = []

    def others():
        stop = stock.EarlyStopping("val_loss", patience=4, restore_best_weights=True)
        plateau = stock.ReduceLROnPlateau("val_loss", patience=1, factor=0.5)
        best = stock.ModelCheckpoint(tmp_path / "best.weights.h5", save_best_only=True, save_weights_only=True)
        made.append([stop, plateau, best, DriftMonitor("encoder/embedding"), unfreeze_at(1, "encoder/embedding")])
        return made[-1]

    def run(step=None):
        return process(
            None, lambda: optimizers.Adam(0.3), lambda: ordered(others()), step=step, epochs=12, backup=stand_in
        )

    def ordered(callbacks):
        return [*callbacks, backup()] if not first else [backup(), *callbacks]

    def backup():
        return ResumableBackup(tmp_path / "state")

    stand_in = _no_backup()
    whole = run()
    of_whole = made[-1]
    assert run(step=11) is None
    again = run()
    assert_equal_runs(again, whole)
    for name in ("best", "wait", "best_epoch", "stopped_epoch"):
        assert getattr(made[-1][0], name) == getattr(of_whole[0], name)
    assert made[-1][2].best == of_whole[2].best
    assert made[-1][3].table.equals(of_whole[3].table)
    assert len(whole[1].epoch) < 12


def test_columns_of_an_appended_csv_stay(tmp_path):
    """The header is that of epoch 0, without the drift, which the first epoch after the resume has in its logs."""

    def run(name, step=None):
        log = stock.CSVLogger(tmp_path / f"{name}.csv", append=True)
        process(tmp_path / "state", _adam, lambda: [DriftMonitor("encoder/embedding", every=2), log], step=step)
        return (tmp_path / f"{name}.csv").read_text()

    whole = run("whole")
    run("again", step=5)
    assert run("again") == whole and len(whole.splitlines()) == 1 + _EPOCHS


def test_drift_in_a_notebook_is_not_measured_from_another_table(tmp_path):
    """A new monitor would measure from the interrupted table, and warns; the same monitor still has the first one."""
    keras.utils.set_random_seed(0)
    net, first = model(optimizers.SGD(0.5)), DriftMonitor("encoder/embedding")
    net.get_layer("encoder").get_layer("embedding").trainable = True

    def fit(monitor, step=None):
        callbacks = [ResumableBackup(tmp_path), monitor, Dying(step)]
        return net.fit(tiny.IDS, tiny.LABELS, epochs=3, batch_size=4, verbose=0, callbacks=callbacks)

    with pytest.raises(Dies):
        fit(first, step=5)
    with (
        pytest.warns(EmbkerasWarning, match="from another table .* give fit the same DriftMonitor"),
        pytest.raises(Dies),
    ):
        fit(DriftMonitor("encoder/embedding"), step=1)
    fit(first)
    np.testing.assert_array_equal(first.before, tiny.TABLE)
    assert first.table["epoch"].tolist() == [0, 1, 2]


def test_unseeded_draws_go_on(tmp_path):
    """A PyDataset whose batches Keras shuffles by Python's generator, and a layer that draws from Keras' global one."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return tiny.IDS[index * 4 : index * 4 + 4], tiny.LABELS[index * 4 : index * 4 + 4]

    class Noise(keras.layers.Layer):
        def call(self, inputs):
            return inputs + keras.random.normal(keras.ops.shape(inputs))

    def run(step=None):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        stack = [keras.Input((5,), dtype="int64"), tiny.embedding(), keras.layers.Flatten(), Noise()]
        net = keras.Sequential([*stack, keras.layers.Dense(3, activation="softmax")], name="noisy")
        net.compile("adam", loss="sparse_categorical_crossentropy")
        try:
            callbacks = [ResumableBackup(tmp_path / "state"), Dying(step)]
            return net, net.fit(Batches(), epochs=4, shuffle=True, verbose=0, callbacks=callbacks)
        except Dies:
            return None

    whole = run()
    assert run(step=8) is None
    assert_equal_runs(run(), whole)


@pytest.mark.stock_keras
def test_stock_backup_loses_flags_and_optimizer(tmp_path):
    """BackupAndRestore instead, after the unfreeze: the optimizer starts over, and the History lacks epochs."""

    def run(step=None):
        unfreeze = stock.LambdaCallback(on_epoch_begin=lambda epoch, logs: schedule.apply(schedule.model, epoch))
        schedule = unfreeze_at(1, "encoder/embedding")
        unfreeze.set_model = schedule.set_model
        backup = stock.BackupAndRestore(tmp_path / "state")
        return process(None, lambda: optimizers.Adam(0.01), lambda: [unfreeze], step=step, backup=backup)

    whole = run()
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    assert run(step=8) is None
    again = run()
    assert [int(each[0].optimizer.iterations) for each in (whole, again)] == [12, 6]
    assert contents(again[0]) != contents(whole[0])
    assert again[1].epoch != whole[1].epoch


# ---------------------------------------------------------------------------------------------------- which fit, which model


def _adam():
    return optimizers.Adam(0.01)


@pytest.fixture(scope="module")
def kept_state(tmp_path_factory):
    """The folder of a run that died in epoch 2."""
    folder = tmp_path_factory.mktemp("died") / "state"
    assert process(folder, _adam, step=8) is None
    return folder


@pytest.fixture
def state(kept_state, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(kept_state, tmp_path / "state")


def test_state_is_removed_at_the_end(tmp_path):
    """File and folder; a second fit of the model then begins at its own initial epoch."""
    folder = tmp_path / "state"
    net, history = process(folder, _adam)
    assert not folder.exists()
    again = net.fit(tiny.IDS, tiny.LABELS, epochs=2, verbose=0, shuffle=False, callbacks=[ResumableBackup(folder)])
    assert history.epoch == [0, 1, 2, 3] and again.epoch == [0, 1]


def test_later_fit_without_backup_begins_at_its_beginning(state):
    """The epoch at which the resumed fit went on is not left in the model, as BackupAndRestore does."""
    net, history = process(state, _adam)
    assert history.epoch == [0, 1, 2, 3]
    assert net.fit(tiny.IDS, tiny.LABELS, epochs=2, verbose=0).epoch == [0, 1]


def test_files_of_others_in_the_folder_stay(tmp_path):
    """Only the state is removed."""
    (tmp_path / "notes.txt").write_text("mine")
    process(tmp_path, _adam, epochs=1)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_kept_state_of_a_finished_run_trains_no_further(tmp_path):
    """keep=True: the script run again gives the same model and History without a step."""
    steps = []
    count = stock.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    count.state, count.restore = dict, lambda net, state: None

    def run(**arguments):
        return process(None, _adam, lambda: [count], backup=ResumableBackup(tmp_path, keep=True), **arguments)

    assert_equal_runs(run(), whole_run())
    done = len(steps)
    again = run()
    assert_equal_runs(again, whole_run())
    assert len(steps) == done
    assert run(epochs=5)[1].epoch == [0, 1, 2, 3, 4]
    assert again[0].fit(tiny.IDS, tiny.LABELS, epochs=1, verbose=0).epoch == [0]


def test_kept_state_of_a_run_that_patience_stopped(tmp_path):
    """Its last phase's best weights come back at the end, after Keras has written the moving averages over them."""

    def run():
        patient = TrainabilitySchedule([Phase(0, patience=1)], monitor="loss", mode="max")
        backup = ResumableBackup(tmp_path, keep=True)
        return process(None, SETTINGS["EMA"], lambda: [patient], backup=backup)

    whole, again = run(), run()
    assert len(whole[1].epoch) < _EPOCHS
    assert_equal_runs(again, whole)


def test_longer_run_from_a_kept_state_equals_a_long_run(tmp_path):
    """The state is that of the epoch's end: averages that fit writes into the weights at its end are not in it."""

    def ema():
        return optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)

    process(None, ema, epochs=2, backup=ResumableBackup(tmp_path / "kept", keep=True))
    longer = process(None, ema, epochs=4, backup=ResumableBackup(tmp_path / "kept", keep=True))
    assert_equal_runs(longer, process(tmp_path / "other", ema, epochs=4))


def test_saves_every_second_epoch(tmp_path):
    """every=2: what was not saved is trained again, to the same end."""

    def run(step=None):
        return process(None, _adam, step=step, backup=ResumableBackup(tmp_path / "state", every=2))

    assert run(step=5) is None and not (tmp_path / "state" / "state.npz").exists()
    assert run(step=11) is None and (tmp_path / "state" / "state.npz").exists()
    assert_equal_runs(run(), whole_run())


def test_interrupted_in_a_notebook(tmp_path):
    """The same model, fitted again after an interrupt: it continues from the end of the last epoch."""
    keras.utils.set_random_seed(0)
    net = model(_adam())
    folder = tmp_path / "state"
    with pytest.raises(Dies):
        net.fit(tiny.IDS, tiny.LABELS, epochs=4, batch_size=4, verbose=0, callbacks=[ResumableBackup(folder), Dying(8)])
    history = net.fit(
        tiny.IDS, tiny.LABELS, epochs=4, batch_size=4, verbose=0, callbacks=[ResumableBackup(folder), Dying(None)]
    )
    assert history.epoch == [0, 1, 2, 3] and int(net.optimizer.iterations) == 12


def test_state_of_another_fit_is_refused(state):
    """Otherwise the second fit of a script would continue from the state of the first."""
    with pytest.raises(
        ResumeError, match=r"another fit, which began at epoch 0 .*Received: a fit that begins at epoch 1"
    ):
        process(state, _adam, initial_epoch=1)
    with pytest.raises(ResumeError, match="Give each fit its own folder"):
        process(state, lambda: _after(7))


def _after(steps):
    optimizer = _adam()
    optimizer.iterations.assign(steps)
    return optimizer


def test_another_optimizer_is_refused(state):
    """Both are named."""
    with pytest.raises(ResumeError, match="it has optimizer Adam where the script has optimizer SGD"):
        process(state, optimizers.SGD)


def test_another_setting_of_the_optimizer_is_refused(state):
    """One that has other slots."""
    with pytest.raises(ResumeError, match="it has no further variable where the script has variable adam/"):
        process(state, lambda: optimizers.Adam(0.01, amsgrad=True))


def test_another_model_is_refused(state):
    """The first variable that differs is named, with its shape; nothing has been assigned."""
    net = tiny.model(_adam())
    before = contents(net)
    callbacks = [ResumableBackup(state), Dying(None)]
    with pytest.raises(
        ResumeError, match=r"it has variable seed_generator.* where the script has variable head/kernel \(4, 3\)"
    ):
        tiny.fit(net, epochs=_EPOCHS, callbacks=callbacks)
    assert contents(net)[: len(before)] == before


def test_other_layers_in_training_are_refused(state):
    """Flags that the script now sets in another way."""

    keras.backend.clear_session()
    net = model(_adam())
    net.get_layer("head").trainable = False
    net.compile(_adam(), loss="sparse_categorical_crossentropy")
    with pytest.raises(ResumeError, match="it has variable head/kernel in training where the script has no further"):
        net.fit(tiny.IDS, tiny.LABELS, epochs=3, verbose=0, callbacks=[ResumableBackup(state), Dying(None)])


def test_changed_callbacks_are_refused(state):
    """The one that is new is named."""
    with pytest.raises(ResumeError, match="the script has EarlyStopping 1, and"):
        process(state, _adam, lambda: [stock.EarlyStopping("loss")])


def test_layers_may_be_numbered_on(state):
    """A model made later in the process has other automatic names, and is the same model all the same."""
    keras.utils.set_random_seed(0)
    net = model(_adam())
    callbacks = [ResumableBackup(state), Dying(None)]
    arguments = {"epochs": _EPOCHS, "batch_size": 4, "validation_split": 0.25, "verbose": 0}
    assert "batch_normalization/gamma" not in {each.path for each in net.variables}
    assert net.fit(tiny.IDS, tiny.LABELS, callbacks=callbacks, **arguments).epoch == [0, 1, 2, 3]


def test_damaged_state_is_refused(state):
    """Before anything of it is used."""
    content = (state / "state.npz").read_bytes()
    (state / "state.npz").write_bytes(content[:-40])
    with pytest.raises(ResumeError, match=r"state\.npz' is damaged.*Delete the folder"):
        process(state, _adam)


def test_strays_of_a_killed_write_are_removed(tmp_path):
    """Only those of embkeras."""
    for name in (".writing-embkeras-1", ".writing-theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.npz").write_text("half")
    process(tmp_path, _adam, epochs=1)
    assert [each.name for each in tmp_path.iterdir()] == [".writing-theirs"]


# ----------------------------------------------------------------------------------------------------------- said in advance


def test_folder_that_cannot_be_written(tmp_path):
    """Refused before the first step: the folder is a file."""
    (tmp_path / "state").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        process(tmp_path / "state", _adam)


def test_model_that_is_not_built(tmp_path):
    """Its variables would not be there to be restored."""
    net = keras.Sequential([keras.layers.Dense(1)])
    net.compile("sgd", loss="mse")
    with pytest.raises(ResumeError, match=r"Give it an Input, or call it once.*model '.*is not built"):
        net.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0, callbacks=[ResumableBackup(tmp_path)])


@pytest.mark.parametrize("other", [stock.BackupAndRestore, ResumableBackup])
def test_two_backups(tmp_path, other):
    """They would restore twice."""
    with pytest.raises(ResumeError, match="A fit takes only one backup"):
        process(tmp_path, _adam, lambda: [other(tmp_path / "other")])


def test_outside_fit(tmp_path):
    """A custom loop that calls callbacks itself."""
    backup = ResumableBackup(tmp_path)
    with pytest.raises(ResumeError, match=r"works only inside model\.fit"):
        backup.on_train_begin()


def test_what_is_not_saved_is_named(tmp_path):
    """A callback without state(), and a second optimizer."""
    net = model(_adam())
    net.other_optimizer = optimizers.SGD()
    callbacks = [ResumableBackup(tmp_path), stock.LambdaCallback()]
    message = r"LambdaCallback \(it has no state.*; the optimizer model\.other_optimizer.*methods state\(\)"
    with pytest.warns(EmbkerasWarning, match=message):
        tiny.fit(net, epochs=1, callbacks=callbacks)


def test_callback_whose_state_cannot_be_saved(tmp_path):
    """Refused at the first epoch's end, with the callback and the place."""
    strange = Dying(None)
    strange.state = lambda: {"file": print}
    with pytest.raises(ResumeError, match=r"callbacks\['Dying 1'\]\['file'\] can't be saved"):
        tiny.fit(model(_adam()), epochs=1, callbacks=[ResumableBackup(tmp_path), strange])


@pytest.mark.parametrize("every", [0, True, 1.5])
def test_every_is_a_number_of_epochs(every):
    """At least one."""
    with pytest.raises(ArgumentError, match=rf"every must be an integer >= 1\. Received: {every}"):
        ResumableBackup("state", every=every)


def test_folder_is_named():
    """An empty name would be the working directory."""
    with pytest.raises(ArgumentError, match="folder must be a path"):
        ResumableBackup("")


def test_arguments_of_shuffle_and_batches():
    """Each is checked where it is given."""
    backup, rows = ResumableBackup("state"), np.zeros((4, 1))
    dataset = tf.data.Dataset.from_tensor_slices(rows)
    with pytest.raises(ArgumentError, match=r"takes a tf\.data\.Dataset\. Received: ndarray"):
        backup.shuffle(rows, 4)
    with pytest.raises(ArgumentError, match=r"buffer_size must be an integer >= 1\. Received: 0"):
        backup.shuffle(dataset, 0)
    with pytest.raises(ArgumentError, match=r"seed must be an integer\. Received: None"):
        backup.shuffle(dataset, 4, seed=None)
    with pytest.raises(ArgumentError, match=r"batch_size must be an integer >= 1\. Received: 2\.0"):
        backup.batches((rows, rows), 2.0)
    with pytest.raises(ArgumentError, match=r"same number of rows, at least one\. Received: \[3, 4\] rows"):
        backup.batches((rows, rows[:3]), 2)
    with pytest.raises(ArgumentError, match=r"np\.asarray\. Received: 7"):
        backup.batches(([7, 8], rows[:2]), 2)
