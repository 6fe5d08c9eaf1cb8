"""The loss, the size, the hours and the cost of a run, written down before it starts, and judged
while it trains.
"""
