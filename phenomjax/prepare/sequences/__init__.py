"""Text into a token bank."""
