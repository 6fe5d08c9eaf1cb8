"""What stays on a node while training processes come and go: a keeper that holds copies of the
state in memory, and a process with everything imported, from which new ones are forked.

launch/standby.py starts a keeper on each node and says what runs where. Standard library only: a
keeper must be there at once and outlive whatever happens to JAX.
"""
