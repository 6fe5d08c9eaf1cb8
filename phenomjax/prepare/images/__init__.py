"""Raw images into an image bank."""
