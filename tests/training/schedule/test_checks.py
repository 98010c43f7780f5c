"""What is refused when training begins."""

import keras
import pytest
from keras import optimizers

from embkeras.errors import EmbkerasWarning, OptimizerError
from embkeras.training.schedule.callback import unfreeze_at
from embkeras.training.schedule.checks import check_distribution, check_multipliers, warn_of_phases_not_reached
from embkeras.training.schedule.phases import Phase
from tests import tiny


class Multiplied(optimizers.SGD):
    """Notes what it is asked about."""

    seen = None

    def check_multipliers(self, paths):
        """As row-wise optimizers do."""
        self.seen = paths
        if not any("embedding" in path for path in paths):
            raise OptimizerError("no such variable")


@pytest.mark.parametrize("wrap", [lambda inner: inner, optimizers.LossScaleOptimizer], ids=["bare", "wrapped"])
def test_multipliers_are_checked_against_all_variables(wrap):
    """Those of layers that are frozen when training begins too, in the optimizer or in the one inside it."""
    inner = Multiplied(0.1)
    net = tiny.model(wrap(inner))
    tiny.fit(net, epochs=2, callbacks=[unfreeze_at(1, "embedding")])
    assert inner.seen == ["embedding/embeddings", "head/kernel", "head/bias"]


def test_multipliers_of_a_model_without_weights_are_not_checked():
    """Its variables have no names yet."""
    inner = Multiplied(0.1)
    net = keras.Sequential([keras.layers.Dense(1)])
    net.compile(inner, loss="mse")
    check_multipliers(net)
    assert inner.seen is None


def test_accumulated_gradients_on_one_replica_are_fine():
    """Keras does that."""
    check_distribution(tiny.model(optimizers.SGD(0.1, gradient_accumulation_steps=2)))


def test_a_phase_that_is_not_reached_warns():
    """With the first one that is not."""
    with pytest.warns(EmbkerasWarning, match="phase that begins at epoch 4 is not reached"):
        warn_of_phases_not_reached([Phase(0), Phase(4), Phase(9)], {"epochs": 4})


def test_a_phase_that_patience_may_begin_sooner_does_not_warn():
    """It may be reached."""
    warn_of_phases_not_reached([Phase(0, patience=1), Phase(4)], {"epochs": 4})


def test_an_unknown_number_of_epochs_does_not_warn():
    """Outside fit."""
    warn_of_phases_not_reached([Phase(0), Phase(4)], {})
