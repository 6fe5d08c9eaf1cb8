"""Whose statistics normalise an image: those of training, or those of its own experiment, from its
images or with a fixed share of its controls.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int32

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.labels.screen import COLUMNS, TREATMENT
from phenomjax.data.images.loading.split import group_name, path_of
from phenomjax.engine import work_folder
from phenomjax.inference.images.options import Options, StatisticsOptions
from phenomjax.models.batch_norm import RUNNING
from phenomjax.system import files
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.types import Params
from phenomjax.trained.domain_statistics import Moments, Table, flatten, unflatten
from phenomjax.trained.model import ImageModel

MOMENTS = "moments"  # a folder in the work folder, with a file a unit


@dataclass(frozen=True)
class StatisticsSettings:
    """What decides the statistics of domains.

    Attributes:
      kind: "experiment", all images of a domain alike, or "controls", its controls and its others
        with fixed weights (control-stabilised).
      by: column of the metadata whose values are the domains.
      control_weight: of the controls together, of 1; None of the kind "experiment".
      batch: crops that are normalised together while moments are taken.
      least: images (controls, of that kind) that a domain must have.
    """

    kind: str
    by: str
    control_weight: float | None
    batch: int
    least: int

    def record(self, banks: Sequence[str]) -> dict[str, object]:
        """As it stands beside embeddings; `banks` are the fingerprints of those that have images
        of the domains.
        """
        return {
            "statistics": self.kind,
            "statistics_by": self.by,
            "control_weight": self.control_weight,
            "statistics_batch": self.batch,
            "statistics_banks": sorted(banks),
        }


def settings(options: Options, model: ImageModel) -> StatisticsSettings | None:
    """What the options ask for; None for running statistics, which every model has.

    Raises:
      UserError: options that do not go together, or a model or runtime without such statistics.
    """
    kind = options.statistics
    if kind == "running":
        for field in dataclasses.fields(StatisticsOptions):
            name = field.name
            if getattr(options, name) != field.default:
                raise UserError(
                    f"`{name}` is for statistics of the images' own experiments. Give `statistics`"
                    " experiment or controls with it, or leave it out."
                )
        return None
    if not has_norms(model):
        raise UserError(
            f"`statistics` {kind}: the model of {model.path} (task '{model.config.task}') has no"
            " batch norms, so there are no statistics to be taken: it normalises each image by"
            " itself. Leave `statistics` out."
        )
    if options.runtime != "jax":
        raise UserError(
            f"`statistics` {kind} needs `runtime` jax: a graph for {options.runtime} has the"
            " running statistics inside. Leave one of them out."
        )
    check_by(options.statistics_by, model.config.data.label)
    weight = options.control_weight
    if kind == "experiment" and weight is not None:
        raise UserError(
            f"`control_weight` {weight:g} is for `statistics` controls; with experiment every"
            " image counts alike. Leave it out."
        )
    if kind == "controls":
        weight = trained_share(model) if weight is None else weight
        check_weight(weight)
    rows = model.config.model.norm_rows  # 0 of weights from elsewhere
    rows = rows or model.config.global_batch_size // max(model.config.data.groups, 1)
    batch = options.statistics_batch or rows
    return StatisticsSettings(
        kind, options.statistics_by, weight, max(batch, 2), options.statistics_least
    )


def check_by(by: str, label: str = "perturbation") -> None:
    """Raises UserError where a column cannot say whose statistics are an image's.

    Args:
      by: the column.
      label: the one that names the model's classes.
    """
    if by not in COLUMNS:
        raise UserError(
            f"`statistics_by` {by} is no column of texts of the metadata."
            f"{did_you_mean(by, COLUMNS)} There are: {', '.join(COLUMNS)}."
        )
    if by in (*TREATMENT, "well", "site", label):
        raise UserError(
            f"`statistics_by` {by}: statistics of each {by} by itself would take away what tells"
            " perturbations apart. Group by what may be told of any image, such as"
            " `statistics_by` experiment or plate."
        )


def check_weight(weight: float) -> None:
    """Raises UserError where a weight of controls is none."""
    if not 0 < weight <= 1:
        raise UserError(
            f"`control_weight` {weight:g}: it must be above 0 and at most 1 (controls alone)."
        )


def has_norms(model: ImageModel) -> bool:
    """Whether the model has batch norms."""
    return bool(jax.tree.leaves(model.params.get(RUNNING, {})))


def trained_share(model: ImageModel) -> float:
    """What controls weighed in the statistics that a model was trained with.

    Raises:
      UserError: none.
    """
    config = model.config
    weight = config.model.get("control_weight", 0.0)
    share = weight or config.data.control_share or config.model.control_share
    if not share:
        raise UserError(
            f"`statistics` controls: the run of {model.path} says no share of controls: it was"
            " trained without, or its weights came from elsewhere. Give `control_weight`, for"
            " instance 0.5, or `statistics` experiment."
        )
    return float(share)


def names_of(bank: ImageBank, by: str) -> tuple[list[str], Int32[np.ndarray, " images"]]:
    """Names of the domains of a bank, and for each image the place of its domain's.

    Raises:
      UserError: images that are of none.
    """
    runs = bank.runs(path_of(by))
    values = list(runs.values())
    codes = runs.spread(np.arange(len(values), dtype=np.int32), len(bank))
    # a plate's number means nothing without its experiment, where others have theirs
    some = any(map(all, values))
    nameless = [n for n, value in enumerate(values) if not value[-1] or (some and not all(value))]
    if nameless:
        count = int(np.isin(codes, nameless).sum())
        places = zip(path_of(by), values[nameless[0]], strict=True)
        lacking = next(column for column, text in places if not text)
        other = "plate" if by == "experiment" else "experiment"
        mend = "" if some and lacking != "plate" else f"`statistics_by` {other} if they have that, "
        raise UserError(
            f"{count} of the {len(bank)} images of {bank.path} have no {lacking} in their metadata,"
            f" so nothing says whose statistics are theirs. Give {mend}`statistics` running, or"
            f" make the bank again with `python -m phenomjax.prepare images --default"
            f" {lacking}=NAME`."
        )
    return [group_name(value) for value in values], codes


def key_of(name: str) -> str:
    """What a domain's files are called."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


class Stored:
    """The statistics of domains whose units are done.

    Args:
      work: folder of the statistics.
      model: whose they are.
    """

    def __init__(self, work: Path, model: ImageModel):
        self._work, self._running = work, model.params[RUNNING]
        self._units = functools.cache(self._read_units)
        self._table = functools.lru_cache(maxsize=64)(self._read)
        self.stacked = functools.lru_cache(maxsize=2)(self._stacked)

    @property
    def bytes(self) -> int:
        """Of the statistics of a domain on a device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._running))

    def _stacked(self, names: tuple[str, ...]) -> Params:
        """{"batch_stats": [domains, channel]}, filled up to a power of two, for few programs."""
        tables = [self._table(name) for name in names]
        tables += tables[:1] * ((1 << (len(tables) - 1).bit_length()) - len(tables))
        return {RUNNING: unflatten(self._running, tables)}

    def _read_units(self) -> dict[str, list[str]]:
        domains = files.read_json(self._work / work_folder.DESCRIPTION)["domains"]
        return {name: domain["units"] for name, domain in domains.items()}

    def _read(self, name: str) -> Table:
        moments = Moments()
        for unit in self._units()[name]:
            moments += read_moments(self._work, unit)
        # of a domain of which no image can be read none will be embedded
        return moments.table() if moments.weight else flatten(self._running)


def moments_path(unit: str) -> str:
    """Where the moments of a unit are, in the work folder."""
    return f"{MOMENTS}/{unit}"


def moments_bytes(moments: Moments, features: int) -> bytes:
    """Moments as a file has them: float64, the weight first."""
    sums = np.broadcast_to(np.asarray(moments.sums, "<f8"), (2, features))
    return np.append(np.float64(moments.weight), sums).astype("<f8").tobytes()


def read_moments(work: Path, unit: str) -> Moments:
    """The moments of a unit."""
    values = np.fromfile(work / moments_path(unit), "<f8")
    return Moments(float(values[0]), values[1:].reshape(2, -1))
