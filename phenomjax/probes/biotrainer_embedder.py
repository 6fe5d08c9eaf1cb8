"""The old name of `python -m phenomjax.probes.biotrainer`; it goes with the next release."""

import sys

from phenomjax.probes import biotrainer
from phenomjax.probes.biotrainer import *  # noqa: F403  a configuration of biotrainer may name a class of this file
from phenomjax.system.errors import exit_on_user_error

if __name__ == "__main__":
    print(
        "`phenomjax.probes.biotrainer_embedder` is `phenomjax.probes.biotrainer` now.",
        file=sys.stderr,
    )
    exit_on_user_error(biotrainer.main)
