"""python -m phenomjax.prepare: raw files to banks."""
