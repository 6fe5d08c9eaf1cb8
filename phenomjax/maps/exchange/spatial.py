"""Profiles and images as a SpatialData folder (scverse's format 0.2, on Zarr v3), written without
the library, which reads it.

    NAME.zarr/tables/profiles   AnnData: X the features, obs what is known of each row
    NAME.zarr/tables/images     AnnData without X: one row an image, `element` its name below
    NAME.zarr/images/ELEMENT    one image [c, y, x] of OME-Zarr 0.5, in a coordinate system of its
                                own, of that name, in um where the bank knows them

The pixels are not copied where the bank lies on the same disk: a shard of a bank is also one of an
array [c, y, x] whose chunks are transposed to [y, x, c], so that a second name for that file, and a
description that says so, are the whole image.
"""

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from phenomjax import __version__
from phenomjax.data import store
from phenomjax.data.images import shards
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.foreign import ArrayBank, PlateBank
from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.images.wells import plate_of, well_of
from phenomjax.maps.tables.metadata.detection import NAMES, plain
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.writing import observations, provenance_of
from phenomjax.system import files
from phenomjax.system.errors import UserError, first_of
from phenomjax.system.log import Progress

if TYPE_CHECKING:
    import anndata
    import pandas as pd

MOST_IMAGES = 20_000  # a folder each; SpatialData opens all of them at once
KNOWN = ("experiment", "plate", "well", "site", "time")  # that an image's name is made of
Json = dict[str, object]


def write(profiles: Profiles, out: Path, bank: ImageBank | None) -> int:
    """Writes the folder; returns how many images are in it.

    Raises:
      UserError: profiles without plates and wells, none of the bank's, more images than a
        SpatialData can hold, or a bank that is no bank of ours.
    """
    import anndata
    import pandas as pd

    rows = np.zeros(0, int) if bank is None else rows_of(profiles, bank)
    features = pd.DataFrame(index=list(profiles.names))
    uns = {"phenomjax": provenance_of(profiles)}
    table = anndata.AnnData(profiles.features, observations(profiles.metadata), features, uns=uns)
    with files.replacing(out) as partial:
        attributes: Json = {
            "spatialdata_attrs": {
                "version": "0.2",
                "spatialdata_software_version": f"phenomjax {__version__}",
            }
        }
        _group(partial, attributes)
        _group(partial / "tables", {})
        _table(partial / "tables" / "profiles", table)
        if bank is not None:
            known = bank.rows(rows, METADATA_SCHEMA.names).to_pandas()
            known = known.dropna(axis=1, how="all")
            names = _names(known)
            known.insert(0, "element", names)
            _table(partial / "tables" / "images", anndata.AnnData(obs=observations(known)))
            _group(partial / "images", {})
            bar = Progress("images", len(rows), "images")
            for row, name in zip(rows.tolist(), names, strict=True):
                _image(partial / "images" / name, bank, row, name)
                bar.update()
        files.remove(out)  # which is to be overwritten
    return len(rows)


def rows_of(profiles: Profiles, bank: ImageBank) -> Int[np.ndarray, " images"]:
    """The images of a bank that are of the profiles' wells.

    Raises:
      UserError: see `write`.
    """
    if isinstance(bank, ArrayBank | PlateBank):
        raise UserError(
            f"`bank` {bank.path} is no image bank of ours, and its images can be named in no other"
            " folder. SpatialData reads OME-Zarr itself; or make a bank of it: `python -m"
            f" phenomjax.prepare images --source {bank.path} --layout ome-zarr`."
        )
    known = {plain(name): name for name in profiles.metadata.columns}
    plate, well = (
        next((known[name] for tier in NAMES[what] for name in tier if name in known), None)
        for what in ("plate", "well")
    )
    if plate is None or well is None:
        raise UserError(
            f"`bank` {bank.path}: the profiles say of no row which plate and well it is of (they"
            f" have {first_of(profiles.metadata.columns)}), so that its images are not known."
            " Leave `bank` out, or join a table that says it: `metadata` FILE."
        )
    plates = profiles.metadata[plate].dropna().astype(str)
    wells = profiles.metadata[well].reindex(plates.index).astype(str)
    there = set(zip(map(plate_of, plates), map(well_of, wells), strict=True))
    of_bank = bank.described.read(("plate", "well")).to_pandas().fillna("").astype(str)
    pairs = zip(map(plate_of, of_bank["plate"]), map(well_of, of_bank["well"]), strict=True)
    rows = np.flatnonzero([pair in there for pair in pairs])
    if not len(rows):
        raise UserError(
            f"`bank` {bank.path} has no image of the profiles' wells: they are of the plates"
            f" {', '.join(sorted(set(plates))[:3])}, the bank's are"
            f" {', '.join(sorted(set(of_bank['plate']))[:3])}. Give the bank that was embedded."
        )
    if len(rows) > MOST_IMAGES:
        raise UserError(
            f"{len(rows)} images are of these wells, and SpatialData opens every image of a folder"
            f" at once: give it at most {MOST_IMAGES}, with `where`, for instance `where` 'plate =="
            f' "{plates.iloc[0]}"\'; or leave `bank` out.'
        )
    return rows


def _names(known: "pd.DataFrame") -> list[str]:
    """A name of each image that SpatialData takes: letters, digits, _ - and dots, each once
    whatever its capitals.
    """
    columns = [name for name in KNOWN if name in known and known[name].nunique() > 1]
    columns = columns or [name for name in ("plate", "well", "site") if name in known]
    texts = known[columns].fillna("").astype(str).agg("_".join, axis=1)
    plain = [re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("_") or "image" for text in texts]
    again = Counter(name.casefold() for name in plain)
    return [
        f"{name}_{number}" if again[name.casefold()] > 1 else name
        for number, name in enumerate(plain)
    ]


def _table(folder: Path, table: "anndata.AnnData") -> None:
    """An AnnData, marked as a table of SpatialData that says nothing of regions."""
    import anndata

    with anndata.settings.override(zarr_write_format=3), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what later versions of zarr and anndata will do
        table.write_zarr(folder)
    described = files.read_json(folder / "zarr.json")
    described["attributes"] |= {
        "spatialdata-encoding-type": "ngff:regions_table",
        "region": None,
        "region_key": None,
        "instance_key": None,
        "version": "0.2",
    }
    files.write_json(folder / "zarr.json", described)


def _image(folder: Path, bank: ImageBank, row: int, name: str) -> None:
    """The OME-Zarr image of one image of a bank."""
    pixel = bank.attributes.get("pixel_size_um") or 1.0
    unit = "micrometer" if bank.attributes.get("pixel_size_um") else "unit"
    plain: list[Json] = [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]
    axes = [axis | ({"unit": unit} if axis["type"] == "space" else {}) for axis in plain]
    placed = {
        "type": "scale",
        "scale": [1.0, pixel, pixel],
        "input": {"name": "cyx", "axes": axes},
        "output": {"name": name, "axes": axes},
    }
    whole = {"type": "scale", "scale": [1.0, 1.0, 1.0]}
    scales = {
        "name": f"/images/{name}",
        "axes": plain,
        "datasets": [{"path": "s0", "coordinateTransformations": [whole]}],
        "coordinateTransformations": [placed],
    }
    ome = {
        "version": "0.5-dev-spatialdata",
        "omero": {"channels": [{"label": channel} for channel in bank.channels]},
        "multiscales": [scales],
    }
    _group(folder, {"ome": ome, "spatialdata_attrs": {"version": "0.3"}})
    files.write_json(folder / "s0" / "zarr.json", _array(bank))
    target, stored = folder / "s0" / "c.0.0.0", bank.where(row)
    if stored.images == 1 and not store.is_remote(stored.shard):
        files.link(stored.shard, target)
    else:
        shards.pack(target, [stored], 1, bank.chunks_per_image)


def _array(bank: ImageBank) -> Json:
    """The zarr.json of an array [c, y, x] whose one chunk is a shard of the bank."""
    (sharding,) = bank.stored["codecs"]
    _, height, width, depth = bank.stored["chunk_grid"]["configuration"]["chunk_shape"]
    inner = dict(sharding["configuration"])
    _, chunk_height, chunk_width, _ = inner["chunk_shape"]
    inner["chunk_shape"] = [depth, chunk_height, chunk_width]
    transpose = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
    inner["codecs"] = [transpose, *inner["codecs"]]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [depth, *bank.shape[1:3]],
        "data_type": bank.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [depth, height, width]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": inner}],
        "attributes": {},
        "dimension_names": ["c", "y", "x"],
    }


def _group(folder: Path, attributes: Json) -> None:
    files.write_json(
        folder / "zarr.json",
        {"zarr_format": 3, "node_type": "group", "attributes": attributes},
    )
