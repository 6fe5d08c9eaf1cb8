"""A checkpoint or a release as a model ready to use."""
