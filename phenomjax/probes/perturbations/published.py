"""Accuracies that others report, on the official splits of RxRx1; each with how sure it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of another's table.

    Attributes:
      method: what was trained.
      source: where the numbers stand.
      accuracy: {split: (share of the images, standard deviation over seeds or None)}.
      standard: whether the rules of the WILDS leaderboard hold: nothing is fitted to the test.
      verified: whether the table itself was read for this list.
    """

    method: str
    source: str
    accuracy: dict[str, tuple[float, float | None]]
    standard: bool = True
    verified: bool = True


WILDS = "Koh et al. 2021, WILDS"
RXRX1 = "Sypetkowski et al. 2023, arXiv 2301.05768"

MIXED = Published(
    "ERM, trained on images of the test's experiments too",
    WILDS,
    {"test": (0.398, 0.002)},
    standard=False,
)

# protocol, as of `data.protocol`
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "rxrx1_wilds": (
        Published(
            "ERM, ResNet-50",
            WILDS,
            {"val": (0.194, 0.002), "id_test": (0.359, 0.004), "test": (0.299, 0.004)},
        ),
        Published(
            "CORAL",
            WILDS,
            {"val": (0.185, 0.004), "id_test": (0.340, 0.003), "test": (0.284, 0.003)},
        ),
        Published(
            "Group DRO",
            WILDS,
            {"val": (0.152, 0.001), "id_test": (0.281, 0.003), "test": (0.230, 0.003)},
        ),
        Published(
            "IRM", WILDS, {"val": (0.056, 0.004), "id_test": (0.099, 0.014), "test": (0.082, 0.011)}
        ),
        MIXED,
    ),
    "rxrx1_wilds_mixed": (MIXED,),
    "rxrx1": (
        Published(
            "DenseNet-161, AdaBN (about)",
            RXRX1,
            {"unseen": (0.87, None)},
            standard=False,
            verified=False,
        ),
    ),
}
