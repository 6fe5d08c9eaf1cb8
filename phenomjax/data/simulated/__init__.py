"""Screens and protein families with known truth."""
