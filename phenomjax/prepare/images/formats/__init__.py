"""Formats of image files: their kinds, the planes that they hold, and what each plane is."""
