"""The test that precedes a large run: `python -m phenomjax.preflight`."""
