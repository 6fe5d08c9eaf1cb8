"""The demo of the maps: its commands, what it found, and weak supervision beside it."""
