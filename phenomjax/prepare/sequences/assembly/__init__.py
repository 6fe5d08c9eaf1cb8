"""From pieces to the files of a bank: duplicates out, everything to its place."""
