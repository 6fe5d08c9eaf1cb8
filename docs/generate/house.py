"""The picture of rooms and arrows, drawn from the imports of the package.

    python -m docs.generate.house            # writes docs/assets/house.svg

Floors are those of the import contract in pyproject.toml. An arrow from one room to another says
that the first imports the second; one that follows from two others is left out (a transitive
reduction), else there would be 170. An arrow up, or a circle, is an error here as in `make lint`.
The rows are laid out as Sugiyama et al. (1981, doi:10.1109/TSMC.1981.4308636) do it: arrows that
pass a floor get a place on it, places are ordered by the mean of their neighbours, then moved
towards it.
"""

import ast
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import grimp
import numpy as np
from sklearn.isotonic import isotonic_regression

ROOT = Path(__file__).parents[2]
ROW, HEIGHT, MARGIN = 66, 30, 14  # px: from floor to floor, of a box, at the borders
STYLE = """
.house text { font: 600 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
.house text { fill: var(--ink, #1c2127); text-anchor: middle }
.house rect { fill: var(--panel, #fff); stroke: var(--accent, #0b62a8); stroke-width: 1.2 }
.house .door rect { fill: var(--tint, #e3eefa) }
.house .ground { fill: var(--ground, #f4f5f7); stroke: none }
.house path { fill: none; stroke: var(--soft, #5b6570); stroke-width: 1.1; opacity: .75 }
.house .tip { fill: var(--soft, #5b6570); stroke: none; opacity: 1 }
"""
# Where the picture stands alone, in a dark browser.
DARK = "--ink: #e6eaef; --panel: #181d23; --accent: #6cb4f5; --tint: #1b3147; --soft: #9aa5b1;"
ALONE = f"@media (prefers-color-scheme: dark) {{ svg.house:root {{ {DARK} --ground: #0f1317 }} }}"


def floors() -> list[list[str]]:
    """Rooms by floor, top first, from the contract "Imports point down"."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    contract = next(each for each in contracts if each["type"] == "layers")
    return [re.split(r" [|:] ", each) for each in contract["layers"]]


def imports(rooms: set[str]) -> dict[str, set[str]]:
    """What each room imports of the others, directly, anywhere in its files."""
    graph = grimp.build_graph("phenomjax", cache_dir=None)
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            a, b = (f"{name}.".split(".")[1] for name in (module, imported))
            if a != b and a in rooms and b in rooms:
                found[a].add(b)
    return found


def reduced(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows from which all others follow; an error names a circle."""

    def below(room: str, path: tuple[str, ...] = ()) -> set[str]:
        if room in path:
            raise ValueError(f"a circle of imports: {' -> '.join((*path, room))}")
        return set().union(*({each} | below(each, (*path, room)) for each in found[room]))

    reach = {room: below(room) for room in found}
    return sorted(
        (room, each)
        for room in found
        for each in found[room]
        if not any(each in reach[other] for other in found[room])
    )


def first_line(room: str) -> str:
    """The first sentence of a room's docstring."""
    path = ROOT / "phenomjax" / room
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    return re.split(r"\n\n|(?<=[.:]) ", ast.get_docstring(ast.parse(text)) or room)[0].replace(
        "\n", " "
    )


def is_door(room: str) -> bool:
    """Whether `python -m phenomjax.ROOM` is a command."""
    path = ROOT / "phenomjax" / room
    if path.is_dir():
        return (path / "__main__.py").exists()
    return '__name__ == "__main__"' in path.with_suffix(".py").read_text()


def width(place) -> float:
    """Of a box, or of the gap that an arrow passes, in px."""
    return 8.0 * len(place) + 24 if isinstance(place, str) else 12


def ordered(rows: list[list], chains: list[list]) -> tuple[list[list], list[np.ndarray]]:
    """Rows in an order with few crossings, and the middle of each place in px."""
    neighbours: dict = {place: ([], []) for row in rows for place in row}
    for chain in chains:
        for above, below in pairwise(chain):
            neighbours[below][0].append(above)
            neighbours[above][1].append(below)
    at = {place: float(i - len(row) / 2) for row in rows for i, place in enumerate(row)}

    def wanted(place, sides) -> float:
        near = [at[each] for side in sides for each in neighbours[place][side]]
        return float(np.mean(near)) if near else at[place]

    def crossings(rows) -> int:
        index = {place: i for row in rows for i, place in enumerate(row)}
        total = 0
        for row in rows:
            ends = [(index[a], index[b]) for a in row for b in neighbours[a][1]]
            total += sum(
                (a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[:i]
            )
        return total

    best = (crossings(rows), rows)
    for sweep in range(60):
        side = sweep % 2
        rows = list(rows)
        for i in range(len(rows)) if side == 0 else reversed(range(len(rows))):
            rows[i] = sorted(rows[i], key=lambda place: wanted(place, (side,)))
            at |= {place: float(k - len(rows[i]) / 2) for k, place in enumerate(rows[i])}
        best = min(best, (crossings(rows), rows), key=lambda each: each[0])
    rows = best[1]

    at = {place: 40.0 * (i - len(row) / 2) for row in rows for i, place in enumerate(row)}
    for sweep in range(200):
        for row in rows if sweep % 2 else reversed(rows):
            wide = np.array([width(place) for place in row])
            gaps = np.cumsum(np.r_[0, (wide[1:] + wide[:-1]) / 2 + 10])
            goal = np.array([wanted(place, (0, 1)) for place in row])
            at |= dict(zip(row, isotonic_regression(goal - gaps) + gaps, strict=True))
    return rows, [np.array([at[place] for place in row]) for row in rows]


def picture() -> str:
    """The SVG."""
    floor = {room: i for i, row in enumerate(floors()) for room in row}
    found = imports(set(floor))
    arrows = reduced(found)
    for a, b in arrows:
        if floor[a] > floor[b]:
            raise ValueError(f"an arrow up: {a} imports {b}")

    def depth(room: str) -> int:
        """How many rooms of its own floor stand above a room."""
        above = [a for a in found if room in found[a] and floor[a] == floor[room]]
        return max((depth(each) + 1 for each in above), default=0)

    steps = {room: (floor[room], depth(room)) for room in floor}
    places = sorted(set(steps.values()))
    level = {room: places.index(step) for room, step in steps.items()}
    rows: list[list] = [[room for room in floor if level[room] == i] for i in range(len(places))]
    chains = []
    for a, b in arrows:
        passed = [(i, a, b) for i in range(level[a] + 1, level[b])]
        for place in passed:
            rows[place[0]].append(place)
        chains.append([a, *passed, b])
    rows = [sorted(row, key=str) for row in rows]
    rows, xs = ordered(rows, chains)
    left = min(x[0] - width(row[0]) / 2 for row, x in zip(rows, xs, strict=True)) - MARGIN
    right = max(x[-1] + width(row[-1]) / 2 for row, x in zip(rows, xs, strict=True)) + MARGIN
    at = {
        place: (x - left, MARGIN + i * ROW + HEIGHT / 2)
        for i, (row, middle) in enumerate(zip(rows, xs, strict=True))
        for place, x in zip(row, middle, strict=True)
    }
    size = (round(right - left), len(rows) * ROW - ROW + HEIGHT + 2 * MARGIN)
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" class="house" role="img"'
        ' aria-label="The rooms of phenomjax; an arrow says: imports"'
        f' viewBox="0 0 {size[0]} {size[1]}">',
        f"<style>{STYLE}{ALONE}</style>",
        f'<rect class="ground" width="{size[0]}" height="{size[1]}" rx="10"/>',
    ]
    for chain in chains:
        xs, ys = np.array([at[place] for place in chain]).T
        ys[0] += HEIGHT / 2
        ys[-1] -= HEIGHT / 2 + 6
        slopes = np.r_[0, (xs[2:] - xs[:-2]) / (ys[2:] - ys[:-2]), 0]  # smooth, upright at its ends
        d = f"M{xs[0]:.1f} {ys[0]:.1f}"
        for k, third in enumerate(np.diff(ys) * 0.4):
            d += (
                f"C{xs[k] + slopes[k] * third:.1f} {ys[k] + third:.1f}"
                f" {xs[k + 1] - slopes[k + 1] * third:.1f} {ys[k + 1] - third:.1f}"
                f" {xs[k + 1]:.1f} {ys[k + 1]:.1f}"
            )
        lines.append(f'<path data-arrow="{chain[0]} {chain[-1]}" d="{d}"/>')
        lines.append(f'<path class="tip" d="M{xs[-1]:.1f} {ys[-1] + 6:.1f}l-3.5 -7h7z"/>')
    for row in rows:
        for room in (place for place in row if isinstance(place, str)):
            x, y = at[room]
            kind = "door" if is_door(room) else "room"
            about = first_line(room).replace("&", "&amp;").replace("<", "&lt;")
            wide, (left, top) = width(room), (x - width(room) / 2, y - HEIGHT / 2)
            lines += [
                f'<g class="{kind}"><title>{about}</title>',
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.0f}" height="{HEIGHT}" rx="7"/>',
                f'<text x="{x:.1f}" y="{y + 4.5:.1f}">{room}</text></g>',
            ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    (ROOT / "docs/assets/house.svg").write_text(picture())
