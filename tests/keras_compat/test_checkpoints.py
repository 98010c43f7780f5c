"""Names of the variables in a checkpoint."""

import keras
import numpy as np
import tensorflow as tf

from embkeras.keras_compat.checkpoints import variable_keys


def test_names_of_an_exported_model(tmp_path):
    """Fails when TensorFlow keeps the names elsewhere."""
    layer = keras.layers.Dense(2, name="hidden")
    model = keras.Sequential([keras.Input((3,)), layer])
    model.export(tmp_path / "m", verbose=False)
    reader = tf.train.load_checkpoint(str(tmp_path / "m" / "variables" / "variables"))
    keys = variable_keys(reader)
    name = next(name for name in keys if name.endswith("hidden/kernel"))
    np.testing.assert_array_equal(reader.get_tensor(keys[name]), layer.kernel.numpy())
