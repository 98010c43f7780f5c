"""A fixture of encoders and decoders: a dtype policy that rounds."""

import keras
import pytest


@pytest.fixture
def mixed():
    """Mixed precision for one test: the name of its policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield "mixed_bfloat16"
    keras.config.set_dtype_policy(before)
