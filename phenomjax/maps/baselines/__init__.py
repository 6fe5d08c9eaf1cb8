"""Hand-made features of images: what a learned embedding has to beat."""
