"""Ids in, scores out: the exported model and those who ask it."""
