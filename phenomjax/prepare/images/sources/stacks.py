"""Files that hold several planes: one plane of the plan for each page, by what the files say of
their axes, or by what `--pages` says.
"""

import collections
import glob
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from phenomjax.prepare.images.formats.axes import Place, StackAxes, describe
from phenomjax.prepare.images.naming.listing import quoted
from phenomjax.prepare.images.records import BadFile, Finding, Plane, Understood
from phenomjax.system.errors import UserError
from phenomjax.system.log import Progress

__all__ = [
    "StackAxes",
    "describe",
    "describe_all",
    "has_several",
    "parse_pages",
    "sizes_told",
    "unfold",
]
log = logging.getLogger("phenomjax")
Meaning = tuple[tuple[str, int | None], ...]  # (axis, its length) of `--pages`, the quickest first
Described = Mapping[str, StackAxes | BadFile]
PAGES_HELP = (
    "what the pages of a file are, where it does not say: c (channels), z, or t; several axes with"
    " their lengths, the quickest first, such as c5z3"
)
_AXIS_NAMES = {"c": "channels", "z": "planes of z", "t": "time points", "field": "fields"}


def parse_pages(text: str | None) -> Meaning | None:
    """Parses `--pages`: an axis, or several with their lengths, the quickest first ("c5z3").

    Raises:
      UserError: it is neither.
    """
    if text is None:
        return None
    found = re.findall(r"([czt])([0-9]*)", text.lower())
    meaning = tuple((axis, int(length) if length else None) for axis, length in found)
    names = [axis for axis, _ in meaning]
    wrong = (
        not meaning
        or "".join(axis + length for axis, length in found) != text.lower()
        or len(set(names)) < len(names)
        or any(length is None for _, length in meaning[:-1])
        or any(length == 0 for _, length in meaning)
    )
    if wrong:
        raise UserError(
            f"`pages` {text!r} is not understood. Write c when the pages of a file are channels, z"
            " when they are planes of a stack, t when they are time points; or several axes with"
            " their lengths, the one that changes from page to page first: --pages c5z3."
        )
    return meaning


def describe_all(source: Path, files: Iterable[str], *, quiet: bool = False) -> Described:
    """The header of each file, read in threads; a BadFile where it cannot be read."""
    wanted = sorted(set(files))
    progress = None if quiet else Progress("read headers", len(wanted), "files")

    def read(file: str) -> StackAxes | BadFile:
        try:
            return describe(source / file)
        except BadFile as error:
            return BadFile(error.reason, error.detail, file)

    found: dict[str, StackAxes | BadFile] = {}
    # more threads than cores: on a network's disk they wait
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for file, described in zip(wanted, pool.map(read, wanted), strict=True):
            found[file] = described
            if progress:
                progress.update(1)
    return found


def has_several(source: Path, files: Sequence[str]) -> bool:
    """Whether a file of these holds several planes; bad files do not count."""
    described = (one for one in describe_all(source, files, quiet=True).values())
    return any(isinstance(one, StackAxes) and len(one.places) > 1 for one in described)


def unfold(
    source: Path,
    planes: Sequence[Plane],
    meaning: Meaning | None,
    *,
    channel_named: bool,
    numbered: bool = False,
    described: Described | None = None,
) -> Understood:
    """Gives each page of each file its channel, z, time and field.

    Args:
      source: the source folder.
      planes: one a file, with what its name says.
      meaning: of `parse_pages`, for pages of which the file does not say what they are, and against
        what the file says where it says another axis.
      channel_named: the names of files say the channel.
      numbered: `--channels` speaks of pages by number, so pages without a meaning are channels.
      described: the headers, where they are read already.

    Raises:
      UserError: most files hold pages without a meaning.
    """
    if described is None:
        described = describe_all(source, [plane.file for plane in planes])
    work = _Unfolding(planes, meaning, channel_named, numbered)
    for plane in planes:
        work.add(plane, described[plane.file])
    return work.result()


class _Several(NamedTuple):
    plane: Plane
    said: StackAxes
    places: tuple[Place, ...]


class _Unfolding:
    def __init__(
        self,
        planes: Sequence[Plane],
        meaning: Meaning | None,
        channel_named: bool,
        numbered: bool,
    ):
        self.meaning, self.channel_named, self.numbered = meaning, channel_named, numbered
        self.sites = {plane.key.site for plane in planes}
        self.found: list[_Several] = []
        self.unknown: list[_Several] = []
        self.rejected: list[Finding] = []
        self.remarks: list[Finding] = []
        self.counts: dict[str, int] = {}  # pages of each file whose pages were declared
        self._numbers: dict[str, str] | None = None

    def add(self, plane: Plane, said: StackAxes | BadFile) -> None:
        """Takes one file in."""
        if isinstance(said, BadFile):
            self._reject(plane, said.reason, said.detail)
            return
        one = _Several(plane, said, said.places)
        count = len(said.places)
        if count > 1 and self.meaning is not None:
            self._declared(one, self.meaning)
        elif count > 1 and any(place.rest is not None for place in said.places):
            if self.numbered and not self.channel_named and not self.meaning:
                self._declared(one, (("c", None),))
            else:
                self.unknown.append(one)
        else:
            if self.meaning is not None and not self.channel_named:
                self.counts[plane.file] = count
            self.found.append(one)

    def _reject(self, plane: Plane, reason: str, detail: str) -> None:
        self.rejected.append(Finding(reason, detail, plane.file, tuple(plane.key)))

    def _declared(self, one: _Several, meaning: Meaning) -> None:
        places = one.places
        fixed = {
            axis
            for axis in ("c", "z", "t", "field")
            if len({getattr(place, axis) for place in places}) > 1
        }
        # What the file says stays where the declaration is of its other pages.
        only_rest = all(place.rest is not None for place in places) and fixed.isdisjoint(
            axis for axis, _ in meaning
        )
        numbers = (
            [place.rest or 0 for place in places] if only_rest else [*range(1, 1 + len(places))]
        )
        made = [_place(number - 1, max(numbers), meaning) for number in numbers]
        if None in made:
            wanted = " x ".join(f"{axis} {length or 'any'}" for axis, length in meaning)
            self._reject(
                one.plane,
                "planes",
                f"holds {max(numbers)} planes, --pages says {wanted}: the file is cut, or of"
                f" another kind; copy it again, or leave it out with {_leave_out(one)}",
            )
            return
        new = []
        for place, declared in zip(places, made, strict=True):
            kept = place._replace(rest=None) if only_rest else Place()
            values = {k: v for k, v in (declared or Place())._asdict().items() if v is not None}
            new.append(kept._replace(**values))
        if not only_rest and one.said.said_by:
            self.remarks.append(
                Finding(
                    "pages",
                    f"says by {one.said.said_by} that it holds {_shape(one.said.places)}; read as"
                    f" {_shape(new)}, as --pages says",
                    one.plane.file,
                    tuple(one.plane.key),
                )
            )
        self.counts[one.plane.file] = max(numbers)
        self.found.append(one._replace(places=tuple(new)))

    def result(self) -> Understood:
        """What all files say."""
        if self.unknown:
            if len(self.unknown) > len(self.found):
                raise _unknown_pages(self.unknown, self.channel_named)
            for one in self.unknown:
                what = "samples of a colour image" if one.said.is_colour else "pages"
                self._reject(
                    one.plane,
                    "pages",
                    f"holds {len(one.places)} {what} of which it does not say what they are, unlike"
                    f" the other files: leave it out with {_leave_out(one)}, or say it with --pages"
                    " c, z or t",
                )
        self._check_counts()
        planes = [plane for one in self.found for plane in self._planes(one)]
        sizes = {one.said.pixel_size_um for one in self.found} - {None}
        return Understood(
            planes,
            self.rejected,
            self.remarks,
            tuple(self._told()) + sizes_told(sizes),
            next(iter(sizes)) if len(sizes) == 1 else None,
            max((one.said.largest_value or 0 for one in self.found), default=0) or None,
            self._assumed(),
            tuple(sizes),
        )

    def _assumed(self) -> dict[str, object]:
        assumed: dict[str, object] = {"pages of an index": False}
        if self.counts:
            usual = collections.Counter(self.counts.values())
            assumed["pages of a file"] = usual.most_common(1)[0][0]
        if self._numbers is not None:
            assumed["names of channels"] = self._numbers
        if hasattr(self, "_imagej"):
            assumed["labels"] = {str(place): name for place, name in self._imagej.items()}
        if any(len({place.field for place in one.places}) > 1 for one in self.found):
            assumed["one site"] = len(self.sites) == 1
        return assumed

    def _check_counts(self) -> None:
        """Files of a declared meaning must hold as many planes as most."""
        if len(set(self.counts.values())) < 2:
            return
        usual = collections.Counter(self.counts.values()).most_common(1)[0][0]
        kept = []
        for one in self.found:
            if self.counts.get(one.plane.file, usual) != usual:
                self._reject(
                    one.plane,
                    "planes",
                    f"holds {self.counts[one.plane.file]} planes, most files hold {usual}: it is"
                    f" cut, or of another kind; copy it again, or leave it out: {_leave_out(one)}",
                )
            else:
                kept.append(one)
        self.found = kept

    def _planes(self, one: _Several) -> list[Plane]:
        named, places = one.plane, one.places
        channels = {place.c for place in places}
        for axis, values in (
            ("z", {place.z for place in places}),
            ("t", {place.t for place in places}),
        ):
            if len(values) > 1 and getattr(named, axis) is not None:
                self._reject(
                    named,
                    "planes",
                    f"holds {len(values)} {_AXIS_NAMES[axis]}, and its name says that it is one of"
                    " them: give a pattern without that group",
                )
                return []
        if self.channel_named and len(channels) > 1:
            self._reject(
                named,
                "planes",
                f"holds {len(channels)} channels, and its name says that it is channel"
                f" {named.channel}: use a pattern without the group 'channel', or leave the file"
                f" out with {_leave_out(one)}",
            )
            return []
        several_fields = len({place.field for place in places}) > 1
        made = []
        for page, place in enumerate(places):
            key = named.key
            if several_fields:
                alone = len(self.sites) == 1
                site = str(place.field) if alone else f"{key.site}.{place.field}"
                key = key._replace(site=site)
            channel = named.channel if self.channel_named else str(place.c or 1)
            label = named.label
            if label is None and self.channel_named:
                label = self._names_of_numbers().get(channel)
            elif label is None:
                label = self._labels(one).get(place.c or 1)
            z = named.z if named.z is not None else place.z
            t = named.t if named.t is not None else place.t
            made.append(Plane(named.file, page, key, channel, label, z, t))
        return made

    def _names_of_numbers(self) -> dict[str, str]:
        """What OME-XML calls the channels that names of files number, where it has one name for
        each number and no two alike.
        """
        if self._numbers is None:
            said: dict[str, set[str]] = {}
            for one in self.found:
                if one.said.ome is not None and one.plane.channel:
                    labels = {one.said.labels.get(place.c or 1, "") for place in one.places}
                    said.setdefault(one.plane.channel, set()).update(labels)
            names = {number: label for number, labels in said.items() for label in labels if label}
            single = all(len(labels) == 1 for labels in said.values())
            every = names.keys() == {one.plane.channel for one in self.found}
            unique = len(set(names.values())) == len(names)
            self._numbers = names if single and every and unique else {}
        return self._numbers

    def _labels(self, one: _Several) -> dict[int, str]:
        """ImageJ's labels are often names of files: they name channels only when all files have
        the same.
        """
        if one.said.said_by != "ImageJ":
            return one.said.labels
        if not hasattr(self, "_imagej"):
            sets = {
                tuple(sorted(other.said.labels.items()))
                for other in self.found
                if other.said.said_by == "ImageJ"
            }
            self._imagej = dict(sets.pop()) if len(sets) == 1 else {}
        return self._imagej

    def _told(self) -> list[str]:
        shapes = collections.Counter(
            (one.said.said_by if one.places == one.said.places else "", _shape(one.places))
            for one in self.found
            if len(one.places) > 1
        )
        lines = [
            f"{count} files hold {shape} each, {'by ' + said if said else 'as it was declared'}"
            + (" (when they are something else: --pages c, z or t)" if said == "ImageJ" else "")
            for (said, shape), count in shapes.most_common(5)
        ]
        if self.numbered and self.counts and not self.meaning:
            lines.append("pages were taken for channels because --channels numbers them")
        return lines


def _leave_out(one: _Several) -> str:
    return f"--exclude {quoted(glob.escape(one.plane.file))}"


def _place(index: int, count: int, meaning: Meaning) -> Place | None:
    """The place of a page; None where the declared lengths are not those of the file."""
    rest, found = count, {}
    for axis, length in meaning:
        size = rest if length is None else length
        if size == 0 or rest % size:
            return None
        index, found[axis] = divmod(index, size)
        rest //= size
    return Place(**{axis: number + 1 for axis, number in found.items()}) if rest == 1 else None


def _shape(places: Sequence[Place]) -> str:
    sizes = {
        name: len({getattr(place, axis) for place in places}) for axis, name in _AXIS_NAMES.items()
    }
    known = " x ".join(f"{size} {name}" for name, size in sizes.items() if size > 1)
    return known or f"{len(places)} planes"


def sizes_told(sizes: set[float | None]) -> tuple[str, ...]:
    """What to say of files that give several sizes of a pixel."""
    if len(sizes) < 2:
        return ()
    listed = ", ".join(f"{size:g}" for size in sorted(size for size in sizes if size)[:5])
    return (f"files say different sizes of a pixel ({listed} micrometres): none is recorded",)


def _unknown_pages(unknown: Sequence[_Several], channel_named: bool) -> UserError:
    first = unknown[0]
    count, who = len(first.places), f"{len(unknown)} files"
    if first.said.is_colour:
        what = (
            f"{who} are colour images, for instance {first.plane.file} with {count} samples (red,"
            " green, blue) in each pixel, and a channel of a microscope is grey. "
        )
        mend = (
            "Their names say that each is one channel: export them as grey images."
            if channel_named
            else "When the samples are channels, give --pages c (and --channels 1=NAME,2=NAME,..."
            " to choose and name them)."
        )
        return UserError(
            what + mend + " Pictures for the eye, such as overlays, are left out with --exclude"
            " 'PATTERN'."
        )
    channels = "" if channel_named else "--pages c when they are channels, "
    return UserError(
        f"{who} hold several pages and do not say what they are, for instance {first.plane.file}"
        f" with {count} pages (no OME-XML, no ImageJ hyperstack, no axes). Say it: {channels}"
        "--pages z when they are planes of a stack, --pages t when they are time points; several"
        " axes with their lengths, the one that changes from page to page first, such as --pages"
        f" {'z5t3' if channel_named else 'c5z3'}."
    )
