"""Pixels of raw images: read, projected, measured and brought to the type of a bank."""
