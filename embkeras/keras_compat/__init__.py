"""Every private Keras and TensorFlow name that embkeras uses, one module a concern."""

# Keras comes first: when it is loaded, it imports the modules with our classes (`embkeras._registration`), and those import
# the modules of this room, none of which may be half imported by then.
import keras  # noqa: F401
