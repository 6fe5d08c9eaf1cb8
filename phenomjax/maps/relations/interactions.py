"""Measured activities of compounds on the products of genes (ChEMBL, BindingDB, Guide to
Pharmacology), as RxRx3-core's compound_gene_interactions.csv has them: one row a measurement, with
the columns treatment, gene_symbol and nM_value (IC50, Ki, Kd or EC50 in nM).

A compound may be measured on a gene many times: it is active there if one measurement says so.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Shaped

from phenomjax.maps.relations import relationships
from phenomjax.maps.relations.relationships import ACTIVE, NANOMOLAR
from phenomjax.system.errors import UserError
from phenomjax.system.files import sha256

INACTIVE = 10_000.0  # nM; above it a measurement says that a compound does nothing to a gene


@dataclass(frozen=True)
class Interactions:
    """One entry a measurement.

    Attributes:
      compound, gene: names, object [measurements].
      nanomolar: concentration of half the effect, nM.
      name: of the file, without its suffixes.
      digest: SHA-256 of the file.
    """

    compound: Shaped[np.ndarray, " measurements"]
    gene: Shaped[np.ndarray, " measurements"]
    nanomolar: Float64[np.ndarray, " measurements"]
    name: str
    digest: str

    def active(self, compound: str) -> Shaped[np.ndarray, " genes"]:
        """Genes that a compound acts on, at ACTIVE nM or less by one measurement, sorted."""
        return np.unique(self.gene[(self.compound == compound) & (self.nanomolar <= ACTIVE)])

    def unclear(self, compound: str) -> Shaped[np.ndarray, " genes"]:
        """Genes with a measurement between ACTIVE and INACTIVE: neither targets nor none."""
        between = (self.nanomolar > ACTIVE) & (self.nanomolar <= INACTIVE)
        return np.unique(self.gene[(self.compound == compound) & between])


def is_interactions(path: str | Path) -> bool:
    """Whether a file of relationships holds measured activities."""
    text = relationships.text_of(Path(path))
    _, names = relationships.header_of(text.partition("\n")[0])
    return any(name in NANOMOLAR for name in names)


def read_interactions(path: str | Path) -> Interactions:
    """Reads measured activities.

    Raises:
      UserError: no such file, or it lacks a column or values.
    """
    path = Path(path)
    text = relationships.text_of(path)
    separator, names = relationships.header_of(text.partition("\n")[0])
    value = next((name for name in names if name in NANOMOLAR), None)
    pair = next((p for p in relationships.PAIR_COLUMNS if set(p) <= set(names)), None)
    if value is None or pair is None:
        raise UserError(
            f"{path} holds no measured activities: they are a table with the columns treatment,"
            " gene_symbol and nM_value, as compound_gene_interactions.csv of RxRx3-core has them;"
            f" it begins with {text[:80].splitlines()[0]!r}."
        )
    table = relationships.table_of(text, separator)
    chosen = table.iloc[:, [names.index(name) for name in (*pair, value)]].dropna()
    nanomolar = relationships.numbers(chosen.iloc[:, 2], path)
    compound, gene = (chosen.iloc[:, k].str.strip().to_numpy(object) for k in range(2))
    return Interactions(compound, gene, nanomolar, relationships.name_of(path), sha256(path))
