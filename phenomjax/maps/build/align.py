"""Align batches on their controls, so that what is left between wells is biology.

  python -m phenomjax.maps align --profiles wells.parquet --align pca_center_scale --dims 128 \\
      --out aligned.parquet
  python -m phenomjax.maps align --profiles P1.csv.gz P2.csv.gz --align tvn --dims 128 \\
      --out a.h5ad

Methods (controls: the negative controls; every standard deviation has ddof 0, a feature without
spread is left at its scale):
  none              nothing
  standardize       each feature to mean 0, deviation 1 over all wells of each batch; needs no
                    controls
  pca               standardize, then PCA (embed_by_pca of EFAAR)
  center_scale      each feature to mean 0, deviation 1 over the controls of each batch
  pca_center_scale  PCA, then center_scale (OpenPhenom's card). The PCA is fitted on the controls of
                    all batches where there are at least 10 controls a component; with fewer it
                    would be a fit to their noise, and is fitted on all wells, each feature first
                    standardised over all of them. --pca_fit controls|all decides it by hand.
  tvn               typical variation normalisation, with --dims after the same PCA: (1) center and
                    scale on all controls, (2) full PCA fitted on all controls, (3) center and scale
                    on all controls, (4)
                    each batch times (Cov(its controls, ddof 1) + 0.5 I)^(-1/2). A batch with no
                    more controls than dimensions is rank-starved: its covariance is known in a few
                    directions only, and 0.5 I stands for the rest. This is said, and on three
                    CPJUMP1 plates with 64 controls each it lowers consistency from .712 to .469 (p
                    < .05) at 128 dimensions.
  sphering          center_scale (with --dims after the same PCA), then the covariance of the
                    controls of all batches made the identity, shrunk as Ledoit & Wolf estimate it
  harmony           Harmony on the components of pca_center_scale, or of pca in a table without
                    controls: needs no controls, but the extra `harmony` (harmonypy, GPL-3), and
                    memory for the components of all wells

`python -m phenomjax.maps compare` measures what each of them does to the batches and the biology
of your plates. Seurat's RPCA, the other method that Arevalo et al. (2024) find among the best three
in every scenario, is not here: it is an R program, its anchors have no implementation in Python
that is tested against it, and one of ours would be called RPCA without being it.

--correct_positions takes out of the features, before all else, what the position of a well does:
its row, its column, the wells around it and the position itself, as the controls there tell it on
all plates (maps/positions/correction.py). On three CPJUMP1 plates, center_scale, the positions with
nothing but controls that pass p < .05 fall from .516 to .219, told from other positions' controls.

Plates may be more than memory holds: features beyond 128 MiB lie in a file without a name beside
--out while the command runs (a kill frees it, too), and all but harmony goes over them block by
block. The metadata of all rows are held.

Sources: recursionpharma/EFAAR_benchmarking (embed_by_pca, tvn_on_controls, constants),
recursionpharma/OpenPhenom (its card), Ando et al. 2017 (TVN), Kessy et al. 2018 (sphering),
Korsunsky et al. 2019 (Harmony).
"""

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Shaped

from phenomjax.maps.build.doubts import tell_doubts
from phenomjax.maps.build.methods.components import fit_pca, pca_on
from phenomjax.maps.build.methods.harmony import harmony
from phenomjax.maps.build.methods.positions import without_positions
from phenomjax.maps.build.methods.scaling import standardize
from phenomjax.maps.build.methods.sphering import sphering
from phenomjax.maps.build.methods.streams import Stream
from phenomjax.maps.build.methods.typical_variation import tvn
from phenomjax.maps.positions.places import positions_of
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.options import Table, TableOptions
from phenomjax.maps.tables.profiles import Profiles, Record
from phenomjax.maps.tables.writing import check_out, write
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.log import counted
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

Method = Literal[
    "none", "standardize", "pca", "center_scale", "pca_center_scale", "tvn", "sphering", "harmony"
]
TRANSFORMS: dict[str, np.ufunc] = {"sqrt": np.sqrt, "log1p": np.log1p}
CONTROLS_PER_COMPONENT = 10  # below it a PCA of the controls follows their noise
DEFAULT_DIMS = 128


def check_controls(
    batches: Shaped[np.ndarray, " rows"], controls: Bool[np.ndarray, " rows"], columns: Columns
) -> dict[str, int]:
    """Number of controls in each batch.

    Raises:
      UserError: a batch with none or one.
    """
    names, codes = np.unique(batches.astype(str), return_inverse=True)
    found = np.bincount(codes[controls], minlength=len(names))
    counts = dict(zip(names.tolist(), found.tolist(), strict=True))
    few = [name for name, count in counts.items() if count < 2]
    if len(few) == len(counts) and not controls.any():
        told = f"{columns.control!r} is true nowhere" if columns.control else "nothing tells them"
        raise UserError(
            f"No row is a negative control: {told}. Join a table that tells them (`metadata` FILE),"
            " name them, for instance `control` 'Metadata_control_type == \"negcon\"', or use"
            " `align` standardize, which needs none."
        )
    if few:
        raise UserError(
            f"{len(few)} of {len(counts)} batches have fewer than 2 controls (the first: '{few[0]}'"
            f" with {counts[few[0]]}), so that their mean and spread are unknown. Controls are the"
            f" rows with {columns.control}; a batch is {'/'.join(columns.batch)}. Join batches that"
            " were handled together with a coarser `batch`, leave these out, or use `align`"
            " standardize, which needs no controls."
        )
    return counts


def align(
    profiles: Profiles,
    columns: Columns,
    method: str = "pca_center_scale",
    dims: int | None = None,
    pca_fit: str = "auto",
    transform: str = "none",
    correct_positions: bool = False,
) -> Profiles:
    """Profiles with batch effects removed.

    Args:
      method: see the first lines of this file.
      dims: components of the PCA; for pca, pca_center_scale and harmony 128 (or all features, if
        fewer) by default, for tvn and sphering no PCA.
      pca_fit: "controls", "all", or "auto": see the first lines of this file.
      transform: "sqrt" or "log1p" of the features first (counts).
      correct_positions: takes out what the position on the plate does, before all else.

    Raises:
      UserError: a batch without controls, or more dims than there can be.
    """
    stream = Stream.of(profiles.features)
    if transform != "none":
        _require_counts(stream, transform)
        stream = stream.then(lambda values, _: TRANSFORMS[transform](values))
    done: Record = {
        "method": method,
        "transform": transform,
        "rows": len(profiles),
        "batch": list(columns.batch),
        "control": columns.control,
    }
    if correct_positions:
        stream, done["positions"] = without_positions(
            stream,
            columns.batches(profiles.metadata),
            columns.controls(profiles.metadata),
            positions_of(profiles.metadata, columns.well),
        )
    if method == "none":
        features = stream.collect() if stream.steps else profiles.features
        return profiles.with_features(features, profiles.names).after("align", **done)
    batches = columns.batches(profiles.metadata)
    if method == "standardize":
        stream = standardize(stream, batches)
        return profiles.with_features(stream.collect(), profiles.names).after("align", **done)
    if method in ("pca", "pca_center_scale", "harmony") and dims is None:
        dims = min(DEFAULT_DIMS, stream.dim)
    controls = columns.controls(profiles.metadata) if method != "pca" else None
    if controls is None or (method == "harmony" and not controls.any()):
        stream = standardize(stream, batches)
        everyone = np.arange(len(stream))
        pca = fit_pca(stream, everyone, _check_dims(dims, len(stream), stream.dim))
        stream = pca.scores(stream)
        scores = stream.collect() if method == "pca" else harmony(stream.array(), batches)
        return profiles.with_features(scores).after("align", dims=dims, **done)

    counts = check_controls(batches, controls, columns)
    done |= {
        "batches": len(counts),
        "controls": int(controls.sum()),
        "fewest_controls_in_a_batch": min(counts.values()),
    }
    if method == "center_scale":
        stream = standardize(stream, batches, controls)
        return profiles.with_features(stream.collect(), profiles.names).after("align", **done)
    if dims:
        if pca_fit == "auto":
            pca_fit = "controls" if controls.sum() >= CONTROLS_PER_COMPONENT * dims else "all"
            if pca_fit == "all":
                log.info(
                    "align: %d controls for %d components are fewer than %d a component, so the PCA"
                    " is fitted on all %d wells, standardised (--pca_fit controls fits it on the"
                    " controls all the same)",
                    controls.sum(),
                    dims,
                    CONTROLS_PER_COMPONENT,
                    len(stream),
                )
        fitted = int(controls.sum()) if pca_fit == "controls" else len(stream)
        stream = pca_on(stream, controls, _check_dims(dims, fitted, stream.dim), pca_fit)
        done |= {"dims": dims, "pca_fit": pca_fit}
    if method == "tvn":
        starved = sum(count - 1 < stream.dim for count in counts.values())
        done |= {"dimensions": stream.dim, "rank_starved_batches": starved}
        order = np.argsort(batches, kind="stable")
        aligned = tvn(stream, batches, controls).collect(order)
        return profiles.with_features(aligned).after("align", **done)
    stream = standardize(stream, batches, controls)
    if method == "harmony":
        return profiles.with_features(harmony(stream.array(), batches)).after("align", **done)
    names = None
    if method == "sphering":  # leaves each feature as near to itself as can be
        stream, done["shrinkage"] = sphering(stream, controls)
        names = None if dims else profiles.names
    return profiles.with_features(stream.collect(), names).after("align", **done)


def _require_counts(stream: Stream, transform: str) -> None:
    least = min(float(values.min()) for _, values in stream.blocks())
    if least < 0:
        raise UserError(
            f"`transform` {transform} needs features that are nowhere negative (counts); the least"
            f" is {least:.3g}."
        )


def _check_dims(dims: int | None, rows: int, features: int) -> int:
    if dims is None or dims < 1 or dims > min(rows, features):
        raise UserError(
            f"`dims` {dims}: a PCA of {rows} rows with {features} features has at most"
            f" {min(rows, features)} components. Use `dims`"
            f" {max(1, min(rows, features, DEFAULT_DIMS))}, or more controls (`pca_fit` all fits it"
            " on all wells)."
        )
    return dims


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings(TableOptions):
    """Of commands that align what they read, whatever the method."""

    GROUPS: ClassVar[dict[str, str]] = {"dims": "alignment"}

    dims: int | None = None
    """components of the PCA; by default 128 of pca, pca_center_scale and harmony, and no PCA of
    tvn and sphering"""
    pca_fit: Literal["auto", "controls", "all"] = "auto"
    """rows that the PCA is fitted on"""
    transform: Literal["none", "sqrt", "log1p"] = "none"
    """of the features first, for counts"""
    correct_positions: bool = False
    """take out what the position on the plate does, told from the controls of that position, its
    row, its column and the wells around it"""


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions(AlignmentSettings):
    """Of commands that align what they read by one method (python -m phenomjax.maps align --help
    says what each does).
    """

    align: Method = "pca_center_scale"
    """how batches are aligned"""


def align_as_told(
    profiles: Profiles, columns: Columns, options: AlignmentSettings, method: str
) -> Profiles:
    """`align` with its options."""
    return align(
        profiles,
        columns,
        method,
        options.dims,
        options.pca_fit,
        options.transform,
        options.correct_positions,
    )


@dataclass(frozen=True, kw_only=True)
class Options(AlignmentOptions, Overwrite):
    """Of `python -m phenomjax.maps align`."""

    out: Table
    """.parquet, .csv[.gz] or .h5ad"""


def run(options: Options) -> int:
    """Aligns and writes."""
    out = check_out(options.out)
    profiles, columns = load(options)
    aligned = align_as_told(profiles, columns, options, options.align)
    tell_doubts(aligned)
    write(aligned, out)
    ending.wrote(out, f"{counted(len(aligned), 'row')}, {aligned.features.shape[1]} features")
    ending.then(
        "one row a perturbation",
        "python -m phenomjax.maps aggregate --profiles {} --out map.parquet",
        out,
    )
    return 0
