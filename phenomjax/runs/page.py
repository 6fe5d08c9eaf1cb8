"""The page of `python -m phenomjax.runs`: one file without anything from outside, a table that
sorts by a click, and curves as SVG.
"""

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phenomjax.runs.reading import Run

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 300, 62, 28, 10
MAX_POINTS = 800
BAND = ("forecast/low", "forecast/high", "forecast/loss")  # stands behind val/loss

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right }
th, td { white-space: nowrap }
th { cursor: pointer; background: #f4f4f4; position: sticky; top: 0 }
th:first-child, td:first-child { text-align: left }
.scroll { overflow-x: auto; margin-bottom: 2em }
.running { color: #06c } .failed { color: #c00 } .stopped { color: #a60 } .done { color: #080 }
figure { display: inline-block; margin: 0 1.5em 1.5em 0 } figcaption { font-weight: 600 }
svg text { font: 11px system-ui, sans-serif; fill: #555 }
svg path { fill: none; stroke-width: 1.5 } svg .axis { stroke: #ddd; stroke-width: 1 }
.off { display: none } i { display: inline-block; width: 1em; height: .7em; margin-right: .4em }
"""

SCRIPT = """
const body = document.querySelector("tbody");
document.querySelectorAll("th").forEach((th, i) => th.onclick = () => {
  const down = th.dataset.down = th.dataset.down === "1" ? "" : "1";
  const value = row => {
    const t = row.cells[i].textContent.trim(), n = parseFloat(t);
    return isNaN(n) ? t : n;
  };
  const order = (a, b) => {
    const x = value(a), y = value(b), d = x < y ? -1 : x > y ? 1 : 0;
    return down ? d : -d;
  };
  [...body.rows].sort(order).forEach(row => body.append(row));
});
document.querySelectorAll("input").forEach(box => box.onchange = () => {
  const paths = document.querySelectorAll(".run" + box.value);
  paths.forEach(path => path.classList.toggle("off", !box.checked));
});
"""


def page(header: list[str], rows: list[list[str]], runs: "list[Run]") -> str:
    """The page.

    Args:
      header: names of the columns.
      rows: one list of cells a run.
      runs: in the order of the rows.

    Returns:
      HTML; every name and value is escaped, and the browser is told to load nothing.
    """
    colours = [f"hsl({(i * 137.5) % 360:.0f} 65% 42%)" for i in range(len(runs))]
    lines = []
    for i, (run, row) in enumerate(zip(runs, rows, strict=True)):
        box = (
            f'<label><input type="checkbox" value="{i}" checked> <i'
            f' style="background:{colours[i]}"></i>{escape(row[0])}</label>'
        )
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[2:])
        lines.append(
            f'<tr><td>{box}</td><td class="{escape(run.state)}">{escape(row[1])}</td>{cells}</tr>'
        )
    metrics = sorted(
        {name for run in runs for name in run.series if name not in BAND},
        key=lambda name: (_place(name), name),
    )
    figures = "".join(_figure(name, runs, colours) for name in metrics)
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    safe = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    title = f"{len(runs)} runs"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{safe}'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        f'<div class="scroll">{table}</div>{figures}<script>{SCRIPT}</script></body></html>\n'
    )


def _place(name: str) -> int:
    """Losses first, speed last."""
    order = ("val/loss", "train/loss", "val/", "train/", "data/", "perf/")
    return next((i for i, start in enumerate(order) if name.startswith(start)), len(order))


def _figure(name: str, runs: "list[Run]", colours: list[str]) -> str:
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
        return LEFT + (WIDTH - LEFT - 10) * step / x1

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (scale(value) - y0) / (y1 - y0)

    marks = []
    for i in range(5):
        level = y0 + (y1 - y0) * i / 4
        value = 10**level if log else level
        marks.append(f'<path class="axis" d="M{LEFT} {y(value):.1f}H{WIDTH - 10}"/>')
        marks.append(
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
        marks.append(
            f'<text x="{x(x1 * i / 4):.1f}" y="{HEIGHT - 8}"'
            f' text-anchor="middle">{x1 * i / 4:.0f}</text>'
        )
    curves = []
    for i, band in enumerate(bands):
        if band and all(band):
            low_end, high_end, middle = (
                "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in ends)
                for ends in (band[0], band[1][::-1], band[2])
            )
            curves.append(
                f'<path class="run{i}" style="fill:{colours[i]};opacity:.15;stroke:none"'
                f' d="M{low_end}L{high_end}Z"><title>forecast of {escape(runs[i].name)}</title>'
                f'</path><path class="run{i}" stroke="{colours[i]}" stroke-dasharray="4 3"'
                f' d="M{middle}"/>'
            )
    for i, one in enumerate(series):
        if one:
            kept = one[:: math.ceil(len(one) / MAX_POINTS)]
            kept += [one[-1]] * (kept[-1] != one[-1])
            path = "M" + "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in kept)
            # a run with one point is seen, too
            path += f"h0.1M{x(one[-1][0]) - 2:.1f} {y(one[-1][1]):.1f}h4"
            curves.append(
                f'<path class="run{i}" stroke="{colours[i]}"'
                f' d="{path}"><title>{escape(runs[i].name)}</title></path>'
            )
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return (
        f"<figure><figcaption>{escape(name)}</figcaption><svg"
        f" {size}>{''.join(marks)}{''.join(curves)}</svg></figure>"
    )
