"""`prepare images` that divides a small source into parts, in a process of its own:
`python -m tests.lab.toy_images`, then the words of the command.
"""

import sys

from phenomjax.prepare.images import command
from phenomjax.prepare.images.naming import listing
from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.log import log_to_stderr
from tests.lab.doors import run_as_door


def main():
    log_to_stderr()
    listing.LARGEST_PART = 100
    return run_as_door(command, sys.argv[1:])


if __name__ == "__main__":
    exit_on_user_error(main)
