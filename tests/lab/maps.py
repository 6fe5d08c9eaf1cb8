"""Commands of `phenomjax.maps` in this process."""

import importlib
from pathlib import Path

from phenomjax.maps.__main__ import COMMANDS, main
from phenomjax.system import outputs
from tests.lab import doors


def run(name: str, *words: object) -> int | None:
    """Runs a command through its front door, as `python -m phenomjax.maps` would; what the test
    itself has written before is written anew.
    """
    kind = importlib.import_module(COMMANDS[name][0]).Options
    again = "--out" in words and outputs.taken(Path(words[words.index("--out") + 1]), kind.MAKES)
    return main([name, *map(str, words), *(["--overwrite"] if again else [])])


def offered(name: str, command: str, *words: object):
    """The options of the command of maps that another one offers at its end."""
    module = importlib.import_module(COMMANDS[command][0])
    return doors.offered(lambda: run(name, *words), f"phenomjax.maps {command}", module)
