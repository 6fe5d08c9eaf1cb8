"""What is in a bank."""
