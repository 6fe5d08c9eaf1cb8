"""The old name of `phenomjax.config.mae`, for experiment files of users; it goes with the next
release.
"""

import sys

from phenomjax.config.mae import VIT_SIZES, add_sections, check, set_vit

__all__ = ["VIT_SIZES", "add_sections", "check", "set_vit"]
print("`phenomjax.config_images` is `phenomjax.config.mae` now.", file=sys.stderr)
