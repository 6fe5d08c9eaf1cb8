"""NumPy only: banks of images, crops, the loader, the simulated screen. Never imports jax."""
