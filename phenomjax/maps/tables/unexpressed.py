"""Genes that the cells do not express, named in one way by all commands: --unexpressed FILE, a text
file with one gene a line, or --unexpressed QUERY, a pandas query on the columns there are. A file
that exists is a file.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Shaped

from phenomjax.maps.tables.columns import Columns, query_rows
from phenomjax.maps.tables.names import are_named, targets_of
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

BY_EXPRESSION = "zfpkm < -3"  # a gene's usual threshold (Hart et al. 2013)


def unexpressed_wells(
    named: str | None, wells: Profiles, columns: Columns
) -> Bool[np.ndarray, " wells"] | None:
    """Which wells perturb an unexpressed gene; None where none are named.

    Raises:
      UserError: neither a file nor a query, or no well is of such a gene.
    """
    if named is None:
        return None
    targets = targets_of(wells, columns)
    rows = unexpressed_rows(named, targets, wells.metadata) & are_named(targets)
    if not rows.any():
        raise UserError(
            f"No perturbation of the profiles is of a gene that `unexpressed` {named!r} names."
            f" A file has one gene a line, as in column {columns.gene}; a query is on the"
            " profiles' columns."
        )
    return rows


def unexpressed_rows(
    named: str, genes: Shaped[np.ndarray, " rows"], table: "pd.DataFrame"
) -> Bool[np.ndarray, " rows"]:
    """Which rows are of unexpressed genes.

    Args:
      named: a file with one gene a line, or else a query on `table`.
      genes: of each row, a name, or a set of names all of which must be listed.
      table: what is known of each row.

    Raises:
      UserError: there is no such file, and the table cannot answer such a query.
    """
    if Path(named).is_file():
        listed = {line.strip() for line in Path(named).read_text().splitlines() if line.strip()}
        sets = ({genes} if isinstance(genes, str) else genes for genes in genes)
        return np.fromiter((bool(some) and listed >= some for some in sets), bool, len(genes))
    try:
        return query_rows(table, named, "`unexpressed`", BY_EXPRESSION)
    except UserError as error:
        raise UserError(
            f"{error} Or name a file with one gene a line; there is none at {named}."
        ) from None
