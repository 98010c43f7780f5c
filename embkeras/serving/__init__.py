"""Exporting a model that takes token ids, and clients for it."""
