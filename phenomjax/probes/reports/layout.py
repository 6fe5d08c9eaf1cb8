"""What the figures of a report share: a colour for each checkpoint, and places in inches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phenomjax.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the last is wine: black is of intervals
COLOURS = (*style.COLOURS[:6], "#882255")


def colours(models: Sequence[str]) -> dict[str, str]:
    """A colour for each checkpoint."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(models)}


def axes_at(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes at a place in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    low = 1 - (top + height) / down
    return figure.add_axes((left / across, low, width / across, height / down))


def text_at(figure: "Figure", top: float, text: str, size: float, bold: bool = False) -> None:
    """A line at the left edge, its middle so many inches from the upper one."""
    across, down = figure.get_size_inches()
    weight = "bold" if bold else "normal"
    figure.text(0.12 / across, 1 - top / down, text, fontsize=size, fontweight=weight, va="center")


def shorter(text: str, width: int) -> str:
    """A text of at most so many letters."""
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"
