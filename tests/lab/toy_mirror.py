"""`python -m phenomjax.prepare` with units of some files, for tests that kill it."""

import sys

from phenomjax.prepare.__main__ import main
from phenomjax.prepare.mirror import planning
from phenomjax.system.errors import exit_on_user_error

planning.UNIT_ROWS, planning.GROUPS = 16, 8

if __name__ == "__main__":
    sys.exit(exit_on_user_error(main))
