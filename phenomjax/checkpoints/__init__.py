"""Checkpoints: written by Orbax, sealed with SHA-256, verified before they are used."""
