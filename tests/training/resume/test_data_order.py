"""The order of the data as a function of the epoch, and a resumed run whose data differ."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import EmbkerasWarning, ResumeError
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.resume.data_order import EpochOrder, FirstBatches, fingerprint
from tests import tiny
from tests.training.resume.test_backup import Dies, Dying

ROWS = np.arange(12, dtype=np.float32)[:, None]
LABELS = np.zeros((12, 1), np.float32)


class Seeing(keras.Model):
    """Keeps the rows that it is trained on, by epoch."""

    def __init__(self):
        super().__init__()
        self.seen, self.dense = {}, keras.layers.Dense(1)
        self.epoch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.seen.update({epoch: []}))
        self.epoch.state, self.epoch.restore = dict, lambda model, state: None

    def call(self, inputs):
        """One number per row."""
        return self.dense(inputs)

    def train_step(self, data):
        """Look at the rows, and train."""
        self.seen[max(self.seen)].extend(data[0].numpy()[:, 0].astype(int).tolist())
        return super().train_step(data)


def run(make, folder, *, step=None, seed=0, epochs=4, every=1, **arguments):
    """Rows by epoch of a fit over `make(backup)`, as if in a new process; until a step."""
    keras.backend.clear_session()
    if seed is not None:
        keras.utils.set_random_seed(seed)
    net = Seeing()
    net(ROWS)
    net.compile("sgd", loss="mse", run_eagerly=True)
    backup = ResumableBackup(folder, every=every)
    data = make(backup)
    data = data if isinstance(data, tuple) else (data,)
    try:
        callbacks = [backup, net.epoch, Dying(step)]
        net.fit(*data, **{"shuffle": False, "epochs": epochs, "verbose": 0, "callbacks": callbacks, **arguments})
    except Dies:
        pass
    return net.seen


def _dataset():
    return tf.data.Dataset.from_tensor_slices((ROWS, LABELS))


def _batches(backup):
    return backup.batches((ROWS, LABELS), 4)


def _map(dataset):
    return dataset.map(lambda row, label: (row, label), num_parallel_calls=2)


class Batches(keras.utils.PyDataset):
    """Three batches of four rows."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return ROWS[index * 4 : index * 4 + 4], LABELS[index * 4 : index * 4 + 4]


class Reshuffled(Batches):
    """Three batches in another order after each epoch."""

    def __init__(self):
        super().__init__()
        self.rows, self.rng = np.arange(12), np.random.default_rng(0)

    def __getitem__(self, index):
        rows = self.rows[index * 4 : index * 4 + 4]
        return ROWS[rows], LABELS[rows]

    def on_epoch_end(self):
        """Shuffle."""
        self.rng.shuffle(self.rows)


ORDERS = {
    "shuffle": lambda order: order.shuffle(_dataset(), 12, 0).batch(4),
    "small buffer": lambda order: order.shuffle(_dataset(), 3, 0).batch(4),
    "batches shuffled": lambda order: order.shuffle(_dataset().batch(4), 3, 0),
    "map and prefetch": lambda order: _map(order.shuffle(_dataset(), 12, 0)).batch(4).prefetch(2),
    "cache before": lambda order: order.shuffle(_dataset().cache(), 12, 0).batch(4),
    "batches": lambda order: order.batches((ROWS, LABELS), 4, 0),
    "batches and prefetch": lambda order: order.batches((ROWS, LABELS), 5, 0).prefetch(2),
    "filter": lambda order: order.shuffle(_dataset().filter(lambda row, label: row[0] < 9), 12, 0).batch(4),
}


def rows_of(order, data, epochs):
    """The rows of each of some epochs."""
    rows = []
    for epoch in epochs:
        order.begin(epoch)
        rows.append([int(row) for batch, _ in data for row in np.ravel(batch)])
    return rows


@pytest.mark.parametrize("name", ORDERS)
def test_order_is_a_function_of_the_epoch(name):
    """Data that start at epoch 1 have the order of the whole run there; each epoch has its own order of all rows."""
    first, later = EpochOrder(), EpochOrder()
    whole, late = rows_of(first, ORDERS[name](first), range(3)), rows_of(later, ORDERS[name](later), (1, 2))
    assert whole[1:] == late and len({tuple(rows) for rows in whole}) == 3
    assert {tuple(sorted(rows)) for rows in whole} == {tuple(range(9 if name == "filter" else 12))}


@pytest.mark.parametrize("name", ["shuffle", "batches"])
def test_a_killed_run_sees_the_same_rows(name, tmp_path):
    """In the epochs that it repeats, and those after them."""
    make = {"shuffle": lambda backup: backup.shuffle(_dataset(), 12).batch(4), "batches": _batches}[name]
    whole = run(make, tmp_path / "whole")
    run(make, tmp_path / "killed", step=8)
    assert run(make, tmp_path / "killed") == {epoch: whole[epoch] for epoch in (2, 3)}


@pytest.mark.parametrize("name", ["shuffle", "batches"])
def test_order_depends_on_its_seed_alone(name):
    """Another global seed changes nothing; another seed of the order does."""

    def rows(seed, global_seed):
        keras.utils.set_random_seed(global_seed)
        order = EpochOrder()
        makers = {
            "shuffle": lambda: order.shuffle(_dataset(), 12, seed),
            "batches": lambda: order.batches((ROWS, LABELS), 4, seed),
        }
        return rows_of(order, makers[name](), range(2))

    first, same, other = rows(3, 0), rows(3, 1), rows(4, 0)
    assert first == same and first != other


def test_rows_and_labels_stay_together():
    """Also in dictionaries of arrays; the last batch is shorter."""
    order = EpochOrder()
    batches = list(order.batches(({"a": ROWS, "b": ROWS * 2}, ROWS[:, 0] * 3), 5, 0))
    assert [len(labels) for _, labels in batches] == [5, 5, 2]
    for rows, labels in batches:
        np.testing.assert_array_equal(rows["a"] * 2, rows["b"])
        np.testing.assert_array_equal(rows["a"][:, 0] * 3, labels)


def test_length_is_known_to_keras():
    """It shows in the progress bar; an unknown length stays unknown."""
    order = EpochOrder()
    assert int(order.shuffle(_dataset(), 3, 0).cardinality()) == 12
    assert int(order.batches((ROWS, LABELS), 5, 0).cardinality()) == 3
    unknown = order.shuffle(_dataset().filter(lambda row, label: True), 3, 0)
    assert int(unknown.cardinality()) == tf.data.UNKNOWN_CARDINALITY


@pytest.mark.stock_keras
def test_stock_arrays_repeat_one_order(tmp_path):
    """With a global seed, fit(shuffle=True) shuffles once: every epoch has the same order, and a run can be resumed."""

    def rows(step=None, name="killed"):
        return run(lambda backup: (ROWS, LABELS), tmp_path / name, step=step, shuffle=True, batch_size=4)

    whole = rows(name="whole")
    rows(step=8)
    assert rows() == {epoch: whole[epoch] for epoch in (2, 3)}
    assert whole[0] != list(range(12)) and len({tuple(each) for each in whole.values()}) == 1


@pytest.mark.stock_keras
def test_stock_shuffle_is_no_function_of_the_epoch():
    """Dataset.shuffle with a seed gives a run that begins later the orders of the first epochs."""

    def epochs(count):
        keras.utils.set_random_seed(0)
        dataset = _dataset().shuffle(12, seed=1).batch(12)
        return [np.ravel(rows).tolist() for _ in range(count) for rows, _ in dataset]

    first, again = epochs(3), epochs(2)
    assert first[:2] == again and first[1:] != again


def _reshuffling(draw):
    """A dataset from Python code, shuffled by `draw` at each pass."""
    signature = (tf.TensorSpec((1,), tf.float32), tf.TensorSpec((1,), tf.float32))
    return tf.data.Dataset.from_generator(lambda: ((ROWS[i], LABELS[i]) for i in draw(12)), output_signature=signature)


SAME = {
    "arrays in order": (lambda backup: (ROWS, LABELS), {"batch_size": 4}),
    "one order": (lambda backup: _dataset().shuffle(12, seed=1, reshuffle_each_iteration=False).batch(4), {}),
    "seeded draw": (
        lambda backup: _dataset().map(lambda row, label: (row + tf.random.uniform([], seed=1), label)).batch(4),
        {},
    ),
    "as many steps as batches": (lambda backup: _dataset().batch(4), {"steps_per_epoch": 3}),
    "PyDataset": (lambda backup: Batches(), {"shuffle": True}),
    "sample weights": (lambda backup: backup.batches((ROWS, LABELS, LABELS[:, 0]), 4), {}),
}


@pytest.mark.parametrize("name", SAME)
def test_same_data_are_accepted(name, tmp_path):
    """Resumed in the epoch in which the run died, and trained to its end."""
    make, arguments = SAME[name]
    run(make, tmp_path / "state", step=8, **arguments)
    assert sorted(run(make, tmp_path / "state", **arguments)) == [2, 3] and not list(tmp_path.iterdir())


def _augmented():
    generator = keras.random.SeedGenerator(1)
    return _dataset().map(lambda row, label: (row + keras.random.uniform((1,), seed=generator), label)).batch(4)


def _endless():
    while True:
        yield from (Batches()[index] for index in range(3))


DIFFERENT = {
    "reshuffled": (lambda backup: _dataset().shuffle(12, seed=1).batch(4), {}),
    "reshuffled before": (lambda backup: backup.shuffle(_dataset().shuffle(12, seed=1), 3).batch(4), {}),
    "reshuffled in Python": (lambda backup: _reshuffling(np.random.default_rng(0).permutation).batch(4), {}),
    "cached": (lambda backup: backup.shuffle(_dataset(), 12).cache().batch(4), {}),
    "variable": (lambda backup: _augmented(), {}),
    "hook": (lambda backup: Reshuffled(), {}),
}
UNSEEDED = {
    "arrays": (lambda backup: (ROWS, LABELS), {"shuffle": True}),
    "dataset": (lambda backup: _dataset().shuffle(12, reshuffle_each_iteration=False).batch(4), {}),
    "draw": (lambda backup: _dataset().map(lambda row, label: (row + tf.random.uniform([]), label)).batch(4), {}),
}
WARNED = {
    "generator": (lambda backup: _endless(), {"steps_per_epoch": 4}, "a generator starts from its beginning"),
    "no end": (
        lambda backup: backup.shuffle(_dataset(), 12).batch(4).repeat(),
        {"steps_per_epoch": 4},
        "steps_per_epoch=4 and -?.* batches, each epoch continues",
    ),
    "other end": (
        lambda backup: _dataset().batch(4).repeat(3),
        {"steps_per_epoch": 4},
        "steps_per_epoch=4 and 9 batches",
    ),
}


def assert_refused(make, folder, step, **arguments):
    """Killed in epoch 2, and refused when it is resumed, before a step; the message has the epoch and the file."""
    run(make, folder, step=step, **arguments)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ResumeError, match=r"Epoch 2 .*first_batches\.json.*backup\.batches"):
        run(make, folder, **arguments)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_data_are_refused(name, tmp_path):
    """Whatever makes the first batch of the resumed epoch another one."""
    make, arguments = DIFFERENT[name]
    assert_refused(make, tmp_path, 8, **arguments)


@pytest.fixture
def no_global_seed():
    """As in a script that sets none."""
    tf.random.set_seed(None)
    yield
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("name", UNSEEDED)
def test_unseeded_data_are_refused(name, tmp_path, no_global_seed):
    """Without a seed nothing repeats."""
    make, arguments = UNSEEDED[name]
    assert_refused(make, tmp_path, 8, seed=None, batch_size=None if name != "arrays" else 4, **arguments)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", WARNED)
def test_epochs_that_continue_are_warned_of(name, tmp_path):
    """The arguments of fit show it when training begins; a resumed run finds out."""
    make, arguments, message = WARNED[name]
    with pytest.warns(EmbkerasWarning, match=message):
        assert_refused(make, tmp_path, 9, **arguments)


def test_later_epochs_are_compared_too(tmp_path):
    """With every=3, both epochs after the first save are repeated, and each has a fingerprint."""
    run(_batches, tmp_path, step=14, every=3, epochs=6)
    path = tmp_path / "first_batches.json"
    known = json.loads(path.read_text())
    assert sorted(known) == ["3", "4"]
    path.write_text(json.dumps({**known, "4": "another"}))
    with pytest.raises(ResumeError, match=r"Epoch 4 .*not another as in"):
        run(_batches, tmp_path, every=3, epochs=6)


def test_other_data_are_refused_until_the_file_is_deleted(tmp_path):
    """The file of fingerprints may be deleted to continue with other data."""
    run(lambda backup: (ROWS, LABELS), tmp_path, step=8, batch_size=4)
    for _ in range(2):
        with pytest.raises(ResumeError, match="Epoch 2 "):
            run(lambda backup: (ROWS, LABELS), tmp_path, batch_size=6)
    (tmp_path / "first_batches.json").unlink()
    assert sorted(run(lambda backup: (ROWS, LABELS), tmp_path, batch_size=6)) == [2, 3]


def test_damaged_fingerprints_are_refused(tmp_path):
    """The file is named, and can be deleted."""
    run(_batches, tmp_path, step=8)
    (tmp_path / "first_batches.json").write_text("{")
    with pytest.raises(ResumeError, match=r"first_batches\.json.*Delete this file"):
        run(_batches, tmp_path)


def test_nothing_is_compared_without_a_state(tmp_path):
    """A run that died before its first save starts over, on any data."""
    run(_batches, tmp_path, step=2)
    assert (tmp_path / "first_batches.json").exists()
    assert sorted(run(lambda backup: (ROWS, LABELS), tmp_path, batch_size=6)) == [0, 1, 2, 3]


def test_a_fit_on_several_replicas_is_not_compared(tmp_path):
    """A warning says so when it is resumed."""

    def fit(step=None):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            net = tiny.model("sgd")
        tiny.fit(net, callbacks=[ResumableBackup(tmp_path), Dying(step)])

    with pytest.raises(Dies):
        fit(step=8)
    with pytest.warns(EmbkerasWarning, match="several replicas does not compare"):
        fit()


@pytest.mark.parametrize("steps", [1, 2])
def test_training_is_not_changed(tmp_path, steps):
    """The weights are those of a fit without a backup, also with several steps at once; the step is traced once."""
    traces = []

    class Counts(keras.Sequential):
        def train_step(self, data):
            traces.append(data)
            return super().train_step(data)

    def weights(backups):
        keras.utils.set_random_seed(0)
        net = Counts([keras.Input((1,)), keras.layers.Dense(1)])
        net.compile("adam", loss="mse", steps_per_execution=steps)
        traces.clear()
        net.fit(ROWS, LABELS + 1, batch_size=5, epochs=3, verbose=0, callbacks=backups)
        return np.concatenate([each.ravel() for each in net.get_weights()]).tolist(), len(traces)

    assert weights([ResumableBackup(tmp_path)]) == weights([])


@pytest.mark.parametrize(
    "elements",
    [
        lambda: ({"b": ROWS, "a": ROWS}, LABELS),
        lambda: (ROWS, None, LABELS),
        lambda: tf.cast(ROWS, "bfloat16"),
        lambda: np.array([str(row) for row in range(12)]),
        lambda: tf.ragged.constant([[1] * (row % 3) for row in range(12)]),
        lambda: tf.sparse.from_dense(np.eye(12)),
    ],
    ids=["dictionary", "None", "bfloat16", "text", "ragged", "sparse"],
)
def test_batches_of_any_kind_are_put_back(elements, tmp_path):
    """With the same types, shapes and values."""
    dataset = tf.data.Dataset.from_tensor_slices(elements()).batch(5)
    batches, first = FirstBatches(tmp_path / "f.json"), next(iter(dataset))
    for _ in range(2):
        again = batches._put_back([first], dataset.element_spec)
        assert again.element_spec == dataset.element_spec
        assert [fingerprint(each) for each in again] == [fingerprint(first)]


def test_fingerprint_has_dtype_shape_and_values():
    """Equal for equal batches only."""
    batches = [ROWS, ROWS[:, 0], ROWS.astype("int32"), ROWS + 1, ROWS[::-1], (ROWS, ROWS), np.array(["a", "bc"])]
    found = [fingerprint(tf.nest.map_structure(tf.constant, each)) for each in [*batches, np.array(["ab", "c"])]]
    assert len(set(found)) == len(found)
    assert fingerprint(tf.constant(ROWS)) == found[0]


def test_an_interrupted_comparison_does_not_reach_the_next_fit(tmp_path):
    """The model keeps the train step that was to be compared; a fit without the backup trains with it as ever."""
    net, batches = tiny.model("sgd"), FirstBatches(tmp_path / "f.json")
    net.make_train_function()
    train = net.train_function
    batches.watch(net, 0, keras.callbacks.Callback())
    assert net.train_function is not train
    tiny.fit(net, epochs=1)
    assert net.train_function is train and not list(tmp_path.iterdir())
