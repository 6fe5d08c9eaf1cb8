"""The old name of `python -m phenomjax.checkpoints.seal`; it goes with the next release."""

import sys

from phenomjax.checkpoints import seal
from phenomjax.system.errors import exit_on_user_error

if __name__ == "__main__":
    print("`phenomjax.digests` is `phenomjax.checkpoints.seal` now.", file=sys.stderr)
    exit_on_user_error(seal.main)
