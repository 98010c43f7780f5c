"""The reason in messages as Keras, TensorFlow and servers write them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from embkeras.serving.reasons import reason, refusal, root_cause

_PLACES = """Graph execution error:

Detected at node model/Assert defined at (most recent call last):
  File "script.py", line 10, in <module>

  File "script.py", line 5, in show

"""
_WANTED = "token_ids must lie in [0, 26850). Received 30000 in text 3."
_PARTS = "[token_ids must lie in [0, 26850). Received] [30000] [in text] [3]"


@pytest.mark.parametrize("before", ["", _PLACES, "{{function_node __inference_f_5}} ", _PLACES.split("  File")[0]])
@pytest.mark.parametrize("behind", ["", "\n\t [[{{node Assert}}]]", "\n\t [[{{node Assert}}]] [Op:__inference_f_5]"])
def test_refusal_is_one_sentence(before, behind):
    """Whatever surrounds it."""
    assert reason(f"{before}assertion failed: {_PARTS}{behind}") == _WANTED


def test_other_messages_are_no_refusal():
    """They are quoted as they are."""
    assert refusal("Servable not found for request: Latest(tweets)") is None


@pytest.mark.parametrize(
    "message, wanted",
    [
        ("", ""),
        ("one line", "one line"),
        ("first\nsecond", "first"),
        (f"{_PLACES}indices[0,0] = 70 is not in [0, 5)\n\t [[{{{{node a}}}}]]", "indices[0,0] = 70 is not in [0, 5)"),
        ("Graph execution error:", "Graph execution error:"),
        ("in user code:", "in user code:"),
        (
            'in user code:\n\n    File "a.py", line 1, in f\n        raise it\n\n    ValueError: too short\n',
            "too short",
        ),
    ],
)
def test_reason_in_what_wraps_it(message, wanted):
    """The first line that isn't about where."""
    assert reason(message) == wanted


class Strict(keras.layers.Layer):
    """A layer that refuses everything."""

    def call(self, inputs):
        """Raises an error of two lines."""
        raise ValueError("needs 5 tokens\nand more")


@pytest.mark.parametrize("ask", [Strict(), tf.function(Strict())])
def test_reason_of_a_layer(ask):
    """Keras names the layer first; a traced one comes with lines of code."""
    with pytest.raises(ValueError) as found:
        ask(np.zeros((1, 3), "float32"))
    assert reason(str(found.value)) == "Strict: needs 5 tokens"


def test_reason_of_a_prediction():
    """As predict writes it, with its stack of places."""
    model = keras.Sequential([keras.Input((None,), dtype="int64"), keras.layers.Embedding(5, 2)])
    with pytest.raises(tf.errors.InvalidArgumentError) as found:
        model.predict(np.array([[70]]), verbose=0)
    assert reason(found.value.message) == "indices[0,0] = 70 is not in [0, 5)"


def test_root_cause():
    """The first error of a chain."""
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        assert str(root_cause(error)) == "'first'"
