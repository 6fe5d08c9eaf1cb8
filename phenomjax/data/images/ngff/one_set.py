"""What a plate must be to be read in place as one array of images: all its fields of one size, one
type, one set of channels, each a single plane.
"""

import collections
import concurrent.futures
import shlex
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

from phenomjax.data.images.ngff import chunks
from phenomjax.data.images.ngff.images import absent_chunks
from phenomjax.data.images.ngff.plates import THREADS, Field, Plate
from phenomjax.system.errors import EXIT_FAILED, UserError

_SHOWN = 3


def check_whole(plate: Plate) -> None:
    """Checks that the plate can be read in place.

    Raises:
      UserError: what hinders it, and the command that makes a bank of what is there.
    """
    if plate.damaged:
        first = plate.damaged[0]
        where = f"{plate.path / first.path} " if first.path else ""
        raise UserError(
            f"{len(plate.damaged)} parts of the plate {plate.path} cannot be used; the first:"
            f" {where}{first.detail.rstrip('.')}. Mend them, or make a bank of the others:"
            f" `{_command(plate.path)}`.",
            EXIT_FAILED,
        )
    if not plate.fields:
        where = "".join(f" The first: {plate.path / a.path} {a.detail}." for a in plate.absent[:1])
        raise UserError(
            f"The OME-Zarr plate {plate.path} has no fields: none of the images that it lists is"
            f" there.{where} Copy it again."
        )
    _check_single_planes(plate)
    _check_same(plate, "size", lambda f: (f.image.size("y"), f.image.size("x")), _pixels)
    _check_same(plate, "type of pixels", lambda f: f.image.array.dtype, str)
    _check_same(plate, "number of channels", lambda f: f.image.size("c"), str)
    seen: dict[tuple[str, str], Field] = {}
    for field in plate.fields:
        other = seen.setdefault((field.well, field.site), field)
        if other is not field:
            raise UserError(
                f"{other.path} and {field.path} are both well {field.well}, site {field.site} of"
                f" the plate {plate.path}. Take one out of the plate's metadata."
            )


def _check_single_planes(plate: Plate) -> None:
    axes = {"z": ("planes", "--z max"), "t": ("time points", "--t 1")}
    deep = {axis: [f for f in plate.fields if f.image.size(axis) > 1] for axis in axes}
    found = [
        f"{fields[0].image.size(axis)} {axes[axis][0]} along its axis {axis!r} ({fields[0].path})"
        for axis, fields in deep.items()
        if fields
    ]
    if found:
        flags = " ".join(axes[axis][1] for axis, fields in deep.items() if fields)
        raise UserError(
            f"The plate {plate.path} has {' and '.join(found)}: a plate that is read in place has"
            f" single planes. Project them, or choose one, into a bank: `{_command(plate.path)}"
            f" {flags}`."
        )


def channels_of(plate: Plate) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """The names of the channels, in the order of the first field, and for each field the positions
    of those channels in its array. Channels without names are c0, c1, ...

    Raises:
      UserError: the labels are repeated, missing in part, or others in some fields.
    """
    for field in plate.fields:
        labels, count = field.image.labels, field.image.size("c")
        if not labels:
            continue
        wrong = (
            f"{len(labels)} labels for {count} channels"
            if len(labels) != count
            else "a channel without a label"
            if "" in labels
            else "a label twice"
            if len(set(labels)) != count
            else ""
        )
        if wrong:
            numbers = range(1, count + 1)
            items = [f"{i}={_name(plate, i - 1) or f'channel{i}'}" for i in numbers]
            raise UserError(
                f"{field.path} has {wrong} ({', '.join(labels)}). Name the channels in a bank, as"
                f' they are: `{_command(plate.path)} --channels "{",".join(items)}"`.'
            )
    _check_same(plate, "set of channels", lambda f: tuple(sorted(f.image.labels)), ", ".join)
    names = plate.fields[0].image.labels
    if not names:
        count = plate.fields[0].image.size("c")
        return tuple(f"c{i}" for i in range(count)), [tuple(range(count))] * len(plate.fields)
    return names, [tuple(map(f.image.labels.index, names)) for f in plate.fields]


def _name(plate: Plate, channel: int) -> str:
    """How fields whose labels are whole call a channel; "" where they do not agree on it."""
    whole = [
        field.image.labels
        for field in plate.fields
        if len(set(field.image.labels)) == field.image.size("c") and "" not in field.image.labels
    ]
    names = {labels[channel] for labels in whole if channel < len(labels)}
    return names.pop() if len(names) == 1 else ""


def remarks(plate: Plate) -> tuple[str, ...]:
    """What is to be known of a plate, a sentence each; looks at the names of all its chunks."""
    found = list(plate.told)
    found += [f"{one.path} {one.detail}" for one in plate.absent]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for sentences in pool.map(_absent_of, plate.fields):
            found += sentences
    return tuple(found)


def _absent_of(field: Field) -> list[str]:
    return [f"well {field.well}, site {field.site}: {text}" for _, text in absent_sentences(field)]


def absent_sentences(field: Field, files: chunks.Files | None = None) -> Iterator[tuple[int, str]]:
    """For each channel with chunks that are not stored: its position, and a sentence."""
    listed = chunks.list_files(field.path) if files is None else files
    absent = absent_chunks(field.image, listed)
    labels, (times, count, zs) = field.image.labels, field.image.planes
    for channel in range(count):
        counts = absent.counts[:, channel]
        if not counts.any():
            continue
        label = labels[channel] if len(labels) == count else ""
        name = f"channel {channel + 1}{f' ({label})' if label else ''}"
        total, planes = absent.of * times * zs, int((counts == absent.of).sum())
        whole = "" if not planes else ": the plane is blank"
        if planes and times * zs > 1:
            whole = f": {planes} of {times * zs} planes are blank"
        yield (
            channel,
            f"{counts.sum()} of {total} chunks of {name} are not stored and read as the fill value"
            f" {field.image.array.fill}{whole}; they were empty, or were lost on the way",
        )


def _check_same(
    plate: Plate,
    what: str,
    value: Callable[[Field], Hashable],
    spell: Callable[..., str],
) -> None:
    groups: dict[Hashable, list[Field]] = collections.defaultdict(list)
    for field in plate.fields:
        groups[value(field)].append(field)
    if len(groups) < 2:
        return
    parts = [
        f"{spell(one) or 'none'} in {len(fields)} fields ({_some(fields)})"
        for one, fields in sorted(groups.items(), key=lambda item: -len(item[1]))[:_SHOWN]
    ]
    raise UserError(
        f"The fields of the plate {plate.path} differ in their {what}: {'; '.join(parts)}. Make a"
        f" bank of those that agree: `{_command(plate.path)}` takes most of them and lists the"
        " others."
    )


def _some(fields: Sequence[Field]) -> str:
    names = ", ".join(f"{field.well} site {field.site}" for field in fields[:_SHOWN])
    return names + (", ..." if len(fields) > _SHOWN else "")


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def _command(path: Path) -> str:
    if path.name in ("", ".."):
        path = path.resolve()  # beside ".", not in it
    bank = path.parent / (path.name.split(".")[0] + "_bank.zarr")
    return (
        "python -m phenomjax.prepare images --layout ome-zarr --source"
        f" {shlex.quote(str(path))} --out {shlex.quote(str(bank))}"
    )
