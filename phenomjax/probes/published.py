"""The old place of published numbers, which suite files import; it goes with the next release."""

import logging

from phenomjax.probes.suites.published import rows  # noqa: F401

logging.getLogger("phenomjax").warning(
    "a suite file imports `phenomjax.probes.published`, which is"
    " `phenomjax.probes.suites.published` now"
)
