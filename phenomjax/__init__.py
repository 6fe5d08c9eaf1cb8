"""phenomjax: pretrain foundation models of cells and proteins in JAX/Flax. Importing it touches no
device.
"""

__version__ = "0.1.0"
