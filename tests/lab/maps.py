"""Commands of `phenomjax.maps` in this process."""

from phenomjax.maps.__main__ import main


def run(name: str, *words: object) -> int | None:
    """Runs a command through its front door, as `python -m phenomjax.maps` would."""
    return main([name, *map(str, words)])
