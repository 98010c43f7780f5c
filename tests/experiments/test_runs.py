"""compare_strategies: the runs, and which strategies can be told apart."""

import math
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from embkeras import Strategy, fit_on_frozen, report_html, unfreeze_at
from embkeras.errors import ArgumentError, MissingDependencyError
from embkeras.experiments.data import Data
from embkeras.experiments.runs import Comparison, Run, compare_strategies, recommendation, run_strategy
from embkeras.experiments.statistics import macro_f1
from embkeras.experiments.strategies import default_strategies
from tests import tiny

DATA = Data((tiny.IDS, tiny.LABELS), (tiny.IDS[:4], tiny.LABELS[:4]), (tiny.IDS[4:], tiny.LABELS[4:]))


def _run(strategy, seed, correct, *, seconds=1.0):
    correct = np.array(correct, int)
    return Run(strategy, seed, np.ones_like(correct), correct, seconds, {})


def _runs(strategy, shares, *, texts=1000):
    """One run a seed; in each the first `share` of the texts is right."""
    return [_run(strategy, seed, np.arange(texts) < share * texts) for seed, share in enumerate(shares)]


def _done(strategy, seed):
    """A run on the test part of DATA."""
    labels = np.array(DATA.test[1])
    return Run(strategy, seed, labels, labels, 1.0, {})


def _build(strategy):
    return tiny.model(optimizers.SGD(0.5), trainable=strategy.embedding.get("trainable", False))


def test_run_keeps_what_the_schedule_did():
    """The phases with their epochs; None without a schedule."""
    strategies = default_strategies(1)
    run = run_strategy(_build, DATA, strategies["phased"], epochs=2)
    assert run.phases[["phase", "first_epoch", "last_epoch"]].values.tolist() == [[1, 0, 0], [2, 1, 1]]
    assert run_strategy(_build, DATA, strategies["frozen"], epochs=1).phases is None


def test_another_fit():
    """It trains in place of `model.fit`, with its arguments, and the epochs of the strategy."""
    asked = {}

    def fit(model, **arguments):
        asked.update(arguments)
        return fit_on_frozen(model, **arguments)

    run = run_strategy(_build, DATA, Strategy("s", epochs=2), fit=fit, epochs=5, batch_size=3)
    assert (asked["epochs"], asked["batch_size"], len(run.history["val_loss"])) == (2, 3, 2)
    with pytest.raises(ArgumentError, match=r"fit must be a function.*Received: 'frozen'"):
        run_strategy(_build, DATA, Strategy("s"), fit="frozen")


def test_comparison_is_a_page():
    """With its sentence, its table and the leads; a comparison of one run has no leads to show."""
    comparison = Comparison((*_runs("a", [0.9, 0.91]), *_runs("b", [0.6, 0.61])))
    page = report_html(comparison)
    assert comparison.text in page and comparison.text == recommendation(comparison)
    assert "90.5%" in page and "Lead of a on the test texts" in page
    assert "Lead of" not in report_html(Comparison(tuple(_runs("a", [0.9]))))


def test_table_by_hand():
    """Means, standard deviations over seeds and counts, the best accuracy first; the F1s of "a" are 1/5 and 3/7."""
    runs = [_run("a", 0, [1, 0, 0, 0], seconds=1), _run("a", 1, [1, 1, 1, 0], seconds=3), _run("b", 0, [1, 1, 1, 1])]
    table = Comparison(tuple(runs)).table
    assert table.index.tolist() == ["b", "a"]
    assert table.columns.tolist() == ["accuracy", "accuracy_sd", "f1", "f1_sd", "seconds", "seeds"]
    assert table.loc["a"].tolist() == pytest.approx([0.5, math.sqrt(0.125), 11 / 35, 4 / 35 * math.sqrt(2), 2, 2])
    assert math.isnan(table.loc["b", "accuracy_sd"]) and table.loc["b", "seeds"] == 1


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
    text = recommendation(Comparison((*_runs("a", [1.0]), *_runs("b", [0.0]))))
    assert text == "With one seed the noise is unknown, so no strategy is called the best. Run more seeds."


def test_noise_names_those_alike():
    """A lead within the noise has no winner; the strategies that can't be told apart are named, those far behind are not."""
    runs = [*_runs("a", [0.8, 0.7, 0.81]), *_runs("b", [0.7, 0.8, 0.75]), *_runs("c", [0.1, 0.1, 0.1])]
    comparison = Comparison(tuple(runs))
    assert comparison.leads["significant"].to_dict() == {"b": False, "c": True}
    assert recommendation(comparison) == "a is ahead, but not beyond the noise: it can't be told apart from b."


def test_equal_runs_have_no_winner():
    """Without any difference the noise is zero as well."""
    equal = Comparison((*_runs("a", [0.5, 0.5]), *_runs("b", [0.5, 0.5])))
    assert "can't be told apart from b" in recommendation(equal)


def test_clear_lead_has_a_winner():
    """A lead larger than the noise over each of the others."""
    runs = [*_runs("a", [0.3, 0.31, 0.3]), *_runs("b", [0.9, 0.91, 0.9]), *_runs("c", [0.5, 0.5, 0.51])]
    text = recommendation(Comparison(tuple(runs)))
    assert text == "b is the best: its lead over each of the others is larger than the noise."


def test_one_strategy_is_not_called_the_best():
    """There is nothing that it leads."""
    text = recommendation(Comparison(tuple(_runs("a", [0.3, 0.31]))))
    assert text == "Only a was run: there is nothing to compare it with."


def test_run_strategy_tests_the_trained_model():
    """Correct texts, accuracy and F1 are those of the model that comes back, on the test part."""
    tuned = Strategy("fine-tuned", embedding={"trainable": True})
    run = run_strategy(_build, DATA, tuned, seed=3, epochs=2, batch_size=4)
    ids, labels = DATA.test
    predicted = run.model(ids).numpy().argmax(axis=1)
    np.testing.assert_array_equal(run.correct, predicted == labels)
    assert (run.strategy, run.seed, run.accuracy) == ("fine-tuned", 3, run.correct.mean())
    assert run.f1 == macro_f1(labels, predicted) and run.seconds > 0 and len(run.history["val_loss"]) == 2


def test_compare_strategies_follows_each_strategy():
    """The frozen table stays, the phased one moves from its epoch on, the fine-tuned one from the start."""
    strategies, models = [Strategy("phased", schedule=unfreeze_at(1, "embedding")), "frozen", "fine-tuned"], {}

    def build(strategy):
        return models.setdefault(strategy.name, _build(strategy))

    comparison = compare_strategies(build, DATA, strategies=strategies, seeds=[4], epochs=2, batch_size=4)
    moved = {name: bool((tiny.table_of(model) != tiny.TABLE).any()) for name, model in models.items()}
    assert moved == {"phased": True, "frozen": False, "fine-tuned": True}
    assert comparison.runs[0].history["phase"] == [1, 2] and {run.seed for run in comparison.runs} == {4}


def test_runs_that_are_done_are_not_repeated():
    """Only missing runs are trained, and `on_start` is called for each."""
    done, started = [_done("a", 0), _done("b", 1)], []

    def on_start(strategy, seed):
        started.append((strategy, seed))
        return ()

    comparison = compare_strategies(
        _build, DATA, strategies=[Strategy("a"), Strategy("b")], seeds=2, done=iter(done), on_start=on_start, epochs=1
    )
    assert started == [("b", 0), ("a", 1)]
    assert [(run.strategy, run.seed) for run in comparison.runs] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert comparison.runs[0].labels is done[0].labels and comparison.runs[3].labels is done[1].labels
    assert all(run.model is None for run in comparison.runs)


def test_same_seed_gives_the_same_run():
    """A run can be repeated to the bit."""
    first, second = (run_strategy(_build, DATA, Strategy("a"), seed=1, epochs=1) for _ in range(2))
    assert tiny.apart(first.model, second.model) == 0


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"seeds": 0}, r"\['phased', 'frozen', 'fine-tuned', 'shared map', 'random'\], \[\]"),
        ({"strategies": [], "seeds": 1}, r"\[\], \[0\]"),
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


def _untrained(*layers):
    """A function that builds a model which must not be trained."""

    def build(strategy):
        model = keras.Sequential([keras.Input((2,)), *layers])
        model.compile("sgd", "mse")
        model.fit = lambda *_, **__: pytest.fail("trained")
        return model

    return build


@pytest.mark.parametrize(
    ("layers", "inputs", "labels", "message"),
    [
        ([keras.layers.Dense(1)], np.ones((4, 2)), 1, r"one score per class .*Received: scores of shape \(4, 1\)"),
        ([keras.layers.Reshape((2, 1))], np.ones((4, 2)), 1, r"Received: scores of shape \(4, 2, 1\)"),
        ([keras.layers.Dense(2)], np.ones((4, 2)), 2, "classes from 0 to 1, .* Received: 2"),
        ([keras.layers.Dense(2)], np.ones((4, 2)), -1, "classes from 0 to 1, .* Received: -1"),
        ([keras.layers.Dense(2)], np.ones((4, 3)), 1, r"(?s)can't score the inputs of data\.test: ValueError: .*shape"),
    ],
    ids=["one score", "three axes", "class too high", "negative class", "other inputs"],
)
def test_answers_are_checked_before_training(layers, inputs, labels, message):
    """The argmax of one sigmoid would always be class 0, and a label that the model lacks is never right."""
    part = inputs, np.full(4, labels)
    with pytest.raises(ArgumentError, match=message):
        compare_strategies(_untrained(*layers), [part] * 3, strategies=["frozen"], seeds=1, epochs=1)


PAIR = (tiny.IDS, tiny.LABELS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([(1, 2), (1, 2)], r"three parts, such as pairs .* Received: \[\(1, 2\), \(1, 2\)\]"),
        (None, "three parts, .* Received: None"),
    ],
)
def test_data_are_three_parts(data, message):
    """Training, validation and test."""
    with pytest.raises(ArgumentError, match=message):
        compare_strategies(lambda strategy: None, data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategies": {"phased": Strategy("frozen")}}, "must be a sequence; .* Received: {'phased'"),
        ({"strategies": "frozen"}, "strategies must be a sequence, .* Received: 'frozen'"),
        (
            {"strategies": ["thawed"]},
            "one of phased, frozen, fine-tuned, shared map, random, .*LoRA. Received: 'thawed'",
        ),
        ({"strategies": [None]}, "Received: None"),
        ({"strategies": ["frozen", Strategy("frozen")]}, r"a name of its own. Received: \['frozen', 'frozen'\]"),
        ({"seeds": True}, "seeds must be .* Received: True"),
        ({"seeds": "3"}, "Received: '3'"),
        ({"seeds": [0, -1]}, "seed must be an integer from 0 .* Received: -1"),
        ({"seeds": [False]}, "Received: False"),
        ({"done": None}, "done must be a sequence. Received: None"),
        ({"done": ["frozen"]}, "done must contain runs .* Received: 'frozen'"),
        ({"done": [_run("frozen", 3, [1] * 9)]}, r"done must .* Received: Run\(strategy='frozen', seed=3"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    """Before anything is trained."""
    with pytest.raises(ArgumentError, match=message):
        compare_strategies(lambda strategy: None, [PAIR] * 3, **arguments)


@pytest.mark.parametrize("model", [None, keras.Sequential([keras.layers.Dense(2)])])
def test_build_model_must_return_a_compiled_model(model):
    """The message shows what it returned."""
    with pytest.raises(ArgumentError, match=r"compiled Keras model\. Received: (None|<Sequential)"):
        run_strategy(lambda strategy: model, DATA, Strategy("a"))


def test_arguments_of_run_strategy():
    """A strategy, not its name; weights by class, not in a list."""
    with pytest.raises(ArgumentError, match=r"takes a Strategy\. Received: 'frozen'"):
        run_strategy(_build, DATA, "frozen")
    with pytest.raises(ArgumentError, match=r"class_weight must map class numbers .* Received: \[1, 2\]"):
        run_strategy(_build, DATA, Strategy("a"), class_weight=[1, 2])


def test_layer_of_the_named_strategies():
    """The phased strategy uses the name of the embedding layer."""

    def build(strategy):
        model = keras.Sequential(
            [keras.Input((5,)), tiny.embedding(name="words"), keras.layers.GlobalAveragePooling1D()]
        )
        model.add(keras.layers.Dense(3, activation="softmax"))
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    comparison = compare_strategies(build, DATA, strategies=["phased"], seeds=1, layer="words", epochs=4)
    assert comparison.runs[0].phases["trainable_parameters"].tolist() == [15, 55]


def test_missing_extra_is_reported_before_training(monkeypatch):
    """Not after the first run."""
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingDependencyError, match=r"embkeras\[compare\]"):
        compare_strategies(lambda strategy: pytest.fail("trained"), DATA)


def test_a_comparison_prints_its_table():
    """And what it recommends."""
    text = str(Comparison((_run("frozen", 0, [1, 1]),)))
    assert "accuracy" in text and "frozen" in text and text.endswith("nothing to compare it with.")


def _build_named(strategy):
    """The tiny model with its ids in a dictionary, beside another input."""
    keras.utils.set_random_seed(0)
    ids, more = keras.Input((5,), dtype="int64", name="ids"), keras.Input((1,), name="more")
    mean = keras.layers.GlobalAveragePooling1D()(tiny.embedding()(ids))
    scores = keras.layers.Dense(3, activation="softmax")(keras.layers.Concatenate()([mean, more]))
    net = keras.Model({"ids": ids, "more": more}, scores)
    net.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    return net


def _named(rows=slice(None)):
    return {"ids": tiny.IDS[rows], "more": np.linspace(0, 1, 12, dtype="float32")[rows, None]}


@pytest.mark.filterwarnings("error")
def test_inputs_in_a_dictionary_and_datasets():
    """The same run from arrays by name, and from datasets of the same batches."""
    parts = [(_named(rows), tiny.LABELS[rows]) for rows in (slice(None), slice(4), slice(4, None))]
    runs = []
    for data in (parts, [tf.data.Dataset.from_tensor_slices(part).batch(12) for part in parts]):
        comparison = compare_strategies(_build_named, data, strategies=["frozen"], seeds=1, epochs=2, batch_size=12)
        runs.append(comparison.runs[0])
    np.testing.assert_array_equal(runs[0].labels, tiny.LABELS[4:])
    np.testing.assert_array_equal(runs[1].labels, tiny.LABELS[4:])
    np.testing.assert_allclose(runs[0].history["val_loss"], runs[1].history["val_loss"], rtol=1e-5)
    np.testing.assert_array_equal(runs[0].predicted, runs[1].predicted)


def test_weights_of_classes_and_examples():
    """Both reach the loss: only class 2 counts, in either way."""
    only = (tiny.LABELS == 2).astype("float32")
    _, *others = DATA.train, DATA.validation, DATA.test
    by_class = run_strategy(_build, DATA, Strategy("a"), epochs=1, class_weight={0: 0.0, 1: 0.0, 2: 1.0})
    by_example = run_strategy(_build, Data((*DATA.train, only), *others), Strategy("a"), epochs=1)
    unweighted = run_strategy(_build, DATA, Strategy("a"), epochs=1)
    assert by_class.history["loss"] == pytest.approx(by_example.history["loss"])
    assert by_class.history["loss"] != pytest.approx(unweighted.history["loss"])
