"""Heads, baselines, and how they are trained."""
