"""What the screen says of the indexes that decided: a sentence of a kind, not one an index."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data.images import wells
from phenomjax.prepare.images.instruments.entries import plate_folder
from phenomjax.prepare.images.naming.listing import quoted
from phenomjax.prepare.images.records import Understood


class Decided(NamedTuple):
    """An index that decided.

    Attributes:
      file: its path.
      folder: it speaks of images in this one and below.
      listed: how many images it lists.
      absent: how many of these have no file.
    """

    file: str
    folder: str
    understood: Understood
    listed: int
    absent: int


def sentences(source: Path, decided: Sequence[Decided]) -> list[str]:
    """Which indexes decided on which plates and channels, which plates are called otherwise than
    their folders, and how much is not there.
    """
    decided = [one for one in decided if one.understood.planes]
    alike: dict[str, list[Decided]] = {}
    for one in decided:
        alike.setdefault(_channels(one.understood), []).append(one)
    told = []
    for channels, same in alike.items():
        plates = _some({plane.key.plate or "" for one in same for plane in one.understood.planes})
        which = f"{same[0].file} decides: plate"
        if len(same) > 1:
            which = f"{len(same)} indexes such as {same[0].file} decide: plates"
        told.append(f"{which} {plates}, channels {channels}")
    renamed = []
    for one in decided:
        own = {plane.key.plate or "" for plane in one.understood.planes}
        folder = plate_folder(source, one.folder)
        if own != {folder}:
            renamed.append(f"plate {_some(own)} lies in the folder {folder}")
    if renamed:
        more = f", and so on for {len(renamed) - 1} other indexes" if len(renamed) > 1 else ""
        told.append(f"{renamed[0]}{more}; the index decides")
    folders: dict[str, list[str]] = {}
    for one in decided:
        for plate in sorted({plane.key.plate or "" for plane in one.understood.planes}):
            folders.setdefault(plate, []).append(one.file)
    for plate, several in folders.items():
        if len(several) > 1:
            told.append(
                f"plate {plate} stands in {len(several)} indexes, such as {several[0]} and"
                f" {several[1]}: if these are different plates, prepare them into banks of their"
                " own, with --exclude and --set plate=NAME"
            )
    if lacking := [one for one in decided if one.absent]:
        absent, listed = sum(one.absent for one in lacking), sum(one.listed for one in lacking)
        whose = lacking[0].file if len(lacking) == 1 else f"{len(lacking)} indexes"
        verb = "lists are" if len(lacking) == 1 else "list are"
        told.append(f"{absent} of the {listed} images that {whose} {verb} not there")
    sizes = sorted({one.understood.pixel_size_um or 0 for one in decided} - {0})
    if len(sizes) > 1:
        shown = " and ".join(f"{size:g}" for size in sizes)
        told.append(f"the pixel sizes of the plates differ ({shown} um): the bank has none")
    return told


def _channels(understood: Understood) -> str:
    named = {plane.channel: plane.label for plane in understood.planes}
    return _some(
        f"{channel} = {named[channel]}" if named[channel] else channel for channel in named
    )


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names, key=wells.natural)
    more = f" and {len(ordered) - 12} more" if len(ordered) > 12 else ""
    return ", ".join(ordered[:12]) + more


def contradiction(first: Decided, file: str, second: Understood | None) -> list[str]:
    """That another index of the folder calls the channels otherwise, where it does."""
    if second is None or not second.planes:
        return []
    one, other = _channels(first.understood), _channels(second)
    if one == other:
        return []
    return [
        f"{file} calls the channels otherwise than {first.file}, which decides: {other}. To take it"
        f" instead: --exclude {quoted(glob.escape(first.file))}"
    ]
