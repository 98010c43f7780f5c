"""What is refused when training begins."""

import pytest
from keras import optimizers

from embkeras.errors import EmbkerasWarning
from embkeras.training.schedule.checks import check_distribution, warn_of_phases_not_reached
from embkeras.training.schedule.phases import Phase
from tests import tiny


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
