"""Ladders: small runs of one recipe at rising budgets of FLOPs, to which a law is fitted."""
