"""The HDF5 group behind a store of Keras."""

import h5py
import keras
import numpy as np

from embkeras.keras_compat.weight_files import hdf5_group
from tests import tiny


def test_private_name_of_keras_is_there(tmp_path):
    """Saving a file hands the layer a store with a group; when Keras renames it, tables are saved as whole arrays."""
    groups = []

    class Seen(keras.layers.Layer):
        """Looks at the store."""

        def save_own_variables(self, store):
            """Note what the group is."""
            groups.append(hdf5_group(store))
            super().save_own_variables(store)

    keras.Sequential([keras.Input((2,)), Seen(), keras.layers.Dense(1)]).save_weights(tmp_path / "model.weights.h5")
    assert len(groups) == 1 and isinstance(groups[0], h5py.Group)


def test_other_stores_have_no_group():
    """A dictionary, and whatever else layers may be given."""
    assert hdf5_group({"0": np.eye(2)}) is None and hdf5_group(tiny) is None
