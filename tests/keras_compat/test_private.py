"""Declarations of private names, and the private modules behind them."""

import keras
import pytest

from embkeras.errors import KerasVersionError
from embkeras.keras_compat.private import in_code, of_module, private_module, sample_layer, version_error


def test_the_error_names_all_there_is_to_know():
    """What is missing, once; what runs; what was tested; what to install."""
    expected = (
        rf"^Keras {keras.__version__} with .* lacks .*: a\._b, c\._d\. Tested: Keras 3\.10.* pip install .keras=="
    )
    with pytest.raises(KerasVersionError, match=expected):
        raise version_error(["a._b", "c._d", "a._b"])


def test_a_private_module_that_is_gone():
    """Not a bare ImportError, so that the versions are in the message."""
    assert private_module("keras.src.backend.common.global_state").get_global_attribute
    with pytest.raises(KerasVersionError, match=r"lacks .*: keras\.src\.gone\."):
        private_module("keras.src.gone")


def test_a_declared_module_is_imported_late():
    """Declaring it imports nothing: embkeras can be imported with any version."""
    private = of_module("keras.src.gone", "name")
    with pytest.raises(KerasVersionError, match=r"keras\.src\.gone"):
        private.sample()


def test_names_in_the_code_of_a_function():
    """Arguments, local variables, attributes and strings."""

    def function(argument):
        local = argument.attribute
        return local["text"]

    assert {"argument", "local", "attribute", "text"} <= set(vars(in_code(function)))
    assert not hasattr(in_code(function), "other")


def test_a_sample_is_built():
    """With a table that takes no random numbers."""
    assert sample_layer().get_weights()[0].tolist() == [[0.0]]
