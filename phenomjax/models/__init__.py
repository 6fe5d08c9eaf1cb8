"""Flax linen modules, one file a family."""
