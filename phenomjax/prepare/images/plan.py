"""The plan of a job: which files make which image, in the order of the bank, and which files
cannot. Never holds pixels.
"""

import collections
import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phenomjax.data.images import ome, wells
from phenomjax.engine.units import Note
from phenomjax.prepare.images import layouts, readers
from phenomjax.prepare.images.metadata import Key
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")


class ImageFiles(NamedTuple):
    """One image to be.

    Attributes:
      key: (experiment, plate, well, site).
      files: relative to the source folder; one a channel in the bank's order, or one that holds all
        channels.
      stamp: digest of names, sizes and modification times: another stamp is another image.
    """

    key: Key
    files: tuple[str, ...]
    stamp: str


class RejectedImage(NamedTuple):
    """A file or an image that cannot go into the bank; one row of rejected.parquet."""

    reason: str
    detail: str
    file: str
    key: tuple[str | None, ...]

    @classmethod
    def from_json(cls, fields: Note) -> "RejectedImage":
        """What `_asdict` became in a note."""
        return cls(**{**fields, "key": tuple(fields["key"])})

    def __str__(self) -> str:
        experiment, plate, well, site = self.key
        parts = {"experiment": experiment, "plate": plate, "well": well, "site": site}
        where = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
        what = self.file + " " if self.file else "the image "
        return f"{what}{'(' + where + ') ' if where else ''}{self.detail}"


class ImagePlan(NamedTuple):
    """Everything there is to do.

    Attributes:
      entries: the images, in the order of the bank.
      rejected: what the names alone rule out.
      channels: names, in the order of the bank.
      planes: for files that hold all channels, the plane of each channel; None with one file a
        channel.
      pixel_size_um: where the source says it.
    """

    entries: list[ImageFiles]
    rejected: list[RejectedImage]
    channels: tuple[str, ...]
    planes: tuple[int, ...] | None
    pixel_size_um: float | None = None


def make_plan(
    source: Path,
    layout: layouts.FileLayout,
    pattern: str | None,
    defaults: dict[str, str],
    channels: Sequence[str],
) -> ImagePlan:
    """Lists the source folder and sorts its files into images.

    Args:
      source: the folder.
      layout: names of files.
      pattern: the expression of the generic layout.
      defaults: values for groups that the names leave out ("plate", "site", ...).
      channels: items of --channels, "ID=NAME", "ID" or a name; () = the layout's.

    Raises:
      UserError: nothing there, no name fits, or an unknown channel.
    """
    if not source.is_dir():
        near = (
            did_you_mean(source.name, (p.name for p in source.parent.glob("*")))
            if source.parent.is_dir()
            else ""
        )
        raise UserError(f"The source folder {source} is not there.{near}")
    if layout.name == "ome-zarr":
        return _plan_ome(source, channels, defaults.get("experiment"))
    patterns = layouts.compile_patterns(layout, pattern)
    found = _group(source, patterns, defaults)
    if not found.files:
        raise UserError(_nothing_matched(source, layout, pattern, found.unknown))
    if any("channel" in expression.groupindex for expression in patterns):
        ids = sorted(
            {channel for files in found.files.values() for channel in files}, key=wells.natural
        )
        chosen = choose_channels(channels, ids, layout.channels)
        left_out = [i for i in ids if i not in chosen]
        if left_out:
            log.info("channels left out: %s (--channels chooses)", ", ".join(left_out))
        planes, wanted = None, chosen
    else:
        count = _planes_per_file(source, [files[""][0] for files in found.files.values()])
        ids = [str(i + 1) for i in range(count)]
        chosen = choose_channels(channels, ids, {})
        planes, wanted = tuple(ids.index(i) for i in chosen), {"": "all"}
    expected = pattern or layout.example
    detail = (
        f"has a name that layout {layout.name} does not know (expected {expected}): rename it or"
        " move it out of the folder"
    )
    rejected = [RejectedImage("unknown_name", detail, file, (None,) * 4) for file in found.unknown]
    images = [
        _image(key, found.files[key], found.doubled, wanted)
        for key in sorted(found.files, key=_order)
    ]
    entries = [image for image in images if isinstance(image, ImageFiles)]
    rejected += [image for image in images if isinstance(image, RejectedImage)]
    return ImagePlan(entries, rejected, tuple(chosen.values()), planes)


class _Found(NamedTuple):
    # of each image, by channel: (file, bytes, modification time)
    files: dict[Key, dict[str, tuple[str, int, int]]]
    doubled: dict[tuple[Key, str], str]  # a second file for one channel
    unknown: list[str]


def _group(source: Path, patterns: list[re.Pattern], defaults: dict[str, str]) -> _Found:
    fallback = {
        "site": "1",
        "plate": source.name if source.name != "Images" else source.parent.name,
    } | defaults
    one_channel_files = any("channel" in expression.groupindex for expression in patterns)
    found = _Found(collections.defaultdict(dict), {}, [])
    for file, size, time in layouts.walk(source, readers.SUFFIXES):
        name = layouts.parse(file, patterns)
        if name is None:
            found.unknown.append(file)
            continue
        key: Key = (
            name.experiment or defaults.get("experiment"),
            name.plate or fallback["plate"],
            name.well or "",
            name.site or fallback["site"],
        )
        channel = name.channel or defaults.get("channel") or "1" if one_channel_files else ""
        if channel in found.files[key]:
            found.doubled[key, channel] = file
        else:
            found.files[key][channel] = (file, size, time)
    return found


def _image(
    key: Key, files: dict, doubled: dict, wanted: dict[str, str]
) -> ImageFiles | RejectedImage:
    """Makes an image of its files, or says why that cannot be."""
    first = next(iter(files.values()))[0]
    for channel, name in wanted.items():
        if (key, channel) in doubled:
            what = f"channel {channel} ({name})" if channel else "it"
            detail = (
                f"and {files[channel][0]} both say they are {what} of this image: remove one, or"
                " use --pattern with a group for what tells them apart (experiment, plate, site)"
            )
            return RejectedImage("duplicate", detail, doubled[key, channel], key)
    missing = ", ".join(
        f"{channel} ({name})" for channel, name in wanted.items() if channel not in files
    )
    if missing:
        detail = (
            f"has no file for channel {missing} beside it: copy the file, or leave the channel out"
            " with --channels"
        )
        return RejectedImage("missing_channel", detail, first, key)
    parts = [files[channel] for channel in wanted]
    stamp = hashlib.sha256(repr((key, parts)).encode()).hexdigest()
    return ImageFiles(key, tuple(part[0] for part in parts), stamp)


def choose_channels(
    items: Sequence[str], ids: Sequence[str], names: dict[str, str]
) -> dict[str, str]:
    """{id in the file names: name in the bank}, in the order of the bank.

    Args:
      items: of --channels: "ID=NAME", an ID, or a NAME of the layout; () = those of the layout that
        are there.
      ids: channels that the source has.
      names: the layout's names by id.
    """
    if not items:
        chosen = {i: name for i, name in names.items() if i in ids} or {i: i for i in ids}
        absent = [f"{i} ({name})" for i, name in names.items() if i not in ids]
        if names and absent:
            log.warning("channels that no file has, left out of the bank: %s", ", ".join(absent))
        return chosen
    by_name = {name: i for i, name in names.items()}
    chosen = {}
    for item in items:
        left, _, right = item.partition("=")
        given = wells.normalise_number(left)
        channel = given if given in ids else by_name.get(left, left)
        if channel not in ids:
            there = ", ".join(f"{i} ({names[i]})" if i in names else i for i in ids)
            raise UserError(
                f"--channels {item!r}: no file has channel"
                f" {left!r}.{did_you_mean(left, [*ids, *by_name])} The source has channels {there}."
                " Write ID=NAME, separated by commas, in the order that the bank shall have."
            )
        chosen[channel] = right or names.get(channel, channel)
    if len(chosen) != len(items) or len(set(chosen.values())) != len(items):
        raise UserError(
            f"--channels {','.join(items)}: a channel or a name is there twice. Name each once."
        )
    return chosen


def _plan_ome(source: Path, channels: Sequence[str], experiment: str | None) -> ImagePlan:
    folders = ome.plates(source)
    if not folders:
        raise UserError(
            f"There is no OME-Zarr plate in {source}: neither the folder itself nor one directly in"
            " it has 'plate' metadata (.zattrs of NGFF 0.4, zarr.json of 0.5). Give the folder of"
            " the plate, NAME.zarr."
        )
    entries, first = {}, None
    for folder in folders:
        for field in ome.fields(folder):
            first = first or field
            key = (
                experiment,
                field.plate,
                wells.normalise_well(field.well),
                wells.normalise_number(field.site),
            )
            file = field.path.relative_to(source).as_posix()
            status = [
                (p.name, p.stat().st_size, p.stat().st_mtime_ns)
                for p in sorted(field.path.glob("*"))
                if p.is_file()
            ]
            entries[key] = ImageFiles(
                key, (file,), hashlib.sha256(repr((key, file, status)).encode()).hexdigest()
            )
    if first is None:
        raise UserError(f"The OME-Zarr plate {folders[0]} has no fields: its wells list no images.")
    described = ome.image(first.path)
    count = ome.open_field(first.path).shape[2]
    ids = (
        described.channels
        if len(described.channels) == count
        else tuple(str(i + 1) for i in range(count))
    )
    chosen = choose_channels(channels, ids, {})
    planes = tuple(ids.index(i) for i in chosen)
    ordered = [entries[key] for key in sorted(entries, key=_order)]
    return ImagePlan(ordered, [], tuple(chosen.values()), planes, described.pixel_size_um)


def sample(entries: Sequence, count: int = 64) -> list:
    """Up to `count` evenly spaced items, the same whenever the plan is the same."""
    return (
        [entries[i * len(entries) // count] for i in range(count)]
        if len(entries) > count
        else list(entries)
    )


def _planes_per_file(source: Path, files: list[str]) -> int:
    counts: collections.Counter[int] = collections.Counter()
    for file in sample(files, 8):
        try:
            counts[len(readers.read_planes(source, file, hashlib.sha256()))] += 1
        except readers.BadFile as error:  # named later, when its turn comes
            log.debug("%s %s", error.file, error.detail)
    return counts.most_common(1)[0][0] if counts else 1


def _order(key: Key) -> list:
    return [wells.natural(part or "") for part in key]


def _nothing_matched(
    source: Path, layout: layouts.FileLayout, pattern: str | None, unknown: list[str]
) -> str:
    if not unknown:
        suffixes = collections.Counter(
            Path(name).suffix for name, _, _ in layouts.walk(source, ("",))
        )
        there = (
            ", ".join(
                f"{count} {suffix or 'without suffix'}" for suffix, count in suffixes.most_common(5)
            )
            or "no files"
        )
        return (
            f"There are no images in {source}: looked for {', '.join(readers.SUFFIXES)} in it and"
            f" the folders below, found {there}. Check --source; OME-Zarr plates want --layout"
            " ome-zarr."
        )
    fits = []
    for other in layouts.LAYOUTS.values():
        if other.patterns and any(
            layouts.parse(file, layouts.compile_patterns(other, None)) for file in unknown[:20]
        ):
            fits.append(other.name)
    hint = (
        f"They fit --layout {' or '.join(fits)}."
        if fits
        else "Give --layout generic and a --pattern for them."
    )
    return (
        f"None of the {len(unknown)} images in {source} has a name of layout {layout.name}, for"
        f" instance {unknown[0]!r}; expected {pattern or layout.example}. {hint}"
    )
