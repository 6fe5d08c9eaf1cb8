"""Loss, and recall of complexes, against FLOPs: what the map of biology gains from a larger run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from phenomjax.figures.style import COLOURS, DARK, GREY, HEADING, chance_line, open_frame
from phenomjax.scaling.figure import drawing
from phenomjax.scaling.fit.law import Fit
from phenomjax.scaling.recall import INTENSITY, TABLE, recall_of
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BESIDE = 1.35  # least ratio between places on the axis of FLOPs
ENDS = "{0}", "{0}_low", "{0}_high"


@dataclass(frozen=True)
class Recalled:
    """What `python -m phenomjax.scaling recall` wrote.

    Attributes:
      table: one row a run.
      intensity: recall of hand-made features.
      chance: recall of a map that knows nothing.
    """

    table: "pd.DataFrame"
    intensity: float
    chance: float


def read(folder: Path) -> Recalled:
    """Reads the folder that `recall` wrote.

    Raises:
      UserError: it is none, or is damaged.
    """
    import pandas as pd

    mend = f"Name the folder that `python -m phenomjax.scaling recall RUNS --out {folder}` makes."
    if not (folder / TABLE).is_file():
        raise UserError(f"`recall` {folder} has no {TABLE}. {mend}")
    try:
        table = pd.read_csv(folder / TABLE)
        names = [end.format(kind) for kind in ("recall", "untrained") for end in ENDS]
        numbers = table[["params", "seen", "flops", "loss", *names]].to_numpy(float)
        if not len(table) or not np.isfinite(numbers).all():
            raise ValueError("a number is missing")
        hand_made = recall_of(folder / INTENSITY)
        return Recalled(table, float(hand_made["value"]), float(hand_made["chance"]))
    except (ValueError, KeyError, OSError, UserError) as error:
        raise UserError(f"`recall` {folder} is damaged: {error}. {mend}") from error


def against_flops(recalled: Recalled, fit: Fit | None = None, *, title: str = "") -> "Figure":
    """Two panels over the same FLOPs: validation loss, with a law and its band where there is one,
    and recall with its interval, beside the untrained twins and hand-made features.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    table = recalled.table
    places = apart(table["flops"].to_numpy(float))
    _losses(left, table, places, fit)
    _recalls(right, recalled, places)
    for axis, top in ((left, "loss"), (right, "recall_high")):
        axis.set_xscale("log")
        low, high = table["flops"].min(), table["flops"].max()
        axis.set_xlim(low / 2, high * 3)
        axis.set_xlabel("FLOPs of training")
        open_frame(axis)
        for place, value, name in zip(places, table[top], table["run"], strict=True):
            axis.annotate(
                f"{name}",
                (place, value),
                (2, 6),
                textcoords="offset points",
                rotation=55,
                rotation_mode="anchor",
                fontsize=8,
            )
    figure.suptitle(title, x=0.01, ha="left", **HEADING)
    return figure


def apart(flops: Float64[np.ndarray, " runs"]) -> Float64[np.ndarray, " runs"]:
    """Where rising FLOPs are drawn: runs of the same stand beside each other."""
    places = flops.copy()
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] * BESIDE)
    return places


def _losses(
    axis: "Axes",
    table: "pd.DataFrame",
    places: Float64[np.ndarray, " runs"],
    fit: Fit | None,
) -> None:
    if fit is not None:
        drawing.draw_law(axis, fit, table["flops"].min() / 2, table["flops"].max() * 2)
    axis.scatter(places, table["loss"], s=36, color=COLOURS[0], linewidths=0, zorder=3)
    axis.set_yscale("log")
    drawing.plain_ticks(axis)
    axis.set_ylabel("validation loss")
    axis.set_title("Loss", loc="left", fontsize=10)
    if fit is not None:
        axis.legend(fontsize=8, frameon=False, loc="upper right")


def _recalls(axis: "Axes", recalled: Recalled, places: Float64[np.ndarray, " runs"]) -> None:
    table = recalled.table
    for kind, told, colour, marker, filled in (
        ("untrained", "its untrained twin", GREY, "s", False),
        ("recall", "trained (95 % over genes)", COLOURS[0], "o", True),
    ):
        value, low, high = (table[end.format(kind)].to_numpy() for end in ENDS)
        # beside each other where they overlap
        axis.errorbar(
            places * (1.0 if filled else 0.9),
            value,
            [value - low, high - value],
            fmt=marker,
            color=colour,
            markerfacecolor=colour if filled else "white",
            markersize=6,
            capsize=3,
            linewidth=1,
            label=told,
        )
    axis.axhline(
        recalled.intensity, color=DARK, linewidth=1, linestyle=":", label="hand-made intensities"
    )
    chance_line(axis, recalled.chance)
    axis.annotate(
        "chance ",
        (0.995, recalled.chance),
        (0, 3),
        textcoords="offset points",
        xycoords=axis.get_yaxis_transform(),
        ha="right",
        fontsize=8,
        color=GREY,
    )
    axis.set_ylim(0, 1)
    axis.set_ylabel("known pairs that are found")
    axis.set_title("Recall of complexes at (5 %, 95 %)", loc="left", fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, recalled.chance))
