"""What is known of weights besides their arrays: what travels with them, what their own
configuration says, and what is asked for.
"""
