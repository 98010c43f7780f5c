"""One model trained by several processes in step, under `tf.distribute.MultiWorkerMirroredStrategy`."""

# Keras comes first: when it is loaded, it imports the modules with our classes (`embkeras._registration`), and none of
# them may be half imported by then.
import keras  # noqa: F401
