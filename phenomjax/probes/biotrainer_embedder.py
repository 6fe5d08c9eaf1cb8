"""The old name of `python -m phenomjax.probes.biotrainer`; it goes with the next release."""

import runpy
import sys

if __name__ == "__main__":
    print(
        "`phenomjax.probes.biotrainer_embedder` is `phenomjax.probes.biotrainer` now.",
        file=sys.stderr,
    )
    runpy.run_module("phenomjax.probes.biotrainer", run_name="__main__", alter_sys=True)
else:  # a configuration of biotrainer may name its classes here
    from phenomjax.probes.biotrainer import *  # noqa: F403
