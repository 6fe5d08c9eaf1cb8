"""The old name of `python -m phenomjax.runs.reconstructions`; it goes with the next release."""

import runpy
import sys

print(
    "`phenomjax.figures reconstructions` is `phenomjax.runs.reconstructions` now.", file=sys.stderr
)
sys.argv[1:2] = [] if sys.argv[1:2] == ["reconstructions"] else sys.argv[1:2]
runpy.run_module("phenomjax.runs.reconstructions", run_name="__main__", alter_sys=True)
