"""The old name of `python -m phenomjax.checkpoints.seal`; it goes with the next release."""

import runpy
import sys

if __name__ == "__main__":
    print("`phenomjax.digests` is `phenomjax.checkpoints.seal` now.", file=sys.stderr)
    runpy.run_module("phenomjax.checkpoints.seal", run_name="__main__", alter_sys=True)
