"""Profiles for other tools: unchanged, in the format that they read.

  python -m phenomjax.maps export --profiles embeddings.zarr --out embeddings.h5ad
  python -m phenomjax.maps export --profiles embeddings.zarr --bank plates.zarr --out screen.zarr

NAME.h5ad is an AnnData (scanpy): features are X, what is known of each row is obs. NAME.zarr is a
SpatialData, whose table `profiles` is the same AnnData; with --bank the images of these wells are
in it too, by reference: they take no space. .parquet and .csv[.gz] are tables. Nothing is left out,
aligned or averaged; `align` and `aggregate` write these formats too, after they have done so.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from phenomjax.data.images.opening import open_bank
from phenomjax.maps.exchange import spatial
from phenomjax.maps.tables.input import chosen, joined
from phenomjax.maps.tables.options import ReadOptions, Table, require_some
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.writing import check_out, write
from phenomjax.system import ending
from phenomjax.system.errors import UserError, check_folder_of
from phenomjax.system.log import counted
from phenomjax.system.outputs import Overwrite, check_kind

log = logging.getLogger("phenomjax")


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions, Overwrite):
    """Of `python -m phenomjax.maps export`."""

    out: Table
    """NAME.h5ad (AnnData), NAME.zarr (SpatialData), .parquet or .csv[.gz]"""
    bank: Annotated[Path | None, tyro.conf.arg(metavar="BANK")] = None
    """of NAME.zarr: the image bank whose images of these wells are in it by reference"""


def run(options: Options) -> int:
    """Reads and writes.

    Raises:
      UserError: a format that there is not, or see `read`, `joined`, `chosen`, `spatial.write`.
    """
    is_spatial = options.out.lower().endswith(".zarr")
    out = check_out(options.out, (".zarr",))
    if options.bank and not is_spatial:
        raise UserError(
            f"`bank` {options.bank} goes with `out` NAME.zarr: {out.name} holds no images. Leave"
            " it out, or name the output .zarr."
        )
    if is_spatial:
        check_kind(out, "zarr.json")
    check_folder_of(out)
    paths = require_some(options.profiles, "profiles")
    profiles = read(paths, options.wanted, out.absolute().parent)
    if options.metadata:
        profiles = joined(profiles, options.metadata)
    if options.where is not None:
        profiles = chosen(profiles, options.where)
    done = profiles.after("export")
    images = 0
    if is_spatial:
        images = spatial.write(done, out, open_bank(options.bank) if options.bank else None)
    else:
        write(done, out)
    more = f", and {counted(images, 'image')}" if images else ""
    ending.wrote(out, f"{counted(len(done), 'row')} of {len(done.names)} features{more}")
    ending.then(
        "align plates and batches",
        "python -m phenomjax.maps align --profiles {} --out aligned.parquet",
        out,
    )
    return 0
