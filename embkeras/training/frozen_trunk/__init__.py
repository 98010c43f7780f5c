"""Frozen layers run once over the data, and not in every epoch."""
