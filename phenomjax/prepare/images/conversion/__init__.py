"""From a plan to a bank: pixels converted by units, and put together by units."""
