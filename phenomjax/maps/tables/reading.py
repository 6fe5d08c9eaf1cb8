"""Profiles from the field's formats: an embeddings folder of `phenomjax.embed` (E.zarr), Parquet,
CSV (.csv, .csv.gz: CellProfiler, pycytominer), AnnData (.h5ad, .zarr), tables of a SpatialData,
DeepProfiler's folders.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from phenomjax.data import store, text_files
from phenomjax.data.tables import plain_name
from phenomjax.maps.tables import scratch
from phenomjax.maps.tables.columns import prefix_of
from phenomjax.maps.tables.formats.annotated import in_zarr, open_anndata
from phenomjax.maps.tables.formats.deepprofiler import open_deep_profiler
from phenomjax.maps.tables.formats.embeddings import open_embeddings
from phenomjax.maps.tables.formats.notes import tell
from phenomjax.maps.tables.formats.objects import as_wells, side_by_side
from phenomjax.maps.tables.formats.parquet import open_parquet
from phenomjax.maps.tables.formats.texts import open_text
from phenomjax.maps.tables.metadata.detection import NAMES, is_of_identity, plain
from phenomjax.maps.tables.metadata.wells import with_wells
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.sources import DAMAGE, EVERYTHING, Note, Source, Wanted, damaged, noted
from phenomjax.system.errors import UserError, first_of
from phenomjax.system.files import sha256
from phenomjax.system.log import Progress

if TYPE_CHECKING:
    import pandas as pd

HELD = 2**27  # bytes of files whose features are kept from the pass that finds their metadata
HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of a file
TEXTS = (".csv", ".tsv", ".txt", ".tab", ".dat")


def read(
    paths: str | Path | Sequence[str | Path],
    wanted: Wanted = EVERYTHING,
    folder: Path | None = None,
) -> Profiles:
    """Reads profiles; several files are concatenated, row after row.

    Args:
      paths: E.zarr, .parquet, .csv[.gz] or .h5ad, of one format or of several.
      wanted: what of them.
      folder: for features that are larger than memory should hold, while they are used; always in
        memory where None.

    Raises:
      UserError: a file that cannot be read, or files whose features are not the same.
    """
    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    size = sum(path.stat().st_size for path in files if path.is_file())
    wanted = replace(wanted, hold=wanted.hold and size <= HELD, folder=folder)
    sources: list[Source] = []
    for path in files:
        source = open_source(path, wanted)
        if sources and source.names == sources[0].names:  # which weigh much, for many files
            source = replace(source, names=sources[0].names)
        sources.append(source)
    sources = side_by_side(sources)
    if len(sources) > 1:
        sources = _told_apart(sources)
    _require_annotated(files, wanted)
    notes = [note for source in sources for note in source.notes]
    names = sources[0].names
    if wanted.features == "common":
        names, lost = _common(sources)
        notes += lost
    else:
        for source in sources[1:]:
            _require_same_features(sources[0], source)
    features = _collect(sources, names, folder)
    found = tell(notes)
    if len(sources) == 1:
        profiles = Profiles(features, sources[0].metadata, names, sources[0].provenance)
    else:
        metadata = _together([source.metadata for source in sources])
        provenance = {
            "sources": [one for source in sources for one in source.provenance.get("sources", [])],
            "steps": [],
        }
        if any(source.provenance.get("steps") for source in sources):
            steps = [source.provenance.get("steps", []) for source in sources]
            provenance["steps"] = [{"command": "concatenate", "of": steps}]
        profiles = Profiles(features, metadata, names, provenance)
    return profiles.after("read", found=found) if found else profiles


def _told_apart(sources: list[Source]) -> list[Source]:
    """Files of wells that have the same names: each is a plate, named by its file, where they name
    no plates, else a run of these plates. A01 of one file would be A01 of the other.
    """
    kind, columns = "", ("Metadata_Run", "run")
    wells: list[set[object]] = []
    for source in sources:
        table = source.metadata
        called = {plain(name): name for name in table.columns}
        well = next((called[n] for tier in NAMES["well"] for n in tier if n in called), None)
        plated = any(n in called for tier in NAMES["plate"] for n in tier)
        if well is None or kind == ("plates" if plated else "runs"):
            return sources
        kind = "runs" if plated else "plates"
        keys = [name for known, name in called.items() if plated and is_of_identity(known)]
        if keys and table.duplicated(keys).any():  # several sites or cells of a well, perhaps
            return sources
        wells.append(set(table[keys or [well]].astype(str).itertuples(index=False, name=None)))
    names = [s.path.name[: len(Path(plain_name(s.path)).stem)] for s in sources]
    if len(set(names)) < len(names):  # P1/Cells.csv and P2/Cells.csv
        names = [
            f"{source.path.absolute().parent.name}/{n}"
            for source, n in zip(sources, names, strict=True)
        ]
    same_names = sum(map(len, wells)) > len(set().union(*wells))
    if not same_names or len(set(names)) < len(names):
        return sources
    if kind == "plates":
        columns = ("Metadata_Plate", "plate")
    told = []
    for source, name in zip(sources, names, strict=True):
        column = columns[0 if prefix_of(source.metadata.columns) else 1]
        told.append(replace(source, metadata=source.metadata.assign(**{column: name})))
    note = Note(kind, tuple(names), len(names))
    told[0] = replace(told[0], notes=(*told[0].notes, note))
    return told


def _require_annotated(files: Sequence[Path], wanted: Wanted) -> None:
    flag = "layer" if wanted.layer is not None else "obsm"
    name = getattr(wanted, flag)
    if name is not None and not any(_is_annotated(path) for path in files):
        raise UserError(
            f"`{flag}` {name} is of an AnnData (.h5ad), and none of the profiles is one:"
            f" {first_of([path.name for path in files])}. Leave it out."
        )


def _is_annotated(path: Path) -> bool:
    if path.is_dir():
        return in_zarr(path) is not None
    with path.open("rb") as file:
        return file.read(len(HDF5)) == HDF5 or path.name.lower().endswith(".h5ad")


def _together(tables: Sequence["pd.DataFrame"]) -> "pd.DataFrame":
    """The metadata of all files. A column that is of numbers in one and of text in another is of
    text: plate 7 of a CSV is the plate "7" of a Parquet.
    """
    import pandas as pd

    tables = [table.copy(deep=False) for table in tables]
    for name in dict.fromkeys(name for table in tables for name in table.columns):
        having = [table for table in tables if name in table and table[name].notna().any()]
        numeric = [table for table in having if table[name].dtype.kind in "iuf"]
        if 0 < len(numeric) < len(having) and any(t[name].dtype.kind == "O" for t in having):
            for table in numeric:
                table[name] = table[name].map(
                    lambda value: None if pd.isna(value) else f"{value:.15g}"
                )
    return pd.concat(tables, ignore_index=True)


def _common(sources: Sequence[Source]) -> tuple[tuple[str, ...], list[Note]]:
    """The features that all files have, in the order of the first, and how many each file loses.

    Raises:
      UserError: there is none.
    """
    shared = set.intersection(*(set(source.names) for source in sources))
    names = tuple(name for name in sources[0].names if name in shared)
    if not names:
        raise UserError(
            f"`features` common leaves none: {', '.join(str(source.path) for source in sources)}"
            f" share no feature ({sources[0].path} has {first_of(sources[0].names)};"
            f" {sources[-1].path} has {first_of(sources[-1].names)}). Profiles of one map come from"
            " the same model, or from one set of measurements."
        )
    notes = []
    for source in sources:
        lost = tuple(name for name in source.names if name not in shared)
        notes.append(Note("common", lost, len(names), f"{len(lost)} of {source.path.name}"))
    return names, notes if any(note.names for note in notes) else []


def _collect(
    sources: Sequence[Source], names: tuple[str, ...], folder: Path | None
) -> Float32[np.ndarray, "rows dim"]:
    """The features of all sources, one after the other, float32 [rows, dim]."""
    rows = sum(len(source.metadata) for source in sources)
    features, start = scratch.empty(rows, len(names), folder), 0
    bar = Progress("read", rows, "rows")
    for source in sources:
        for block in source.blocks(names):
            features[start : start + len(block)] = block
            start += len(block)
            if scratch.is_mapped(features):
                scratch.release(features)
                bar.update(len(block))
    return features


def _require_same_features(first: Source, other: Source) -> None:
    if set(first.names) == set(other.names):
        return
    missing, more = set(first.names) - set(other.names), set(other.names) - set(first.names)
    both = len(first.names) - len(missing)
    some = [
        f"{len(names)} only in the {which} ({first_of(sorted(names))})"
        for names, which in ((missing, "first"), (more, "second"))
        if names
    ]
    raise UserError(
        f"{first.path} has {len(first.names)} features and {other.path} has {len(other.names)};"
        f" {' and '.join(some)}. Profiles of one map come from the same model and block, or from"
        " one feature selection: embed all plates with the same checkpoint and block, or"
        + (
            f" take the {both} features that both have with `features` common."
            if both
            else " give plates that share features; these share none."
        )
    )


def open_source(path: Path, wanted: Wanted) -> Source:
    """Opens one file of profiles; its features are read later.

    Raises:
      UserError: no such file, no known format, no features, no rows, or it is damaged.
    """
    if not path.exists():
        raise UserError(
            f"There are no profiles at {path}.{store.beside(path)} Give an embeddings folder"
            " (E.zarr), or a .parquet,"
            " .csv or .h5ad file."
        )
    try:
        source = _opened(path, wanted)
        metadata, named = with_wells(_without_categories(source.metadata))
        source = replace(source, metadata=metadata, notes=(*source.notes, *noted("wells", named)))
        source = as_wells(source, wanted.objects)
    except DAMAGE as error:
        raise damaged(path, error) from None
    if not len(source.metadata):
        raise UserError(f"{path} holds no rows. Write it again.")
    if source.provenance.get("sources"):
        return source
    sources = [{"path": path.name, "sha256": sha256(path)}]
    return replace(source, provenance={**source.provenance, "sources": sources})


def _without_categories(metadata: "pd.DataFrame") -> "pd.DataFrame":
    """Metadata whose categories are what they name, as of a CSV."""
    return metadata.astype(dict.fromkeys(metadata.columns[metadata.dtypes == "category"], object))


def _opened(path: Path, wanted: Wanted) -> Source:
    """Opens a file as what its first bytes or its name say it is."""
    if path.is_dir():
        if any(path.rglob("*.npz")) and not (path / "zarr.json").exists():
            return open_deep_profiler(path, wanted)
        if annotated := in_zarr(path):
            return open_anndata(annotated, wanted)
        tables = [p for p in path.iterdir() if plain_name(p).endswith((".parquet", *TEXTS))]
        if tables and not (path / "metadata.parquet").exists():
            raise UserError(
                f"{path} is a folder of {len(tables)} tables, not one of embeddings. Name the"
                f" tables themselves: `profiles` {path}/*{tables[0].suffix}."
            )
        return open_embeddings(path, wanted.block)
    with path.open("rb") as file:
        head = file.read(8)
    name = path.name.lower()
    if head.startswith(b"PAR1") or name.endswith(".parquet"):
        if head and not head.startswith(b"PAR1") and (other := text_files.look(path)).described:
            raise text_files.no_text(other, "a Parquet file")
        return open_parquet(path, wanted)
    if _is_annotated(path):
        return open_anndata(path, wanted)
    if plain_name(path).endswith(TEXTS):
        return open_text(path, wanted)
    if (other := text_files.look(path)).kind in ("zip", "tar"):
        raise text_files.no_text(other, "profiles")
    raise UserError(
        f"{path} has no known format. Profiles are read from E.zarr, .parquet, .csv, .tsv, .txt"
        " (packed by gzip, bzip2, xz or zstd, too), .h5ad or DeepProfiler's folder of .npz. A"
        " database of CellProfiler (.sqlite) becomes a .parquet by CytoTable."
    )
