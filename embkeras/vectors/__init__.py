"""Word vectors before they become a layer: NumPy, pandas and h5py, never TensorFlow."""
