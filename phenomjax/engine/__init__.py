"""Units of work that can be killed and continued: what a unit is, and who runs it."""
