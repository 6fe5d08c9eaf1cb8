"""What the pixels of images show: measures, limits, and the gates that drop images by these."""
