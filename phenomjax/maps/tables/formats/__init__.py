"""How each format of profiles is opened as a `Source`."""
