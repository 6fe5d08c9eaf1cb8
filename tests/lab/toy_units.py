"""A toy job of units, in a process of its own: `python -m tests.lab.toy_units WORK OUT COUNT JOBS
SECONDS [--engine …]`.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from phenomjax.engine import choose, work_folder
from phenomjax.engine.options import EngineOptions
from phenomjax.engine.units import Unit
from phenomjax.system import files
from phenomjax.system.errors import EXIT_FAILED, EXIT_STOPPED, UserError, exit_on_user_error
from phenomjax.system.log import log_to_stderr
from phenomjax.system.processes import stop_on_signals


def square(work, number, dies_at=(), deaths=sys.maxsize):
    """Writes the square of a number; odd ones are called rejected. Some end their process, the
    first `deaths` times.
    """
    if number in dies_at:
        tried = work / f"died-{number}"
        with tried.open("a") as file:
            file.write(".")
        if len(tried.read_text()) <= deaths:
            die()
    files.write_text(work / "squares" / f"{number}", str(number**2), shared=True)
    return {"rejected": [number] if number % 2 else []}


def die(*_):
    """Ends its process as a machine without memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


def draw_or_die(path, config, index):
    """Draws an image of a simulated screen; the second one when its first process has died."""
    from phenomjax.data.simulated.write_screen import _draw

    died = path.with_suffix(".died")
    if index == 1 and not died.exists():
        died.touch()
        die()
    _draw(path, config, index)


def fail(kind, work, number):
    """Fails at 5: a fault of the host (OSError) the first two times."""
    tried = work / f"failed-{number}"
    if number == 5 and (kind is UserError or not tried.exists() or len(tried.read_text()) < 2):
        with tried.open("a") as file:
            file.write(".")
        raise UserError("planted", EXIT_FAILED) if kind is UserError else OSError(5, "planted")
    return square(work, number)


class Unreadable(Exception):
    """Cannot be made again from its words."""

    def __init__(self, one, two):
        super().__init__(one + two)


def fail_unreadably(work, number):
    raise Unreadable("a", "b")


def slow_square(work, argument):
    number, seconds = argument
    time.sleep(seconds)
    return square(work, number)


def square_of_file(work, path):
    return square(work, int(Path(path).read_text()))


def expected_squares(count):
    return [number**2 for number in range(count)]


def read_squares(work):
    return sorted(int(path.read_text()) for path in (work / "squares").glob("[0-9]*"))


def finish(work):
    return lambda path: path.write_text(f"{read_squares(work)}")


def main():
    from tests.lab import toy_units  # workers do not import the main module

    parser = argparse.ArgumentParser()
    kinds = {"work": Path, "out": Path, "count": int, "jobs": int, "seconds": float}
    for name, kind in kinds.items():
        parser.add_argument(name, type=kind)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--engine_option", nargs="*", default=())
    given = parser.parse_args()
    work, out, count, seconds = given.work, given.out, given.count, given.seconds
    log_to_stderr()
    options = EngineOptions(
        engine=given.engine, engine_option=tuple(given.engine_option), jobs=given.jobs
    )
    with work_folder.hold(work), stop_on_signals() as stop:
        work_folder.begin(work, {"count": count})
        units = (Unit(f"square-{number}", (number, seconds)) for number in range(count))
        with choose.executor(options, work) as executor:
            for _ in executor.run(work, toy_units.slow_square, units, stop):
                pass
        if stop.is_set():
            return EXIT_STOPPED
        work_folder.finish(work, finish(work), out)
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
