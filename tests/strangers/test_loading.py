"""Models of other people's classes load in silence, and right, also where every warning is an error."""

import warnings

import keras
import numpy as np
import pytest

from embkeras.errors import EmbkerasWarning
from embkeras.tables.builders import build_embedding
from embkeras.tables.combined import combine_embeddings
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix
from tests import tiny
from tests.strangers import models

IDS = tiny.IDS[:3]


def _lora():
    layer = tiny.embedding()
    layer.enable_lora(2)
    return layer


def _aligned():
    return AlignedMatrix(tiny.TABLE, Vocabulary(["", "[UNK]", *"abcdefgh"]))


FORMS = {
    "plain": tiny.embedding,
    "lora": _lora,
    "rows": lambda: build_embedding(_aligned(), trainable=np.arange(10) > 7),
    "int8": lambda: build_embedding(_aligned(), stored="int8"),
    "combined": lambda: combine_embeddings([build_embedding(_aligned(), name=name) for name in ("one", "two")]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [models.subclassed, models.holding, models.called_in_build])
def test_loads_in_silence_and_right(make, form, tmp_path):
    """Keras calls the layers before it reads the weights: nothing is judged then."""
    net = make(FORMS[form]())
    before = net(IDS).numpy()
    net.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.abs(before).max() > 0.01
    np.testing.assert_array_equal(loaded(IDS).numpy(), before)


@pytest.mark.parametrize("make", [models.subclassed, models.holding])
def test_a_table_that_nobody_filled_warns_at_the_first_call_with_values(make):
    """A copy from a config: the calls that work out shapes are silent, the first with values warns, once."""
    net = make(tiny.embedding())
    copy = type(net).from_config(net.get_config())
    copy.compute_output_spec(keras.KerasTensor((None, 5), "int64"))
    with pytest.warns(EmbkerasWarning, match="table of layer 'embedding' is all zeros") as caught:
        copy.predict(IDS, verbose=0)
    copy(IDS)
    assert len(caught) == 1
