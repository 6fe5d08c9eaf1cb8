"""Official splits of RxRx1 (`data.protocol`): which experiment, and which site of its wells, is of
which split.

RxRx1 has 51 experiments of four cell types, numbered from 1 in each; in its own `metadata.csv` the
first ones of each cell type are `train` and the others `test`. The first test experiment of each
cell type was the public leaderboard of the competition and is the validation set of RxRx1-WILDS
(Koh et al. 2021, https://arxiv.org/abs/2012.07421, section 4.3 and appendix E.3).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from phenomjax.system.errors import UserError, first_of

# of each cell type: experiments to train on, and all of them
EXPERIMENTS = {"HEPG2": (7, 11), "HUVEC": (16, 24), "RPE": (7, 11), "U2OS": (3, 5)}
SITES = ("1", "2")


class Protocol(NamedTuple):
    """An official division of a data set.

    Attributes:
      images: of splits, how many they have in the whole data set, where that is published.
      form: height, width and channels of its images.
    """

    images: dict[str, int]
    form: tuple[int, int, int]


PROTOCOLS = {
    # site 1 is trained on, site 2 of the same wells is the test within the distribution
    "rxrx1_wilds": Protocol(
        {"train": 40_612, "val": 9_854, "id_test": 40_612, "test": 34_432},
        (256, 256, 3),
    ),
    # site 1 of 19 experiments and of the 14 of the test, whose site 2 is the test: what a model
    # reaches that has seen the batches
    "rxrx1_wilds_mixed": Protocol({"val": 9_854}, (256, 256, 3)),
    # both sites of 33 experiments; "unseen" is all of the other 18
    "rxrx1": Protocol(
        {"train": 81_224, "val": 9_854, "test": 34_432, "unseen": 44_286},
        (512, 512, 6),
    ),
}


def splits_of(protocol: str, experiment: str | None, site: str | None) -> tuple[str, ...] | None:
    """The splits that an image is of, () for one that the protocol leaves out; None where RxRx1 has
    no such experiment, or the protocol needs a site that is not there.
    """
    match = re.fullmatch(r"(\w+?)[-_]0*([1-9]\d*)", (experiment or "").strip().upper())
    if match is None or match[1] not in EXPERIMENTS:
        return None
    number, (trained, last) = int(match[2]), EXPERIMENTS[match[1]]
    if number > last or (protocol != "rxrx1" and site not in SITES):
        return None
    if number == trained + 1:
        return ("val", "unseen") if protocol == "rxrx1" else ("val",)
    seen = number <= trained
    if protocol == "rxrx1":
        return ("train",) if seen else ("test", "unseen")
    if protocol == "rxrx1_wilds":
        return (("train", "id_test")[SITES.index(str(site))],) if seen else ("test",)
    if not seen:
        return (("train", "test")[SITES.index(str(site))],)
    # as many of each cell type make room as come from the test
    return ("train",) if site == "1" and number > last - trained - 1 else ()


def not_of(protocol: str, places: Sequence[tuple[str | None, str | None]]) -> UserError:
    """The error of images that a protocol knows nothing of.

    Args:
      protocol: its name.
      places: experiment and site of some of them.
    """
    (experiment, site), *_ = places
    if splits_of("rxrx1", experiment, site) is not None:
        return UserError(
            f"data.protocol is '{protocol}', which divides the wells of RxRx1 by their sites 1 and"
            f" 2, but images of {first_of(dict.fromkeys(str(one) for one, _ in places))} have the"
            f" site {site!r}. Prepare them with `python -m phenomjax.prepare images --layout"
            " rxrx1`, which takes it from their names, or set --config.data.protocol=rxrx1, which"
            " takes all sites."
        )
    named = first_of(dict.fromkeys(one or "no named experiment" for one, _ in places))
    return UserError(
        f"data.protocol is '{protocol}', which divides the experiments of RxRx1 (HEPG2-01 to"
        f" HEPG2-11, HUVEC-01 to -24, RPE-01 to -11, U2OS-01 to -05), but the banks have images of"
        f" {named}. Give a bank of RxRx1 (`python -m phenomjax.prepare images --layout rxrx1`), or"
        " hold out experiments of your own: --config.data.protocol=''."
    )
