"""Profiles in CSV and TSV, compressed or not. The first pass reads the metadata and sees which
columns hold numbers; the features are kept from it, or read by a second one.
"""

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phenomjax.maps.tables import frames
from phenomjax.maps.tables.formats.features import by_name
from phenomjax.maps.tables.formats.numeric import Tally, numbers_among
from phenomjax.maps.tables.sources import Block, Blocks, Source, Wanted, columns_of, noted
from phenomjax.maps.tables.writing import provenance_beside

if TYPE_CHECKING:
    import pandas as pd


def open_text(path: Path, wanted: Wanted) -> Source:
    """Opens a table of text.

    Raises:
      UserError: it is none, or has no features.
      ValueError: pandas cannot read it.
    """
    written = frames.look(path)
    beside = provenance_beside(path)
    own = json.loads(beside.read_text()) if beside.exists() else {}
    named = by_name(written.columns, path, wanted, own.get("features"))
    tally, kept, parts = Tally(named.candidates), deque[Block](), []
    apart, differ = {*named.candidates, *named.unread}, set[str]()
    for frame in frames.chunks(written):
        block = tally.block(frame)
        if wanted.hold:
            kept.append(block)
        parts.append(frame[[name for name in written.columns if name not in apart]])
        for double, first in written.doubles.items():
            if double not in differ and not frame[double].equals(frame[first]):
                differ.add(double)
    features, notes = tally.features(path, wanted.features if named.strict else None)
    same = tuple(name for name in written.doubles if name not in differ)
    notes += (*noted("twice", same), *noted("renamed", sorted(differ)))
    names = tuple(name for name in features if name not in same)
    others = [name for name in written.columns if name not in {*names, *same, *named.unread}]
    metadata = _together(path, parts, others)
    notes += noted("cut", example=path.name if len(metadata) and frames.is_cut_off(written) else "")
    notes += noted("unlike", numbers_among(named.unlike, metadata))

    def read(chosen: tuple[str, ...]) -> Blocks:
        if kept:  # once; then they are gone
            return columns_of((kept.popleft() for _ in range(len(kept))), named.candidates, chosen)
        return map(Tally(chosen).block, frames.chunks(written, chosen))

    return Source(path, metadata, names, own.get("provenance", {}), read, (*named.notes, *notes))


def _together(path: Path, parts: Sequence["pd.DataFrame"], names: list[str]) -> "pd.DataFrame":
    """The metadata of all rows. Columns that turned out to be no features, or that pandas took for
    numbers in some rows and for text in others, are read once more, whole.
    """
    import pandas as pd

    if not parts:
        return pd.DataFrame(columns=names)
    mixed = not set(names) <= set(parts[0].columns)
    for name in parts[0].columns if not mixed else ():
        kinds = {part[name].dtype for part in parts}
        mixed |= len(kinds) > 1 and any(kind.kind == "O" for kind in kinds)
    if mixed:
        return frames.read_frame(path, names)[names]
    return frames.with_plates(pd.concat([part[names] for part in parts], ignore_index=True))
