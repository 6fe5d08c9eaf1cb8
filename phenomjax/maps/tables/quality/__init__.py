"""Which rows and features of a table are measurements: found, left out or mended, and told."""
