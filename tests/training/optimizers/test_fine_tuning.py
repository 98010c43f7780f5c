"""LinearDecay: its line, its settings, and where it is used."""

import keras
import numpy as np
import pytest

from embkeras.errors import OptimizerError
from embkeras.training.optimizers.fine_tuning import LinearDecay


def test_it_rises_and_falls():
    """The peak is at the end of the warm-up, and 0 at the last step and behind it."""
    rate = LinearDecay(0.1, 10, warmup=0.2)
    found = [float(rate(step)) for step in (0, 1, 2, 6, 10, 11)]
    assert np.allclose(found, [0, 0.05, 0.1, 0.05, 0, 0])


def test_without_warmup_the_first_step_has_the_peak():
    """No division by zero."""
    assert np.allclose([float(LinearDecay(0.1, 4, warmup=0)(step)) for step in (0, 2)], [0.1, 0.05])


@pytest.mark.parametrize(("steps", "first"), [(1, 0.1), (9, 0.1), (10, 0)])
def test_a_rise_of_less_than_a_step_is_left_out(steps, first):
    """A training of one step trains."""
    assert np.isclose(float(LinearDecay(0.1, steps)(0)), first)


def test_it_is_saved_with_the_optimizer():
    """A Keras optimizer's config brings it back."""
    config = keras.optimizers.serialize(keras.optimizers.Adam(LinearDecay(0.1, 10, warmup=0.3)))
    found = keras.optimizers.deserialize(config)
    assert found.get_config()["learning_rate"]["config"] == {"learning_rate": 0.1, "steps": 10, "warmup": 0.3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0}, "learning_rate .*0"),
        ({"steps": 0}, "steps .*0"),
        ({"steps": 2.5}, "steps .*2.5"),
        ({"warmup": 1}, "warmup .*1"),
        ({"warmup": -0.1}, "warmup .*-0.1"),
    ],
)
def test_impossible_settings(wrong, message):
    """They are refused by name."""
    with pytest.raises(OptimizerError, match=message):
        LinearDecay(**{"learning_rate": 0.1, "steps": 3} | wrong)
