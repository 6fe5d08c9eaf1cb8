"""Published benchmarks of maps, as their authors define them."""
