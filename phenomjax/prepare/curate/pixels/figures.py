"""Pictures of the gates: where the limits lie in what was measured, and what images look like that
were kept or dropped.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phenomjax.data.images.bank import ImageBank
from phenomjax.figures import contact_sheet
from phenomjax.figures.style import COLOURS, LIGHT, open_frame
from phenomjax.prepare.curate.pixels.gates import REASONS, Judged, Limit, density
from phenomjax.prepare.curate.pixels.limits import NOISE_CONTRAST
from phenomjax.prepare.curate.pixels.measure import OF_CHANNELS, OF_IMAGES, Measures
from phenomjax.system import files
from phenomjax.system.errors import UserError

LIMITS, SHEET = "limits.png", "sheet.png"
BINS = 60
SHOWN = 2  # images of each reason on the sheet
KEPT = 3
LOGARITHMIC = ("contrast", "cells", "covered")


def write(
    folder: Path,
    measures: Measures,
    banks: Sequence[ImageBank],
    judged: Judged,
    controls: Bool[np.ndarray, " images"],
) -> None:
    """Draws limits.png into a folder, and sheet.png where there is something to show."""
    files.save_figure(limits_figure(measures, judged, controls), folder / LIMITS, dpi=110)
    files.remove(folder / SHEET)  # of other limits
    if (figure := sheet(banks, judged, controls)) is not None:
        files.save_figure(figure, folder / SHEET, dpi=70)


def limits_figure(
    measures: Measures, judged: Judged, controls: Bool[np.ndarray, " images"]
) -> Figure:
    """Histograms of each measure that has a limit, a row each, a column a channel: of the controls
    and of all images; a band goes from the lowest to the highest limit of an experiment.
    """
    channels = measures.channels
    rows = [name for name in (*OF_CHANNELS, *OF_IMAGES) if _limits(judged, name)]
    figure = Figure(figsize=(2.3 * len(channels) + 0.6, 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(channels), squeeze=False)
    for line, name in zip(grid, rows, strict=True):
        of_channels = channels if name in OF_CHANNELS else [None]
        for axis in line[len(of_channels) :]:
            axis.remove()
        for axis, channel in zip(line, of_channels, strict=False):
            values = measures.column(name if channel is None else f"{name}/{channel}")
            if name == "sharpness":  # of noise it says nothing
                noise = measures.column(f"contrast/{channel}") < NOISE_CONTRAST
                values = np.where(noise, np.nan, values)
            found = [limit for limit in _limits(judged, name) if limit.channel == channel]
            # nuclei are compared in their density; a figure shows what was counted
            scale = _per_field(measures) if name == "cells" else 1.0
            bounds = np.array([limit.limit for limit in found]) * scale
            _histogram(axis, values, controls, bounds[np.isfinite(bounds)], name in LOGARITHMIC)
            if name == "saturated":  # of most images nothing is
                axis.set_yscale("log")
            axis.set_title(f"{name} {channel or ''}".strip(), fontsize=8)
            axis.tick_params(labelsize=6)
            axis.set_yticks([], minor=True)
            axis.set_yticks([])
        line[0].set_xlabel((OF_CHANNELS | OF_IMAGES)[name], fontsize=6)
        line[0].set_ylabel("share of images", fontsize=6)
    if grid[0, 0].get_legend_handles_labels()[1]:
        grid[0, 0].legend(fontsize=6, frameon=False)
    return figure


def _limits(judged: Judged, name: str) -> list[Limit]:
    return [limit for limit in judged.limits if limit.measure == name]


def _per_field(measures: Measures) -> float:
    """Nuclei of a field of the first bank, of the unit in which they are compared."""
    factors = density(measures)[1]
    return float(1 / factors[0]) if len(factors) else 1.0


def _histogram(
    axis: Axes,
    values: Float[np.ndarray, " images"],
    controls: Bool[np.ndarray, " images"],
    bounds: Float[np.ndarray, " limits"],
    logarithmic: bool,
) -> None:
    known = np.isfinite(values)
    if not known.any():
        return
    low, high = np.quantile(np.append(values[known], bounds), [0.001, 0.999])
    low, high = min([low, *bounds]), max([high, *bounds])
    if logarithmic:
        low = max(low, high * 1e-3, 1e-6)
        edges = np.geomspace(low, max(high, low * 1.01), BINS + 1)
        axis.set_xscale("log")
    else:
        edges = np.linspace(low, max(high, low + 1e-3), BINS + 1)
    for mask, colour, label in ((known, LIGHT, "all"), (known & controls, COLOURS[0], "controls")):
        if mask.any():
            clipped = np.clip(values[mask], edges[0], edges[-1])
            heights = np.histogram(clipped, edges)[0] / mask.sum()
            axis.stairs(heights, edges, fill=mask is known, color=colour, label=label)
    if len(bounds):
        axis.axvspan(bounds.min(), bounds.max(), color=COLOURS[1], alpha=0.3, label="limits")
        axis.axvline(np.median(bounds), color=COLOURS[1], linewidth=1)
    open_frame(axis)


def sheet(
    banks: Sequence[ImageBank],
    judged: Judged,
    controls: Bool[np.ndarray, " images"],
    seed: int = 0,
) -> Figure | None:
    """Some images of each reason below some controls that pass, all of the bank of which most were
    dropped; None where no image was dropped for what it shows, or none can be shown.
    """
    first = np.cumsum([0, *map(len, banks)])
    seen = judged.codes > REASONS.index("unreadable")
    dropped = [int(seen[a:b].sum()) for a, b in itertools.pairwise(first)]
    if not any(dropped):
        return None
    number = int(np.argmax(dropped))
    bank, part = banks[number], slice(first[number], first[number + 1])
    codes, random = judged.codes[part], np.random.default_rng(seed)
    passing = codes == 0
    chosen = _some(passing & controls[part] if (passing & controls[part]).any() else passing, KEPT)
    names = ["kept"] * len(chosen)
    for code in np.unique(codes[codes > REASONS.index("unreadable")]):
        some = random.permutation(np.flatnonzero(codes == code))[:SHOWN].tolist()
        chosen, names = chosen + some, names + [REASONS[code]] * len(some)
    images, titles = list[np.ndarray](), list[str]()
    rows = bank.rows(chosen, ["experiment", "plate", "well"]).to_pylist()
    for index, name, row in zip(chosen, names, rows, strict=True):
        try:
            images.append(bank.read(index))
        except UserError:
            continue
        place = " ".join(str(value) for value in row.values() if value is not None)
        titles.append(f"{name}\n{place}" if place else f"{name}\nimage {index}")
    if not images:
        return None
    kept = np.stack(images[:KEPT])
    limits = [tuple(np.percentile(kept[..., c], [0.5, 99.8])) for c in range(kept.shape[-1])]
    return contact_sheet.draw(images, titles, bank.channels, limits)


def _some(mask: Bool[np.ndarray, " images"], most: int) -> list[int]:
    """Places of some of a mask, far apart."""
    places = np.flatnonzero(mask)
    return places[np.linspace(0, len(places) - 1, min(most, len(places))).astype(int)].tolist()
