"""The processes of one training run: where they are, how they start, and what they tell each other."""
