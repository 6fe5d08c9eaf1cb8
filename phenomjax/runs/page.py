"""The page of `python -m phenomjax.runs`: one file without anything from outside, a table that
sorts, and curves as SVG.
"""

import math
from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from phenomjax.figures.pages import frame
from phenomjax.system.errors import first_of

if TYPE_CHECKING:
    from phenomjax.runs.reading import Run

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 560, 300, 62, 24, 28, 10
MAX_POINTS = 800
BAND = ("forecast/low", "forecast/high", "forecast/loss")  # stands behind val/loss

PLACE = Path(__file__).parent
CHIPS = {"done": "good", "stopped": "warn", "failed": "bad", "running": ""}


def page(header: list[str], rows: list[list[str]], runs: "list[Run]") -> str:
    """The page.

    Args:
      header: names of the columns.
      rows: one list of cells a run.
      runs: in the order of the rows.

    Returns:
      HTML; every name and value is escaped, and the browser is told to load nothing.
    """
    # far from each other, however many there are
    hues = [round(250 + i * 137.5) % 360 for i in range(len(runs))]
    lines = []
    for i, (run, row) in enumerate(zip(runs, rows, strict=True)):
        box = (
            f'<label><input type="checkbox" value="{i}" checked> <i></i>'
            f"<span>{escape(row[0])}</span></label>"
        )
        state = f'<span class="chip {CHIPS.get(run.state, "none")}">{escape(row[1])}</span>'
        cells = "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[2:])
        lines.append(f'<tr style="--hue:{hues[i]}"><td>{box}</td><td>{state}</td>{cells}</tr>\n')
    metrics = sorted(
        {name for run in runs for name in run.series if name not in BAND},
        key=lambda name: (_place(name), name),
    )
    figures = "".join(_figure(name, runs, hues) for name in metrics)
    head = "".join(
        f'<th{" class=number" * (i > 1)}><button type="button">{escape(name)}</button></th>'
        for i, name in enumerate(header)
    )
    table = f"<thead><tr>{head}</tr></thead><tbody>\n{''.join(lines)}</tbody>"
    scrolled = frame.scrolled(
        f'<table class="data">{table}</table>', "All runs. The heads of the columns sort."
    )
    states = Counter(run.state for run in runs)
    body = f"""<main id="content" tabindex="-1">
<section class="panel" aria-labelledby="table-title">
<div class="heading"><h2 id="table-title">Runs</h2>
<span><button type="button" class="plain" data-all="yes">Draw all</button>
<button type="button" class="plain" data-all="no">Draw none</button></span></div>
{scrolled}
<p class="note">Metrics of validation are those of the best step; train/loss is the last one.
Goodput: the share of wall time in steps that counted. A box draws a run's curves, or hides
them.</p></section>
<section aria-labelledby="curves-title"><h2 id="curves-title" class="quiet">Curves by step</h2>
<div id="figures">{figures}</div></section></main>
<div id="tip" hidden></div>"""
    summary = ", ".join(f"{states[state]} {state}" for state in CHIPS if states[state])
    return frame.page(
        f"{len(runs)} run{'s' * (len(runs) != 1)}",
        summary,
        body,
        (PLACE / "page.css").read_text(encoding="utf-8"),
        (PLACE / "page.js").read_text(encoding="utf-8"),
    )


def _place(name: str) -> int:
    """Losses first, speed last."""
    order = ("val/loss", "train/loss", "val/", "train/", "data/", "perf/")
    return next((i for i, start in enumerate(order) if name.startswith(start)), len(order))


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between two, about five; of a logarithmic axis 1, 2 and 5 of each decade, or
    decades alone.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    decades = math.log10(high / low) if log else 0.0
    locator = (
        LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,), numticks=9)
        if log
        else MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    )
    slack = 1e-9 * (high - low)
    found = [float(value) for value in locator.tick_values(low, high)]
    return [value for value in found if low - slack <= value <= high + slack] or [low]


def _figure(name: str, runs: "list[Run]", hues: list[int]) -> str:
    """One metric over the steps of all runs; a logarithmic axis where values span more than a
    factor of 30.
    """

    def finite(run: "Run", metric: str) -> list[tuple[int, float]]:
        own = run.series.get(metric, [])
        points = [run.begins[metric], *own] if own and metric in run.begins else own
        return [(s, v) for s, v in points if math.isfinite(v)]

    series = [finite(run, name) for run in runs]
    bands = [[finite(run, one) for one in BAND] if name == "val/loss" else [] for run in runs]
    points = [p for one in [*series, *(ends for band in bands for ends in band)] for p in one]
    if not points:
        return ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    log = low > 0 and high / low > 30
    scale = math.log10 if log else float
    y0, y1 = scale(low), scale(high)
    if y1 - y0 < 1e-12 * max(abs(y0), 1e-300):
        y0, y1 = y0 - 0.5 * (abs(y0) or 1), y1 + 0.5 * (abs(y1) or 1)
    x1 = max(s for s, _ in points) or 1

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / x1

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (scale(value) - y0) / (y1 - y0)

    marks = []
    for value in _ticks(low, high, log):
        marks.append(f'<path class="axis" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        marks.append(
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.6g}</text>'
        )
    for step in _ticks(0, x1, False):
        marks.append(
            f'<text x="{x(step):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{step:,.6g}</text>'
        )
    curves = []
    for i, (run, one, band) in enumerate(zip(runs, series, bands, strict=True)):
        group = f'<g class="run{i}" style="--hue:{hues[i]}" data-run="{i}"'
        if band and all(band):
            low_end, high_end, middle = (
                "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in ends)
                for ends in (band[0], band[1][::-1], band[2])
            )
            curves.append(
                f'{group}><path class="band" d="M{low_end}L{high_end}Z"><title>forecast of'
                f' {escape(run.name)}</title></path><path stroke-dasharray="4 3"'
                f' d="M{middle}"/></g>'
            )
        if one:
            kept = one[:: math.ceil(len(one) / MAX_POINTS)]
            kept += [one[-1]] * (kept[-1] != one[-1])
            ends = kept * (1 + (len(kept) == 1))  # a run with one point is seen, too
            path = "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in ends)
            steps, values = (
                " ".join(f"{v:.{n}g}" for v in p)
                for p, n in zip(zip(*ends, strict=True), (12, 4), strict=True)
            )
            curves.append(
                f'{group} data-steps="{steps}" data-values="{values}"><path d="M{path}"'
                ' stroke-linecap="round"/></g>'
            )
    last = [f"{run.name} {one[-1][1]:.4g}" for run, one in zip(runs, series, strict=True) if one]
    said = f"{name} by step, {low:.4g} to {high:.4g}. Last: {first_of(last, 8)}."
    return (
        f'<figure class="panel"><h3>{escape(name)}{" <small>logarithmic</small>" * log}</h3>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">'
        f"{''.join(marks)}{''.join(curves)}</svg></figure>\n"
    )
