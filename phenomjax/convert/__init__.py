"""Weights to and from the layouts of other projects."""
