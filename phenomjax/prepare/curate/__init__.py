"""Which images are worth training on: measures of pixels, gates, and replicates that agree."""
