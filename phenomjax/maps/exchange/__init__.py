"""Profiles for other tools, as they are."""
