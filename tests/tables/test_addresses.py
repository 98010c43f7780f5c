"""Addresses: layers and variables by name, by path, by glob, or as objects."""

import keras
import pytest

from embkeras.errors import ScheduleError, UnknownLayerError
from embkeras.tables.addresses import (
    as_refs,
    layer_path,
    match_layers,
    match_variables,
    path_matches,
    walk,
)
from tests import tiny


def _two_towers():
    ids = keras.Input((5,), dtype="int64")
    towers = []
    for name in ("left", "right"):
        inner = keras.Input((5,), dtype="int64")
        towers.append(keras.Model(inner, tiny.embedding()(inner), name=name)(ids))
    return keras.Model(ids, keras.layers.Add(name="sum")(towers), name="towers")


@pytest.mark.parametrize(("given", "expected"), [("a", ("a",)), (["a", "b"], ("a", "b")), ((), ())])
def test_one_or_several_names(given, expected):
    """A single name is not split into letters."""
    assert as_refs(given, "freeze") == expected


def test_a_layer_is_a_reference():
    """A layer object refers to itself."""
    layer = keras.layers.Dense(1)
    assert as_refs(layer, "freeze") == (layer,)


@pytest.mark.parametrize(
    ("given", "received"), [(3, "3"), (None, "None"), (["a", 3], "3"), ([True], "True"), ("", "''")]
)
def test_neither_name_nor_layer(given, received):
    """A number is not a layer, alone or in a list; the argument is named."""
    with pytest.raises(ScheduleError, match=rf"freeze .*Received: {received}"):
        as_refs(given, "freeze")


def test_walk_yields_paths_parents_first():
    """Every layer at every depth, with the path that finds it."""
    paths = [path for path, _ in walk(tiny.nested("sgd")) if "input" not in path]
    assert paths[:2] == ["encoder", "encoder/embedding"] and paths[-1] == "head"


def test_walk_goes_into_layers_that_hold_layers():
    """A wrapper's layer is found as well as a model's."""
    wrapper = keras.layers.Bidirectional(keras.layers.LSTM(2, name="lstm"), name="both")
    paths = [path for path, _ in walk(keras.Sequential([keras.Input((None, 3)), wrapper]))]
    assert "both/forward_lstm" in paths


@pytest.mark.parametrize("ref", ["encoder/embedding", "embedding"])
def test_by_path_and_by_bare_name(ref):
    """A bare name may refer to a layer deeper inside."""
    net = tiny.nested("sgd")
    assert match_layers(net, [ref]) == [net.get_layer("encoder").get_layer("embedding")]


def test_by_object():
    """A layer object is found wherever it is."""
    net = tiny.nested("sgd")
    layer = net.get_layer("encoder").get_layer("embedding")
    assert match_layers(net, [layer]) == [layer]


def test_unknown_name_lists_the_names_that_exist():
    """The model, the name and the paths that exist are in the message."""
    expected = r"Model 'tiny' has no layer named 'embeding'\. Its layers: .*encoder, .*encoder/embedding, .*head\."
    with pytest.raises(UnknownLayerError, match=expected):
        match_layers(tiny.nested("sgd"), ["embeding"])


@pytest.mark.parametrize("ref", ["embedding", "emb*", tiny.embedding()], ids=["name", "glob", "layer"])
def test_layers_that_are_not_made_yet(ref):
    """The message says when they are made; it doesn't end in an empty list."""
    net = keras.Sequential(name="lazy")
    with pytest.raises(UnknownLayerError, match=r"It has no layers\. .* call the model once on a batch before fit"):
        match_layers(net, [ref])
    with pytest.raises(UnknownLayerError) as error:
        match_layers(tiny.model("sgd"), ["embeding"])
    assert "before fit" not in str(error.value)


def test_layer_of_another_model():
    """A layer object that is not in the model is not confused with the model's own layer of that name."""
    with pytest.raises(UnknownLayerError, match=r"'embedding' is not part of model 'tiny'\. Its layers: .*embedding"):
        match_layers(tiny.model("sgd"), [tiny.embedding()])


def test_several_layers_of_one_name():
    """A bare name that two layers have is refused, with both paths."""
    with pytest.raises(UnknownLayerError, match=r"several layers named 'embedding'.*left/embedding.*right/embedding"):
        match_layers(_two_towers(), ["embedding"])


def test_a_path_tells_layers_of_one_name_apart():
    """The path finds the right one."""
    net = _two_towers()
    assert match_layers(net, ["right/embedding"]) == [net.get_layer("right").get_layer("embedding")]


def test_a_layer_used_twice_is_one_layer():
    """A shared layer that two parents hold is not ambiguous."""
    shared, ids = tiny.embedding(), keras.Input((5,), dtype="int64")
    towers = []
    for name in ("left", "right"):
        inner = keras.Input((5,), dtype="int64")
        towers.append(keras.Model(inner, shared(inner), name=name)(ids))
    assert match_layers(keras.Model(ids, keras.layers.Add()(towers)), ["embedding"]) == [shared]


def _dense(name, *layers):
    return keras.Sequential([keras.Input((4,)), *layers], name=name)


def _blocks():
    """Two blocks in an encoder, each a dense layer and a dropout; a third block and a head outside."""
    blocks = [_dense(f"block_{i}", keras.layers.Dense(4, name="dense"), keras.layers.Dropout(0.1)) for i in (1, 2)]
    outer = _dense("block_3", keras.layers.Dense(4, name="outer"))
    return _dense("blocks", _dense("encoder", *blocks), outer, keras.layers.Dense(2, name="head"))


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("encoder/*", ["encoder/block_1", "encoder/block_2"]),
        ("encoder/block_?", ["encoder/block_1", "encoder/block_2"]),
        ("encoder/block_[2-9]", ["encoder/block_2"]),
        ("*/dense", []),
        ("*/*/dense", ["encoder/block_1/dense", "encoder/block_2/dense"]),
        ("**/dense", ["encoder/block_1/dense", "encoder/block_2/dense"]),
        (
            "encoder/**",
            ["encoder", "encoder/block_1", "encoder/block_1/dense", "encoder/block_2", "encoder/block_2/dense"],
        ),
        ("block_*", ["block_3"]),
        ("den*", ["encoder/block_1/dense", "encoder/block_2/dense"]),
        ("[!b]*", ["encoder", "head"]),
    ],
)
def test_globs(glob, expected):
    """`*` stays within a name, `**` crosses; a bare one looks outside first, then inside; only layers with weights."""
    net = _blocks()
    if not expected:
        with pytest.raises(UnknownLayerError, match="no layer with weights"):
            match_layers(net, [glob])
        return
    paths = {id(layer): path for path, layer in walk(net)}
    assert [paths[id(layer)] for layer in match_layers(net, [glob])] == expected


def test_a_glob_that_fits_nothing_lists_the_paths():
    """The error contains the model, the glob and the paths that exist."""
    expected = r"'blocks' has no layer with weights that matches 'blok_\*'\. Its layers: encoder, .*encoder/block_1/dense, .*head"
    with pytest.raises(UnknownLayerError, match=expected):
        match_layers(_blocks(), ["blok_*"])


def test_an_exact_name_is_no_glob():
    """A layer whose name looks like a glob is found by that name."""
    net = _dense("odd", keras.layers.Dense(4, name="block_*"), keras.layers.Dense(4, name="block_1"))
    assert match_layers(net, ["block_*"]) == [net.layers[0]]


def test_several_references_to_one_layer_are_one():
    """By name, by path, by glob and as an object."""
    net = _blocks()
    head = net.get_layer("head")
    assert match_layers(net, ["head", "h*", head]) == [head]


def test_a_glob_finds_layers_that_are_not_built_yet():
    """Whether they will hold weights is unknown, so they are included."""
    net = keras.Sequential([keras.layers.Dense(4, name="first"), keras.layers.Dense(4, name="second")])
    assert match_layers(net, ["*"]) == net.layers


def test_the_path_of_a_layer():
    """The path starts with the tower; a layer of another model is refused, even with the same name."""
    net = _two_towers()
    assert layer_path(net, net.get_layer("right").get_layer("embedding")) == "right/embedding"
    with pytest.raises(UnknownLayerError, match="'embedding' is not part of model 'towers'"):
        layer_path(net, tiny.embedding())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("left/embedding/embeddings", ["left/embedding/embeddings"]),
        ("left/embedding", ["left/embedding/embeddings"]),
        ("right", ["right/embedding/embeddings"]),
        ("*/embedding", ["left/embedding/embeddings", "right/embedding/embeddings"]),
        ("r*/**", ["right/embedding/embeddings"]),
        ("embed*", ["left/embedding/embeddings", "right/embedding/embeddings"]),
    ],
)
def test_variables_of_two_towers_are_told_apart(address, expected):
    """Keras calls the table of both towers "embedding/embeddings"."""
    net = _two_towers()
    assert len({variable.path for variable in net.weights}) == 1
    found = match_variables(net, address)
    assert [path for path, _ in found] == expected
    for path, variable in found:
        assert variable is net.get_layer(path.split("/")[0]).get_layer("embedding").embeddings


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("**/bias", ["encoder/block_1/dense/bias", "encoder/block_2/dense/bias", "block_3/outer/bias", "head/bias"]),
        ("encoder/*/*/bias", ["encoder/block_1/dense/bias", "encoder/block_2/dense/bias"]),
        ("encoder/block_[!1]", ["encoder/block_2/dense/kernel", "encoder/block_2/dense/bias"]),
        ("outer", ["block_3/outer/kernel", "block_3/outer/bias"]),
        ("head/k*", ["head/kernel"]),
        ("encoder/block_1/dropout*", []),
    ],
)
def test_variables_by_glob(address, expected):
    """A pattern may end at the variable or at a layer around it."""
    net = _blocks()
    if not expected:
        with pytest.raises(
            UnknownLayerError, match=r"'blocks' has no layer or variable .*encoder/block_1/dense/kernel"
        ):
            match_variables(net, address)
        return
    assert [path for path, _ in match_variables(net, address)] == expected


def test_variables_of_a_layer_object():
    """Its weights; a layer without weights has none."""
    net = _blocks()
    assert [path for path, _ in match_variables(net, net.get_layer("head"))] == ["head/kernel", "head/bias"]
    assert match_variables(net, net.get_layer("encoder").get_layer("block_1").layers[1]) == []


@pytest.mark.parametrize("address", ["embedding", "bias", "left/embedding/bias"])
def test_variables_that_do_not_exist_or_are_not_unique(address):
    """A bare name of two layers is refused with both paths, a wrong one with the paths of the variables."""
    with pytest.raises(UnknownLayerError, match=rf"'{address}'.*left/embedding.*right/embedding"):
        match_variables(_two_towers(), address)


def test_a_model_s_own_variable_and_a_shared_layer():
    """The path of a weight outside every layer is its name; a shared weight is returned once."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.token = self.add_weight(shape=(2,), name="token")
            self.a = self.b = keras.layers.Dense(2, name="dense")
            self.a.build((None, 2))

    net = Net()
    assert [path for path, _ in match_variables(net, "**")] == ["token", "dense/kernel", "dense/bias"]
    assert match_variables(net, "token")[0][1] is net.token
    assert [layer.name for layer in match_layers(net, ["**"])] == ["dense"]


@pytest.mark.parametrize(
    ("path", "address", "expected"),
    [
        ("q/embedding/embeddings", "q", True),
        ("q/embedding/embeddings", "q/embedding", True),
        ("q/embedding/embeddings", "q/emb", False),
        ("q/embedding/embeddings", "**/embeddings", True),
        ("q/embedding/embeddings", "embedding/embeddings", False),
        ("embedding/embeddings", "embedding/embeddings", True),
        ("embedding/embeddings", "q/**", False),
        ("block_*/kernel", "block_*", True),
        ("a.b/kernel", "a?b", True),
        ("a.b/kernel", "a.c", False),
    ],
)
def test_path_matches(path, address, expected):
    """Whole names only, and no regular expressions: a dot is a dot."""
    assert path_matches(path, address) is expected
