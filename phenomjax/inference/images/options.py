"""The options of embedding images."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from phenomjax.data import store
from phenomjax.inference.options import EmbedOptions
from phenomjax.system.errors import UserError
from phenomjax.system.options import unrecorded

Count = Annotated[int, arg(metavar="N")]
Pixels = Annotated[int, arg(metavar="PX")]


@dataclass(frozen=True, kw_only=True)
class StatisticsOptions:
    """How statistics of batch norms are taken that are no running ones."""

    SHOWN_LAST: ClassVar[bool] = True
    GROUPS: ClassVar[dict[str, str]] = {"statistics_by": "statistics"}

    statistics_by: Annotated[str, arg(metavar="COLUMN")] = "experiment"
    """of the metadata, in place of the experiment: plate, for instance"""
    control_weight: Annotated[float | None, arg(metavar="W")] = None
    """of the controls, of 1, for statistics of controls; nothing: as in training. 1 = controls
    alone, where experiments have few perturbations, or others than training had"""
    statistics_batch: Count = 0
    """crops that are normalised together while statistics are taken; 0: as in training"""
    statistics_least: Count = 8
    """images that an experiment must have for statistics of its own; controls, for those of
    controls"""


@dataclass(frozen=True, kw_only=True)
class Options(StatisticsOptions, EmbedOptions):
    """Of `python -m phenomjax.embed images`."""

    GROUPS: ClassVar[dict[str, str]] = {
        "random_weights": "embedding",
        "batch_size": "machine",
        "dry_run": "estimate",
    }

    bank: Annotated[tuple[Path, ...], arg(metavar="BANK …")] = ()
    """image banks of phenomjax.prepare, or OME-Zarr plates"""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """what to write: NAME.zarr, or with several banks a folder, in which each gets BANK.zarr"""
    level: Literal["crop", "site", "well"] = "well"
    """what a vector stands for: a crop, the mean of an image's crops, or the mean of a well's
    images"""
    random_weights: Annotated[int | None, arg(metavar="SEED")] = None
    """embed with the untrained twin instead: the same network with random parameters, the baseline
    that shows what was learnt (`python -m phenomjax.maps benchmark --against`)"""
    dtype: Literal["float16", "float32"] = "float16"
    """of the result"""
    crop_size: Pixels = 0
    """of the square crops; 0: as in training"""
    stride: Pixels = 0
    """from crop to crop; less than the crop size makes them overlap; 0: the crop size. The grid is
    centred in the image, and what does not fit is left out on either side"""
    block: Annotated[tuple[int, ...], arg(metavar="N …")] = ()
    """blocks of the encoder whose tokens are averaged, from 1; none: the last one; several give
    arrays embeddings_block_N"""
    channelwise: bool = False
    """of a channel-agnostic model: one embedding a channel, side by side"""
    channels: Annotated[tuple[str, ...], arg(metavar="NAME …")] = ()
    """of a channel-agnostic model: which of the bank's; none: all"""
    statistics: Literal["running", "experiment", "controls"] = "running"
    """that batch norms use: those of training; of all images of the image's experiment (AdaBN); or
    of its experiment's controls and its other images, each with a fixed weight, so that few or
    other perturbations than in training change nothing (control-stabilised)"""
    batch_size: Count = 0
    """crops of a batch; less if memory runs out; 0: measured"""
    runtime: Annotated[str, arg(metavar="NAME")] = "jax"
    """what computes: jax, onnxruntime, openvino, tensorrt"""
    runtime_option: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE …")] = ()
    """options of the runtime"""
    threads: Count = 0
    """that decode images; 0: one a core"""
    unit_crops: Count = 0
    """about how many crops are committed together; 0: enough for a minute or so"""
    share: Annotated[str, arg(metavar="I/N")] = unrecorded("")
    """do a part of the work alone, I = 0 to N-1: for N tasks of a job array without a scheduler
    (launch/embed.sbatch). The one that ends last makes the result"""
    dry_run: bool = False
    """say what it would take (crops, bytes, hours at a rate measured now, on this machine), and
    write nothing; of banks, or on paper with images or crops"""
    images: Annotated[float, arg(metavar="N")] = 0
    """for a dry run without banks: number of images, for instance 2.2e6"""
    crops: Annotated[float, arg(metavar="N")] = 0
    """the same by the number of crops, for instance 139e6"""
    image_size: Pixels = 2048
    """the same: of the square images"""
    num_workers: Count = 1
    """for a dry run: machines like this one that would share the work"""


@dataclass(frozen=True)
class Share:
    """The units of one of many tasks that know nothing of each other.

    Attributes:
      index: of the task, from 0.
      number: of tasks.
    """

    index: int
    number: int

    def __str__(self) -> str:
        return f"{self.index}/{self.number}"


ALL = Share(0, 1)


def share(options: Options) -> Share:
    """The share that the options name; all of the work where they name none.

    Raises:
      UserError: no such share, or one of an engine.
    """
    if not options.share:
        return ALL
    if options.engine != "local":
        raise UserError(
            f"`share` {options.share} is for tasks without a scheduler, and `engine`"
            f" {options.engine} divides the work itself. Leave one of them out."
        )
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", options.share)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(
            f"`share` {options.share}: give I/N, the number of this task from 0 to N-1 and how many"
            " tasks there are, for instance 0/16 to 15/16."
        )
    return Share(int(found[1]), int(found[2]))


def runtime_options(options: Options) -> dict[str, str]:
    """The options of the runtime; the crops that int8 is calibrated with are the first bank's for
    all banks, so that one encoder serves all.

    Raises:
      UserError: a text that is not KEY=VALUE.
    """
    pairs = [text.partition("=") for text in options.runtime_option]
    if bad := [key for key, equals, _ in pairs if not equals or not key]:
        raise UserError(f"`runtime_option` {bad[0]}: give KEY=VALUE.")
    chosen = {key: value for key, _, value in pairs}
    if chosen.get("precision") == "int8" and options.bank:
        chosen.setdefault("bank", str(store.absolute(options.bank[0])))
    return chosen
