"""A checkpoint or a release as a model ready to use, and as a graph for other runtimes."""
