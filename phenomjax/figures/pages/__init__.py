"""Pages for a browser: one look, one file each, nothing loaded."""
