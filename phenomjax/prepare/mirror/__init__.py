"""Copies of folders, banks and single files between file systems and object stores, verified."""
