"""phenomjax: pretrain foundation models of cells and proteins in JAX/Flax. Importing it touches no
device.
"""

import os

__version__ = "0.1.0"

# Without these TensorStore waits for ever on a connection that has fallen silent; it looks at them
# once, when it is imported. Values that are there already stay.
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "20")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1000")
