"""Files that are copied into every release as they are; they import nothing of this package."""
