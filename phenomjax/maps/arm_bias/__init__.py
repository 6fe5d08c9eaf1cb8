"""The bias between genes of one chromosome arm: found, measured, removed."""
