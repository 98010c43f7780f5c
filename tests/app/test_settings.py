"""Settings of a training."""

import pytest

from embkeras.app.settings import QUICK, EncoderSettings, Settings
from embkeras.errors import ArgumentError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "gru"),
        ("units", 0),
        ("patience", 0),
        ("batch_size", 2.5),
        ("dropout", 1.0),
        ("rescale", 0.0),
        ("rescale", float("nan")),
        ("dropout", -0.1),
        ("learning_rate", 0.0),
        ("unfrozen_learning_rate", float("inf")),
        ("unfreeze_at", 40),
        ("strategy", "map"),
    ],
)
def test_bad_settings(name, value):
    """The message names the setting and the value."""
    with pytest.raises(ArgumentError, match=f"(?s){name}.*Received: {value!r}"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strategy", "phased"),
        ("epochs", 0),
        ("learning_rate", -1.0),
        ("max_length", True),
        ("seeds", 0),
        ("dropout", 1.0),
    ],
)
def test_bad_settings_of_an_encoder(name, value):
    """The same."""
    with pytest.raises(ArgumentError, match=f"(?s){name}.*Received: {value!r}"):
        EncoderSettings(**{name: value})


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "shared map"),
        ({"architecture": "mean"}, "shared map"),
        ({"architecture": "lstm"}, "phased"),
        ({"architecture": "lstm", "strategy": "shared map"}, "shared map"),
    ],
)
def test_the_strategy_follows_the_architecture(given, chosen):
    """The shared map where it is shown to help, unless another is asked for."""
    assert Settings(**given).chosen == chosen


def test_quick_is_smaller():
    """Fewer epochs, words and seeds."""
    assert (QUICK.epochs, QUICK.seeds) < (Settings().epochs, Settings().seeds)
