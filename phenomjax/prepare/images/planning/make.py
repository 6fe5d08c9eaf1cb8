"""The plan of a source: read at once, or where it is large part by part, in units.

A part is some folders of the source, read by the same readers. What readers and grouping decide by
a look at everything is small and is put together here: which channels there are, which axes, what
pages mean. Parts that have images of one plate are read again together, so that whatever is judged
within a plate is judged there. Where parts come to different conclusions, all of the source is read
at once: then the memory grows with it, and the outcome is always that of one reading.
"""

import functools
import itertools
import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.engine.units import Executor, Note, Notes, Unit
from phenomjax.prepare.images import findings
from phenomjax.prepare.images.findings import Found
from phenomjax.prepare.images.instruments.entries import only
from phenomjax.prepare.images.naming import channels, keys, listing
from phenomjax.prepare.images.naming.listing import Root
from phenomjax.prepare.images.plan import ImagePlan, Plate, write_plates
from phenomjax.prepare.images.planning import grouping
from phenomjax.prepare.images.planning.axes import Axes, Wanted, check_axes
from phenomjax.prepare.images.planning.faults import check_apart
from phenomjax.prepare.images.planning.parts import TOLD, Grouping, Part, group_part, read_part
from phenomjax.prepare.images.records import ImageKey
from phenomjax.prepare.images.sources import reading
from phenomjax.prepare.images.sources.reading import Request
from phenomjax.system import files

log = logging.getLogger("phenomjax")


class _Stopped(Exception):
    pass


class _ReadAtOnce(Exception):
    """Parts are not enough."""


def make_plan(
    request: Request, wanted: Wanted, folder: Path, executor: Executor, stop: threading.Event
) -> ImagePlan | None:
    """Reads everything but pixels and says what images there are; None after a stop.

    Args:
      request: what is read.
      wanted: what to make of it.
      folder: for the tables of the plan, seen by all who do units; emptied.
      executor: who reads parts.
      stop: ends the work when set.

    Raises:
      UserError: of `reading.read` and of grouping.
    """
    files.remove(folder)
    folder.mkdir(parents=True)
    listing.check_folder(request.source)
    most = listing.LARGEST_PART
    if _is_divisible(request) and listing.count(request.source, "", most) > most:
        try:
            return _in_parts(request, wanted, folder, executor, stop)
        except _Stopped:
            return None
        except _ReadAtOnce as reason:
            log.info("the source is read at once: %s", reason)
    plan = _at_once(request, wanted, folder)
    return None if stop.is_set() else plan


def _is_divisible(request: Request) -> bool:
    return request.files is None and request.layout.name not in ("ome-zarr", "ome-tiff")


def _at_once(request: Request, wanted: Wanted, folder: Path) -> ImagePlan:
    found = reading.read(request)
    understood = found.understood
    _tell(understood.told)  # before an error of what is made of it
    if not understood.planes:  # all were rejected, which is told with the table of them
        rejected, remarks = Found(list(understood.rejected)), Found(list(understood.remarks))
        return ImagePlan(folder, (), rejected, remarks)
    planes, told = keys.complete(
        request.source, understood.planes, wanted.defaults, wanted.overrides
    )
    chosen, remarked = grouping.choose(channels.Facts.of(planes), wanted)
    made = grouping.make_images(request.source, found.listing, planes, wanted, chosen)
    _tell([*told, *check_axes(made.axes, wanted, chosen)])
    if not made.images and made.alone:
        check_apart(made.keys, made.examples, chosen)
    return ImagePlan(
        folder,
        tuple(write_plates(folder, made.images)),
        Found([*understood.rejected, *made.rejected]),
        Found([*understood.remarks, *remarked, *made.remarks]),
        tuple(chosen.names.values()),
        grouping.projection(made.stacked, wanted),
        understood.pixel_size_um,
        understood.largest_value,
        found.single,
    )


def _tell(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        log.info("%s", sentence)


def _in_parts(
    request: Request, wanted: Wanted, folder: Path, executor: Executor, stop: threading.Event
) -> ImagePlan:
    run = functools.partial(_run, executor, folder, stop)
    parts, notes = _read_parts(request, functools.partial(run, read_part, (request, wanted)))
    unused = set(request.exclude).intersection(*(note["unused"] for note in notes))
    examples = [note["example"] for note in notes if note["example"]]
    unused_items = [one for one in request.exclude if one in unused]
    listing.check_excluded(request.source, unused_items, examples)
    told = list(dict.fromkeys(text for note in notes for text in note["told"]))
    _tell(told[:TOLD])
    if len(told) > TOLD:
        log.info("and %d more such sentences of other folders", len(told) - TOLD)
    facts = [channels.Facts.from_json(note.pop("facts")) for note in notes]
    chosen, remarked = grouping.choose(channels.Facts.merged(facts), wanted)
    several: bool | None = None
    made: dict[str, Note] = {}
    while True:
        units = [
            Grouping(part.name, _chosen_of(chosen, own), several)
            for part, own in zip(parts, facts, strict=True)
            if own.kinds and part.name not in made
        ]
        named = [(one.part, one) for one in units]
        made |= run(group_part, (request.source, wanted), named, "group")
        axes = Axes.merged(Axes(*note["axes"]) for note in made.values())
        others = [name for name, note in made.items() if not Axes(*note["axes"]).several]
        if several or wanted.t != "all" or not axes.several or not others:
            break
        several = True
        for name in others:
            del made[name]
            Notes(folder).forget(f"group-{name}")
    grouped = [made[part.name] for part in parts if part.name in made]
    _tell(check_axes(axes, wanted, chosen))
    plates = [
        Plate((place[0], place[1]), images, table)
        for note in grouped
        for place, images, table in note["plates"]
    ]
    if not plates and all(note["alone"] for note in grouped):
        shown = [ImageKey(*key) for note in grouped for key in note["examples"]]
        check_apart(sum(note["keys"] for note in grouped), shown, chosen)
    tables = functools.partial(_tables, folder, parts)
    return ImagePlan(
        folder,
        tuple(sorted(plates, key=lambda plate: grouping.order(plate.place))),
        Found(*tables("read", findings.REJECTED), *tables("group", findings.REJECTED)),
        Found(*tables("read", findings.REMARKS), remarked, *tables("group", findings.REMARKS)),
        tuple(chosen.names.values()),
        grouping.projection(any(note["stacked"] for note in grouped), wanted),
        _pixel_size(notes),
        max((note["largest"] for note in notes if note["largest"] is not None), default=None),
        all(note["single"] for note in notes),
    )


def _chosen_of(chosen: channels.Chosen, own: channels.Facts) -> channels.Chosen:
    """Without what it says of the plates of other parts."""
    return chosen._replace(sets={place: chosen.sets[place] for place in own.images})


def _pixel_size(notes: Sequence[Note]) -> float | None:
    of_files = {size for note in notes for size in note["sizes"]} - {None}
    sizes = {only(size for note in notes for size in note["index_sizes"])}
    sizes |= of_files if len(of_files) == 1 else set()
    sizes -= {None}
    return sizes.pop() if len(sizes) == 1 else None


def _tables(folder: Path, parts: Sequence[Part], kind: str, name: str) -> list[Path]:
    paths = (folder / f"{kind}-{part.name}.{name}" for part in parts)
    return [path for path in paths if path.is_file()]


def _run(
    executor: Executor,
    folder: Path,
    stop: threading.Event,
    function,
    context: tuple,
    arguments: Sequence[tuple[str, NamedTuple]],
    kind: str,
) -> dict[str, Note]:
    """{name of the argument: the note of its unit}."""
    work = functools.partial(function, *context)
    units = (Unit(f"{kind}-{name}", argument) for name, argument in arguments)
    for _ in executor.run(folder, work, units, stop, at_most=len(arguments)):
        pass
    if stop.is_set():
        raise _Stopped
    return {name: Notes(folder).read(f"{kind}-{name}") for name, _ in arguments}


def _read_parts(request: Request, run) -> tuple[list[Part], list[Note]]:
    """The parts of a source that agree, and what was found in each."""
    numbers = itertools.count()
    new = lambda *fields: Part(str(next(numbers)), *fields)  # noqa: E731
    most = listing.LARGEST_PART
    parts, notes = [new((Root(),), most)], dict[str, Note]()
    while True:
        left = [(part.name, part) for part in parts if part.name not in notes]
        notes |= run(left, "read")
        if divided := [part for part in parts if "divide" in notes[part.name]]:
            inside = {
                part.name: [
                    new(tuple(Root(*root) for root in roots), most * (len(roots) == 1))
                    for roots in notes[part.name]["divide"]
                ]
                for part in divided
            }
            parts = [one for part in parts for one in inside.get(part.name, [part])]
            continue
        for part in parts:
            if error := notes[part.name].get("error"):
                raise _ReadAtOnce(error.split(". ")[0])
        groups = _sharing_plates([notes[part.name] for part in parts])
        if len(groups) < len(parts):
            parts = [
                parts[group[0]]
                if len(group) == 1
                else new(tuple(root for i in group for root in parts[i].roots))
                for group in groups
            ]
            continue
        closed = [
            part
            for part in parts
            if notes[part.name]["planes"] and not notes[part.name]["unfolded"]
        ]
        if closed and any(notes[part.name]["unfolded"] for part in parts):
            parts = [
                new(part.roots, 0, True) if part in closed and not part.unfold else part
                for part in parts
            ]
            if not all(part.unfold for part in closed):
                continue
        found = [notes[part.name] for part in parts]
        _check_agreement(found)
        return parts, found


def _sharing_plates(notes: Sequence[Note]) -> list[list[int]]:
    """Places of parts, those together that have images of one plate."""
    root = list(range(len(notes)))

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    first: dict[tuple, int] = {}
    for i, note in enumerate(notes):
        for place in map(tuple, note["places"]):
            one, other = sorted((top(first.setdefault(place, i)), top(i)))
            root[other] = one
    groups: dict[int, list[int]] = {}
    for i in range(len(notes)):
        groups.setdefault(top(i), []).append(i)
    return list(groups.values())


def _check_agreement(notes: Sequence[Note]) -> None:
    """Raises _ReadAtOnce where one reading of all may come to another conclusion."""
    assumed: dict[str, object] = {}
    for note in notes:
        for name, value in note["assumed"].items():
            if assumed.setdefault(name, value) != value:
                raise _ReadAtOnce(f"its folders differ in the {name}")
    total = {
        name: sum(note[name] for note in notes)
        for name in ("planes", "failed", "decided", "outside", "others")
    }
    if not total["planes"]:
        raise _ReadAtOnce("no folder has images with names that are known")
    if total["failed"] and not total["decided"]:
        raise _ReadAtOnce("no index can be read")
    if total["outside"] and total["others"]:
        raise _ReadAtOnce("an index lists images of other folders")
