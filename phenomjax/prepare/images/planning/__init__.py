"""From planes to images: what is read of a source, in one go or in parts, and grouped."""
