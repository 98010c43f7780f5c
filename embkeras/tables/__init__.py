"""Matrices become Keras layers and models."""
