"""A worker of an embedding as a fork server starts it: everything is imported by then, so that many
can be killed in little time.
"""

import sys

from phenomjax import embed


def work(arguments: list[str], log: str) -> None:
    """What `python -m phenomjax.embed` does; stderr is appended to a file."""
    sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115  it is this process's to its end
    sys.exit(embed.main(arguments))
