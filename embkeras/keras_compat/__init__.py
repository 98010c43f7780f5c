"""Every private Keras and TensorFlow name that embkeras uses, one module a concern."""
