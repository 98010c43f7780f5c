"""compare_strategies: what is run, and what can be told apart."""

import math

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras.errors import ArgumentError
from embkeras.experiments.runs import (
    Comparison,
    Data,
    Run,
    Strategy,
    compare_strategies,
    default_strategies,
    macro_f1,
    run_strategy,
)
from tests import tiny

DATA = Data((tiny.IDS, tiny.LABELS), (tiny.IDS[:4], tiny.LABELS[:4]), (tiny.IDS[4:], tiny.LABELS[4:]))


def _run(strategy, seed, correct, *, seconds=1.0):
    correct = np.array(correct, bool)
    return Run(strategy, seed, correct, float(correct.mean()), float(correct.mean()) / 2, seconds, {}, None)


def _runs(strategy, shares, *, texts=1000):
    """One run a seed; in each the first `share` of the texts is right."""
    return [_run(strategy, seed, np.arange(texts) < share * texts) for seed, share in enumerate(shares)]


def _build(strategy):
    return tiny.model(optimizers.SGD(0.5), trainable=strategy.trainable)


def test_macro_f1_by_hand():
    """Class 0: precision 2/3, recall 1; class 1: 1, 1/2; class 2: 1, 1."""
    labels, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 2])
    assert macro_f1(labels, predicted) == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)


def test_macro_f1_of_a_class_never_predicted_and_one_never_right():
    """Both count as 0, and nothing is divided by 0."""
    assert macro_f1(np.array([0, 1]), np.array([0, 2])) == pytest.approx(1 / 3)


def test_run_keeps_what_the_schedule_did():
    """The phases with their epochs; nothing where there is no schedule."""
    strategies = default_strategies(1)
    run = run_strategy(_build, DATA, "phased", strategies["phased"], epochs=2)
    assert run.phases[["phase", "first_epoch", "last_epoch"]].values.tolist() == [[1, 0, 0], [2, 1, 1]]
    assert run_strategy(_build, DATA, "frozen", strategies["frozen"], epochs=1).phases is None


def test_table_by_hand():
    """Means, standard deviations over seeds and counts, the best accuracy first."""
    runs = [_run("a", 0, [1, 0, 0, 0], seconds=1), _run("a", 1, [1, 1, 1, 0], seconds=3), _run("b", 0, [1, 1, 1, 1])]
    table = Comparison(tuple(runs)).table
    assert table.index.tolist() == ["b", "a"]
    assert table.columns.tolist() == ["accuracy", "accuracy_sd", "f1", "f1_sd", "seconds", "seeds"]
    assert table.loc["a"].tolist() == pytest.approx([0.5, math.sqrt(0.125), 0.25, math.sqrt(0.125) / 2, 2, 2])
    assert math.isnan(table.loc["b", "accuracy_sd"]) and table.loc["b", "seeds"] == 1


def test_difference_by_hand():
    """Two seeds, four texts: Student's t of one degree of freedom and the normal quantile, added as squares."""
    runs = [
        _run("a", 0, [1, 1, 1, 1]),
        _run("a", 1, [1, 1, 1, 0]),
        _run("b", 0, [1, 0, 0, 1]),
        _run("b", 1, [0, 1, 1, 0]),
    ]
    difference, half = Comparison(tuple(runs)).difference("a", "b")
    by_seed, by_text = np.array([0.5, 0.25]), np.array([0.5, 0.5, 0.5, 0])
    training = 12.706 * by_seed.std(ddof=1) / math.sqrt(2)
    testing = 1.96 * by_text.std(ddof=1) / 2
    assert (difference, half) == (pytest.approx(0.375), pytest.approx(math.hypot(training, testing)))


def test_difference_pairs_seeds():
    """Runs of a seed that the other strategy did not have do not count."""
    runs = [*_runs("a", [0.5, 0.5, 1.0]), *_runs("b", [0.25, 0.25])]
    assert Comparison(tuple(runs)).difference("a", "b")[0] == pytest.approx(0.25)


def test_difference_turns_its_sign_with_its_order():
    """The second minus the first is the negative, with the same half width."""
    both = Comparison((*_runs("a", [0.5, 0.6]), *_runs("b", [0.25, 0.3])))
    (forth, half), (back, same) = both.difference("a", "b"), both.difference("b", "a")
    assert forth == pytest.approx(-back) and half == pytest.approx(same)


@pytest.mark.parametrize(
    "runs", [[_run("a", 0, [1, 0]), _run("b", 0, [1, 1])], _runs("a", [1, 1], texts=1) + _runs("b", [0, 0], texts=1)]
)
def test_one_seed_or_one_text_shows_no_spread(runs):
    """The half width is infinite, so that nothing is told apart."""
    assert Comparison(tuple(runs)).difference("b", "a")[1] == math.inf


def test_difference_without_a_common_seed():
    """Both strategies are named."""
    both = Comparison((_run("a", 0, [1, 0]), _run("b", 1, [1, 1])))
    with pytest.raises(ArgumentError, match="No seed was run with both 'a' and 'b'"):
        both.difference("a", "b")


def test_one_seed_has_no_winner():
    """However large the lead."""
    text = Comparison((*_runs("a", [1.0]), *_runs("b", [0.0]))).recommendation
    assert text == "One seed shows no spread, so no strategy is called the best. Run more seeds."


def test_noise_names_those_alike():
    """A lead within the noise has no winner; the strategies behind are named, those far behind are not."""
    runs = [*_runs("a", [0.8, 0.7, 0.81]), *_runs("b", [0.7, 0.8, 0.75]), *_runs("c", [0.1, 0.1, 0.1])]
    text = Comparison(tuple(runs)).recommendation
    assert text == "a is ahead, but not beyond the noise: it cannot be told from b."


def test_equal_runs_have_no_winner():
    """Without any difference the noise is zero as well."""
    assert "cannot be told from b" in Comparison((*_runs("a", [0.5, 0.5]), *_runs("b", [0.5, 0.5]))).recommendation


def test_clear_lead_has_a_winner():
    """A lead larger than the noise over each of the others."""
    runs = [*_runs("a", [0.3, 0.31, 0.3]), *_runs("b", [0.9, 0.91, 0.9]), *_runs("c", [0.5, 0.5, 0.51])]
    text = Comparison(tuple(runs)).recommendation
    assert text == "b is the best: its lead over each of the others is larger than the noise."


def test_one_strategy_is_not_called_the_best():
    """There is nothing that it leads."""
    assert (
        Comparison(tuple(_runs("a", [0.3, 0.31]))).recommendation
        == "Only a was run: there is nothing to compare it with."
    )


def test_default_strategies():
    """Phased, frozen, fine-tuned and the random control, with the epoch and the rate asked for."""
    strategies = default_strategies(2, 0.01)
    assert list(strategies) == ["phased", "frozen", "fine-tuned", "random"]
    assert strategies["phased"] == Strategy(unfreeze_at=2, learning_rate=0.01)
    assert [name for name, each in strategies.items() if not each.pretrained] == ["random"]
    assert [name for name, each in strategies.items() if each.trainable] == ["fine-tuned", "random"]


@pytest.mark.parametrize(
    ("strategy", "count"), [(Strategy(), 0), (Strategy(trainable=True), 0), (Strategy(unfreeze_at=2), 1)]
)
def test_callbacks_of_a_strategy(strategy, count):
    """Only a phased strategy needs one."""
    assert len(strategy.callbacks("embedding")) == count


def test_run_strategy_tests_the_trained_model():
    """Correct texts, accuracy and F1 are those of the model that comes back, on the test part."""
    run = run_strategy(_build, DATA, "fine-tuned", Strategy(trainable=True), seed=3, epochs=2, batch_size=4)
    ids, labels = DATA.test
    predicted = run.model(ids).numpy().argmax(axis=1)
    np.testing.assert_array_equal(run.correct, predicted == labels)
    assert (run.strategy, run.seed, run.accuracy) == ("fine-tuned", 3, run.correct.mean())
    assert run.f1 == macro_f1(labels, predicted) and run.seconds > 0 and len(run.history["val_loss"]) == 2


def test_compare_strategies_follows_each_strategy():
    """The frozen table stands, the phased one moves at its epoch, the fine-tuned one from the start."""
    strategies = {"phased": Strategy(unfreeze_at=1), "frozen": Strategy(), "fine-tuned": Strategy(trainable=True)}
    models = {}

    def build(strategy):
        name = next(name for name, each in strategies.items() if each is strategy)
        return models.setdefault(name, _build(strategy))

    comparison = compare_strategies(build, DATA, strategies=strategies, seeds=[4], epochs=2, batch_size=4)
    moved = {name: bool((tiny.table_of(model) != tiny.TABLE).any()) for name, model in models.items()}
    assert moved == {"phased": True, "frozen": False, "fine-tuned": True}
    assert comparison.runs[0].history["phase"] == [1, 2] and {run.seed for run in comparison.runs} == {4}


def test_runs_that_are_done_are_not_repeated():
    """Only what is missing is trained, and each start is told."""
    done, started = [_run("a", 0, [1] * 8), _run("b", 1, [0] * 8)], []

    def on_start(strategy, seed):
        started.append((strategy, seed))
        return ()

    comparison = compare_strategies(
        _build, DATA, strategies={"a": Strategy(), "b": Strategy()}, seeds=2, done=done, on_start=on_start, epochs=1
    )
    assert started == [("b", 0), ("a", 1)]
    assert [(run.strategy, run.seed) for run in comparison.runs] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert comparison.runs[0].correct is done[0].correct and comparison.runs[3].correct is done[1].correct
    assert all(run.model is None for run in comparison.runs)


def test_same_seed_gives_the_same_run():
    """A run can be repeated to the bit."""
    first, second = (run_strategy(_build, DATA, "a", Strategy(), seed=1, epochs=1) for _ in range(2))
    assert tiny.apart(first.model, second.model) == 0


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"seeds": 0}, r"\['phased', 'frozen', 'fine-tuned', 'random'\], \[\]"),
        ({"strategies": {}, "seeds": 1}, r"\[\], \[0\]"),
    ],
    ids=["no seeds", "no strategies"],
)
def test_nothing_to_compare(arguments, received):
    """No seeds or no strategies; both lists are shown."""
    with pytest.raises(ArgumentError, match=rf"needs strategies and seeds\. Received: {received}"):
        compare_strategies(_build, DATA, **arguments)


def test_a_seed_twice_is_refused():
    """The same training counted twice would shrink the noise."""
    with pytest.raises(ArgumentError, match=r"Each seed may be run once\. Received: \[0, 0\]"):
        compare_strategies(None, [(None, None)] * 3, seeds=[0, 0])


def test_one_score_is_refused():
    """The argmax of one sigmoid would always be class 0."""

    def build(strategy):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="embedding")])
        model.compile("sgd", "mse")
        return model

    part = np.ones((4, 2)), np.ones(4)
    with pytest.raises(ArgumentError, match=r"one score a class .*Received: scores of shape \(4, 1\)"):
        compare_strategies(build, [part] * 3, strategies={"frozen": Strategy()}, seeds=1, epochs=1)


@pytest.mark.parametrize(("data", "parts"), [([(1, 2), (1, 2)], 2), ([1, 2, 3], 3)])
def test_data_are_three_pairs(data, parts):
    """Training, validation and test, each with its labels."""
    with pytest.raises(ArgumentError, match=rf"three pairs \(ids, labels\): .* Received: {parts} parts"):
        compare_strategies(lambda strategy: None, data)


def test_a_comparison_prints_its_table():
    """And what it recommends."""
    run = Run("frozen", 0, np.ones(2, bool), 1.0, 1.0, 0.5, {}, None)
    text = str(Comparison((run,)))
    assert "accuracy" in text and "frozen" in text and text.endswith("nothing to compare it with.")
