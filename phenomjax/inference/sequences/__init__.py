"""Embeds sequences: read, batched by length, segment by segment."""
