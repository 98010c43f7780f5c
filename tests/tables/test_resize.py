"""Layers with other rows, and layers that take over the variables of another."""

import gc
import weakref

import keras
import numpy as np
import pytest

from embkeras.errors import EmbkerasWarning
from embkeras.tables.combined import combine_embeddings
from embkeras.tables.partial_rows import RowEmbedding
from embkeras.tables.resize import fresh_like, replace_map, take_over
from tests import tiny


def test_the_layer_continues_with_the_other_table():
    """It has another size, the same name and path, and no other table."""
    layer = tiny.embedding(trainable=True)
    path = layer.variables[0].path
    fresh = fresh_like(layer, input_dim=3)
    fresh.assign_table(tiny.TABLE[:3])
    take_over(layer, fresh)
    assert layer.input_dim == 3 and [variable.path for variable in layer.trainable_variables] == [path]
    np.testing.assert_array_equal(layer.matrix(), tiny.TABLE[:3])
    np.testing.assert_array_equal(layer(np.arange(3)), tiny.TABLE[:3])


def test_paths_inside_a_model():
    """A layer that a model built keeps the model's name in its path."""

    class Net(keras.Model):
        """Builds its layer when it is called."""

        def __init__(self):
            super().__init__(name="net")
            self.words = tiny.PretrainedEmbedding(10, 4, name="words")

        def call(self, ids):
            """Vectors."""
            return self.words(ids)

    net = Net()
    with pytest.warns(EmbkerasWarning, match="never filled"):
        net(tiny.IDS)
    fresh = fresh_like(net.words, input_dim=3)
    assert fresh.variables[0].path == net.words.variables[0].path == "net/words/embeddings"


def test_a_frozen_layer_stays_frozen():
    """Taking over other variables doesn't change the flag."""
    layer = tiny.embedding()
    take_over(layer, fresh_like(layer, input_dim=3))
    assert not layer.trainable and layer.trainable_variables == [] and layer.starts_frozen


@pytest.mark.parametrize("keep", [(), ("_moving", "_places")], ids=str)
def test_a_frozen_layer_trains_when_it_is_thawed(keep):
    """Keras files a variable that is frozen when it is tracked among those that never train."""
    layer = _rows()
    layer.trainable = False
    take_over(layer, fresh_like(layer), keep=keep)
    layer.trainable = True
    assert [variable.path for variable in layer.trainable_variables] == ["rows/embeddings"]


def _rows():
    layer = RowEmbedding(10, 4, 2, name="rows")
    layer.build()
    layer.assign_table(tiny.TABLE)
    return layer


def test_order_of_the_weights():
    """As in a new layer, so that weights go from one to the other; the base of LoRA is still frozen."""
    layer = tiny.embedding(trainable=True)
    layer.enable_lora(2)
    take_over(layer, fresh_like(layer, input_dim=3))
    assert [tuple(weight.shape) for weight in layer.get_weights()] == [(3, 4), (3, 2), (2, 4)]
    names = [variable.name for variable in layer.trainable_variables]
    assert names == ["lora_embeddings_a", "lora_embeddings_b"]


def test_the_previous_table_is_freed():
    """Nothing refers to it any longer, not even TensorFlow's lists of what to save."""
    layer = tiny.embedding()
    table = weakref.ref(layer.variables[0])
    take_over(layer, fresh_like(layer, input_dim=3))
    gc.collect()
    assert table() is None


def test_variables_may_stay():
    """Those named in `keep` are the same objects, which optimizers know."""
    layer = _rows()
    moving, places = layer.trainable_variables[0], layer._places
    take_over(layer, fresh_like(layer), keep=("_moving", "_places"))
    assert layer.trainable_variables[0] is moving and layer._places is places


@pytest.mark.parametrize("rank", [None, 2])
def test_resized_rows(rank):
    """Known ids keep their rows, new ones get the given values, and LoRA is kept."""
    layer = tiny.embedding(trainable=True)
    if rank:
        layer.enable_lora(rank, a_initializer="normal")
    before, values = layer.matrix(), np.full((4, 4), 7, np.float32)
    resized = layer.resized(np.array([0, 3, -1, 9]), values)
    np.testing.assert_allclose(
        resized.layer.matrix(), np.stack([before[0], before[3], values[2], before[9]]), rtol=1e-6
    )
    assert len(resized.moves) == (2 if rank else 1)


def test_a_map_of_another_shape():
    """It replaces the old one under the same path, and never trains."""
    layer = combine_embeddings([tiny.embedding(name="a"), tiny.embedding(name="b")], combine="mean")
    path, count = layer._found.path, len(layer.variables)
    replace_map(layer, "_found", np.ones((3, 2), np.int8))
    assert layer._found.path == path and layer._found.shape == (3, 2) and not layer._found.trainable
    assert len(layer.variables) == count and any(each is layer._found for each in layer.non_trainable_variables)
