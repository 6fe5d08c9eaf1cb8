"""What a file of sequences is, told by what is in it."""
