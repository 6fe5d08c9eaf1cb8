"""Weights to and from other projects' layouts.

Reads safetensors and torch files of plain tensors, never a pickle.
"""
