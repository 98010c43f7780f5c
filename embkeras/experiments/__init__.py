"""Strategies compared, with several seeds and honest intervals."""
