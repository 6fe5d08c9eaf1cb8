"""Tables of profiles and of names, read and checked."""
