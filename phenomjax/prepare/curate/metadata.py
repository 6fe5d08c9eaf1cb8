"""What the metadata of wells leave open: what is missing, and what says two things."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from phenomjax.prepare.curate.wells import NONE, Wells, distinct
from phenomjax.system.errors import UserError, first_of

NEEDED = ("experiment", "plate", "well")
GENETIC = ("crispr", "sirna", "orf")


@dataclass(frozen=True)
class Labels:
    """What replicates share: the perturbation, its type, and with doses apart its concentration.

    Attributes:
      of_well: the label of each well, NONE of controls and of what has no name.
      names: of the labels, in the order of their numbers.
      perturbations, types, concentrations: of the labels; "" where there is none.
    """

    of_well: Int[np.ndarray, " wells"]
    names: Sequence[str]
    perturbations: Sequence[str]
    types: Sequence[str]
    concentrations: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)


def labels_of(wells: Wells, doses: str) -> Labels:
    """Numbers the perturbations of wells."""
    columns = [wells.columns[name] for name in ("perturbation", "perturbation_type")]
    columns += [wells.columns["concentration"]] if doses == "apart" else []
    studied = (columns[0].codes != NONE) & ~wells.negative & ~wells.positive
    codes = np.stack([one.codes for one in columns])[:, studied]
    numbers = distinct(codes)
    of_well = np.full(len(wells), NONE, np.int32)
    of_well[studied] = numbers
    _, first = np.unique(numbers, return_index=True)
    texts = [
        ["" if code == NONE else one.texts[code] for code in row[first]]
        for one, row in zip(columns, codes, strict=True)
    ]
    doses_of = texts[2] if len(texts) > 2 else [""] * len(first)
    pairs = zip(texts[0], doses_of, strict=True)
    names = [f"{name} @ {dose}" if dose else name for name, dose in pairs]
    return Labels(of_well, names, texts[0], texts[1], doses_of)


def missing(wells: Wells, labels: Labels, doses: str) -> dict[str, Bool[np.ndarray, " wells"]]:
    """By column, the wells that lack it.

    Raises:
      UserError: no well has it.
    """
    control = wells.negative | wells.positive
    found = {name: wells.columns[name].codes == NONE for name in NEEDED}
    found["perturbation"] = (wells.columns["perturbation"].codes == NONE) & ~control
    for name, mask in found.items():
        if mask.all():
            and_so = "" if name in NEEDED else ", and none is a control"
            raise UserError(
                f"The column {name} is empty for all images of the banks{and_so}, so that nothing"
                " can be chosen by it."
                " Prepare them again with what is known of the wells, `python -m phenomjax.prepare"
                f" images --metadata TABLE`, or where it is the same of all with `python -m"
                f" phenomjax.prepare images --default {name}=NAME`."
            )
    if doses == "apart":
        dose = wells.columns["concentration"].codes != NONE
        names = wells.columns["perturbation"].codes
        given = np.bincount(names[dose & (names != NONE)], minlength=names.max(initial=0) + 1) > 0
        found["concentration"] = ~dose & (labels.of_well != NONE) & given[names]
    return found


def ambiguous(wells: Wells) -> dict[str, Bool[np.ndarray, " wells"]]:
    """By what they leave open, wells whose metadata say two things."""
    names = wells.columns["perturbation"].codes
    kinds = wells.columns["perturbation_type"]
    count = names.max(initial=0) + 1
    named = names != NONE
    controls = np.bincount(names[wells.negative & named], minlength=count) > 0
    genetic = named & np.any([kinds.named(kind) for kind in GENETIC], axis=0)
    genes = wells.columns["gene"].codes
    with_gene = genetic & (genes != NONE)
    pairs = np.unique(np.stack([names, kinds.codes, genes])[:, with_gene], axis=1)
    several, times = np.unique(pairs[:2], axis=1, return_counts=True)
    twice = {tuple(pair) for pair in several[:, times > 1].T.tolist()}
    of_two = np.zeros(len(wells), bool)
    for name, kind in twice:
        of_two |= (names == name) & (kinds.codes == kind)
    return {
        "a well whose images differ": wells.ambiguous,
        "the name of a negative control, and not marked as one": named
        & controls[names]
        & ~wells.negative,
        "a perturbation of two genes": of_two & ~wells.negative,
    }


def told(found: dict[str, Bool[np.ndarray, " wells"]], wells: Wells) -> str:
    """ "perturbation of 3 wells (EXP01/P01/A01, …); …" for what there is; "" for nothing."""
    return "; ".join(
        f"{what}: {int(mask.sum())} wells"
        f" ({first_of([wells.name(int(one)) or '-' for one in np.flatnonzero(mask)[:4]], 3)})"
        for what, mask in found.items()
        if mask.any()
    )
