"""Options of `prepare images`, checked, and what they mean."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import UseAppendAction, arg

from phenomjax.data import store
from phenomjax.data.images import bank, opening
from phenomjax.data.images.wells import normalise_number, normalise_well
from phenomjax.data.tables import file_of, read_table
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare import growing
from phenomjax.prepare.images import metadata
from phenomjax.prepare.images.naming import layouts
from phenomjax.prepare.images.naming.listing import shown
from phenomjax.prepare.images.planning.axes import Wanted
from phenomjax.prepare.images.records import ImageKey
from phenomjax.prepare.images.sources import file_list, reading, stacks
from phenomjax.system import errors, files
from phenomjax.system.errors import UserError
from phenomjax.system.options import unrecorded

Constants = dict[str, metadata.Value]  # by column


@dataclass(frozen=True)
class Options(EngineOptions):
    """Raw files, their layout, and the bank to make."""

    GROUPS: ClassVar[dict[str, str]] = {
        "pattern": "file",
        "metadata": "metadata",
        "intensity": "pixel",
        "chunk": "bank",
        "not_in": "run",
        "dry_run": "",
    }

    source: Path
    """folder with the raw files (folders below it included)"""

    out: Path
    """the bank to make, NAME.zarr"""

    layout: Annotated[
        str,
        arg(
            help=f"names of the files: {', '.join(layouts.LAYOUTS)}; an index of the instrument"
            " decides where one is there (Index.idx.xml, Index.xml, .HTD, MeasurementData.mlf,"
            " .xdce)"
        ),
    ]

    pattern: Annotated[
        str | None,
        arg(help=f"generic: regular expression with groups of {', '.join(layouts.GROUPS)}"),
    ] = None

    default: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="GROUP=VALUE")] = ()
    """for a group that the source leaves out; may be repeated"""

    exclude: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PATTERN")] = ()
    """leave out files whose path below the source fits, such as '*/overview/*', in any case; may be
    repeated"""

    channels: Annotated[str, arg(metavar="ID=NAME,...")] = ""
    """which, their names and order (default: those of the source, or the layout's)"""

    z: Annotated[str | None, arg(metavar="max|mean|middle|N")] = None
    """for channels with several planes: project them, or take one (N counts from 1)"""

    t: Annotated[str | None, arg(metavar="N|all")] = None
    """for several time points: take one, or make an image of each (column `time`)"""

    pages: Annotated[str | None, arg(help=stacks.PAGES_HELP)] = None

    files: Annotated[Path | None, arg(metavar="TABLE")] = None
    """table: a table that names the files, with their wells (CellProfiler's LoadData, or any with a
    path and a well)"""

    plate_wells: int | None = None
    """for file names that number the wells (CV1000, W0001): how many a plate has"""

    acquisition: str | None = None
    """ome-zarr: the acquisition of the plates to take, where they have several"""

    metadata: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="TABLE")] = ()
    """any table (CSV, TSV, Parquet, BOOK.xlsx#Sheet, compressed), joined by plate and well; may be
    repeated: plate maps, their barcodes, compounds are joined on the columns that they share"""

    rename: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="COLUMN=NAME")] = ()
    """a column of `metadata` to a name of the bank's where it is not found by itself, to `role`
    (words such as negcon), or to `ignore`; of `files` to path, well, channel, ...; may be
    repeated"""

    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """one value for all images that the table says nothing of; experiment, plate, well and site
    whatever the source says; may be repeated"""

    experiment: str | None = None
    """same as --default experiment=..."""

    cell_type: str | None = None
    """same as --set cell_type=..."""

    intensity: str | None = None
    """to 8 bit: range:LOW:HIGH, percentile:LOW:HIGH (of each plate and channel), or keep (None:
    percentile:0.1:99.9 for 16-bit files, keep for 8-bit files; signed, 32-bit and float pixels need
    a range)"""

    pixel_size_um: float | None = None
    """size of a pixel in micrometres, recorded in the bank"""

    chunk: int = 128
    """height and width of the inner chunks in pixels"""

    codec: Annotated[str, arg(help=f"of {', '.join(bank.CODECS)}")] = "blosc-lz4"

    images_per_shard: int = 1
    """how many images lie in a file of the bank; for small ones, so that an archive is not
    millions of files"""

    not_in: Annotated[Path | None, arg(metavar="BANK")] = None
    """leave out the images of that bank: for files that were mended or added later; its percentiles
    are used again"""

    strict: bool = unrecorded(False)
    """stop at the first bad image instead of finishing the good ones"""

    verify_sources: bool = unrecorded(False)
    """of a finished bank, compare the content of all images with the source; otherwise only where
    sizes or dates are others"""

    dry_run: bool = unrecorded(False)
    """show what is understood of the source, with a picture, and prepare nothing"""


def check(options: Options) -> None:
    """Raises a UserError for a value that cannot be, whatever the source holds."""
    if options.z not in (None, "max", "mean", "middle") and not _is_number(options.z):
        raise UserError(
            f"`z` {options.z!r} is not understood. Write --z max or --z mean to project the planes,"
            " --z middle, or --z N for one plane, counted from 1."
        )
    if options.t not in (None, "all") and not _is_number(options.t):
        raise UserError(
            f"`t` {options.t!r} is not understood. Write --t N for one time point, as the source"
            " numbers them, or --t all for an image of each."
        )
    if options.codec not in bank.CODECS:
        hint = errors.did_you_mean(options.codec, bank.CODECS)
        raise UserError(
            f"Unknown `codec` {options.codec!r}.{hint} There are: {', '.join(bank.CODECS)}."
        )
    if options.chunk < 1:
        raise UserError(f"`chunk` must be at least 1 pixel, not {options.chunk}.")
    if options.images_per_shard < 1:
        raise UserError(f"`images_per_shard` must be at least 1, not {options.images_per_shard}.")
    for name, value in vars(options).items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str | Path) and shown(str(text)) != str(text):
                raise UserError(
                    f"`{name}` {shown(str(text))} is no UTF-8, which a bank cannot record: rename"
                    " it, or give a link with another name."
                )


def _is_number(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdecimal()


def renames(options: Options) -> tuple[dict[str, str], dict[str, str]]:
    """Of --rename, what belongs to the list of files and what to the tables of metadata."""
    known = dict.fromkeys((*metadata.TARGETS, *(file_list.NAMES if options.files else ())))
    renames = metadata.parse_pairs(options.rename, "--rename", known)
    own, others = reading.split_renames(renames, options.files)
    if others and not options.metadata:
        table = f"; {options.files} has no such column" if options.files else ""
        raise UserError(
            "`rename` names columns of a `metadata` table, and there is none. Add --metadata"
            f" TABLE{table}."
        )
    return own, others


def wanted(options: Options, layout: layouts.FileLayout) -> Wanted:
    """What to make of the planes of the source."""
    experiment = [f"experiment={options.experiment}"] if options.experiment else []
    defaults = metadata.parse_pairs(
        [*options.default, *experiment], "--default", layouts.GROUPS[:5]
    )
    overrides = metadata.parse_pairs(
        options.set, "--set", (*metadata.VALUES, *ImageKey._fields[:4])
    )
    return Wanted(
        [item.strip() for item in options.channels.split(",") if item.strip()],
        layout.channels,
        options.z,
        options.t,
        {name: _spelt(name, text) for name, text in defaults.items()},
        {name: _spelt(name, text) for name, text in overrides.items() if name in ImageKey._fields},
    )


def _spelt(name: str, text: str) -> str:
    """A part of the key as the bank spells it."""
    if name in ("site", "channel"):
        return normalise_number(text)
    return normalise_well(text) if name == "well" else text


def constants(options: Options) -> Constants:
    """Values of --set for the columns that describe wells."""
    pairs = [*options.set]
    pairs += [f"cell_type={options.cell_type}"] if options.cell_type else []
    parsed = metadata.parse_pairs(pairs, "--set", (*metadata.VALUES, *ImageKey._fields[:4]))
    return {
        name: metadata.check_value(name, text, f"--set {name}={text}")
        for name, text in parsed.items()
        if name in metadata.VALUES
    }


def arguments(options: Options) -> growing.Arguments:
    """The arguments that decide what is in the bank, as they are recorded in it."""
    found: growing.Arguments = {
        "source": store.url(options.source)
        if store.is_remote(options.source)
        else os.path.realpath(options.source),
        "layout": options.layout,
        "pattern": options.pattern,
        "default": list(options.default),
        "exclude": list(options.exclude),
        "channels": options.channels,
        "z": options.z,
        "t": options.t,
        "pages": options.pages,
        "acquisition": options.acquisition,
        "plate_wells": options.plate_wells,
        "rename": list(options.rename),
        "set": list(options.set),
        "experiment": options.experiment,
        "cell_type": options.cell_type,
        "intensity": options.intensity,
        "pixel_size_um": options.pixel_size_um,
        "chunk": options.chunk,
        "codec": options.codec,
    }
    if options.images_per_shard > 1:  # older banks say nothing of it
        found["images_per_shard"] = options.images_per_shard
    found |= metadata.recorded(options.metadata)
    if options.files:
        read_table(options.files)  # an error of its own where there is none
        found["files"] = str(options.files.resolve())
        found["files_sha256"] = files.sha256(file_of(options.files)[0])
    if options.not_in:
        found["not_in"] = str(options.not_in.resolve())
        found["not_in_sha256"] = opening.open_bank(options.not_in).fingerprint
    return {name: value for name, value in found.items() if value not in (None, [], "")}
