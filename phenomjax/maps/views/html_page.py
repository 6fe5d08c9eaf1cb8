"""The page of `maps explore` as text: HTML, style, scripts, and the map itself.

All text from the data is escaped; nothing is loaded.
"""

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from phenomjax.figures.pages import frame
from phenomjax.maps.relations.cosines import histogram
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.views import annotations, layouts
from phenomjax.maps.views.annotations import Json
from phenomjax.maps.views.differences import Differences
from phenomjax.maps.views.thumbnails import Thumbnails
from phenomjax.statistics.cosines import unit_rows
from phenomjax.statistics.ties import TIED

if TYPE_CHECKING:
    import pandas as pd

PAGE = Path(__file__).parent / "page"
KINDS = {"gene": "g", "compound": "c", "control": "x"}
BINS = 2048  # of the cosines of all pairs, for p
NULL_ROWS = 20_000  # p of a larger map is told from the pairs of so many of its rows: 200 million
PRECISIONS = {"float16": 2, "int8": 1}
SCRIPTS = ("explore", "details", "sets", "views", "start")
NOTHING: Json = {
    "columns": [],
    "readable": -1,
    "links": dict.fromkeys(annotations.LINKS, -1),
    "scores": [],
    "replicates": None,
    "cells": None,
    "known": {"names": [], "rows": [], "targets": [], "sources": [], "sets": []},
    "fdr": 0.05,
    "organism": "human",
}


def page(
    maps: dict[str, Profiles],
    table: "pd.DataFrame",
    *,
    facts: Json | None = None,
    different: Differences | None = None,
    title: str = "Map of biology",
    start: list[int] | None = None,
    place: layouts.Layout = "auto",
    images: Thumbnails | None = None,
    precision: str = "auto",
    max_bytes: float = 1e8,
    seed: int = 42,
) -> str:
    """The page as text.

    Args:
      maps: {name: map}, one or two of the same rows (raw, corrected); the last is shown first.
      table: of `entities`.
      facts: of `gather`; without them the page knows names alone.
      different: the features that differ.
      title: of the page.
      start: rows shown first; by default the row with the nearest neighbour.
      place: where the points of the scatter lie, computed from the last map.
      images: of the cells.
      precision: float16, int8 or auto (float16 where both maps fit into a fifth of `max_bytes`).
      max_bytes: the profiles take at most so much; they are projected on their main axes until they
        do. The features that differ take at most a fifth of it.
      seed: of the UMAP, and of what is sampled.

    Returns:
      HTML that loads nothing; all text from the data is escaped, in HTML and in JSON.
    """
    facts = dict(facts or NOTHING)
    import pandas as pd

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
                "length": annotations.numbers(np.linalg.norm(maps[name].features, axis=1)),
            }
        )
        blobs[f"map{number}"] = packed
    xy, method = layouts.place(shown, place, seed)
    if xy is not None:
        square = layouts.in_unit_square(xy)
        blobs["layout"] = base64.b64encode(square.astype("<f2").tobytes()).decode()
    if different is not None:
        blobs["features"], facts["features"] = different.pack(max_bytes / 5)
    groups = layouts.clusters(shown, facts.pop("clusters", None), seed)
    if groups is not None:
        facts["columns"] = [
            *facts["columns"],
            {
                **annotations.text_column(
                    "cluster (k-means)",
                    pd.Series([f"{group + 1:02d}" for group in groups]),
                    searched=False,
                    colours=True,
                ),
            },
        ]
    guides = (table["kind"] == "gene") & (table["perturbation"] != table["gene"])
    data = {
        **facts,
        "names": table["name"].tolist(),
        "kinds": "".join(table["kind"].map(KINDS)),
        "genes": table["gene"].tolist(),
        "doses": table["dose"].tolist(),
        "guides": table["perturbation"].where(guides, "").tolist(),
        "series": pd.factorize(table["perturbation"])[0].tolist(),
        "maps": records,
        "start": start[0] if start else _first(shown, table),
        "set": start if start and len(start) > 1 else [],
        "layout": layouts.TEXTS[method] if method else "",
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
        "summary": html.escape(summary),
        "provenance": html.escape(provenance),
        "data": "\n".join(scripts),
        "style": frame.part("look.css") + _part("explore.css"),
        "theme": frame.part("theme.js"),
        "policy": frame.POLICY,
        **{name: _part(f"{name}.js") for name in SCRIPTS},
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
