"""Colours, sizes and manners that all figures share."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito 2008
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY, DARK = "#999999", "#333333"
LIGHT = "#c8c8c8"  # of what only surrounds the subject
COSINES = "RdBu_r"  # of similarities from -1 to 1
HEADING: dict[str, Any] = {"fontsize": 11, "fontweight": "bold"}


def open_frame(axis: "Axes") -> None:
    """Only the left and the lower side of the frame."""
    axis.spines[["top", "right"]].set_visible(False)


def chance_line(axis: "Axes", value: float) -> None:
    """What chance, or no effect, would give."""
    axis.axhline(value, color=GREY, linewidth=1, linestyle="--")
