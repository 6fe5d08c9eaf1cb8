"""Readers of sources: each makes planes of what it finds."""
