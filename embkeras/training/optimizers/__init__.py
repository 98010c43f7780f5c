"""Optimizers whose cost follows the rows of a batch."""
