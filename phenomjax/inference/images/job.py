"""The embedding of one bank into one output."""

import functools
import logging
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Int32

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.labels.coded import read
from phenomjax.data.images.loading.reader import CropReader
from phenomjax.data.images.opening import open_bank
from phenomjax.engine import units, work_folder
from phenomjax.inference.images import domains, plan
from phenomjax.inference.images.crops import CropLoader
from phenomjax.inference.images.options import Options, runtime_options
from phenomjax.inference.images.plan import EmbeddingSettings, WorkLayout
from phenomjax.inference.runtimes import choose
from phenomjax.system.errors import UserError
from phenomjax.trained import image_model
from phenomjax.trained.graphs.graph import GraphSettings
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")
# by what they were made for; each holds the parameters
Runtimes: TypeAlias = dict[tuple[object, ...], choose.Runtime]
STACKED_BYTES = 256 << 20  # of statistics of domains that are on a device


class BankEmbedding:
    """The embedding of one bank into one output.

    Args:
      options: of the command.
      model: what computes.
      path: of the bank.
      out: of the result.
      made: runtimes, shared by the banks of a process.

    Attributes:
      bank, grid: what is embedded.
      layout: how the work is divided, once it is known (`look`, or of who began it).
      settings: what decides the numbers; the precision is known where `look` was called.
      statistics: that are to be of the images' domains; None: running ones.
      out, work: where it goes, and where it is made.
      notes: the units that are done.
      recorded: the description that the result gets.
      begun: the work that this is a part of (`workers.begun`).

    Raises:
      UserError: bank, model and options do not fit.
    """

    def __init__(
        self,
        options: Options,
        model: ImageModel,
        path: Path,
        out: Path,
        made: Runtimes | None = None,
    ):
        self._runtimes = {} if made is None else made
        self._options, self.model, self.bank = options, model, open_bank(path)
        self.out = out
        self._blocks = image_model.check_blocks(model, options.block)
        image_model.check_channelwise(model, options.channelwise)
        self._crop_size = options.crop_size or model.config.data.crop_size
        self._stride = options.stride or self._crop_size
        plan.check_grid(model, self.bank, self._crop_size, self._stride)
        plan.check_wells(self.bank, options.level)
        self._names, self._places = plan.match_channels(model, self.bank, options.channels)
        height, width = self.bank.shape[1:3]
        self.grid = plan.grid(height, width, self._crop_size, self._stride)
        self.layout: WorkLayout
        if model.task.reads_cell_type and options.runtime != "jax":
            raise UserError(
                f"`runtime` {options.runtime} takes pixels alone, and this model is told the cell"
                " type of each image (model.cell_type=True). Leave `runtime` out."
            )
        self._cells = _cell_types(model, self.bank)
        self.statistics = domains.settings(options, model)
        self._statistics_record: dict[str, object] = {}
        self._stored: domains.Stored | None = None
        self.settings = self.make_settings("")
        self.notes = units.Notes(self.work)
        self.recorded: work_folder.Description = {}
        self.begun = ""

    def look(self) -> dict[str, Any]:
        """What only the machine knows that computes: {"precision", "computed_by", "layout"}."""
        self.layout = self._make_layout()
        runtime = self.make_runtime()
        self.settings = self.make_settings(runtime.precision)
        return {
            "precision": runtime.precision,
            "computed_by": runtime.description,
            "layout": vars(self.layout),
        }

    def use_statistics(self, work: Path, record: dict[str, object]) -> None:
        """Says where the statistics of the images' domains will be, and how they are recorded."""
        self._stored = domains.Stored(work, self.model)
        self._statistics_record = record
        self.settings = self.make_settings(self.settings.precision)

    @functools.cached_property
    def _domains(self) -> tuple[np.ndarray, np.ndarray]:
        """Names, and each image's place among them."""
        assert self.statistics is not None
        names, codes = domains.names_of(self.bank, self.statistics.by)
        return np.array(names), codes

    def cells(self, images: np.ndarray) -> choose.Given:
        """What the model is told of crops of these images, with running statistics."""
        return choose.Given({} if self._cells is None else {"cell_type": self._cells[images]}, {})

    def given(self, images: np.ndarray) -> choose.Given:
        """What the model is told of crops of these images, with the statistics of their domains;
        these must be there.
        """
        cells = self.cells(images)
        if self._stored is None:
            return cells
        names, codes = self._domains
        found, place = np.arange(len(names)), codes[images]
        if len(names) * self._stored.bytes > STACKED_BYTES:  # only those that the batch needs
            found, place = np.unique(place, return_inverse=True)
        stored = self._stored.stacked(tuple(names[found].tolist()))
        return choose.Given({**cells.rows, "domain": place.astype(np.int32)}, stored)

    def uncommitted(self) -> list[int]:
        """The units that are to be done: none where the result is made."""
        try:
            return sorted(set(range(self.layout.units)) - set(map(int, self.notes.names())))
        except FileNotFoundError:
            if self.out.exists():  # another task has made it just now
                return []
            raise

    def _make_layout(self) -> WorkLayout:
        options = self._options
        devices = options.devices or (len(jax.local_devices()) if options.runtime == "jax" else 1)
        batch_size = options.batch_size or plan.default_batch_size(
            self.model, self._crop_size, len(self._names), devices
        )
        return plan.layout(
            len(self.bank),
            len(self.grid),
            self.crop_bytes,
            batch_size,
            options.unit_crops or plan.default_unit_crops(batch_size),
        )

    @property
    def work(self) -> Path:
        """The folder in which the result is made."""
        return self.out.with_name(self.out.name + ".partial")

    @property
    def crop_bytes(self) -> int:
        """Of the pixels of a crop."""
        return self._crop_size**2 * len(self._names) * self.bank.dtype.itemsize

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return image_model.dim(self.model, len(self._names), self._options.channelwise)

    def make_settings(self, precision: str) -> EmbeddingSettings:
        """The settings that decide the numbers."""
        return EmbeddingSettings(
            level=self._options.level,
            crop_size=self._crop_size,
            stride=self._stride,
            blocks=self._blocks,
            channelwise=self._options.channelwise,
            channels=self._names,
            runtime=self._options.runtime,
            precision=precision,
            options=runtime_options(self._options),
            dtype=self._options.dtype,
            statistics=self._statistics_record,
        )

    def make_runtime(self) -> choose.Runtime:
        """What computes, ready for batches of the layout; one for all banks of one kind, as each
        holds the parameters.
        """
        options = runtime_options(self._options)
        if self._options.devices:
            options["devices"] = str(self._options.devices)
        # those that compare themselves with JAX do so on crops of a bank
        if self._options.runtime != "jax" and self._options.bank:
            options.setdefault("bank", str(self._options.bank[0]))
        shape = (self._crop_size, self._crop_size, len(self._names))
        key = (shape, self.bank.dtype, self.layout.batch_size, *sorted(options.items()))
        if key not in self._runtimes:
            self._runtimes[key] = choose.make(
                self._options.runtime,
                self.model,
                GraphSettings(self._blocks, self._options.channelwise, shape, self.bank.dtype.name),
                self.layout.batch_size,
                options,
            )
        return self._runtimes[key]

    def loader(self, layout: WorkLayout | None = None) -> CropLoader:
        """Decodes the bank's crops."""
        return CropLoader(
            CropReader(self.bank),
            self.grid,
            self._crop_size,
            self._places,
            layout or self.layout,
            self._options.threads,
        )

    def describe(self) -> str:
        """One line for the log."""
        height, width = self.bank.shape[1:3]
        left, edge = self.grid.left_out, ""
        if any(left):
            edge = (
                f"; {left[0]} rows and {left[1]} columns of pixels at the edges do not fit and are"
                " left out, half on each side"
            )
        overlap = "" if self._stride == self._crop_size else f", {self._stride} px apart"
        return (
            f"{self.bank.path}: {len(self.bank)} images of {height} x {width} px, {len(self.grid)}"
            f" crops of {self._crop_size} px each{overlap}{edge}; channels {', '.join(self._names)}"
        )


def _cell_types(model: ImageModel, bank: ImageBank) -> Int32[np.ndarray, " images"] | None:
    """For each image the place of its cell type in `model.cell_types`, -1 for another; None of a
    model that is not told it.

    Raises:
      UserError: the model knows no cell type of the bank.
    """
    known = tuple(model.config.model.cell_types) if model.task.reads_cell_type else ()
    if not known:
        return None
    coded = read([bank], ("cell_type",))
    found = coded.places(known)
    if not (count := int((found < 0).sum())):
        return found
    others = [name for name in coded.names if name not in known]
    others += ["nothing"] * bool((coded.codes < 0).any())
    what = (
        f"cell type {', '.join(others)} in the metadata of {bank.path}, of which the model knows"
        f" nothing (it was trained with {', '.join(known)})"
    )
    if count == len(bank):
        raise UserError(
            f"All {count} images have {what}. Spell it as the model does, in a bank that is made"
            " again with `python -m phenomjax.prepare images --set cell_type=NAME`, or use a model"
            " that was trained with these, or without model.cell_type."
        )
    log.warning("%d images have %s: they are embedded as of no known type", count, what)
    return found
