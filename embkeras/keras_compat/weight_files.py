"""Weight files: the HDF5 group behind the store that Keras passes to `save_own_variables` and `load_own_variables`.

Private name used here: `_h5_entry_group`. Publicly the store reads and writes whole arrays only, which costs several
copies of a table. Where the name is missing, callers fall back to whole arrays.
"""

from typing import Any

import h5py


def hdf5_group(store: Any) -> h5py.Group | None:
    """The group of a layer's variables in an HDF5 file; None for any other store (`.npz`, dictionaries)."""
    group = getattr(store, "_h5_entry_group", None)
    return group if isinstance(group, h5py.Group) else None
