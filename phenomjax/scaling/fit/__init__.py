"""The law of loss against parameters and data, and how well it is known."""
