"""Batches of crops: which images and crops, read by whom, from where."""
