"""`prepare images --dry-run`: what was understood of a source, before anything is made of it.

Printed, and in a folder beside the bank to be: `images.csv`, every image with the files of each
channel; `sheet.png`, one site of each plate (four at most), every channel with its name;
`rejected.parquet` and `remarks.parquet`. A channel under a wrong name, a plate in the place of
another, or a site that should be a plane is seen there in a minute.
"""

import collections
import csv
import dataclasses
import io
import logging
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from phenomjax.data.images.wells import natural
from phenomjax.prepare.images import findings
from phenomjax.prepare.images.metadata import Value
from phenomjax.prepare.images.pixels import pixel_types, raw_images
from phenomjax.prepare.images.pixels.eight_bit import Rule
from phenomjax.prepare.images.pixels.raw_images import BadFile, RawImages
from phenomjax.prepare.images.plan import ImageFiles, ImagePlan
from phenomjax.prepare.images.records import ImageKey
from phenomjax.system import files
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError

log = logging.getLogger("phenomjax")
PLATES_SHOWN = 20
PLATES_DRAWN = 4
PERCENTILES = (0.5, 99.8)  # black and white of a channel on the sheet


def run(
    folder: Path,
    plan: ImagePlan,
    raw: RawImages,
    rule: Rule | None,
    described: Mapping[str, Sequence[Value]],
) -> int:
    """Prints what was understood and writes the folder; returns the exit code, 1 where something
    is rejected.

    Args:
      folder: to write to.
      plan: what would go into the bank.
      raw: where the pixels are.
      rule: of --intensity, None where it is not given.
      described: by column of the bank, what the tables say of each image of the plan.
    """
    source, unreadable = raw_images.probe(raw, plan)
    plan = dataclasses.replace(plan, rejected=plan.rejected.plus(unreadable))
    columns = {name: values for name, values in described.items() if _told(values)}
    print(describe(plan, source, columns))
    try:
        if source.dtype:
            pixel_types.rule_for(rule, source, plan)
    except UserError as error:  # what the job would stop at
        print(f"intensity: {error}".replace("`intensity`", "--intensity"))
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "images.csv", table_text(plan, columns))
    written = ["images.csv"]
    for name, found in ((findings.REJECTED, plan.rejected), (findings.REMARKS, plan.remarks)):
        files.remove(folder / name)
        if found:
            written.append(findings.write(folder / name, found).name)
    files.remove(folder / "sheet.png")
    if source.dtype and draw_sheet(folder / "sheet.png", plan, source):
        written.append("sheet.png")
    print(f"Nothing was prepared. Look at {folder}: {', '.join(written)}")
    return EXIT_FAILED if plan.rejected else EXIT_DONE


def describe(plan: ImagePlan, source: RawImages, columns: Mapping[str, Sequence[Value]]) -> str:
    """The counts of plates, wells, sites, channels, planes and times, and the first plates."""
    keys = list(plan.keys())
    planes = {len(pages) for entry in plan.images() for pages in entry.channels}
    lines = {"images": f"{len(keys)}"}
    if source.dtype:
        lines["pixels"] = f"{source.size[0]} x {source.size[1]}, {source.dtype}"
    if plan.largest_value is not None:
        lines["pixels"] = f"{lines.get('pixels', '')}, values to {plan.largest_value}"
    if plan.pixel_size_um:
        lines["pixels"] = f"{lines.get('pixels', '')}, {plan.pixel_size_um:g} micrometres"
    lines["channels"] = ", ".join(plan.channels)
    if planes and max(planes) > 1:
        least = f"{min(planes)} to " if min(planes) < max(planes) else ""
        lines["planes (z)"] = f"{least}{max(planes)}, {plan.projection} of them"
    times = {key.time for key in keys if key.time is not None}
    if times:
        lines["time points"] = f"{len(times)} ({_range(times)})"
    for name, values in columns.items():
        told = _told(values)
        few = ", ".join(dict.fromkeys(map(str, told[:1000])))
        lines[name] = f"{len(told)} of {len(keys)} images ({textwrap.shorten(few, 60)})"
    for name, found in (("rejected", plan.rejected), ("remarks", plan.remarks)):
        if found:
            lines[name] = f"{len(found)} ({findings.counted(found.reasons)})"
    width = max(map(len, lines)) + 2
    head = [f"{name + ':':{width}}{text}" for name, text in lines.items()]
    return "\n".join([*head, *_plates(keys)])


def _plates(keys: Sequence[ImageKey]) -> list[str]:
    """A line a plate: wells, sites a well, images."""
    by_plate: dict[tuple[str | None, str | None], list[ImageKey]] = collections.defaultdict(list)
    for key in keys:
        by_plate[key.experiment, key.plate].append(key)
    names = {plate: "/".join(part for part in plate if part) for plate in by_plate}
    width = max([5, *map(len, names.values())]) + 2
    lines = [f"{'plate':{width}}{'wells':>7}{'sites':>9}{'images':>9}  from, to"]
    for plate in sorted(by_plate, key=lambda one: natural(names[one]))[:PLATES_SHOWN]:
        sites: dict[str, set[str]] = collections.defaultdict(set)
        for key in by_plate[plate]:
            sites[key.well].add(key.site)
        counts = {len(found) for found in sites.values()}
        shown = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
        lines.append(
            f"{names[plate]:{width}}{len(sites):>7}{shown:>9}{len(by_plate[plate]):>9}"
            f"  {_range(sites)}"
        )
    more = len(by_plate) - PLATES_SHOWN
    return [*lines, f"and {more} more plates"] if more > 0 else lines


def _range(names: Iterable[str]) -> str:
    ordered = sorted(names, key=natural)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _told(values: Sequence[Value]) -> list[Value]:
    return [value for value in values if value is not None]


def table_text(plan: ImagePlan, columns: Mapping[str, Sequence[Value]]) -> str:
    """images.csv: each image's key, what the tables say of it, and by channel files and pages."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow([*ImageKey._fields, *columns, *plan.channels])
    for number, entry in enumerate(plan.images()):
        values = [columns[name][number] for name in columns]
        writer.writerow([*entry.key, *values, *_cells(entry)])
    return output.getvalue()


def _cells(entry: ImageFiles) -> list[str]:
    """Of each channel "FILE", or "FILE#PAGE" (from 1) where a file has several; ";" between."""
    used = collections.Counter(file for pages in entry.channels for file, _ in pages)
    return [
        ";".join(
            entry.files[file] + (f"#{page + 1}" if page or used[file] > 1 else "")
            for file, page in pages
        )
        for pages in entry.channels
    ]


def draw_sheet(path: Path, plan: ImagePlan, source: RawImages) -> bool:
    """Draws the first image of each plate that can be read; False when none can."""
    from phenomjax.figures import contact_sheet

    images: dict[str, np.ndarray] = {}
    names = []
    tried: collections.Counter[str] = collections.Counter()
    for entry in plan.images():
        plate = "/".join(part for part in entry.key[:2] if part)
        if plate in images or tried[plate] == 3:
            continue
        tried[plate] += 1
        try:
            image = raw_images.load_image(source, entry)[0]
        except BadFile as error:
            log.debug("%s %s", error.file, error.detail)
            continue
        images[plate] = image
        names.append("/".join(part for part in entry.key if part))
        if len(images) == PLATES_DRAWN:
            break
    if not images:
        return False
    stacked = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images.values()])
    limits = [tuple(np.percentile(values, PERCENTILES)) for values in stacked.T]
    sheet = contact_sheet.draw(list(images.values()), names, plan.channels, limits)
    files.save_figure(sheet, path, dpi=110)
    return True
