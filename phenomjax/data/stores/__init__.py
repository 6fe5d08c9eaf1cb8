"""What `data/store.py` stands on: where credentials come from, clients, and what their errors
mean.
"""
