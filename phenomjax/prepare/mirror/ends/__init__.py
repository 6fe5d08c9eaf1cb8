"""Disks and object stores as the two ends of a mirror: listed in order, read, written, verified."""
