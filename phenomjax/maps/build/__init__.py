"""From embeddings to a map: align, filter, aggregate."""
