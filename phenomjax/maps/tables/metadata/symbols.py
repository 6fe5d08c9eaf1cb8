"""--aliases FILE: old names and aliases of genes brought to their current symbols.

The file is HGNC's complete set (symbol, alias_symbol, prev_symbol; or a custom download with
Approved symbol, Previous symbols, Alias symbols), NCBI's gene_info (Symbol, Synonyms), or any table
of two columns: a name, and its current symbol.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from phenomjax.data import store
from phenomjax.maps.tables.frames import read_frame
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

CURRENT = ("symbol", "approvedsymbol", "currentsymbol", "hgncsymbol", "current", "new", "to")
PREVIOUS = ("prevsymbol", "previoussymbols", "previoussymbol", "prevsymbols")
ALIASES = ("aliassymbol", "aliassymbols", "alias", "aliases", "synonyms", "synonym", "old", "from")
_LISTED = re.compile(r"[|,;]")


def read_aliases(path: str | Path) -> dict[str, str]:
    """{old name or alias: current symbol}.

    A previous symbol comes before an alias; a current symbol is never changed but for its capitals
    (C1ORF112 is C1orf112), and a name that several genes bear is left alone.

    Raises:
      UserError: no such file, or its columns are not told.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"`aliases`: there is no file at {path}.{store.beside(path)} Give HGNC's complete set,"
            " or a table of two"
            " columns: a name, and its current symbol."
        )
    table = read_frame(path)
    plain = {re.sub(r"[\W_]", "", str(name).lower()): name for name in table.columns}
    current = next((plain[name] for name in CURRENT if name in plain), None)
    tiers = [[plain[n] for n in names if n in plain] for names in (PREVIOUS, ALIASES)]
    if current is None or not any(tiers):
        if len(table.columns) != 2:
            raise UserError(
                f"`aliases` {path} has neither HGNC's columns (symbol, alias_symbol, prev_symbol)"
                f" nor two: {', '.join(map(str, table.columns[:8]))}. Give a table of two columns:"
                " a name, and its current symbol."
            )
        current, tiers = table.columns[1], [[table.columns[0]]]
    symbols = {str(symbol).strip() for symbol in table[current].dropna()}
    upper = {symbol.upper(): symbol for symbol in symbols}
    found = {name: symbol for name, symbol in upper.items() if name not in symbols}
    for columns in tiers:
        genes: dict[str, set[str]] = {}
        for name, symbol in _names(table, columns, current):
            genes.setdefault(name, set()).add(symbol)
        for name, of in genes.items():
            if len(of) == 1 and name not in symbols:
                found.setdefault(name, *of)
    return found


def _names(
    table: "pd.DataFrame", columns: Iterable[object], current: object
) -> Iterable[tuple[str, str]]:
    """(name, current symbol) of each name that some columns list."""
    for column in columns:
        known = table[[column, current]].dropna()
        for names, symbol in known.itertuples(index=False):
            for name in _LISTED.split(str(names)):
                if name.strip() not in ("", "-"):
                    yield name.strip(), str(symbol).strip()


def with_current(
    genes: "pd.Series", aliases: dict[str, str], separators: str
) -> tuple["pd.Series", dict[str, str]]:
    """A column of genes, or of lists of them, with current symbols.

    Args:
      genes: texts, missing where none is named.
      aliases: of `read_aliases`.
      separators: signs that part a list.

    Returns:
      genes: the same rows.
      changed: {old: current} of those that occur.
    """
    changed: dict[str, str] = {}
    name = re.compile(f"[^{re.escape(separators)}]+" if separators else ".+")

    def one(match: re.Match[str]) -> str:
        old = match[0].strip()
        new = aliases.get(old) or (aliases.get(old.upper()) if old.upper() != old else None)
        if new is None or new == old:
            return match[0]
        changed[old] = new
        return match[0].replace(old, new)

    renamed = {text: name.sub(one, str(text)) for text in genes.dropna().unique()}
    return genes.map(lambda text: renamed.get(text, text)), changed
