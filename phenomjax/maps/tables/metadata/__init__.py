"""What the columns that are no features mean, and what other tables know of the same wells."""
