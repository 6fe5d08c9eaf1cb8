"""Units that end every process that tries them, such as a file on which a library crashes: such a
unit is divided into its images, and the image that is to blame is rejected by name.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from phenomjax.engine.units import Argument, Executor, Function, Note, Notes, Unit
from phenomjax.prepare.images.records import Finding, ImageKey

REASON = "killed_worker"


def run(
    executor: Executor,
    work: Path,
    function: Function[Argument],
    units: Iterable[Unit[Argument]],
    stop: threading.Event,
    *,
    divide: Callable[[Unit[Argument]], Sequence[Unit[Argument]]],
    reject: Callable[[Unit[Argument], str], Note],
    join: Callable[[Unit[Argument], Sequence[Unit[Argument]], Sequence[Note]], Note],
    at_most: int | None = None,
) -> Iterator[tuple[str, Note]]:
    """Does units as `Executor.run` does.

    Args:
      executor, work, function, units, stop, at_most: of `Executor.run`.
      divide: a unit into those of its single images.
      reject: the note of a single image that nothing can read, given the reason.
      join: the note of a whole unit, given its single images and their notes.
    """
    poisonous: list[tuple[Unit[Argument], str]] = []

    def set_aside(unit: Unit[Argument], reason: str) -> Note | None:
        poisonous.append((unit, reason))
        return None

    yield from executor.run(work, function, units, stop, aside=set_aside, at_most=at_most)
    notes = Notes(work)
    for unit, reason in poisonous:
        single = divide(unit)
        if len(single) == 1:
            note = reject(unit, reason)
            notes.commit(unit.name, note)
            yield unit.name, note
            continue
        for _ in executor.run(work, function, single, stop, aside=reject, at_most=at_most):
            pass
        if not all(notes.is_committed(one.name) for one in single):
            return  # stopped
        note = join(unit, single, [notes.read(one.name) for one in single])
        notes.commit(unit.name, note)
        for one in single:
            notes.forget(one.name)
        yield unit.name, note


def finding(file: str, key: ImageKey, reason: str) -> Finding:
    """What is said of such an image."""
    detail = (
        f"ended every process that tried to read it ({reason}): it may be damaged in a way that its"
        " library does not survive, or want more memory than there is. Copy it again, or give the"
        " processes more memory"
    )
    return Finding(REASON, detail, file, tuple(key))
