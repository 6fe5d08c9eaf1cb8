"""phenomjax: pretrain foundation models of cells and proteins in JAX/Flax. Importing it touches no
device.
"""

import importlib
import sys
from types import ModuleType

__version__ = "0.1.0"

# Old names, for experiment files of users; they go with the next release.
MOVED = {
    "config_images": "phenomjax.config.mae",
    "config_sequences": "phenomjax.config.language_models",
}


def __getattr__(name: str) -> ModuleType:
    """The module that an old name means, with a line that says the new one."""
    if name not in MOVED:
        raise AttributeError(f"module 'phenomjax' has no attribute '{name}'")
    print(f"`phenomjax.{name}` is `{MOVED[name]}` now.", file=sys.stderr)
    globals()[name] = importlib.import_module(MOVED[name])  # said once
    return globals()[name]
