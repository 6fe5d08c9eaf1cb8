"""Which profiles are compared with which, as flags: copairs' four lists of columns, or of roles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import tyro
from jaxtyping import Bool, Int, Shaped

from phenomjax.maps.retrieval import significance
from phenomjax.maps.retrieval.average_precision import Similarity
from phenomjax.maps.retrieval.pairs import Conditions, codes_of
from phenomjax.maps.tables.columns import Columns, require
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.system.errors import UserError

Rule = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[COLUMN ...]")]
ROLES = ("perturbation", "gene", "dose", "kind", "well")  # attributes of Columns


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """Of commands that report mean average precision."""

    GROUPS: ClassVar[dict[str, str]] = {"pos_sameby": "retrieval"}

    pos_sameby: Rule = ("perturbation",)
    """mAP: what wells share that should find each other. Names of columns, or of roles:
    perturbation, gene, dose, kind, well, plate, batch"""
    pos_diffby: Rule = ()
    """in what they must differ: plate for replicates on other plates only, well for other
    positions only"""
    neg_sameby: Rule = ("plate",)
    """what they share with the wells among which they are to be found; nothing behind the flag for
    those of all plates"""
    neg_diffby: Rule = ("perturbation",)
    """in what they differ from these"""
    similarity: Similarity = "cosine"
    """of two profiles"""
    null_size: int = significance.NULL_SIZE
    """random rankings of each null of mAP"""
    p_values: significance.Rule = "careful"
    """of mAP. copairs: its own, which call noise active where wells have one replicate to find, or
    plates not the same number of controls; careful: equal elsewhere, larger there"""

    def check(self) -> None:
        """Refuses what no null can be made of.

        Raises:
          UserError: `null_size` is below 1.
        """
        if self.null_size < 1:
            raise UserError(f"`null_size` is {self.null_size}; it must be at least 1.")


def conditions_of(
    options: RetrievalOptions,
    profiles: Profiles,
    columns: Columns,
    labels: Shaped[np.ndarray, " rows"],
    found: tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"]],
) -> tuple[Conditions, Conditions]:
    """The rules on the rows of a table: of positives, of negatives.

    Args:
      options: with the rules.
      profiles: the wells.
      columns: of their metadata.
      labels: what `perturbation` means for positives (with the dose, where doses are apart).
      found: rows that can be positives, rows that can be negatives.

    Raises:
      UserError: a column that is not there, or is empty where it is asked.
    """
    either = found[0] | found[1]

    def codes(
        names: Sequence[str], flag: str, used: Bool[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " rows"], ...]:
        return tuple(_codes(name, flag, profiles, columns, used) for name in names)

    same = tuple(
        codes_of(labels)
        if name == "perturbation"
        else _codes(name, "`pos_sameby`", profiles, columns, found[0])
        for name in options.pos_sameby
    )
    positives = Conditions(same, codes(options.pos_diffby, "`pos_diffby`", found[0]), found[0])
    negatives = Conditions(
        codes(options.neg_sameby, "`neg_sameby`", either),
        codes(options.neg_diffby, "`neg_diffby`", either),
        found[1],
    )
    return positives, negatives


def _codes(
    name: str,
    flag: str,
    profiles: Profiles,
    columns: Columns,
    used: Bool[np.ndarray, " rows"],
) -> Int[np.ndarray, " rows"]:
    metadata = profiles.metadata
    if name in ("plate", "batch"):
        names = [*columns.batch, *([columns.plate] if name == "plate" else [])]
        there = [one for one in dict.fromkeys(names) if one in metadata.columns]
        if not there:
            return np.zeros(len(metadata), np.int64)
        return metadata.groupby(there, dropna=False, observed=True).ngroup().to_numpy(np.int64)
    column = getattr(columns, name) if name in ROLES else name
    values = require(metadata, column, flag)
    empty = values.isna().to_numpy() & used
    if name != "perturbation" and empty.any():
        raise UserError(
            f"{flag} {name}: {int(empty.sum())} of the {int(used.sum())} wells that are compared"
            f" have no value in '{column}' (the first: row {int(np.flatnonzero(empty)[0])}), so"
            " that nothing is the same or different there. Name a column that all of them have."
        )
    return codes_of(values)
