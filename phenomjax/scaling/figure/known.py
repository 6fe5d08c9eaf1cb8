"""What of a law is known: how well each floor fits the runs, and which exponents."""

from typing import TYPE_CHECKING

from phenomjax.figures.style import COLOURS, DARK, GREY, HEADING, LIGHT, open_frame
from phenomjax.scaling.fit.law import NAMES, STABLE, Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIGHEST = 6.0  # deviance that is shown, in units of what bounds the 90 % interval
ALPHA, BETA = NAMES.index("alpha"), NAMES.index("beta")


def known(fit: Fit, *, title: str = "") -> "Figure":
    """Left the profile of the floor E, right the exponents of the bootstrap's draws, every basin of
    the objective, and the line on which beta / (alpha + beta) is that of the law.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _profile(left, fit)
    _exponents(right, fit)
    figure.suptitle(title, x=0.01, ha="left", **HEADING)
    return figure


def _profile(axis: "Axes", fit: Fit) -> None:
    """Deviance over E: at 1 lie the ends of the 90 % interval."""
    floor, deviance = fit.profiles["E"]
    axis.plot(floor, deviance, color=COLOURS[0], linewidth=1.5)
    axis.axhline(1, color=GREY, linewidth=1, linestyle="--")
    axis.annotate(
        "90 %",
        (0.01, 1.05),
        xycoords=axis.get_yaxis_transform(),
        fontsize=8,
        color=GREY,
    )
    axis.axvline(fit.values["E"], color=DARK, linewidth=1)
    lowest = float(fit.runs.loss[fit.used].min())
    axis.axvline(lowest, color=GREY, linewidth=1, linestyle=":")
    axis.annotate(
        "lowest loss ",
        (lowest, 0.95),
        xycoords=axis.get_xaxis_transform(),
        ha="right",
        fontsize=8,
        color=GREY,
    )
    axis.set_ylim(0, HIGHEST)
    said = "is identified" if fit.identified else "is not identified: do not lean on it"
    axis.set_title(f"The floor E {said}", loc="left", fontsize=10)
    axis.set_xlabel("E, loss that no size and no data get below")
    axis.set_ylabel("deviance, 1 = end of the interval")
    open_frame(axis)


def _exponents(axis: "Axes", fit: Fit) -> None:
    axis.scatter(
        fit.draws[:, ALPHA],
        fit.draws[:, BETA],
        s=8,
        color=LIGHT,
        linewidths=0,
        label=f"{len(fit.draws)} draws of the bootstrap",
    )
    alpha, beta = fit.values["alpha"], fit.values["beta"]
    low, high = fit.interval("ratio")
    said = f"beta / (alpha + beta) = {beta / (alpha + beta):.3f} ({low:.3f} to {high:.3f})"
    # which does not widen the axes, as steep as it may be
    axis.axline((0, 0), (alpha, beta), color=COLOURS[0], linewidth=1.2, zorder=2, label=said)
    best = fit.basins[0]["objective"]
    for number, basin in enumerate(fit.basins):
        told = "" if number == 0 else f" {basin['objective'] / best:.2f}x"
        axis.scatter(
            basin["alpha"],
            basin["beta"],
            s=60,
            marker="o",
            facecolors="none",
            edgecolors=DARK if number == 0 else COLOURS[1],
            linewidths=1.5,
            zorder=3,
            label={0: "the law", 1: "other basins, by their objective"}.get(number),
        )
        axis.annotate(told, (basin["alpha"], basin["beta"]), fontsize=8, color=COLOURS[1])
    axis.set_xlabel("alpha, exponent of parameters")
    axis.set_ylabel("beta, exponent of data")
    known = "is stable" if high - low < STABLE else "is not known"
    axis.set_title(f"The exponents: beta / (alpha + beta) {known}", loc="left", fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="best")
    open_frame(axis)
