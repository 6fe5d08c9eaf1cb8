"""Image banks: format, readers, the order of crops, the loader."""
