"""What a suite says: files, labels, splits; read and checked."""
