"""Which layers train: freeze, train, children, the user's flags, shared layers."""

import keras
import numpy as np
import pytest

from embkeras.errors import ScheduleError
from embkeras.tables.addresses import own_weights, walk
from embkeras.tables.builders import build_embedding
from embkeras.training.schedule.flags import Flags, trainable_parameters, weights_that_may_move
from embkeras.training.schedule.phases import Phase
from tests import tiny


def _dense(name, **arguments):
    return keras.layers.Dense(4, name=name, **arguments)


def _encoder():
    """encoder/(low, block/(inner, norm, top)), head: the user froze `norm` and `fixed`."""
    norm = keras.layers.BatchNormalization(name="norm", trainable=False)
    block = keras.Sequential([keras.Input((4,)), _dense("inner"), norm, _dense("top")], name="block")
    encoder = keras.Sequential([keras.Input((4,)), _dense("low"), block], name="encoder")
    fixed = _dense("fixed", trainable=False)
    return keras.Sequential([keras.Input((4,)), encoder, fixed, _dense("head")], name="net")


def _training(net):
    """Bare names of the layers whose variables train."""
    return sorted({variable.path.split("/")[-2] for variable in net.trainable_variables})


def _flags(net, *phases, also=()):
    return Flags(net, phases, also)


def _each(net, *phases, also=()):
    flags, training = _flags(net, *phases, also=also), []
    for phase in phases:
        flags.apply(phase)
        training.append(_training(net))
    return training


def test_layers_no_phase_names_are_never_written():
    """Not even with the flag that they already have."""
    written = []

    class Noted(keras.layers.Dense):
        @property
        def trainable(self):
            return super().trainable

        @trainable.setter
        def trainable(self, value):
            written.append(value)
            keras.layers.Dense.trainable.fset(self, value)

    net = keras.Sequential([keras.Input((4,)), _dense("named"), Noted(4, name="other")])
    written.clear()
    _each(net, Phase(0, freeze="named"), Phase(1))
    assert written == []


def test_train_means_only_these():
    """Layers that no phase names are frozen too, and get the user's flag back in phases without `train`."""
    phases = [Phase(0, train="head"), Phase(1, train=["low", "head"]), Phase(2)]
    assert _each(_encoder(), *phases) == [["head"], ["head", "low"], ["head", "inner", "low", "top"]]


def test_train_a_child_of_a_layer_that_is_governed_too():
    """The parent that another phase freezes stays frozen around it."""
    phases = [Phase(0, freeze="encoder"), Phase(1, train="encoder/low"), Phase(2, freeze="encoder"), Phase(3)]
    all_but_held = ["head", "inner", "low", "top"]
    assert _each(_encoder(), *phases) == [["head"], ["low"], ["head"], all_but_held]


def test_train_a_parent_and_freeze_a_child_elsewhere():
    """`train` of a parent trains what is inside it, less what its author froze."""
    phases = [Phase(0, freeze="block/inner"), Phase(1, train="block")]
    with pytest.raises(Exception, match="no layer named 'block/inner'"):
        _flags(_encoder(), *phases)
    phases = [Phase(0, freeze="inner"), Phase(1, train="block")]
    assert _each(_encoder(), *phases) == [["head", "low", "top"], ["inner", "top"]]


def test_a_child_that_freeze_names_stays_frozen_inside_a_thawed_parent():
    """Keras would unfreeze it with the parent."""
    phases = [Phase(0, freeze="encoder"), Phase(1, freeze="encoder/block/inner"), Phase(2)]
    assert _each(_encoder(), *phases) == [["head"], ["head", "low", "top"], ["head", "inner", "low", "top"]]


def test_what_the_user_froze_stays_frozen():
    """Inside a governed layer and outside of all of them."""
    assert _each(_encoder(), Phase(0, train="encoder"), Phase(1)) == [
        ["inner", "low", "top"],
        ["head", "inner", "low", "top"],
    ]


@pytest.mark.parametrize("name", ["norm", "fixed"])
def test_what_the_user_froze_trains_if_it_is_named(name):
    """With `also`, in a phase that does not freeze it."""
    (before, after) = _each(_encoder(), Phase(0, freeze=[name, "encoder"]), Phase(1), also=(name,))
    assert name not in before and name in after


def test_another_schedule_still_knows_the_users_flags():
    """What the first one left frozen is not taken for the user's wish; `norm` and `fixed` are."""
    net = _encoder()
    _each(net, Phase(0, train="head"))
    assert _each(net, Phase(0, train="low"), Phase(1)) == [["low"], ["head", "inner", "low", "top"]]


def test_a_flag_set_by_hand_in_between_is_the_users():
    """Users may change their mind between two fits."""
    net = _encoder()
    flags, phases = None, (Phase(0, train="head"), Phase(1))
    flags = _flags(net, *phases)
    flags.apply(phases[1])
    net.get_layer("encoder").get_layer("low").trainable = False
    flags.apply(phases[0])
    flags.apply(phases[1])
    assert _training(net) == ["head", "inner", "top"]


def _tower(embedding):
    """tower/(embedding, dense), head."""
    inner, ids = keras.Input((5,), dtype="int64"), keras.Input((5,), dtype="int64")
    mean = keras.layers.GlobalAveragePooling1D()(embedding(inner))
    tower = keras.Model(inner, _dense("dense")(mean), name="tower")
    return keras.Model(ids, _dense("head")(tower(ids)), name="net")


def _thawed(net):
    """What trains after `unfreeze_at(1, "tower")`, and what it announces."""
    phases = Phase(0, freeze="tower"), Phase(1)
    flags = _flags(net, *phases, also=("tower",))
    for phase in phases:
        flags.apply(phase)
    return _training(net), flags.describe(phases[1]).rpartition(";")[0]


def test_a_table_that_its_builder_froze_is_thawed_with_its_parent(tmp_path):
    """By a second schedule and after a load too: where a layer starts is nobody's wish, and is kept in its config."""
    net = _tower(tiny.embedding())
    net.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    assert not loaded.get_layer("tower").get_layer("embedding").trainable
    for each in (net, net, loaded):
        assert _thawed(each) == (["dense", "embedding", "head"], "unfrozen: tower")


def test_a_table_that_its_user_froze_stays_frozen_and_is_announced():
    """Set on the built layer, whether it started frozen or not."""
    for trainable in (False, True):
        layer = tiny.embedding(trainable=trainable)
        layer.trainable = False
        assert _thawed(_tower(layer)) == (["dense", "head"], "unfrozen: tower; still frozen: tower/embedding")


def test_a_table_that_no_phase_names_stays_where_it_starts():
    """Neither it nor a layer around it is named."""
    assert _each(_tower(tiny.embedding()), Phase(0, train="head"), Phase(1)) == [["head"], ["dense", "head"]]


def test_a_table_without_rows_that_could_train_is_announced(aligned):
    """Its flag is set, and nothing trains."""
    net = _tower(build_embedding(aligned, stored="int8"))
    assert _thawed(net) == (["dense", "head"], "unfrozen: tower; still frozen: tower/embedding")


def test_inside_a_layer_frozen_by_the_user_everything_is_unfrozen():
    """Whether the children were frozen one by one as well is unknown."""
    net = _encoder()
    net.get_layer("encoder").trainable = False
    assert _each(net, Phase(0, freeze="encoder"), Phase(1), also=("encoder",))[1] == [
        "head",
        "inner",
        "low",
        "norm",
        "top",
    ]


def test_try_all_leaves_every_flag_as_it_was():
    """Including children whose parent's flag was set."""
    net = _encoder()
    before = [(path, layer.trainable) for path, layer in walk(net)]
    _flags(net, Phase(0, train="top"), Phase(1), Phase(2, freeze="encoder")).try_all()
    assert [(path, layer.trainable) for path, layer in walk(net)] == before


def test_a_frozen_normalisation_keeps_its_statistics():
    """Its flag is False, not only its variables': Keras then runs it in inference."""
    net = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="norm"), _dense("head")])
    _flags(net, Phase(0, train="head")).apply(Phase(0, train="head"))
    before = [np.array(weight) for weight in net.layers[0].weights]
    net(np.ones((3, 4), np.float32), training=True)
    for weight, value in zip(net.layers[0].weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)


class _Own(keras.Model):
    """A model with a weight of its own, outside every layer."""

    def __init__(self):
        super().__init__(name="own")
        self.head = _dense("head")
        self.scale = self.add_weight(shape=(1,), name="scale")

    def call(self, inputs):
        return self.head(inputs) * self.scale


def test_train_reaches_weights_outside_every_layer():
    """They are frozen with everything else, and train again afterwards, under another schedule too."""
    net = _Own()
    net(np.ones((1, 4), np.float32))
    for _ in range(2):
        flags, phases = None, (Phase(0, train="head"), Phase(1))
        flags = _flags(net, *phases)
        counts = []
        for phase in phases:
            flags.apply(phase)
            counts.append(len(net.trainable_variables))
        assert counts == [2, 3]
        flags.apply(phases[0])


def _two_towers():
    shared, ids = tiny.embedding(trainable=True), keras.Input((5,), dtype="int64")
    towers = []
    for name in ("left", "right"):
        inner = keras.Input((5,), dtype="int64")
        out = keras.layers.Dense(4, name=f"{name}_dense")(shared(inner))
        towers.append(keras.Model(inner, out, name=name)(ids))
    return keras.Model(ids, keras.layers.Add()(towers), name="towers")


def test_a_layer_that_two_parents_hold():
    """One parent that freezes it is enough, and one parent that trains it is enough."""
    phases = [Phase(0, freeze="left"), Phase(1, train="right"), Phase(2)]
    assert _each(_two_towers(), *phases) == [
        ["right_dense"],
        ["embedding", "right_dense"],
        ["embedding", "left_dense", "right_dense"],
    ]


class _Rows(keras.layers.Layer):
    """A frozen base and a small table that trains, as in a partly trainable embedding."""

    def build(self, shape):
        self.base = self.add_weight(shape=(9, 4), name="base", trainable=False)
        self.rows = self.add_weight(shape=(2, 4), name="rows")

    def call(self, inputs):
        return inputs + keras.ops.sum(self.base) + keras.ops.sum(self.rows)


@pytest.mark.parametrize(
    "phases", [(Phase(0, freeze="part"), Phase(1)), (Phase(0, train="head"), Phase(1, train="part"))]
)
def test_a_weight_that_never_trains_stays_so(phases):
    """Unfreezing a layer unfreezes its trainable weights only."""
    net = keras.Sequential([keras.Input((4,)), _Rows(name="part"), _dense("head")])
    flags = _flags(net, *phases)
    for phase in phases:
        flags.apply(phase)
    part = net.get_layer("part")
    assert [part.base.trainable, part.rows.trainable] == [False, True]


def test_globs_freeze_and_thaw():
    """A layer that a glob matches counts as named."""
    assert _each(_encoder(), Phase(0, freeze="encoder/block/*"), Phase(1, train="*")) == [
        ["fixed", "head", "low"],
        ["fixed", "head", "inner", "low", "norm", "top"],
    ]


def test_a_layer_that_cannot_train_is_refused():
    """With the epoch and the reason."""
    phases = (Phase(0, freeze=["encoder", "low"]), Phase(2, freeze="encoder"))
    with pytest.raises(ScheduleError, match="Layer 'low' can't train from epoch 2 on: a layer around it is frozen"):
        _flags(_encoder(), *phases).try_all()


def test_own_weights_leave_out_the_layers_inside():
    """A model of layers has none of its own."""
    net = _Own()
    net(np.ones((1, 4), np.float32))
    assert [weight.name for weight in own_weights(net)] == ["scale"] and own_weights(_encoder()) == []


def test_weights_that_may_move():
    """Statistics of a layer that trains may move, whatever its variables' flags; those of a frozen layer can't."""
    net = _encoder()
    _flags(net, Phase(0, train="block"), also=("norm",)).apply(Phase(0, train="block"))
    moving = weights_that_may_move(net)
    assert sorted({weight.path.split("/")[-2] for weight in moving.values()}) == ["inner", "norm", "top"]
    assert all(net.weights[place] is weight for place, weight in moving.items())


def test_describe_names_what_stands_and_what_trains():
    """With the number of parameters."""
    net = _encoder()
    flags = _flags(net, Phase(0, freeze="encoder"), Phase(1, train="head"))
    flags.apply(Phase(0, freeze="encoder"))
    assert flags.describe(Phase(0, freeze="encoder")) == "frozen: encoder; unfrozen: head; 20 trainable parameters"
    flags.apply(Phase(1, train="head"))
    assert flags.describe(Phase(1, train="head")).startswith("frozen: everything else; unfrozen: head; 20 ")
    assert trainable_parameters(net) == 20
