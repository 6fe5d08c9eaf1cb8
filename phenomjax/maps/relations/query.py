"""Query a map: the nearest neighbours of a gene or compound, the most similar and the most
opposite, genes and compounds apart.

  python -m phenomjax.maps query TP53 --profiles map.parquet --top 10
  python -m phenomjax.maps query TP53 MDM2 --profiles map.parquet --out neighbours.json

Names are those of the map, or what people call them (pert_iname, compound_name, …); capitals do not
matter, and a gene means all its rows. p: the share of the map's pairs that are as similar, or as
opposite; of all pairs for maps of up to 1,400 entities, else of a million random ones (seed 0).
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import numpy as np
import tyro
from jaxtyping import Float32, Float64, Int

from phenomjax.maps.relations.cosines import units
from phenomjax.maps.relations.recall import sorted_null
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.names import choose, entities
from phenomjax.maps.tables.options import Names, TableOptions, require_some
from phenomjax.statistics import ties
from phenomjax.statistics.cosines import exact_cosines
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import write_json
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions, Overwrite):
    """Of `python -m phenomjax.maps query`."""

    names: tyro.conf.Positional[Names]
    """genes or compounds"""
    top: int = 10
    """neighbours a side"""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.json")] = None
    """write them too"""


class Neighbour(TypedDict):
    """One entity near another; what people call it, its target gene, and the share of pairs that
    are as near.
    """

    name: str
    called: str
    gene: str
    cosine: float
    p: float


def run(options: Options) -> int:
    """Prints the neighbours."""
    profiles, columns = load(options)
    who = entities(profiles, columns)
    if len(who) < 3:
        raise UserError(f"The map has {len(who)} entities; neighbours need at least 3.")
    if options.top < 1:
        raise UserError(f"`top` {options.top}: at least 1 neighbour.")
    rows = units(profiles.features)
    null = sorted_null(rows)
    found = {}
    for row in choose(require_some(options.names, "names"), who):
        cosine = exact_cosines(rows, rows[[row]])[:, 0]
        name = str(who["name"][row])
        found[name] = {
            kind: _sides(
                cosine,
                who,
                np.flatnonzero((who["kind"] == kind).to_numpy() & (np.arange(len(who)) != row)),
                null,
                options.top,
            )
            for kind in sorted(set(who["kind"]))
        }
        about = _about(name, who["called"][row], who["gene"][row])
        print(f"\n{name} ({', '.join([who['kind'][row], *about])})")
        for kind, sides in found[name].items():
            for side, near in sides.items():
                print(f"  {side} {kind}s{'' if near else ': none'}")
                for one in near:
                    about = _about(one["name"], one["called"], one["gene"])
                    said = "  ".join([one["name"], *about])
                    print(f"    {one['cosine']:+.3f}  p {one['p']:<8.2g} {said}")
    if options.out:
        ending.wrote(write_json(Path(options.out), found))
    ending.note(neighbours=found)
    return 0


def _about(name: str, called: str, gene: str) -> list[str]:
    """What is known of an entity beside its name."""
    return [*filter(None, [called]), *([f"target {gene}"] if gene not in ("", name) else [])]


def _sides(
    cosine: Float64[np.ndarray, " rows"],
    who: "pd.DataFrame",
    chosen: Int[np.ndarray, " some"],
    null: Float32[np.ndarray, " pairs"],
    top: int,
) -> dict[str, list[Neighbour]]:
    sides: dict[str, list[Neighbour]] = {}
    for side, sign in (("similar", 1), ("opposite", -1)):
        there = chosen[sign * cosine[chosen] > 0]
        order = there[np.argsort(-sign * cosine[there], kind="stable")][:top]
        place = (ties.less if sign > 0 else ties.at_most)(null, cosine[order])
        share = np.maximum((len(null) - place) if sign > 0 else place, 1) / max(len(null), 1)
        sides[side] = [
            {
                "name": str(who["name"][row]),
                "called": str(who["called"][row]),
                "gene": str(who["gene"][row]),
                "cosine": float(np.float32(cosine[row])),
                "p": float(p),
            }
            for row, p in zip(order, share, strict=True)
        ]
    return sides
