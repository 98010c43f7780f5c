"""Comparing training strategies over several seeds, with confidence intervals."""
