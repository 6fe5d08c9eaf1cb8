"""The processes of one run: where they are, how they start, and what they tell each other."""
