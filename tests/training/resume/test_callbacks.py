"""The states of other callbacks: which there are, whose they are, and giving them back."""

import keras
import pytest
from keras import callbacks as stock

from embkeras.errors import ResumeError
from embkeras.training.resume import callbacks as callback_states
from embkeras.training.resume.callbacks import check_states, restore_states, states_of, unsaved
from tests import tiny


class Counting(keras.callbacks.Callback):
    """One with a state of its own."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def state(self):
        """The count."""
        return {"count": self.count}

    def restore(self, model, state):
        """Set it."""
        self.count, self.given = state["count"], model


_MAKERS = {
    stock.CSVLogger: lambda folder: stock.CSVLogger(folder / "m.csv"),
    stock.EarlyStopping: lambda folder: stock.EarlyStopping("loss", restore_best_weights=True),
    stock.ModelCheckpoint: lambda folder: stock.ModelCheckpoint(folder / "m.keras", monitor="loss"),
    stock.ReduceLROnPlateau: lambda folder: stock.ReduceLROnPlateau("loss"),
    stock.SwapEMAWeights: lambda folder: stock.SwapEMAWeights(swap_on_epoch=True),
    stock.TensorBoard: lambda folder: stock.TensorBoard(folder),
    stock.History: lambda folder: stock.History(),
}


@pytest.mark.parametrize("kind", callback_states._COUNTERS, ids=lambda kind: kind.__name__)
def test_counters_are_there(kind, tmp_path):
    """Fails when Keras renames a counter: every name is an attribute once training has begun."""
    callback = _MAKERS[kind](tmp_path)
    if kind is not stock.TensorBoard:  # it cannot write where tensorboard is not installed
        tiny.fit(tiny.model(keras.optimizers.SGD(0.1, use_ema=True)), epochs=1, callbacks=[callback])
    assert set(states_of([callback])[f"{kind.__name__} 1"]) == set(callback_states._COUNTERS[kind])


def test_every_callback_of_keras_is_known():
    """A new one in Keras asks for a line in the tables, or stays among those that are named as not saved."""
    known = {kind.__name__ for kind in [*callback_states._COUNTERS, *callback_states._STATELESS]}
    named = {"BackupAndRestore", "Callback", "CallbackList", "LambdaCallback", "OrbaxCheckpoint"}
    kinds = {name for name in dir(stock) if isinstance(getattr(stock, name), type)}
    assert kinds - known - named == set()


def test_states_are_given_back_by_class_and_place():
    """The second of two is the second again; the model is handed over."""
    before, after = [Counting(), stock.TerminateOnNaN(), Counting()], [Counting(), Counting()]
    before[0].count, before[2].count = 1, 2
    states = states_of(before)
    check_states(after, states, "the file")
    restore_states(after, states, "model")
    assert [each.count for each in after] == [1, 2] and after[0].given == "model"


def test_changed_callbacks_are_refused():
    """Either way, the one that is too many is named."""
    early = stock.EarlyStopping("loss")
    with pytest.raises(
        ResumeError, match=r"the file has EarlyStopping 1, and the script has not.*Received: Counting 1"
    ):
        check_states([Counting()], states_of([Counting(), early]), "the file")
    with pytest.raises(ResumeError, match="the script has Counting 2, and the file has not"):
        check_states([Counting(), Counting()], states_of([Counting()]), "the file")


def test_callbacks_without_a_word_of_state_are_unsaved():
    """Their class is named; those that have no state, or say it, are not."""
    quiet = [Counting(), stock.TerminateOnNaN(), stock.EarlyStopping(), stock.CSVLogger("x.csv", append=True)]
    assert unsaved(quiet) == []
    assert unsaved([stock.LambdaCallback()]) == ["LambdaCallback (it has no state() and restore())"]


def test_subclass_of_a_known_callback_is_unsaved():
    """It may keep more than its parent does."""

    class Mine(stock.EarlyStopping):
        pass

    assert unsaved([Mine()]) == ["Mine (it has no state() and restore())"]


def test_csv_that_begins_anew_is_unsaved():
    """Keras opens the file for writing when training begins, and what stood in it is gone."""
    assert unsaved([stock.CSVLogger("x.csv")]) == ["the file of CSVLogger, which begins anew without append=True"]
