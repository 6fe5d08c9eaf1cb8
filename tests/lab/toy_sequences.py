"""`prepare sequences` with pieces so small that a few files make hundreds of units, in a process of
its own: `python -m tests.lab.toy_sequences`, then the words of the command.
"""

import sys

from phenomjax.prepare.sequences import command
from phenomjax.prepare.sequences.job import SequenceJob
from phenomjax.prepare.sequences.pieces import PieceSettings
from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.log import log_to_stderr
from tests.lab.doors import run_as_door

SIZES = {
    "piece_bytes": 4000,
    "block_bytes": 1000,
    "chunk_bytes": 4096,
    "bucket_bits": 5,
    "shelf_pieces": 4,
    "table_rows": 300,
}


def few_starts(job, tasks, part=1):
    """Processes for half of the steps: each costs a second to start, in each step."""
    return min(tasks, 2) if part == 1 else 1


def main():
    log_to_stderr()
    SequenceJob._worth = few_starts
    command.PieceSettings = lambda **given: PieceSettings(**(given | SIZES))
    return run_as_door(command, sys.argv[1:])


if __name__ == "__main__":
    exit_on_user_error(main)
