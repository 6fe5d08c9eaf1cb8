"""Compares the runs below folders."""
