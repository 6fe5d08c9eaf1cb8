"""OME-Zarr (NGFF) plates: their metadata, wells and images, and which chunks of them are there."""
