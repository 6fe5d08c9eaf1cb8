"""Simulated protein families: a few ancestors evolved along trees, with conserved and free
positions, as a token bank with truth.

NAME.zarr                         a token bank; members are split into train and validation, whole
                                  families are held out as test
NAME.zarr/truth/families.parquet  id, family
NAME.zarr/truth/sites.parquet     family, site (0-based, of the ancestor), residue, rate (of
                                  substitutions, relative; 0 = conserved)
"""

import dataclasses
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phenomjax.data.sequences.bank import open_token_bank, write_token_bank
from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
# Frequencies of amino acids in UniProtKB/Swiss-Prot in percent, in the order of AMINO_ACIDS
# (release statistics, rounded).
FREQUENCIES = np.array(
    [
        8.3,
        1.4,
        5.5,
        6.7,
        3.9,
        7.1,
        2.3,
        5.9,
        5.8,
        9.7,
        2.4,
        4.1,
        4.7,
        3.9,
        5.5,
        6.6,
        5.4,
        6.9,
        1.1,
        2.9,
    ]
)
# Residues within a group replace each other ten times as often as others.
SIMILAR = ("ILMV", "FWY", "KRH", "DE", "NQ", "ST", "AG", "C", "P")


@dataclasses.dataclass(frozen=True)
class FamilyConfig:
    """What is simulated.

    Attributes:
      seed: of everything.
      families: number of ancestors.
      members: proteins a family.
      length: mean number of residues of an ancestor.
      divergence: substitutions per free site from the ancestor to a member.
      conserved: share of sites that never change.
      indel_rate: insertions and deletions of 1 to 4 residues, per branch and site.
      validation: share of the members of each family that is held out.
      test_families: families that are held out whole.
    """

    seed: int = 0
    families: int = 20
    members: int = 40
    length: int = 120
    divergence: float = 0.8
    conserved: float = 0.4
    indel_rate: float = 0.0005
    validation: float = 0.1
    test_families: int = 1


class Protein(NamedTuple):
    """A simulated protein.

    Attributes:
      residues: int64 [length], places in AMINO_ACIDS.
      rates: float64 [length], substitutions of each site, relative; 0 = conserved.
      origin: int64 [length], the ancestor's site that each residue comes from, -1 = inserted.
    """

    residues: np.ndarray
    rates: np.ndarray
    origin: np.ndarray

    @property
    def text(self) -> str:
        """The sequence in letters."""
        return "".join(AMINO_ACIDS[i] for i in self.residues)


def write_families(path: str | Path, config: FamilyConfig) -> None:
    """Writes the bank and its truth; leaves a bank alone that these settings made before.

    Raises:
      UserError: the folder holds something else, or the settings leave nothing to train on.
    """
    path, settings = Path(path), dataclasses.asdict(config)
    if not 0 <= config.test_families < config.families or config.members < 2 or config.length < 10:
        raise UserError(
            f"A simulation of {config.families} families, {config.test_families} of them for the"
            f" test, with {config.members} members of {config.length} residues leaves too little to"
            " train on. Give at least one family more than there are for the test, 2 members, and"
            " 10 residues."
        )
    if (path / "zarr.json").is_file():
        bank = open_token_bank(path)
        if bank.attributes["options"].get("simulated") != settings:
            raise UserError(
                f"{path} is there already and was made with other settings. Give another path, or"
                " delete it."
            )
        return
    ancestors, members = simulate(config)
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    held_out = round(config.validation * config.members)
    for family, proteins in enumerate(members):
        for number, protein in enumerate(proteins):
            known = "validation" if number < held_out else "train"
            splits["test" if family < config.test_families else known].append(
                (f"F{family:03d}_{number:04d}", protein)
            )
    rng = np.random.default_rng([config.seed, 1])
    for rows in splits.values():
        rng.shuffle(rows)  # families side by side would make every lane a single family
    with files.replacing(path) as partial:
        write_token_bank(partial, splits, options={"simulated": settings})
        (partial / "truth").mkdir()
        truth = [(name, int(name[1:4])) for pairs in splits.values() for name, _ in pairs]
        ids, numbers = zip(*truth, strict=True)
        pq.write_table(
            pa.table({"id": ids, "family": numbers}), partial / "truth" / "families.parquet"
        )
        pq.write_table(
            pa.concat_tables(
                pa.table(
                    {
                        "family": [number] * len(text),
                        "site": range(len(text)),
                        "residue": list(text),
                        "rate": rates,
                    }
                )
                for number, (text, rates) in enumerate(ancestors)
            ),
            partial / "truth" / "sites.parquet",
        )
    log.info(
        "wrote %s: %d families of %d simulated proteins", path, config.families, config.members
    )


def simulate(config: FamilyConfig) -> tuple[list[tuple[str, np.ndarray]], list[list[str]]]:
    """Evolves all families.

    Returns:
      ancestors: (sequence, rate of each site) of each family.
      members: the sequences of each family, in random order.
    """
    families = evolve_families(config)
    return [(ancestor.text, ancestor.rates) for ancestor, _ in families], [
        [m.text for m in members] for _, members in families
    ]


def evolve_families(config: FamilyConfig) -> list[tuple[Protein, list[Protein]]]:
    """(ancestor, members in random order) of each family."""
    families = []
    for family in range(config.families):
        rng = np.random.default_rng([config.seed, 0, family])
        length = max(int(rng.normal(config.length, config.length / 6)), 10)
        residues = rng.choice(20, length, p=FREQUENCIES / FREQUENCIES.sum())
        residues[0] = AMINO_ACIDS.index("M")
        rates = rng.gamma(1.0, 1.0, length) * (rng.random(length) >= config.conserved)
        rates[0] = 0.0
        ancestor = Protein(residues, rates, np.arange(length))
        leaves = evolve(rng, ancestor, config.members, config.divergence, config.indel_rate)
        families.append((ancestor, [leaves[k] for k in rng.permutation(config.members)]))
    return families


def evolve(
    rng: np.random.Generator, protein: Protein, leaves: int, depth: float, indel_rate: float
) -> list[Protein]:
    """The leaves of a random binary tree whose leaves are all `depth` substitutions a free site
    away from `protein`.
    """
    # The first of n lineages splits, on average, after 1/n of what is left.
    length = depth if leaves == 1 else depth * rng.uniform(0, 2 / (1 + np.log2(leaves) * 1.5))
    protein = _branch(rng, protein, min(length, depth), indel_rate)
    if leaves == 1:
        return [protein]
    left = int(rng.integers(1, leaves))
    rest = max(depth - length, 0.0)
    return evolve(rng, protein, left, rest, indel_rate) + evolve(
        rng, protein, leaves - left, rest, indel_rate
    )


def _branch(
    rng: np.random.Generator, protein: Protein, length: float, indel_rate: float
) -> Protein:
    """One branch: substitutions at each site's rate, then a few insertions and deletions where
    sites are free.
    """
    sequence, rates, origin = protein.residues.copy(), protein.rates, protein.origin
    changed = np.flatnonzero(rng.random(len(sequence)) < 1.0 - np.exp(-rates * length))
    for site in changed:
        sequence[site] = rng.choice(20, p=EXCHANGE[sequence[site]])
    for site in sorted(
        np.flatnonzero((rng.random(len(sequence)) < indel_rate) & (rates > 0)), reverse=True
    ):
        size = int(rng.integers(1, 5))
        if rng.random() < 0.5:
            end = site + size
            if (rates[site:end] > 0).all():
                sequence, rates, origin = (
                    np.delete(x, slice(site, end)) for x in (sequence, rates, origin)
                )
        else:
            new = rng.choice(20, size, p=FREQUENCIES / FREQUENCIES.sum())
            sequence, rates = np.insert(sequence, site, new), np.insert(rates, site, np.ones(size))
            origin = np.insert(origin, site, np.full(size, -1))
    return Protein(sequence, rates, origin)


def _exchange() -> np.ndarray:
    group = np.array(
        [next(k for k, letters in enumerate(SIMILAR) if a in letters) for a in AMINO_ACIDS]
    )
    weight = np.where(group[:, None] == group, 10.0, 1.0) * FREQUENCIES
    np.fill_diagonal(weight, 0.0)
    return weight / weight.sum(1, keepdims=True)


EXCHANGE = _exchange()  # [20, 20] what replaces a residue that is substituted
