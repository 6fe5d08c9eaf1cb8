"""Does a map know biology: recall of relationships, consistency, siblings, linear probes."""
