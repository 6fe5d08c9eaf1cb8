"""How the features of each row of a map differ from the controls, and how many cells its wells
have: for maps whose features have names, or from the wells that the map was made of.
"""

import base64
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int

from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.counts import cell_counts
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.views.annotations import Json, numbers, row_labels
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")

NAMELESS = re.compile(r"(feature|pc|component|dim|embedding|emb|x|umap|pca)?_?\d+", re.IGNORECASE)
MODULES = {  # of CellProfiler, as its features name them
    *("AreaShape", "Correlation", "Granularity", "Intensity", "Location", "Neighbors"),
    *("RadialDistribution", "Texture", "Children", "Parent", "Number", "Count", "ImageQuality"),
}
STEPS = 10  # the page holds 10 sqrt(|z|) with its sign, in a byte: fine near 0, up to z = 161
LEAST_CONTROLS = 4  # of a plate: fewer have no standard deviation worth the name


@dataclass(frozen=True)
class Differences:
    """Features of the rows of a map in standard deviations.

    Attributes:
      names: of the features.
      values: float32 [rows, features]; NaN where a row has none.
      unit: what the values are, in words.
    """

    names: tuple[str, ...]
    values: Float32[np.ndarray, "rows features"]
    unit: str

    def pack(self, most_bytes: float) -> tuple[str, Json]:
        """int8 in base64, and what the page must know to read it. Where the features do not fit,
        those that differ most are kept.
        """
        values, names = np.nan_to_num(self.values), list(self.names)
        fit = max(1, int(most_bytes * 3 / 4 / max(len(values), 1)))
        if len(names) > fit:
            kept = np.sort(np.argsort(-np.abs(values).mean(0), kind="stable")[:fit])
            values, names = values[:, kept], [names[k] for k in kept]
        roots = np.sign(values) * np.sqrt(np.abs(values))
        codes = np.clip(np.rint(roots * STEPS), -127, 127).astype(np.int8)
        compartments, channels, groups = parts(names)
        head: Json = {
            "names": names,
            "left_out": len(self.names) - len(names),
            "steps": STEPS,
            "unit": self.unit,
            "compartments": compartments,
            "channels": channels,
            "groups": groups,
        }
        return base64.b64encode(codes.tobytes()).decode(), head


def parts(names: Sequence[str]) -> tuple[list[str], list[str], list[list[int]]]:
    """Compartments and channels that the names of features tell, and those of each feature
    [compartment, channel, …].

    A compartment is the first word of CellProfiler's names (Cells_, Cytoplasm_, Nuclei_), whose
    second is a module's; a channel is what ends the name of an intensity
    (Cells_Intensity_MeanIntensity_DNA), found as a word in any other name. Of other names
    (DNA_0001, Hoechst_area_mean) the first word is the channel.
    """
    split = [re.split(r"[_.\s-]+", name) for name in names]
    cellprofiler = [words for words in split if len(words) > 2 and words[1] in MODULES]
    if len(cellprofiler) < len(names) / 2:
        channels = sorted({words[0] for words in split if len(words) > 1})
        place = {name: k for k, name in enumerate(channels)}
        return [], channels, [[-1, place[w[0]]] if len(w) > 1 else [-1] for w in split]
    compartments = sorted({words[0] for words in cellprofiler})
    channels = sorted(
        {words[-1] for words in split if "Intensity" in words[:-1] and not words[-1].isdigit()}
    )
    place = {name: k for k, name in enumerate(channels)}
    return (
        compartments,
        channels,
        [
            [
                compartments.index(words[0]) if words[0] in compartments else -1,
                *dict.fromkeys(place[word] for word in words[1:] if word in place),
            ]
            for words in split
        ],
    )


def named(names: Sequence[str]) -> bool:
    """Whether the names say what the features are."""
    return not all(NAMELESS.fullmatch(name) for name in names)


def of_map(profiles: Profiles) -> Differences | None:
    """Of the map itself, against its own rows; None where its features have no names."""
    if not named(profiles.names):
        return None
    values = np.asarray(profiles.features, np.float64)
    middle = np.median(values, 0)
    spread = 1.4826 * np.median(np.abs(values - middle), 0)
    varies = spread > 1e-6 * np.maximum(np.abs(middle), 1e-6)
    scaled = ((values - middle) / np.where(varies, spread, 1))[:, varies]
    return Differences(
        tuple(name for name, kept in zip(profiles.names, varies, strict=True) if kept),
        scaled.astype(np.float32),
        "robust standard deviations (MAD) from the median perturbation of this map",
    )


def of_wells(
    wells: Profiles, columns: Columns, whole: Profiles, map_columns: Columns
) -> tuple[Differences | None, Json | None]:
    """Of the wells that a map was made of, each against the controls of its batch.

    Args:
      wells: their profiles, with controls.
      columns: of the wells.
      whole, map_columns: the map.

    Returns:
      (features of each row in standard deviations of the controls, None where they have no names;
      cells of each row, None where no column counts them).

    Raises:
      UserError: the wells are of other perturbations, or no batch has controls.
    """
    codes = _rows_of(wells, columns, whole, map_columns)
    _warn_of_contexts(wells, columns, codes)
    control = columns.controls(wells.metadata)
    batches = columns.batches(wells.metadata).astype(str)
    counts = _cells(wells)
    rows, useful = len(whole), named(wells.names)
    total = np.zeros((rows, len(wells.names) if useful else 0))
    number, cells, shares, counted = (np.zeros(rows) for _ in range(4))
    without = []
    for batch in np.unique(batches):
        inside = np.flatnonzero(batches == batch)
        own, chosen = inside[control[inside]], inside[(codes[inside] >= 0) & ~control[inside]]
        if len(own) < LEAST_CONTROLS:
            without.append(batch)
            continue
        if useful:
            z = _against(wells.features[chosen], np.asarray(wells.features[own], np.float64))
            np.add.at(total, codes[chosen], z)
            np.add.at(number, codes[chosen], 1)
        if counts is not None and np.isfinite(counts[own]).any():
            real = chosen[np.isfinite(counts[chosen])]
            np.add.at(cells, codes[real], counts[real])
            np.add.at(shares, codes[real], counts[real] / max(np.nanmedian(counts[own]), 1e-9))
            np.add.at(counted, codes[real], 1)
    if len(without) == len(np.unique(batches)):
        raise UserError(
            f"`wells`: no batch has {LEAST_CONTROLS} negative controls, so that nothing can be told"
            " against them. Name them with `control`, and their plates with `batch`."
        )
    if without:
        log.warning(
            "`wells`: %d of %d batches have fewer than %d controls and are left out (%s)",
            len(without),
            len(np.unique(batches)),
            LEAST_CONTROLS,
            ", ".join(without[:3]),
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        differences = Differences(
            wells.names,
            (total / number[:, None]).astype(np.float32),
            "standard deviations of the controls of its plate, mean over its wells",
        )
        if not counted.any():
            return (differences if useful else None), None
        return (differences if useful else None), {
            "values": numbers(cells / counted),
            "share": numbers(shares / counted),
            "of": "of the controls of its plates",
        }


def _cells(wells: Profiles) -> Float64[np.ndarray, " wells"] | None:
    """Cells of each well, by a column of the metadata or a feature; None where nothing counts."""
    if told := cell_counts(wells.metadata.columns):
        return wells.metadata[told[0]].to_numpy(np.float64, na_value=np.nan)
    if measured := cell_counts(wells.names):
        return wells.features[:, wells.names.index(measured[0])].astype(np.float64)
    return None


def _warn_of_contexts(wells: Profiles, columns: Columns, codes: Int[np.ndarray, " wells"]) -> None:
    """Warns where wells of several time points or kinds of cells are told as one row."""
    matched = wells.metadata[codes >= 0]
    for name in columns.apart:
        if (matched[name].groupby(codes[codes >= 0]).nunique() > 1).any():
            log.warning(
                "`wells`: wells of several values of '%s' are averaged to one row of the map;"
                " choose those of the map with --where",
                name,
            )


def _against(
    features: Float32[np.ndarray, "wells features"],
    controls: Float64[np.ndarray, "controls features"],
) -> Float64[np.ndarray, "wells features"]:
    """Wells in standard deviations of the controls; 0 where these do not vary."""
    spread = controls.std(0, ddof=1)
    varies = spread > 1e-6 * np.maximum(np.abs(controls).max(0), 1e-6)
    return np.where(varies, (features - controls.mean(0)) / np.where(varies, spread, 1), 0)


def _rows_of(
    wells: Profiles, columns: Columns, whole: Profiles, map_columns: Columns
) -> Int[np.ndarray, " wells"]:
    """Row of the map that each well belongs to, -1 where to none."""
    import pandas as pd

    best = np.full(len(wells), -1)
    for rows in row_labels(whole, map_columns):
        index = pd.Index(rows)
        if index.has_duplicates:
            continue
        for labels in row_labels(wells, columns):
            found = index.get_indexer(labels)
            if (found >= 0).sum() > (best >= 0).sum():
                best = found
    if not (best >= 0).any():
        raise UserError(
            "`wells`: none of their perturbations is in the map"
            f" ({', '.join(map(str, row_labels(whole, map_columns)[0][:3]))}, …). Are they the"
            " wells that the map was made of? Name their column with `perturbation`."
        )
    return best
