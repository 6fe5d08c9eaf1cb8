"""One interactive HTML page of a whole map: search, neighbours, heat map, scatter, pictures of the
cells. Needs no network, no server.

The page holds the map itself (16-bit, or 8-bit where it would grow large) and computes cosines in
the browser, so it can be sent by mail and opened from disk by somebody who does not code. 17,000
genes and 100,000 compounds at 128 numbers a profile make a page of 25 MB, which opens in 2 s.

  python -m phenomjax.maps explore --profiles map.parquet --corrected bias/corrected.parquet \\
      --bank screen.zarr --out map.html
"""

import base64
import html
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro
from jaxtyping import Float, Float32

from phenomjax.maps.arm_bias import arms
from phenomjax.maps.relations.cosines import histogram
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.names import choose, entities
from phenomjax.maps.tables.options import Names, TableOptions
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.reading import read
from phenomjax.maps.views import thumbnails
from phenomjax.maps.views.draw import read_names, same_rows, umap
from phenomjax.maps.views.thumbnails import Thumbnails
from phenomjax.statistics.cosines import unit_rows
from phenomjax.statistics.ties import TIED
from phenomjax.system.errors import UserError
from phenomjax.system.files import write_text

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd

PAGE = Path(__file__).parent / "page"
KINDS = {"gene": "g", "compound": "c", "control": "x"}
BINS = 2048  # of the cosines of all pairs, for p
NULL_ROWS = 20_000  # p of a larger map is told from the pairs of so many of its rows: 200 million
PRECISIONS = {"float16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions):
    """Of `python -m phenomjax.maps explore`."""

    corrected: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """a second map of the same rows: the page switches between the two"""
    what: Annotated[tuple[str, str], tyro.conf.arg(metavar="RAW CORRECTED")] = (
        "before correction",
        "after correction",
    )
    """their names"""
    names: Names = ()
    """shown first: the first is chosen, all are in the heat map; or @FILE"""
    layout: Literal["umap", "pca", "none"] = "umap"
    """of the scatter"""
    bank: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """image bank of the wells: pictures of each perturbation's cells"""
    thumbnails: int = 3
    """pictures a perturbation"""
    thumbnail_px: int = 128
    """their side"""
    max_thumbnails: int = 3000
    """in all; 128 px take about 8 kB each"""
    genes: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """gene positions, to tell chromosome arms: see `maps proximity --help`"""
    centromeres: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """see `maps proximity --help`"""
    precision: Literal["auto", "float16", "int8"] = "auto"
    """of the profiles in the page"""
    max_mb: float = 100.0
    """profiles are reduced to fit; pictures come on top"""
    title: str = "Map of biology"
    """of the page"""
    seed: int = 42
    """of the UMAP and of the choice of pictures"""
    out: Annotated[str, tyro.conf.arg(metavar="FILE.html")]
    """the page"""


def run(options: Options) -> int:
    """Writes the page; returns the exit code."""
    out = Path(options.out)
    if out.suffix not in (".html", ".htm"):
        raise UserError(
            f"`out` {out}: the page is one HTML file; name it {out.with_suffix('.html')}."
        )
    raw, columns = load(options)
    maps = {options.what[0] if options.corrected else "this map": raw}
    if options.corrected:
        maps[options.what[1]] = same_rows(raw, read(options.corrected), options.corrected)
    table = entities(raw, columns)
    if options.genes:
        arm = arms.read_arms(options.genes, options.centromeres).set_index("gene")["arm"]
        table["arm"] = table["gene"].map(arm).where(table["kind"] == "gene").fillna("").astype(str)
    names = choose(read_names(options.names), table)
    images = None
    if options.bank:
        images = thumbnails.collect(
            options.bank,
            table,
            raw.metadata,
            columns,
            each=options.thumbnails,
            side=options.thumbnail_px,
            most=options.max_thumbnails,
            seed=options.seed,
        )
    text = page(
        maps,
        table,
        title=options.title,
        start=names,
        layout=options.layout,
        images=images,
        precision=options.precision,
        max_bytes=options.max_mb * 1e6,
        seed=options.seed,
    )
    write_text(out, text)
    count = sum(map(len, images.rows.values())) if images else 0
    log.info(
        "wrote %s: %d perturbations, %d pictures, %.1f MB. Open it in a browser: it needs no"
        " network.",
        out,
        len(table),
        count,
        out.stat().st_size / 1e6,
    )
    return 0


def page(
    maps: dict[str, Profiles],
    table: "pd.DataFrame",
    *,
    title: str = "Map of biology",
    start: list[int] | None = None,
    layout: str = "umap",
    images: Thumbnails | None = None,
    precision: str = "auto",
    max_bytes: float = 1e8,
    seed: int = 42,
) -> str:
    """The page as text.

    Args:
      maps: {name: map}, one or two of the same rows (raw, corrected); the last is shown first.
      table: of `entities`, may have a column arm.
      start: rows shown first; by default the row with the nearest neighbour.
      layout: umap, pca or none: of the scatter, computed from the last map.
      images: of the cells.
      precision: float16, int8 or auto (float16 where both maps fit into a fifth of `max_bytes`).
      max_bytes: the profiles take at most so much; they are projected on their main axes until they
        do.

    Returns:
      HTML that loads nothing; all text from the data is escaped, in HTML and in JSON.
    """
    vectors = {name: unit_rows(one.features, np.float32) for name, one in maps.items()}
    shown = next(reversed(vectors.values()))
    largest = max(one.shape[1] for one in vectors.values())
    if precision == "auto":
        precision = (
            "float16" if len(table) * largest * len(maps) * 2 * 4 / 3 <= max_bytes / 5 else "int8"
        )
    dims = int(
        max(8, min(largest, max_bytes * 3 / 4 / (len(table) * len(maps) * PRECISIONS[precision])))
    )
    records, blobs, errors = [], {}, []
    for number, (name, one) in enumerate(vectors.items()):
        packed, error = pack(one, precision, dims, seed)
        errors.append(error)
        null = one
        if len(one) > NULL_ROWS:
            null = one[
                np.sort(np.random.default_rng(seed).choice(len(one), NULL_ROWS, replace=False))
            ]
        below = np.concatenate([[0], np.cumsum(histogram(null).reshape(BINS, -1).sum(1))])
        records.append(
            {
                "name": name,
                "id": f"map{number}",
                "dim": min(dims, one.shape[1]),
                "encoding": precision,
                "below": below.tolist(),
            }
        )
        blobs[f"map{number}"] = packed
    xy, text = place(shown, layout, seed)
    if xy is not None:
        blobs["layout"] = base64.b64encode(xy.astype("<f2").tobytes()).decode()
    data = {
        "names": table["name"].tolist(),
        "kinds": "".join(table["kind"].map(KINDS)),
        "genes": table["gene"].tolist(),
        "doses": table["dose"].tolist(),
        "arms": table["arm"].tolist() if "arm" in table else None,
        "maps": records,
        "start": start[0] if start else _first(shown, table),
        "set": start if start and len(start) > 1 else [],
        "layout": text,
        "thumbnails": {} if images is None else images.rows,
        "controls": [] if images is None else images.controls,
        "channels": "" if images is None else images.channels,
        "precision": (
            f"The page keeps {min(dims, largest)} of {largest} numbers a profile, as {precision}:"
            f" its cosines are off by {max(e[0] for e in errors):.4f} on average and"
            f" {max(e[1] for e in errors):.4f} at most (of 20,000 random pairs)."
        ),
    }
    kinds = table["kind"].value_counts()
    summary = ", ".join(
        f"{kinds[kind]:,} {kind}{'s' if kinds[kind] != 1 else ''}"
        for kind in KINDS
        if kind in kinds
    )
    provenance = json.dumps(
        {name: one.provenance for name, one in maps.items()},
        indent=1,
        default=str,
        ensure_ascii=False,
    )
    scripts = [f'<script type="application/json" id="data">{_json(data)}</script>']
    scripts += [
        f'<script type="text/plain" id="{name}">{blob}</script>' for name, blob in blobs.items()
    ]
    words = {
        "title": html.escape(title),
        "summary": html.escape(f"{summary}. Choose one, and see what looks like it."),
        "provenance": html.escape(provenance),
        "data": "\n".join(scripts),
        "style": _part("explore.css"),
        "script": _part("explore.js"),
        "views": _part("explore_views.js"),
    }
    # Split once and joined: words inside the data are never taken for a place to fill.
    pieces = _part("explore.html").split("@")
    return "".join(words[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def pack(
    vectors: Float[np.ndarray, "rows dim"], precision: str, dims: int, seed: int = 0
) -> tuple[str, tuple[float, float]]:
    """Unit vectors as base64 in `dims` numbers a row, and how far off their cosines are: (text,
    (mean, greatest error)).

    More dimensions than `dims` are projected on the main axes (of the uncentred vectors, so that
    cosines are kept best).
    """
    kept = vectors
    if vectors.shape[1] > dims:
        _, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
        kept = (vectors @ axes[:, ::-1][:, :dims]).astype(np.float32)
    if precision == "int8":
        codes = np.rint(kept * (127 / np.maximum(np.abs(kept).max(1, keepdims=True), 1e-9))).astype(
            np.int8
        )
    else:
        codes = kept.astype("<f2")
    one, other = np.random.default_rng(seed).integers(len(vectors), size=(2, 20_000))
    restored = unit_rows(codes, np.float32)
    error = np.abs(
        np.einsum("ij,ij->i", vectors[one], vectors[other])
        - np.einsum("ij,ij->i", restored[one], restored[other])
    )
    return base64.b64encode(codes.tobytes()).decode(), (float(error.mean()), float(error.max()))


def place(
    vectors: Float32[np.ndarray, "rows dim"], layout: str, seed: int
) -> tuple[Float[np.ndarray, "rows 2"] | None, str]:
    """Points of the scatter in the unit square, float32 [rows, 2], and what they are in words."""
    if layout == "none" or len(vectors) < 5:
        return None, ""
    if layout == "umap":
        xy, text = (
            umap(vectors, seed, "choose `layout` pca"),
            "UMAP: neighbours stay together, distances between far groups mean little",
        )
    else:
        centred = vectors - vectors.mean(0)
        _, axes = np.linalg.eigh(centred.T @ centred)
        xy, text = (
            centred @ axes[:, ::-1][:, :2],
            "The two main axes (PCA): close points may still differ in other ways",
        )
    low, high = xy.min(0), xy.max(0)
    return 0.02 + 0.96 * (xy - low) / np.maximum(high - low, 1e-9), text


def _first(vectors: Float32[np.ndarray, "rows dim"], table: "pd.DataFrame") -> int:
    """A gene with a near neighbour, of the first thousand (a compound, where there are no genes): a
    start that shows something.
    """
    kind = next((kind for kind in KINDS if (table["kind"] == kind).any()), "gene")
    rows = np.flatnonzero(table["kind"] == kind)[:1000]
    if len(rows) < 2:
        return 0
    cosine = vectors[rows] @ vectors[rows].T
    np.fill_diagonal(cosine, -1)
    nearest = cosine.max(1)
    # the first of the two, which are each other's nearest
    return int(rows[np.argmax(nearest >= nearest.max() - TIED)])


def _json(data: Mapping[str, object]) -> str:
    """JSON inside HTML: without `<`, no text can end the script or open a comment; without the two
    line ends of JSON, none breaks it.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _part(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")
