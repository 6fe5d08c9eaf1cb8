"""Gate after gate: what became of each image, and how much was left."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from phenomjax.data.selections import Judged
from phenomjax.prepare.curate.metadata import Labels
from phenomjax.prepare.curate.wells import NONE, Wells


class Left(NamedTuple):
    """What a gate dropped, and what was left behind it.

    Attributes:
      gate: the reason that it gives; "all" before the first.
      dropped: images.
      images, wells, perturbations, controls: left; controls are wells.
    """

    gate: str
    dropped: int
    images: int
    wells: int
    perturbations: int
    controls: int


@dataclass
class Verdicts:
    """Of all images.

    Attributes:
      wells, labels: of them.
      reasons: all that there are; the first, "", is that of what no gate has dropped.
      reason: of each image, its place there.
      gates: how many were left, gate after gate.
    """

    wells: Wells
    labels: Labels

    def __post_init__(self) -> None:
        self.reasons = [""]
        self.reason: Int[np.ndarray, " rows"] = np.zeros(len(self.wells.of_row), np.uint8)
        self.gates = [self._left("all", 0)]

    @property
    def alive(self) -> Bool[np.ndarray, " rows"]:
        """The images that no gate has dropped so far."""
        return self.reason == 0

    @property
    def alive_wells(self) -> Bool[np.ndarray, " wells"]:
        """The wells that have such an image."""
        return self.wells.images(self.alive) > 0

    def drop_images(self, mask: Bool[np.ndarray, " rows"], reason: str) -> None:
        """A gate that looks at images."""
        mask = mask & self.alive
        self.reason[mask] = self._code(reason)
        self.gates.append(self._left(reason, int(mask.sum())))

    def drop_wells(self, mask: Bool[np.ndarray, " wells"], reason: str) -> None:
        """A gate that looks at wells."""
        self.drop_images(mask[self.wells.of_row], reason)

    def drop_labels(self, mask: Bool[np.ndarray, " labels"], reason: str) -> None:
        """A gate that looks at perturbations."""
        self.drop_wells(self.of_labels(mask), reason)

    def of_labels(self, mask: Bool[np.ndarray, " labels"]) -> Bool[np.ndarray, " wells"]:
        """The wells of perturbations."""
        return np.append(mask, False)[self.labels.of_well]  # NONE is the last place

    def keep(self, wells: Bool[np.ndarray, " wells"], reason: str) -> None:
        """Why what is left of these wells is kept; comes after the last gate."""
        mask = wells[self.wells.of_row] & self.alive
        self.reason[mask] = self._code(reason)

    def judged(self, kept: Bool[np.ndarray, " rows"]) -> list[Judged]:
        """What a selection says of each bank."""
        edges = self.wells.first
        there = np.flatnonzero(np.bincount(self.reason, minlength=len(self.reasons)))
        names = [self.reasons[code] for code in there]
        codes = np.zeros(len(self.reasons), np.uint8)
        codes[there] = np.arange(len(there))
        return [
            Judged(kept[start:stop], codes[self.reason[start:stop]], names)
            for start, stop in itertools.pairwise(edges.tolist())
        ]

    def counted(self) -> dict[str, int]:
        """Images of each reason."""
        counts = np.bincount(self.reason, minlength=len(self.reasons))
        return {reason: int(n) for reason, n in zip(self.reasons, counts, strict=True) if n}

    def _code(self, reason: str) -> int:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason)

    def _left(self, gate: str, dropped: int) -> Left:
        alive = self.alive_wells
        labels = self.labels.of_well[alive]
        controls = int((alive & (self.wells.negative | self.wells.positive)).sum())
        perturbations = len(np.unique(labels[labels != NONE]))
        return Left(gate, dropped, int(self.alive.sum()), int(alive.sum()), perturbations, controls)


def spread(
    verdicts: Verdicts,
) -> tuple[Int[np.ndarray, " labels"], Int[np.ndarray, " labels"]]:
    """In how many experiments each perturbation is, and how many wells it has, that are alive."""
    wells, labels = verdicts.wells, verdicts.labels
    places = np.flatnonzero(verdicts.alive_wells & (labels.of_well != NONE))
    of = labels.of_well[places]
    experiments = wells.columns["experiment"].codes[places].astype(np.int64)
    pairs = np.unique(of * (experiments.max(initial=0) + 1) + experiments)
    names = pairs // (experiments.max(initial=0) + 1)
    count = len(labels)
    return np.bincount(names, minlength=count), np.bincount(of, minlength=count)
