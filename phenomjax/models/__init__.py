"""Flax linen modules, one file a family. They know nothing of data, tasks or configs."""
