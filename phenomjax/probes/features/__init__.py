"""Embeddings that probes stand on, kept between runs."""
