"""Known relationships between genes or compounds: pairs from CORUM, hu.MAP, Reactome, SIGNOR,
StringDB or anybody's file.

Read, by content rather than by name (comma, tab or semicolon; may be gzipped; or Parquet):
  pairs     a table with the columns entity1 and entity2, or one of the pairs in PAIR_COLUMNS
            (SIGNOR's ENTITYA and ENTITYB, …)
  clusters  one complex a line, "name TAB genes separated by spaces"; GMT (name, description, genes,
            TAB between); or a table with a column of members (CLUSTER_COLUMNS: CORUM, hu.MAP),
            separated by spaces, ';', ',' or '|': all pairs of its members
  activities a table of pairs with a column of NANOMOLAR (RxRx3-core's
            compound_gene_interactions.csv: treatment, gene_symbol, nM_value): the pairs of at most
            1,000 nM

Self pairs are dropped, and a pair in both orders counts once (EFAAR's filter_relationships).
Symbols are compared as they are written.
"""

import gzip
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from jaxtyping import Float64, Int, Shaped

from phenomjax.data import store
from phenomjax.system.errors import UserError
from phenomjax.system.files import sha256

if TYPE_CHECKING:
    import pandas as pd

PAIR_COLUMNS = (
    ("entity1", "entity2"),
    ("entitya", "entityb"),
    ("gene1", "gene2"),
    ("gene_1", "gene_2"),
    ("gene_a", "gene_b"),
    ("genea", "geneb"),
    ("from", "to"),
    ("source", "target"),
    ("symbol1", "symbol2"),
    ("protein1", "protein2"),
    ("compound", "gene"),
    ("compound", "target_gene"),
    ("treatment", "gene_symbol"),
    ("treatment", "gene"),
    ("compound", "gene_symbol"),
)
NANOMOLAR = ("nm_value", "value_nm", "nm")  # activity of a compound on a gene
ACTIVE = 1_000.0  # nM; at most so much is an interaction, as RxRx3-core's benchmark has it
CLUSTER_COLUMNS = (
    "genes",
    "members",
    "genenames",
    "gene_names",
    "subunits(gene name)",
    "subunits_gene_name",
)
MEMBERS = re.compile(r"[\s;,|]+")


class Unmatched(TypedDict):
    """What of a source is not in a map: how many of its symbols, five of them, and how many would
    be there if capitals did not matter.
    """

    symbols: int
    symbols_not_in_map: int
    examples: list[str]
    symbols_that_differ_in_case: int


@dataclass(frozen=True)
class Relationships:
    """Pairs of entities that are known to belong together.

    Attributes:
      name: of the source: the file's name without its suffixes.
      pairs: str [pairs, 2]; the first sorts before the second, each pair once.
      read, self_pairs, duplicates: how many pairs the file held, and how many were dropped for
        what.
      digest: SHA-256 of the file.
      sets: the members of each complex or pathway by its name, where the file lists such.
    """

    name: str
    pairs: Shaped[np.ndarray, "pairs 2"]
    read: int
    self_pairs: int
    duplicates: int
    digest: str
    sets: dict[str, list[str]] = field(default_factory=dict)

    @property
    def symbols(self) -> set[str]:
        """All entities named."""
        return set(self.pairs.ravel().tolist())

    def within(self, names: Shaped[np.ndarray, " rows"]) -> Int[np.ndarray, "matched 2"]:
        """Rows of a map for each pair of which both entities are in it, int64 [matched, 2]."""
        import pandas as pd

        index = pd.Index(names)
        rows = np.stack(
            [index.get_indexer(self.pairs[:, 0]), index.get_indexer(self.pairs[:, 1])], axis=1
        )
        return rows[(rows >= 0).all(1)]

    def renamed(self, aliases: Mapping[str, str]) -> "Relationships":
        """The same with current symbols, {old: current}; pairs that became one count once."""
        named = np.vectorize(lambda name: aliases.get(name, name), otypes=[object])
        pairs, own, duplicates = filtered(named(self.pairs) if len(self.pairs) else self.pairs)
        sets = {key: [aliases.get(m, m) for m in some] for key, some in self.sets.items()}
        return replace(
            self,
            pairs=pairs,
            sets=sets,
            self_pairs=self.self_pairs + own,
            duplicates=self.duplicates + duplicates,
        )

    def describe_unmatched(self, names: Shaped[np.ndarray, " rows"]) -> Unmatched:
        """What is not in the map."""
        symbols, known = self.symbols, set(names.tolist())
        missing = sorted(symbols - known)
        upper = {str(name).upper() for name in known}
        return {
            "symbols": len(symbols),
            "symbols_not_in_map": len(missing),
            "examples": missing[:5],
            "symbols_that_differ_in_case": sum(symbol.upper() in upper for symbol in missing),
        }


def filtered(pairs: Shaped[np.ndarray, "pairs 2"]) -> tuple[Shaped[np.ndarray, "kept 2"], int, int]:
    """Sorts each pair, drops self pairs and duplicates: (pairs [n, 2], self pairs, duplicates)."""
    if not len(pairs):
        return np.empty((0, 2), object), 0, 0
    names, codes = np.unique(pairs.astype(str), return_inverse=True)
    codes = codes.reshape(-1, 2)
    own = codes[:, 0] == codes[:, 1]
    kept = np.sort(codes[~own], axis=1).astype(np.int64)
    flat = np.unique(kept[:, 0] * len(names) + kept[:, 1])
    both = np.stack([flat // len(names), flat % len(names)], axis=1)
    return names[both].astype(object).reshape(-1, 2), int(own.sum()), len(kept) - len(flat)


def read_relationships(path: str | Path) -> Relationships:
    """Reads one file of relationships.

    Raises:
      UserError: no such file, or a format that is none of those above.
    """
    path = Path(path)
    text = text_of(path)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(
            f"{path} is empty. Relationships are a table with the columns entity1 and entity2."
        )
    sets: dict[str, list[str]] = {}
    table = not path.name.lower().endswith((".gmt", ".gmt.gz"))
    found = _pairs_of_table(text, lines[0], path) if table else None
    if found is None:
        sets = (_sets_of_table(text, lines[0]) if table else None) or _sets_of_lines(lines, path)
        found = _all_pairs(sets.values())
    pairs, own, duplicates = filtered(found)
    return Relationships(name_of(path), pairs, len(found), own, duplicates, sha256(path), sets)


def text_of(path: Path) -> str:
    """A file of relationships as text.

    Raises:
      UserError: no such file, or it is no text.
    """
    if not path.is_file():
        raise UserError(
            f"There is no file of relationships at {path}.{store.beside(path)} Give a table with"
            " the columns entity1"
            " and entity2 (CORUM.txt, …)."
        )
    try:
        if path.suffix == ".parquet":
            import pandas as pd

            return pd.read_parquet(path).to_csv(index=False)
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise UserError(
            f"{path} is no text file ({type(error).__name__}). Relationships are a table with the"
            " columns entity1 and entity2."
        ) from None


def name_of(path: Path) -> str:
    """A file's name without its suffixes."""
    return re.sub(r"(\.(txt|csv|tsv|gmt|gz|parquet))+$", "", path.name, flags=re.IGNORECASE)


def header_of(line: str) -> tuple[str, list[str]]:
    """Separator of a table, and the names of its columns in small letters."""
    separator = max(("\t", ",", ";"), key=line.count)
    return separator, [field.strip().strip('"').lower() for field in line.split(separator)]


def numbers(texts: "pd.Series", path: Path) -> Float64[np.ndarray, " rows"]:
    """A column of a table as numbers.

    Raises:
      UserError: a text that is none.
    """
    import pandas as pd

    values = pd.to_numeric(texts, errors="coerce")
    if values.isna().any():
        raise UserError(
            f"{path}: column {texts.name} holds {texts[values.isna()].iloc[0]!r}, which is no"
            " number of nM. Correct it, or leave the row out."
        )
    return values.to_numpy(np.float64)


def _pairs_of_table(text: str, header: str, path: Path) -> Shaped[np.ndarray, "pairs 2"] | None:
    """Pairs of a table with a header that is known, or None."""
    separator, names = header_of(header)
    for first, second in PAIR_COLUMNS:
        if first in names and second in names:
            value = [name for name in names if name in NANOMOLAR][:1]
            table = table_of(text, separator)
            places = [names.index(name) for name in (first, second, *value)]
            chosen = table.iloc[:, places].dropna()
            if value:
                chosen = chosen[numbers(chosen.iloc[:, 2], path) <= ACTIVE].iloc[:, :2]
            return np.char.strip(chosen.to_numpy(str)) if len(chosen) else np.empty((0, 2), str)
    return None


def _sets_of_table(text: str, header: str) -> dict[str, list[str]] | None:
    """Complexes of a table with a column of members, named by the column whose name says so, or by
    their number; or None.
    """
    separator, names = header_of(header)
    for column in CLUSTER_COLUMNS:
        if column in names:
            table = table_of(text, separator)
            members = table.iloc[:, names.index(column)]
            named = next((name for name in names if "name" in name and name != column), None)
            titles = (
                members.index.astype(str) if named is None else table.iloc[:, names.index(named)]
            )
            kept = members.notna().to_numpy()
            return _named(
                (str(title) if named else "", MEMBERS.split(str(cell).strip()))
                for title, cell, keep in zip(titles, members, kept, strict=True)
                if keep
            )
    return None


def _named(sets: Iterable[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """{name: members}; a second set of one name gets its number."""
    found: dict[str, list[str]] = {}
    for number, (name, members) in enumerate(sets):
        found[name if name and name not in found else f"{name or 'set'} #{number + 1}"] = members
    return found


def table_of(text: str, separator: str) -> "pd.DataFrame":
    """A table of texts; its empty cells are missing."""
    import pandas as pd

    return pd.read_csv(
        io.StringIO(text),
        sep=separator,
        dtype=str,
        comment="#",
        keep_default_na=False,
        na_values=[""],
        on_bad_lines="skip",
    )


def _sets_of_lines(lines: list[str], path: Path) -> dict[str, list[str]]:
    fields = [line.rstrip("\r\n").split("\t") for line in lines]
    if (
        all(len(row) == 2 for row in fields)
        and sum(" " in row[1].strip() for row in fields) > len(fields) / 2
    ):
        return _named((row[0].strip(), MEMBERS.split(row[1].strip())) for row in fields)
    if path.name.lower().endswith((".gmt", ".gmt.gz")) and all(len(row) >= 3 for row in fields):
        return _named((row[0].strip(), [gene for gene in row[2:] if gene]) for row in fields)
    raise UserError(
        f"{path} is no known format of relationships: its first line is {lines[0][:80]!r}. Give a"
        " table whose header names the columns entity1 and entity2 (for a file of two columns"
        " without a header: sed -i '1i entity1,entity2' FILE, or with a tab), one complex a line"
        " as 'name TAB genes separated by spaces', or a GMT file."
    )


def _all_pairs(clusters: Iterable[list[str]]) -> Shaped[np.ndarray, "pairs 2"]:
    parts = []
    for cluster in clusters:
        members = np.unique([gene for gene in cluster if gene])
        first, second = np.triu_indices(len(members), 1)
        if len(first):
            parts.append(np.stack([members[first], members[second]], axis=1))
    return np.concatenate(parts) if parts else np.empty((0, 2), str)
