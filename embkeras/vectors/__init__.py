"""Words and matrices, before any layer: NumPy, pandas and h5py, never TensorFlow."""
