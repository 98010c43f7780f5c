"""fit_on_frozen trains what `fit` trains, and runs frozen layers once.

Models are eager where the graph doesn't matter: that is faster here.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.errors import ArgumentError, EmbkerasWarning
from embkeras.tables.pooling import MaskedMean
from embkeras.training.drift_monitor import DriftMonitor
from embkeras.training.frozen_trunk import kept, run_once
from embkeras.training.frozen_trunk.fit import fit_on_frozen
from embkeras.training.resume.backup import ResumableBackup
from embkeras.training.schedule.callback import TrainabilitySchedule, gradual_unfreeze, unfreeze_at
from embkeras.training.schedule.phases import Phase
from tests import tiny

_RANDOM = np.random.default_rng(0)
IDS = np.where(np.arange(6) < _RANDOM.integers(1, 7, (20, 1)), _RANDOM.integers(1, 10, (20, 6)), 0)
ROWS = _RANDOM.normal(size=(20, 6)).astype(np.float32)
LABELS = _RANDOM.integers(0, 2, 20).astype(np.float32)


def classifier(inputs, hidden, *, eager=True, **compile_arguments):
    """Dropout and a unit above `hidden`, compiled."""
    scores = keras.layers.Dense(1, activation="sigmoid", name="head")(keras.layers.Dropout(0.3)(hidden))
    model = keras.Model(inputs, scores, name="small")
    model.compile(
        keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["accuracy"], run_eagerly=eager, **compile_arguments
    )
    return model


def recurrent():
    """A table with a mask, frozen, below an LSTM."""
    keras.utils.set_random_seed(1)
    ids = keras.Input((6,), dtype="int64")
    table = keras.layers.Embedding(10, 4, mask_zero=True, trainable=False, name="embedding")
    return classifier(ids, keras.layers.LSTM(3, unroll=True)(table(ids)))


def stack(*, frozen=(), eager=True):
    """Three dense layers."""
    keras.utils.set_random_seed(1)
    hidden = inputs = keras.Input((6,))
    for place in range(3):
        hidden = keras.layers.Dense(4, "relu", trainable=place not in frozen, name=f"dense_{place}")(hidden)
    return classifier(inputs, hidden, eager=eager)


def pairs():
    """Two texts and numbers: one table, frozen, for both texts; the numbers go to the head."""
    keras.utils.set_random_seed(1)
    inputs = {key: keras.Input((6,), dtype="int64", name=key) for key in "qd"} | {"n": keras.Input((6,), name="n")}
    table = keras.layers.Embedding(10, 4, mask_zero=True, trainable=False, name="embedding")
    dense, mean = keras.layers.Dense(3, name="shared"), keras.layers.GlobalAveragePooling1D(name="mean")
    hidden = [mean(dense(table(inputs["q"]))), mean(table(inputs["d"])), mean(dense(table(inputs["d"]))), inputs["n"]]
    return classifier(inputs, keras.layers.Concatenate()(hidden))


def everything(model):
    """All variables of the model and of its optimizer."""
    return [keras.ops.convert_to_numpy(each) for each in (*model.variables, *model.optimizer.variables)]


def tags():
    """A score for each token, above a frozen table with a mask."""
    keras.utils.set_random_seed(1)
    ids = keras.Input((6,), dtype="int64")
    return classifier(ids, keras.layers.Embedding(10, 4, mask_zero=True, trainable=False, name="embedding")(ids))


def check_equal(make, x, y=LABELS, *, schedule=list, places, **arguments):
    """Compare with `fit`, to the bit; returns the History."""
    results = []
    for fit in (keras.Model.fit, fit_on_frozen):
        model = make()
        keras.utils.set_random_seed(2)
        history = fit(model, x, y, verbose=0, callbacks=schedule(), batch_size=8, **arguments)
        results.append((history.history, everything(model)))
    assert results[0][0] == results[1][0]
    for plain, other in zip(*(each[1] for each in results), strict=True):
        np.testing.assert_array_equal(plain, other)
    assert [(each["epoch"], each["layers"][-1]) for each in history.frozen if each["data"] == "training"] == places
    return history


def test_a_frozen_table_below_an_lstm():
    """The mask crosses the cut, and the table joins the training at epoch 2, with the optimizer's state kept."""
    check_equal(
        recurrent,
        IDS,
        schedule=lambda: [unfreeze_at(2, "embedding", learning_rate=0.01)],
        epochs=3,
        validation_split=0.2,
        places=[(0, "embedding")],
    )


def pooled():
    """The mean of a frozen table over the tokens that are no padding."""
    keras.utils.set_random_seed(1)
    ids = keras.Input((6,), dtype="int64")
    vectors = keras.layers.Embedding(10, 4, mask_zero=True, trainable=False, name="embedding")(ids)
    return classifier(ids, MaskedMean(name="mean")(vectors))


def test_a_masked_table_that_is_pooled():
    """One vector a text is kept, and no mask."""
    history = check_equal(pooled, IDS, epochs=1, validation_split=0.2, places=[(0, "mean")])
    assert history.frozen[0]["bytes"] == history.frozen[0]["rows"] * 4 * 4


def test_the_mask_reaches_the_loss():
    """No layer above reads it: Keras takes it from the outputs, and padding counts neither there nor in metrics."""
    labels = (IDS % 2).astype(np.float32)[..., None]
    check_equal(tags, IDS, labels, epochs=1, validation_split=0.2, places=[(0, "embedding")])


def test_a_stack_that_thaws_from_the_top():
    """Each phase has a cut of its own, and the last one none; compiled, where a step is traced for each."""
    check_equal(
        lambda: stack(eager=False),
        ROWS,
        schedule=lambda: [gradual_unfreeze(["dense_0", "dense_1"])],
        epochs=3,
        class_weight={0: 1.0, 1: 2.0},
        validation_split=0.2,
        places=[(0, "dense_1"), (1, "dense_0")],
    )


def test_the_best_epoch_is_restored_and_saved(tmp_path):
    """By EarlyStopping and ModelCheckpoint, while the cut moves: weights and files are those of `fit`."""
    runs = []

    def schedule():
        runs.append(tmp_path / f"{len(runs)}.keras")
        best = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
        saved = keras.callbacks.ModelCheckpoint(runs[-1], save_best_only=True)
        return [gradual_unfreeze(["dense_0", "dense_1"]), best, saved]

    places = [(0, "dense_1"), (1, "dense_0")]
    history = check_equal(stack, ROWS, schedule=schedule, epochs=8, validation_split=0.3, places=places)
    losses = history.history["val_loss"]
    assert losses.index(min(losses)) < len(losses) - 1 < 7
    plain, other = (keras.saving.load_model(path) for path in runs)
    for one, two in zip(plain.weights, other.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_several_inputs_and_tensors():
    """Two calls of one table cross with their masks, and an input goes above by itself; weights of rows stay with them."""
    x = {"q": IDS, "d": IDS[::-1].copy(), "n": ROWS}
    check_equal(
        pairs,
        x,
        epochs=2,
        sample_weight=np.arange(20.0),
        validation_data=(x, LABELS, np.ones(20)),
        places=[(0, "mean")],
    )


def test_data_for_validation_that_are_not_arrays():
    """They run through the whole model."""
    data = tf.data.Dataset.from_tensor_slices((ROWS, LABELS)).batch(8)
    history = check_equal(lambda: stack(frozen=(0,)), ROWS, epochs=2, validation_data=data, places=[(0, "dense_0")])
    assert [each["data"] for each in history.frozen] == ["training"]


class Watch(keras.callbacks.Callback):
    """Notes what a callback sees, and at epoch 1 changes a frozen weight."""

    def on_epoch_end(self, epoch, logs=None):
        """Evaluate and predict with data of its own."""
        self.seen = self.model, self.model.evaluate(ROWS, LABELS, verbose=0), self.model.predict(ROWS, verbose=0)

    def on_epoch_begin(self, epoch, logs=None):
        """Change the lowest layer."""
        if epoch == 1:
            self.model.get_layer("dense_0").kernel.assign_add(tf.ones((6, 4)))


def test_callbacks_see_the_model_and_may_change_it():
    """A weight below that a callback changes makes a new pass; the model has its own steps and call in between."""
    watches = []

    def watch():
        watches.append(Watch())
        return watches[-1:]

    check_equal(lambda: stack(frozen=(0, 1)), ROWS, schedule=watch, epochs=2, places=[(0, "dense_1"), (1, "dense_1")])
    plain, other = (each.seen for each in watches)
    assert plain[1] == other[1] and np.array_equal(plain[2], other[2])
    assert other[0].name == "small" and not {"train_step", "test_step", "call"} & set(vars(other[0]))


def test_a_monitor_that_freezes_moves_the_cut_up():
    """From the epoch behind the bound on, the table is below."""
    ids, labels = tiny.IDS, tiny.LABELS
    nets = [tiny.model(keras.optimizers.Adam(0.1), trainable=True, run_eagerly=True) for _ in range(2)]
    histories = []
    for fit, net in zip((keras.Model.fit, fit_on_frozen), nets, strict=True):
        keras.utils.set_random_seed(2)
        monitor = DriftMonitor("embedding", bound=1e-6, at_bound="freeze")
        later = TrainabilitySchedule([Phase(0), Phase(5, freeze="embedding")])  # else nothing may be frozen at epoch 0
        with pytest.warns(EmbkerasWarning, match="epoch 5"):
            histories.append(fit(net, ids, labels, epochs=3, verbose=0, callbacks=[later, monitor]))
    assert [(each["epoch"], each["layers"][0]) for each in histories[1].frozen] == [(1, "embedding")]
    for plain, other in zip(*map(everything, nets), strict=True):
        np.testing.assert_array_equal(plain, other)


def test_kept_outputs_are_found_again(tmp_path, monkeypatch):
    """The same again computes nothing; another weight or other data make a pass; an interrupted one goes on."""
    monkeypatch.setattr(run_once, "_PART_BYTES", 1)  # a file for each batch

    def computed(x=ROWS, model=None, **arguments):
        model = model or stack(frozen=(0, 1))
        return fit_on_frozen(model, x, LABELS, keep=tmp_path, verbose=0, **{"batch_size": 4, **arguments}).frozen[0][
            "computed"
        ]

    class Killed(BaseException):
        pass

    real, written = kept.written_beside, []

    def dying(path, **arguments):
        written.append(path.name)
        if sum(name.startswith("rows") for name in written) == 3:
            raise Killed
        return real(path, **arguments)

    monkeypatch.setattr(kept, "written_beside", dying)
    model = stack(frozen=(0, 1))
    with pytest.raises(Killed):
        computed(model=model)
    assert not {"train_step", "test_step"} & set(vars(model))
    monkeypatch.setattr(kept, "written_beside", real)
    assert [computed(), computed()] == [12, 0]
    changed = stack(frozen=(0, 1))
    changed.get_layer("dense_1").bias.assign(np.ones(4))
    assert computed(model=changed) == 20
    assert computed(x=ROWS + 1) == 20


def test_float16():
    """Half the bytes, and the largest difference is reported."""
    results = []
    for dtype in ("float32", "float16"):
        model = stack(frozen=(0, 1))
        keras.utils.set_random_seed(2)
        history = fit_on_frozen(model, ROWS, LABELS, dtype=dtype, verbose=0)
        results.append((history.frozen[0], model.get_layer("head").kernel.numpy()))
    (full, kernel), (half, other) = results
    assert (full["bytes"], half["bytes"]) == (20 * 4 * 4, 20 * 4 * 2)
    assert full["difference"] == 0 < half["difference"] < 1e-2
    np.testing.assert_allclose(kernel, other, atol=1e-2)
    with pytest.raises(ArgumentError, match=r"too large for float16.*rows 0 to 19"):
        fit_on_frozen(stack(frozen=(0,)), ROWS * 1e6, LABELS, dtype="float16", verbose=0)


def test_dropout_below_the_cut_is_named(capsys):
    """A warning says which layers don't drop out; what runs, where and for how long is printed before."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dropout(0.5, name="inside")(keras.layers.Dense(4, trainable=False)(inputs))
    model = classifier(inputs, keras.layers.Dense(3, trainable=False, name="upper")(hidden))
    with pytest.warns(EmbkerasWarning, match="model.fit: inside"):
        history = fit_on_frozen(model, ROWS, LABELS, verbose=2)
    assert history.frozen[0]["dropping"] == ["inside"]
    assert "to 'upper' run once over 20 rows: 240 bytes in" in capsys.readouterr().out


class Dies(keras.callbacks.Callback):
    """Ends the fit at the end of an epoch; never for None."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_end(self, epoch, logs=None):
        """Look whether it is time."""
        if epoch == self.at:
            raise KeyboardInterrupt

    def state(self):
        """None."""
        return {}

    def restore(self, model, state):
        """Nothing."""


def test_resumed_runs(tmp_path):
    """Killed where layers are frozen or where none is any more, and run again: the weights of one run."""

    def run(folder, at=None):
        keras.backend.clear_session()
        model = stack()
        keras.utils.set_random_seed(2)
        callbacks = [unfreeze_at(2, ["dense_0", "dense_1"]), ResumableBackup(tmp_path / folder), Dies(at)]
        history = fit_on_frozen(
            model, ROWS, LABELS, keep=tmp_path / "kept", epochs=3, verbose=0, callbacks=callbacks, batch_size=10
        )
        return history, everything(model)

    whole, weights = run("whole")
    assert [each["computed"] for each in whole.frozen] == [20]
    for at, computed in ((1, [0]), (2, [])):
        with pytest.raises(KeyboardInterrupt):
            run(str(at), at)
        resumed, others = run(str(at))
        assert [each["computed"] for each in resumed.frozen] == computed and resumed.history == whole.history
        for one, other in zip(weights, others, strict=True):
            np.testing.assert_array_equal(one, other)


class Penalty(keras.layers.Layer):
    """Adds to the loss."""

    def call(self, x):
        """As it is."""
        self.add_loss(tf.reduce_sum(x))
        return x


class Counter(keras.layers.Layer):
    """Counts the calls in training."""

    def build(self, shape):
        """One number."""
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, x, training=False):
        """Adds what it has counted."""
        if training:
            self.count.assign_add(1.0)
        return x + self.count


def with_layer(layer):
    """A frozen dense layer, and another frozen one above `layer`."""
    inputs = keras.Input((6,))
    hidden = layer(keras.layers.Dense(4, trainable=False)(inputs))
    return classifier(inputs, keras.layers.Dense(3, trainable=False)(hidden))


def uncompiled():
    """A stack."""
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(1)(inputs), name="raw")


class Subclassed(keras.Model):
    """No graph."""

    def call(self, x):
        """As it is."""
        return x


def partly_frozen():
    """A nested model whose lower layer is frozen."""
    lower = keras.layers.Dense(3, trainable=False)
    inner = keras.Sequential([keras.Input((6,)), lower, keras.layers.Dense(2)], name="inner")
    inputs = keras.Input((6,))
    return classifier(inputs, inner(inputs))


def own_step():
    """A functional model with a train step of its own."""
    inputs = keras.Input((6,))
    net = tiny.OwnStep(inputs, keras.layers.Dense(1)(inputs), name="own")
    net.compile("adam", "mse")
    return net


@pytest.mark.parametrize(
    ("make", "arguments", "named"),
    [
        (lambda: Subclassed(name="mine"), {}, "'mine' .Subclassed"),
        (lambda: keras.Sequential([keras.layers.Dense(1)], name="late"), {}, "'late'"),
        (lambda: "model", {}, "'model'"),
        (uncompiled, {}, "'raw' is not compiled"),
        (own_step, {}, "train_step of OwnStep"),
        (stack, {}, "epoch 0 .*'small'.*dense_0, dense_1, dense_2, head"),
        (lambda: stack(frozen=(1,)), {}, "dense_0"),
        (partly_frozen, {}, "in part: inner.*inner.input"),
        (lambda: with_layer(Penalty(name="penalty")), {}, "add to the loss.*penalty"),
        (lambda: with_layer(Counter(name="counter")), {}, "counter/count"),
        (stack, {"x": tf.data.Dataset.range(3)}, "x must be arrays.*Dataset.*np.concatenate"),
        (stack, {"x": None}, "x must be arrays.*None"),
        (stack, {"x": {"a": ROWS, "b": ROWS[:3]}}, r"\[3, 20\] rows"),
        (stack, {"y": LABELS[:4]}, "batches of these data"),
        (stack, {"dtype": "int8"}, "dtype.*int8"),
        (stack, {"callbacks": ["early"]}, "callbacks.*early"),
        (stack, {"batch_size": 0}, "batch_size.*0"),
        (stack, {"validation_split": 0.9999}, "validation_split=0.9999"),
        (stack, {"keep": 3}, "keep.*3"),
    ],
)
def test_what_cannot_work_is_refused(make, arguments, named):
    """By the name of the model, layer or argument."""
    with pytest.raises(ArgumentError, match=named):
        fit_on_frozen(make(), **{"x": ROWS, "y": LABELS, "verbose": 0, **arguments})


def test_no_room(monkeypatch, tmp_path):
    """The disk is asked before the pass begins."""
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(run_once.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"take 320 bytes.*room for 100 bytes"):
        fit_on_frozen(stack(frozen=(0, 1)), ROWS, LABELS, keep=tmp_path, verbose=0)
