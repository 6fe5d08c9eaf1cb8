"""Banks that are made of other banks."""
