"""Pictures of arrays, in one style."""
