"""Pictures of scaling: losses and their law, what of it is known, and what maps of biology gain."""
