"""Strategy: schedules, layers and tables as data."""

import pickle
from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import optimizers

from embkeras import AlignedMatrix, Phase, RowWiseAdam, Strategy, Vocabulary, gradual_unfreeze, unfreeze_at
from embkeras.errors import ArgumentError
from embkeras.experiments.data import Data
from embkeras.experiments.runs import run_strategy
from embkeras.experiments.strategies import default_strategies, encoder_strategies
from embkeras.training.class_means import fit_class_means
from embkeras.vectors.postprocess import centre
from tests import tiny
from tests.variants import variants

ALIGNED = AlignedMatrix(tiny.TABLE, Vocabulary(["", "[UNK]", *"abcdefgh"]), found=np.arange(10) > 3)
DATA = Data((tiny.IDS, tiny.LABELS), (tiny.IDS[:4], tiny.LABELS[:4]), (tiny.IDS[4:], tiny.LABELS[4:]))


def build_model(strategy):
    """Embedding, a hidden layer, and scores."""
    ids = keras.Input((5,), dtype="int64")
    mean = keras.layers.GlobalAveragePooling1D()(strategy.build_embedding(ALIGNED)(ids))
    hidden = keras.layers.Dense(4, name="hidden")(mean)
    model = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax")(hidden))
    model.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    return model


def run(strategy, epochs=2):
    """One short training."""
    return run_strategy(build_model, DATA, strategy, epochs=epochs, batch_size=4)


def moved_rows(result):
    """Ids whose row differs from the table at the start."""
    return np.flatnonzero((tiny.table_of(result.model) != tiny.TABLE).any(axis=1))


def test_default_strategies():
    """Phased, frozen, fine-tuned, shared map and the random control, with the epoch and the rate received."""
    strategies = default_strategies(2, 0.01)
    assert list(strategies) == ["phased", "frozen", "fine-tuned", "shared map", "random"]
    assert [name for name, each in strategies.items() if each.vectors == "random"] == ["random"]
    assert [name for name, each in strategies.items() if each.embedding.get("trainable")] == [
        "fine-tuned",
        "shared map",
        "random",
    ]
    phases = strategies["phased"].callbacks()[0].phases
    rates = [phase.rate and phase.rate.learning_rate for phase in phases]
    assert ([phase.start for phase in phases], rates) == ([0, 2], [None, 0.01])
    assert not any(each.callbacks() for name, each in strategies.items() if name != "phased")


def test_gradual_in_one_line():
    """One more layer trains in each phase, the table last."""
    phases = run(Strategy("gradual", schedule=gradual_unfreeze(["embedding", "hidden", "head"], start=0)), 3).phases
    assert phases["trainable_parameters"].tolist() == [15, 15 + 20, 15 + 20 + 40]


def test_phases_in_one_line():
    """A schedule written as phases."""
    result = run(Strategy("own", schedule=[Phase(0, freeze="embedding"), Phase(1, learning_rate=0.125)]))
    assert result.phases["learning_rate"].tolist() == [0.5, 0.125] and len(moved_rows(result))


def test_low_rank_in_one_line():
    """The table itself stays, its LoRA trains."""
    result = run(Strategy("LoRA", embedding={"trainable": True}, lora_rank=2))
    layer = result.model.get_layer("embedding")
    assert layer.lora_enabled and [tuple(each.shape) for each in layer.trainable_variables] == [(10, 2), (2, 4)]
    assert tiny.UNSEEN not in moved_rows(result) and len(moved_rows(result)) > 1


def test_int8_in_one_line():
    """The layer stores int8, and doesn't move."""
    layer = run(Strategy("int8", embedding={"stored": "int8"})).model.get_layer("embedding")
    assert layer.stored == "int8" and not layer.trainable_variables
    np.testing.assert_allclose(layer.matrix(), tiny.TABLE, atol=0.02)


def test_oov_rows_in_one_line():
    """Only rows without a vector move."""
    assert moved_rows(run(Strategy("oov", embedding={"trainable": "oov"}))).tolist() == [1, 2, 3]


def test_two_channels_in_one_line():
    """Tables side by side, of which one trains; the layer has the name that schedules know."""
    channels = Strategy("two channels", embedding=[{}, {"trainable": True, "name": "tuned"}])
    layer = build_model(channels).get_layer("embedding")
    assert [source.name for source in layer.sources] == ["channel_0", "tuned"]
    assert [variable.path for variable in layer.trainable_variables] == ["tuned/embeddings"]
    np.testing.assert_array_equal(layer.matrix(), np.hstack([tiny.TABLE, tiny.TABLE]))


def test_settings_of_the_optimizer_in_one_line():
    """A row-wise one gets an anchor and a small rate for the table; the others stay as they were compiled."""

    def row_wise(strategy):
        model = build_model(strategy)
        model.compile(RowWiseAdam(0.125, beta_1=0.5), loss="sparse_categorical_crossentropy", run_eagerly=True)
        return model

    settings = {"anchor_decay": 0.25, "learning_rate_multipliers": {"embedding": 0.0}}
    strategy = Strategy("anchored", embedding={"trainable": True}, optimizer=settings)
    model = run_strategy(row_wise, DATA, strategy, epochs=1).model
    optimizer = model.optimizer
    assert (optimizer.anchor_decay, optimizer.beta_1, float(optimizer.learning_rate)) == (0.25, 0.5, 0.125)
    np.testing.assert_array_equal(tiny.table_of(model), tiny.TABLE)
    with pytest.raises(ArgumentError, match=r"Strategy 'anchored' sets \{'anchor_decay'.*Received: a SGD"):
        run(strategy)


def test_the_small_set_fits_the_architecture():
    """A phased table with an LSTM, where the shared map doesn't help; the other sets have both anyway."""
    assert list(default_strategies(which="small", architecture="lstm")) == ["phased", "frozen", "fine-tuned"]
    assert list(default_strategies(which="small", architecture="cnn")) == ["frozen", "fine-tuned", "shared map"]
    assert list(default_strategies(architecture="lstm")) == list(default_strategies())
    with pytest.raises(ArgumentError, match=r"architecture must be one of lstm, cnn, mean\. Received: 'gru'"):
        default_strategies(which="small", architecture="gru")


def test_all_strategies():
    """By the size of the set; each builds a table that trains as it says."""
    assert len(default_strategies(which="all")) == 11 and next(iter(default_strategies(which="small"))) == "frozen"
    with pytest.raises(ArgumentError, match=r"which must be one of small, default, all. Received: 'every'"):
        default_strategies(which="every")
    sizes = {}
    for name, strategy in default_strategies(which="all").items():
        layer = strategy.build_embedding(ALIGNED)
        sizes[name] = sum(int(np.prod(each.shape)) for each in layer.trainable_variables)
    assert sizes == {
        "phased": 0,
        "frozen": 0,
        "fine-tuned": 40,
        "shared map": 16 + 40,
        "random": 40,
        "small rate": 40,
        "anchored": 40,
        "oov rows": 16,
        "map": 16,
        "two channels": 40,
        "LoRA": 4 * (10 + 4),
    }


GROUPS = [["embedding"], ["lower"], ["upper"]]


def build_encoder(strategy, *, apply=True):
    """A table, two blocks and a head."""
    ids = keras.Input((5,), dtype="int64")
    vectors = keras.layers.GlobalAveragePooling1D()(tiny.embedding(trainable=True)(ids))
    for name in ("lower", "upper"):
        vectors = keras.layers.Dense(4, name=name, activation="relu")(vectors)
    model = keras.Model(ids, keras.layers.Dense(3, name="head", activation="softmax")(vectors))
    if apply:
        strategy.apply(model)
    model.compile(optimizers.SGD(0.5), loss="sparse_categorical_crossentropy", run_eagerly=True)
    return model


def test_strategies_of_an_encoder():
    """What trains in each; a model that the strategy wasn't applied to is refused before training."""
    found = encoder_strategies(GROUPS, rank=2)
    trains = {}
    for name, strategy in found.items():
        model = build_encoder(pickle.loads(pickle.dumps(strategy)))
        strategy.check(model)
        trains[name] = [weight.path for weight in model.trainable_variables]
    head = ["head/kernel", "head/bias"]
    assert trains["frozen"] == head and trains["top block"] == ["upper/kernel", "upper/bias", *head]
    assert len(trains["fine-tuned"]) == 7
    assert [path.split("/")[0] for path in trains["LoRA"]] == ["upper", "upper", "head", "head"]
    for name, what in (("frozen", "embedding' trains"), ("LoRA", "upper' has no LoRA")):
        with pytest.raises(ArgumentError, match=rf"Strategy '{name}' .*strategy.apply\(model\).*{what}"):
            run_strategy(lambda strategy: build_encoder(strategy, apply=False), DATA, found[name], epochs=1)


def test_strategies_for_few_labels():
    """Class means are set in one epoch without gradients; prompts need a model that is built on them."""
    found = encoder_strategies(GROUPS, which="few")
    assert list(found) == ["class means", "frozen", "prompts"] and all(each.few_labels for each in found.values())
    kept = []

    def build(strategy):
        kept.append(build_encoder(strategy))
        return kept[-1]

    run = run_strategy(build, DATA, found["class means"], epochs=5)
    kernel = run.model.get_layer("head").kernel.numpy()
    fit_class_means(run.model, *DATA.train)
    assert len(run.history["loss"]) == 1
    np.testing.assert_array_equal(run.model.get_layer("head").kernel, kernel)
    with pytest.raises(
        ArgumentError, match=r"'prompts' has prompts: build_model must build on strategy.encoder\(read\)"
    ):
        run_strategy(build, DATA, found["prompts"], epochs=1)
    asked = []
    encoder = SimpleNamespace(with_prompts=lambda count, start=None: asked.append((count, start)))
    assert found["frozen"].encoder(encoder) is encoder and not asked
    found["prompts"].encoder(encoder, start=["up", "down"])
    assert asked == [(8, ["up", "down"])]


@pytest.mark.parametrize(
    ("groups", "settings", "message"),
    [
        ([["a"]], {}, r"at least one block. Received: \[\['a'\]\]"),
        (GROUPS, {"top": 3}, "top .* Received: 3"),
        (GROUPS, {"which": "fewer"}, "which must be one of few, default, all. Received: 'fewer'"),
        (GROUPS, {"prompts": 0}, "prompts must be .* Received: 0"),
        (GROUPS, {"rank": 0}, "rank must be .* Received: 0"),
        (["ab"], {}, "layer_groups must be a sequence, not a single string. Received: 'ab'"),
    ],
)
def test_encoder_strategies_that_are_refused(groups, settings, message):
    """With what was received."""
    with pytest.raises(ArgumentError, match=message):
        encoder_strategies(groups, **settings)


def test_random_vectors_differ_from_seed_to_seed():
    """They are drawn after the seed is set; padding stays zeros, and the rows found are the same."""
    control = Strategy("random", vectors="random", embedding={"trainable": "oov"})
    tables = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        layer = control.build_embedding(ALIGNED)
        tables.append(layer.matrix())
    np.testing.assert_array_equal(tables[0], tables[1])
    assert (tables[0][1:] != tables[2][1:]).all() and not tables[0][0].any() and layer.trainable_rows == 3


@pytest.mark.parametrize("direct", [True, False])
def test_vectors_can_be_any_table(direct):
    """A matrix, or a function of the aligned one."""
    expected = ALIGNED.transformed(centre)
    strategy = Strategy("centred", vectors=expected if direct else lambda aligned: aligned.transformed(centre))
    np.testing.assert_array_equal(strategy.build_embedding(ALIGNED).matrix(), expected.values)


def test_learning_rate_acts_from_the_start():
    """With any form of the table, and in place of the one that the model was compiled with."""
    runs = [run(Strategy("tuned", embedding={"trainable": True}, learning_rate=rate), 1) for rate in (0.125, None)]
    assert [float(each.model.optimizer.learning_rate) for each in runs] == [0.125, 0.5]


def test_learning_rate_that_cannot_be_set_is_refused():
    """A rate schedule in the optimizer would win silently; the message names the strategy."""

    def scheduled(strategy):
        model = build_model(strategy)
        rate = optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
        model.compile(optimizers.SGD(rate), loss="sparse_categorical_crossentropy")
        return model

    with pytest.raises(ArgumentError, match=r"Strategy 'a' sets learning_rate=0\.1"):
        run_strategy(scheduled, DATA, Strategy("a", learning_rate=0.1), epochs=1)


def test_each_run_gets_a_schedule_of_its_own():
    """Runs of one strategy don't share the state of its callbacks."""
    strategy = Strategy("phased", schedule=unfreeze_at(1, "embedding"))
    first, second = strategy.callbacks(), strategy.callbacks()
    assert first[0] is not second[0] and first[0] is not strategy.schedule[0]
    histories = [run(strategy).phases for _ in range(2)]
    assert histories[0].equals(histories[1]) and len(histories[0]) == 2


TRAVELLING = {
    **default_strategies(1),
    "own": Strategy(
        "own", partial(AlignedMatrix.transformed), {"trainable": "oov"}, None, [Phase(1, freeze="embedding")], 0.1
    ),
}


@pytest.mark.parametrize("name", variants(TRAVELLING, always=["phased", "shared map", "own"]))
def test_strategy_can_be_pickled(name):
    """Another process trains the same model."""
    strategy = TRAVELLING[name]
    copied = pickle.loads(pickle.dumps(strategy))
    assert repr(copied.embedding) == repr(strategy.embedding) and copied.name == strategy.name
    assert tiny.apart(run(copied).model, run(strategy).model) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "needs a name. Received: ''"),
        ({"name": None}, "needs a name. Received: None"),
        ({"vectors": "glove"}, "pretrained, random, .* Received: 'glove' .*'a'"),
        ({"vectors": np.ones((2, 2))}, "Received: array"),
        ({"embedding": {"frozen": True}}, r"trainable, .* Received: \{'frozen': True\} .*'a'"),
        ({"embedding": {"aligned": ALIGNED}}, "Received: .*'aligned'"),
        ({"embedding": True}, "Received: True"),
        ({"embedding": []}, r"or be a list of such. Received: \[\]"),
        ({"embedding": [{}, {"frozen": 1}]}, "Received: .*frozen"),
        ({"embedding": [{}, {}], "lora_rank": 2}, "LoRA takes one table. Received: 2 of them"),
        ({"optimizer": "anchored"}, "optimizer must map .* Received: 'anchored' .*'a'"),
        ({"freeze": [3]}, "freeze must be strings.* Received: 3"),
        ({"lora_layers": "block"}, r"lora_layers needs lora_rank. Received: \('block',\)"),
        ({"lora_rank": 0}, "lora_rank must be an integer >= 1. Received: 0 .*'a'"),
        ({"lora_rank": True}, "Received: True"),
        ({"epochs": 0}, "epochs must be an integer >= 1. Received: 0 .*'a'"),
        ({"learning_rate": 0}, "learning_rate must be a number > 0. Received: 0 .*'a'"),
        ({"learning_rate": True}, "Received: True"),
        ({"schedule": "gradual"}, "phases or callbacks. Received: 'gradual' .*'a'"),
        ({"schedule": 3}, "phases or callbacks. Received: 3"),
        ({"schedule": [Phase(1), unfreeze_at(1, "embedding")]}, "phases or callbacks"),
    ],
)
def test_invalid_strategies_are_refused(arguments, message):
    """The message shows the value and names the strategy."""
    with pytest.raises(ArgumentError, match=message):
        Strategy(**({"name": "a"} | arguments))


def test_used_schedule_is_refused():
    """Its copy would carry a model along."""
    used = unfreeze_at(1, "embedding")
    used.set_model(build_model(Strategy("frozen")))
    with pytest.raises(ArgumentError, match=r"have not been used: .*TrainabilitySchedule .*model '.*' .*'a'"):
        Strategy("a", schedule=used)


def test_arguments_of_old_are_refused():
    """`trainable` belongs to the embedding."""
    with pytest.raises(TypeError, match="trainable"):
        Strategy("a", trainable=True)
