"""Labels of simulated protein families, as files that an evaluation suite reads: nothing is
downloaded, and every label is known.

families.csv         id, sequence, family, divergence (share of the ancestor's residues that are
                     others now or gone), split
sites.fasta          the sequences
sites_labels.fasta   C = the site is conserved, F = it is free
mutants.csv          mutant, effect: single substitutions of wild_type.fasta, an ancestor
settings.json        what was simulated

The families are those of `data.simulate` with the same settings, so a model that was trained on
them knows the training members, and none of the tests: "members" are held out of the families it
knows, "relatives" evolved from the same ancestors for longer, "new family" is none of them.
"""

import csv
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS
from phenomjax.data.simulated.families import (
    EXCHANGE,
    FamilyConfig,
    Protein,
    evolve,
    evolve_families,
)
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
# of each family: how many, substitutions a free site, indels a branch and site
RELATIVES, DEPTH, INDEL_RATE = 6, 2.5, 0.003
SITES = 60  # of the mutated protein
# rate of what never happens; standard deviation of the measurement, in natural logarithms
NEVER, NOISE = 1e-4, 0.5
TRAIN, MEMBERS, NEW, FAR = "train", "members", "new family", "relatives"


def write(folder: Path, config: FamilyConfig) -> None:
    """Writes the files, all of them or none; leaves alone what these settings made before.

    Args:
      folder: to make.
      config: of the families; with at least one that is held out, and one that is not.

    Raises:
      UserError: the folder holds something else.
    """
    settings = dataclasses.asdict(config) | {
        "relatives": RELATIVES,
        "depth": DEPTH,
        "sites": SITES,
        "version": 1,
    }
    marker = folder / "settings.json"
    if folder.exists():
        if not marker.is_file() or json.loads(marker.read_text(encoding="utf-8")) != settings:
            raise UserError(
                f"{folder} is there already, and was not made with these settings. Delete it, and"
                " it is simulated again, or give the suite another folder with --data."
            )
        return
    with files.replacing(folder) as partial:
        partial.mkdir()
        count = _write(partial, config)
        files.write_json(partial / marker.name, settings)
    log.info("wrote %s: %d simulated proteins with labels", folder, count)


def _write(folder: Path, config: FamilyConfig) -> int:
    """Writes all but the settings; returns how many proteins there are."""
    families = evolve_families(config)
    rows = _proteins(config, families)
    table = []
    for name, split, protein in rows:
        divergence = _divergence(families[int(name[1:4])][0], protein)
        table.append([name, protein.text, name[:4], f"{divergence:.4f}", split])
    header = ["id", "sequence", "family", "divergence", "split"]
    _write_table(folder / "families.csv", header, table)
    _write_fasta(folder / "sites.fasta", rows, [protein.text for *_, protein in rows])
    labels = ["".join(np.where(protein.rates > 0, "F", "C")) for *_, protein in rows]
    _write_fasta(folder / "sites_labels.fasta", rows, labels)
    ancestor, name = families[-1][0], f"F{len(families) - 1:03d}_ancestor"
    (folder / "wild_type.fasta").write_text(f">{name}\n{ancestor.text}\n")
    effects = _mutants(ancestor, np.random.default_rng([config.seed, 3]))
    _write_table(folder / "mutants.csv", ["mutant", "effect"], effects)
    return len(rows)


def _write_fasta(path: Path, rows: list[tuple[str, str, Protein]], texts: list[str]) -> None:
    lines = [
        f">{name} SPLIT={split}\n{text}\n"
        for (name, split, _), text in zip(rows, texts, strict=True)
    ]
    path.write_text("".join(lines))


def _proteins(
    config: FamilyConfig, families: list[tuple[Protein, list[Protein]]]
) -> list[tuple[str, str, Protein]]:
    """(id, split, protein), with the ids and the held-out members of the bank that is simulated
    with the same settings.
    """
    rows, held_out = [], round(config.validation * config.members)
    for family, (ancestor, members) in enumerate(families):
        known = family >= config.test_families
        for number, protein in enumerate(members):
            split = (MEMBERS if number < held_out else TRAIN) if known else NEW
            rows.append((f"F{family:03d}_{number:04d}", split, protein))
        if known:
            rng = np.random.default_rng([config.seed, 2, family])
            relatives = evolve(rng, ancestor, RELATIVES, DEPTH, INDEL_RATE)
            rows += [
                (f"F{family:03d}_r{number:03d}", FAR, protein)
                for number, protein in enumerate(relatives)
            ]
    return rows


def _divergence(ancestor: Protein, protein: Protein) -> float:
    there = protein.origin >= 0
    same = protein.residues[there] == ancestor.residues[protein.origin[there]]
    return 1.0 - same.sum() / len(ancestor.residues)


def _mutants(wild_type: Protein, rng: np.random.Generator) -> list[list[str]]:
    """All substitutions of the first SITES sites: log(rate of the site x probability of the new
    residue), and noise.
    """
    rows = []
    for site in range(1, min(SITES + 1, len(wild_type.residues))):
        old = wild_type.residues[site]
        for new in range(len(AMINO_ACIDS)):
            if new != old:
                effect = (
                    np.log(wild_type.rates[site] * EXCHANGE[old, new] + NEVER)
                    + NOISE * rng.standard_normal()
                )
                rows.append([f"{AMINO_ACIDS[old]}{site + 1}{AMINO_ACIDS[new]}", f"{effect:.4f}"])
    return rows


def _write_table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
