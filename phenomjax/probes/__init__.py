"""Downstream tasks on frozen embeddings; `python -m phenomjax.evaluate` is the door."""
