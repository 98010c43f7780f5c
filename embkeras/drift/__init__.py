"""How far a table has moved: arrays in, tables out, never TensorFlow."""
