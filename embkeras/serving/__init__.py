"""Exporting a model that takes token ids, and asking it."""
