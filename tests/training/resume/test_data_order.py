"""The order of the data as a function of the epoch: made so, and found out where it is not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.keras_compat.fit import fit_context
from embkeras.training.resume.data_order import EpochOrder, doubts

ROWS = np.arange(12, dtype=np.float32)[:, None]
LABELS = np.zeros((12, 1), np.float32)


class Ask(keras.callbacks.Callback):
    """Sets the epoch, and keeps what is doubted of the data."""

    def __init__(self, order):
        super().__init__()
        self.order = order

    def on_train_begin(self, logs=None):
        """Ask."""
        self.doubts = doubts(fit_context(), self.order)

    def on_epoch_begin(self, epoch, logs=None):
        """Set."""
        self.order.begin(epoch)
        self.model.seen.append([])


class Seeing(keras.Model):
    """Keeps the rows that it is trained on, epoch by epoch."""

    def __init__(self):
        super().__init__()
        self.seen, self.dense = [], keras.layers.Dense(1)

    def call(self, inputs):
        """One number a row."""
        return self.dense(inputs)

    def train_step(self, data):
        """Look, and train."""
        self.seen[-1].extend(data[0].numpy()[:, 0].astype(int))
        return super().train_step(data)


def run(make, *, initial_epoch=0, seed=0, **arguments):
    """Rows by epoch and doubts of a fit over `make(order)`, in what stands for a new process."""
    keras.backend.clear_session()
    if seed is not None:
        keras.utils.set_random_seed(seed)
    net, order = Seeing(), EpochOrder()
    net.compile("sgd", loss="mse", run_eagerly=True)
    data, ask = make(order), Ask(order)
    data = data if isinstance(data, tuple) else (data,)
    arguments = {"shuffle": False, **arguments}
    net.fit(*data, epochs=3, initial_epoch=initial_epoch, verbose=0, callbacks=[ask], **arguments)
    return net.seen, ask.doubts


def _dataset():
    return tf.data.Dataset.from_tensor_slices((ROWS, LABELS))


def _map(dataset):
    return dataset.map(lambda row, label: (row, label), num_parallel_calls=2)


class Batches(keras.utils.PyDataset):
    """Three batches of four rows."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return ROWS[index * 4 : index * 4 + 4], LABELS[index * 4 : index * 4 + 4]


class Reshuffled(Batches):
    """One that changes when an epoch ends."""

    def on_epoch_end(self):
        """Would shuffle."""


RESUMES = {
    "shuffle": lambda order: order.shuffle(_dataset(), 12, 0).batch(4),
    "small buffer": lambda order: order.shuffle(_dataset(), 3, 0).batch(4),
    "batches shuffled": lambda order: order.shuffle(_dataset().batch(4), 3, 0),
    "map and prefetch": lambda order: _map(order.shuffle(_dataset(), 12, 0)).batch(4).prefetch(2),
    "cache before": lambda order: order.shuffle(_dataset().cache(), 12, 0).batch(4),
    "batches": lambda order: order.batches((ROWS, LABELS), 4, 0),
    "batches and prefetch": lambda order: order.batches((ROWS, LABELS), 5, 0).prefetch(2),
    "filter": lambda order: order.shuffle(_dataset().filter(lambda row, label: row[0] < 9), 12, 0).batch(4),
}


@pytest.mark.parametrize("name", RESUMES)
def test_order_is_a_function_of_the_epoch(name):
    """A run that begins at epoch 1 sees what the whole run sees there; no two epochs are alike, and nothing is left out."""
    (whole, unsure), (late, _) = run(RESUMES[name]), run(RESUMES[name], initial_epoch=1)
    assert whole[1:] == late and unsure == []
    assert len({tuple(rows) for rows in whole}) == 3
    assert {tuple(sorted(rows)) for rows in whole} == {tuple(range(9 if name == "filter" else 12))}


@pytest.mark.parametrize("name", ["shuffle", "batches"])
def test_order_depends_on_its_seed_alone(name):
    """Another global seed changes nothing; another seed of the order does."""
    makers = {
        "shuffle": lambda seed: lambda order: order.shuffle(_dataset(), 12, seed).batch(4),
        "batches": lambda seed: lambda order: order.batches((ROWS, LABELS), 4, seed),
    }
    first, same, other = (run(makers[name](seed), seed=given)[0] for seed, given in [(3, 0), (3, 1), (4, 0)])
    assert first == same and first != other


def test_rows_and_labels_stay_together():
    """Arrays in dictionaries too; the last batch is shorter."""
    order = EpochOrder()
    batches = list(order.batches(({"a": ROWS, "b": ROWS * 2}, ROWS[:, 0] * 3), 5, 0))
    assert [len(labels) for _, labels in batches] == [5, 5, 2]
    for rows, labels in batches:
        np.testing.assert_array_equal(rows["a"] * 2, rows["b"])
        np.testing.assert_array_equal(rows["a"][:, 0] * 3, labels)


def test_length_is_known_to_keras():
    """The progress bar has its end, and an unknown length stays unknown."""
    order = EpochOrder()
    assert int(order.shuffle(_dataset(), 3, 0).cardinality()) == 12
    assert int(order.batches((ROWS, LABELS), 5, 0).cardinality()) == 3
    unknown = order.shuffle(_dataset().filter(lambda row, label: True), 3, 0)
    assert int(unknown.cardinality()) == tf.data.UNKNOWN_CARDINALITY


@pytest.mark.stock_keras
def test_stock_arrays_repeat_one_order():
    """With a global seed fit(shuffle=True) shuffles once: it can be resumed, and no epoch differs from the next."""
    (whole, unsure), (late, _) = (
        run(lambda order: (ROWS, LABELS), initial_epoch=epoch, shuffle=True, batch_size=4) for epoch in (0, 1)
    )
    assert unsure == [] and whole[1:] == late
    assert whole[0] != list(range(12)) and len({tuple(rows) for rows in whole}) == 1


@pytest.mark.stock_keras
def test_stock_shuffle_is_no_function_of_the_epoch():
    """Dataset.shuffle with a seed gives a run that begins later the orders of the first epochs."""

    def make(order):
        return _dataset().shuffle(12, seed=1).batch(4)

    (whole, unsure), (late, _) = run(make), run(make, initial_epoch=1)
    assert whole[:2] == late and whole[1:] != late
    assert unsure == ["Dataset.shuffle(...) goes on from the order of the epoch before"]


NO_DOUBT = {
    "arrays in order": (lambda order: (ROWS, LABELS), {"batch_size": 4}),
    "one order": (lambda order: _dataset().shuffle(12, seed=1, reshuffle_each_iteration=False).batch(4), {}),
    "seeded draw": (
        lambda order: _dataset().map(lambda row, label: (row, label + tf.random.uniform([], seed=1))).batch(4),
        {},
    ),
    "as many steps as batches": (lambda order: _dataset().batch(4), {"steps_per_epoch": 3}),
    "PyDataset": (lambda order: Batches(), {"shuffle": True}),
}


@pytest.mark.parametrize("name", NO_DOUBT)
def test_no_doubt(name):
    """What resumes is not warned of."""
    make, arguments = NO_DOUBT[name]
    assert run(make, **arguments)[1] == []


def _augmented():
    generator = keras.random.SeedGenerator(1)
    return _dataset().map(lambda row, label: (row + 0 * keras.random.uniform((1,), seed=generator), label)).batch(4)


def _any_order():
    options = tf.data.Options()
    options.deterministic = False
    return _map(_dataset()).batch(4).with_options(options)


DOUBTS = {
    "inside": (
        lambda order: tf.data.Dataset.range(1).flat_map(lambda _: _dataset().shuffle(3)).batch(4),
        {},
        r"Dataset\.shuffle\(\.\.\.\) inside FlatMap goes on",
    ),
    "before ours": (lambda order: order.shuffle(_dataset().shuffle(12), 3, 0).batch(4), {}, "goes on from the order"),
    "cache": (
        lambda order: order.shuffle(_dataset(), 12, 0).cache().batch(4),
        {},
        r"cache\(\) after the shuffle keeps",
    ),
    "state": (lambda order: _augmented(), {}, "AssignVariableOp inside Map changes a variable"),
    "any order": (lambda order: _any_order(), {}, r"Options\.deterministic is False"),
    "no end": (
        lambda order: order.shuffle(_dataset(), 12, 0).batch(4).repeat(),
        {"steps_per_epoch": 3},
        "steps_per_epoch=3 and data of no known end let each epoch go on",
    ),
    "other end": (lambda order: _dataset().batch(4), {"steps_per_epoch": 2}, "data of 3 batches let each epoch go on"),
    "hook": (lambda order: Reshuffled(), {}, r"Reshuffled\.on_epoch_end may change the order"),
    "workers": (lambda order: Batches(workers=2), {"shuffle": True}, "with 2 workers draws the order"),
    "generator": (lambda order: (each for each in Batches()), {"steps_per_epoch": 1}, "a generator begins anew"),
    "validation": (
        lambda order: (ROWS, LABELS),
        {"validation_data": _dataset().shuffle(3).batch(4)},
        r"in validation_data, Dataset\.shuffle\(\.\.\.\) goes on",
    ),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", DOUBTS)
def test_doubt(name):
    """What does not resume is named. Fails when tf.data renames what is looked at."""
    make, arguments, message = DOUBTS[name]
    unsure = run(make, **arguments)[1]
    assert len(unsure) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(unsure[0])


@pytest.fixture
def no_global_seed():
    """As in a script that sets none."""
    tf.random.set_seed(None)
    yield
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda order: (ROWS, LABELS), {"shuffle": True}, "fit(shuffle=True) draws the order of arrays without a seed"),
        (
            lambda order: _dataset().shuffle(3, reshuffle_each_iteration=False).batch(4),
            {},
            "Dataset.shuffle(...) has no seed",
        ),
        (
            lambda order: _dataset().map(lambda row, label: (row, label + tf.random.uniform([]))).batch(4),
            {},
            "RandomUniform inside Map has no seed",
        ),
    ],
    ids=["arrays", "dataset", "draw"],
)
def test_doubt_without_a_seed(no_global_seed, make, arguments, message):
    """Nothing repeats itself then."""
    (doubt,) = run(make, seed=None, **arguments)[1]
    assert doubt.startswith(message)
