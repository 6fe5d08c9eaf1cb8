"""The options of `prepare curate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from phenomjax.data import store
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare.curate.pixels.limits import GateOptions
from phenomjax.statistics.consistency import DRAWS, Null, check_draws
from phenomjax.system import outputs
from phenomjax.system.errors import UserError, check_folder_of
from phenomjax.system.options import unrecorded

EXPERIMENTS, WELLS = 3, 20  # of a perturbation, as Phenoprints-16M asks
REPORT = "_report"


@dataclass(frozen=True, kw_only=True)
class Options(GateOptions, EngineOptions):
    """The banks, the witnesses, and what is asked of an image."""

    GROUPS: ClassVar[dict[str, str]] = {"min_experiments": "consistency", "subset": ""}

    bank: Annotated[tuple[Path, ...], arg(metavar="BANK …")]
    """image banks, NAME.zarr"""

    out: Path
    """NAME.parquet, a row for each image with `kept` and `reason`, which a run reads as
    --config.data.selection; figures and tables go into NAME_report"""

    embeddings: Annotated[tuple[Path, ...], arg(metavar="E.zarr …")] = ()
    """of these banks by one model or several (`phenomjax.embed --level site` is best: then images
    that are dropped take no part); of several banks the folder that embed wrote for each model.
    None: no perturbation is asked whether it does anything"""

    block: Annotated[int | None, arg(metavar="N")] = None
    """of embeddings of several blocks"""

    pixels: bool = True
    """look at the images, and drop those that are out of focus, empty, dead or saturated; what is
    measured stays in NAME.measures.parquet, and serves other limits too"""

    min_experiments: Annotated[int | None, arg(metavar="N")] = None
    """in which a perturbation must be; None: 3, or those of the middle one if they are fewer"""

    min_wells: Annotated[int | None, arg(metavar="M")] = None
    """that a perturbation must have in all; None: 20, or half of what the middle one has if that is
    less"""

    max_p: Annotated[float, arg(metavar="P")] = 0.01
    """of the consistency test, over all experiments, by any one of the models"""

    null: Null = "random"
    """of the consistency test: random sets of wells, or sets that share their position on the
    plates as the replicates do (edges look alike without a common perturbation)"""

    draws: int = DRAWS
    """random sets of wells of the null"""

    doses: Literal["apart", "together"] = "apart"
    """a compound at each concentration is a perturbation of its own, or not"""

    negative_controls: Annotated[float, arg(metavar="SHARE")] = 0.3
    """of the wells of negative controls (`is_control`) of each experiment, so many are kept"""

    positive_controls: Annotated[float, arg(metavar="SHARE")] = 0.1
    """of those of positive controls (`perturbation_type` control that are not `is_control`)"""

    seed: int = 0
    """of the null, and of the controls that are kept"""

    subset: Annotated[Path | None, arg(metavar="NAME.zarr")] = None
    """also write what is kept as a bank of its own, which copies its pixels"""

    overwrite: bool = unrecorded(False)
    """replace the selection that is at OUT"""

    def check(self) -> None:
        """Refuses what cannot be, before any work.

        Raises:
          UserError: a setting out of its range, or a place that cannot be written.
        """
        if self.out.suffix != ".parquet" or store.is_remote(self.out):
            raise UserError(
                f"`out` {store.url(self.out)} must be a file on a disk that ends with .parquet. Of"
                " what it keeps a bank is made with `subset` NAME.zarr; into a store it goes with"
                " `python -m phenomjax.prepare mirror`."
            )
        check_folder_of(self.out)
        outputs.refuse(self.out, self.overwrite)
        if self.subset is not None and self.subset.suffix != ".zarr":
            raise UserError(f"`subset` {self.subset} is a bank: its name must end with .zarr.")
        if self.subset is not None and store.is_dir(self.subset):
            raise UserError(
                f"`subset` {store.url(self.subset)} is there already. Give another name, or delete"
                " it to make it again."
            )
        for name in ("negative_controls", "positive_controls"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"`{name}` is {getattr(self, name):g}: it is the share that is kept, from 0 for"
                    " none to 1 for all."
                )
        if not 0 < self.max_p <= 1:
            raise UserError(f"`max_p` is {self.max_p:g}; it must be above 0 and at most 1.")
        for name, least in (("min_experiments", 1), ("min_wells", 1)):
            if (given := getattr(self, name)) is not None and given < least:
                raise UserError(f"`{name}` is {given}; it must be {least} or more.")
        check_draws(self.draws)
        if 1 / (1 + self.draws) >= self.max_p:
            raise UserError(
                f"`draws` is {self.draws}, so that no p is below {1 / (1 + self.draws):g} and none"
                f" below `max_p`, {self.max_p:g}. Give `draws` of {int(20 / self.max_p)}: of many"
                " experiments one alone may then decide."
            )
