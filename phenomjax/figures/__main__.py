"""The old name of `python -m phenomjax.runs.reconstructions`; it goes with the next release."""

import sys

from phenomjax.runs import reconstructions
from phenomjax.system.errors import exit_on_user_error

print(
    "`phenomjax.figures reconstructions` is `phenomjax.runs.reconstructions` now.", file=sys.stderr
)
sys.argv[1:2] = [] if sys.argv[1:2] == ["reconstructions"] else sys.argv[1:2]
exit_on_user_error(reconstructions.main)
