"""A layer that takes over the variables of another."""

import gc
import weakref

import keras
import numpy as np
import pytest

from embkeras.errors import EmbkerasWarning
from embkeras.tables.takeover import fresh_like, take_over
from tests import tiny


def test_the_layer_goes_on_with_the_other_table():
    """It has another size, the same name and path, and its table alone."""
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
    """The flag is the layer's own."""
    layer = tiny.embedding()
    take_over(layer, fresh_like(layer, input_dim=3))
    assert not layer.trainable and layer.trainable_variables == []


@pytest.mark.parametrize("keep", [(), ("_embeddings",)], ids=str)
def test_a_frozen_layer_trains_when_it_is_thawed(keep):
    """Keras files a variable that is frozen when it is tracked among those that never train."""
    layer = tiny.embedding(trainable=True)
    layer.trainable = False
    take_over(layer, fresh_like(layer), keep=keep)
    layer.trainable = True
    assert [variable.path for variable in layer.trainable_variables] == ["embedding/embeddings"]


def test_order_of_the_weights():
    """As in a new layer, so that weights go from one to the other; the base of LoRA is still frozen."""
    layer = tiny.embedding(trainable=True)
    layer.enable_lora(2)
    take_over(layer, fresh_like(layer, input_dim=3))
    assert [tuple(weight.shape) for weight in layer.get_weights()] == [(3, 4), (3, 2), (2, 4)]
    names = [variable.name for variable in layer.trainable_variables]
    assert names == ["lora_embeddings_a", "lora_embeddings_b"]


def test_the_table_before_is_let_go():
    """Nobody holds its memory any more, TensorFlow's own lists of what to save included."""
    layer = tiny.embedding()
    table = weakref.ref(layer.variables[0])
    take_over(layer, fresh_like(layer, input_dim=3))
    gc.collect()
    assert table() is None


def test_variables_may_stay():
    """Those that are named are the very ones that optimizers know."""
    layer = tiny.embedding(trainable=True)
    table = layer.variables[0]
    take_over(layer, fresh_like(layer), keep=("_embeddings",))
    assert layer.variables[0] is table and layer.trainable_variables[0] is table


def test_private_names_of_keras_are_there():
    """When one goes, taking over must be looked at again."""
    names = ("_tracker", "_track_variable", "_untrack_variable", "_trainable_variables", "_embeddings")
    assert [name for name in names if not hasattr(tiny.embedding(), name)] == []
