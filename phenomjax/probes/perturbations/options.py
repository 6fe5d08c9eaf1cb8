"""The options of `python -m phenomjax.evaluate perturbations`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from phenomjax.engine.options import EngineOptions
from phenomjax.inference.images.options import Count, Pixels, StatisticsOptions


@dataclass(frozen=True, kw_only=True)
class Options(StatisticsOptions, EngineOptions):
    """Of `python -m phenomjax.evaluate perturbations`."""

    GROUPS: ClassVar[dict[str, str]] = {"batch_size": "machine"}

    checkpoint: Annotated[tuple[str, ...], arg(metavar="DIR [DIR ...]")]
    """workdirs of runs of task 'perturbation' (their newest checkpoints), or
    WORKDIR/checkpoints/STEP folders; those that differ in the seed alone are averaged"""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """of the report: report.html for a browser, report.md, report.json, report.png, and the
    embeddings that it stands on"""
    bank: Annotated[tuple[Path, ...], arg(metavar="BANK …")] = ()
    """image banks that training never saw, judged whole; none: what each run held out of its own
    banks. A run's own bank that was moved is named here, too"""
    split: Annotated[tuple[str, ...], arg(metavar="NAME …")] = ()
    """only these of the held-out images: val, and of official splits id_test, test, unseen"""
    statistics: tuple[Literal["running", "experiment", "controls"], ...] = ()
    """of batch norms: running ones of training; of each experiment (AdaBN); of its controls and its
    other images with the weights of training; none: all that the model and the images allow"""
    random_weights: Annotated[int, arg(metavar="SEED")] = 0
    """of the untrained twin; -1: do without it"""
    names: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ()
    """of the checkpoints in the report; by default of their workdirs"""
    crop_size: Pixels = 0
    """of the square crops, whose embeddings an image is the mean of; 0: as in training"""
    batch_size: Count = 0
    """crops of a batch; 0: measured"""
    compute_dtype: Literal["", "auto", "float32", "bfloat16"] = ""
    """of the computation; nothing: as in the run"""
    devices: Count = 0
    """of this machine, over which a batch is divided; 0: all"""
    threads: Count = 0
    """that decode images; 0: one a core"""
