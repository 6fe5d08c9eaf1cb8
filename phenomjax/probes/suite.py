"""The old place of what suite files import; it goes with the next release."""

import logging

from phenomjax.probes.suites.suite import *  # noqa: F403

logging.getLogger("phenomjax").warning(
    "a suite file imports `phenomjax.probes.suite`, which is `phenomjax.probes.suites.suite` now"
)
