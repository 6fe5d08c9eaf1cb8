"""The embedding of one bank into one output."""

import argparse
from pathlib import Path
from typing import Any

import jax

from phenomjax.data.images.opening import open_bank
from phenomjax.data.images.reader import CropReader
from phenomjax.inference.images import plan, result, work_folder
from phenomjax.inference.images.crops import Loader
from phenomjax.inference.images.plan import Layout, Settings
from phenomjax.inference.runtimes import choose
from phenomjax.system.errors import UserError
from phenomjax.trained import image_model
from phenomjax.trained.model import ImageModel


class Job:
    """The embedding of one bank into one output.

    Args:
      args: of the command line.
      model: what computes.
      path: of the bank.
      out: of the result.
      made: runtimes, shared by the jobs of a process.

    Attributes:
      bank, grid, layout: what is embedded, and how the work is divided.
      settings: what decides the numbers; their precision is known when `runtime` is made.
      out, work: where it goes, and where it is made.
      runtime: what computes.
      shared: the units, once the work has begun.
      begun: the description that is recorded.

    Raises:
      UserError: bank, model and arguments do not fit.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        model: ImageModel,
        path: Path,
        out: Path,
        made: dict[Any, choose.Runtime] | None = None,
    ):
        self._runtimes = {} if made is None else made
        self.args, self.model, self.bank = args, model, open_bank(path)
        self.out = out
        blocks = image_model.check_blocks(model, args.block)
        image_model.check_channelwise(model, args.channelwise)
        crop_size = args.crop_size or model.config.data.crop_size
        stride = args.stride or crop_size
        plan.check_grid(model, self.bank, crop_size, stride)
        result.check_wells(self.bank, args.level)
        names, self.places = plan.match_channels(model, self.bank, args.channels)
        self.grid = plan.grid(self.bank.shape[1], self.bank.shape[2], crop_size, stride)
        self._blocks, self._names, self._crop_size, self._stride = blocks, names, crop_size, stride
        self.devices = args.devices or (len(jax.local_devices()) if args.runtime == "jax" else 1)
        self.batch_size = args.batch_size or plan.default_batch_size(
            model, crop_size, len(names), self.devices
        )
        crop_bytes = crop_size**2 * len(names) * self.bank.dtype.itemsize
        unit_crops = args.unit_crops or plan.default_unit_crops(self.batch_size)
        self.layout = plan.layout(
            len(self.bank), len(self.grid), crop_bytes, self.batch_size, unit_crops
        )
        self.runtime: choose.Runtime | None = None
        self.shared: work_folder.Units | None = None
        self.settings = self.make_settings("")
        self.begun: dict[str, Any] = {}

    @property
    def work(self) -> Path:
        """The folder in which the result is made."""
        return self.out.with_name(self.out.name + ".partial")

    def make_settings(self, precision: str) -> Settings:
        """The settings that decide the numbers."""
        return Settings(
            self.args.level,
            self._crop_size,
            self._stride,
            self._blocks,
            self.args.channelwise,
            self._names,
            self.args.runtime,
            precision,
            runtime_options(self.args),
            self.args.dtype,
        )

    def make_runtime(self) -> choose.Runtime:
        """What computes, ready for batches of the layout; one for all banks of one kind, as each
        holds the parameters.
        """
        options = runtime_options(self.args)
        if self.args.devices:
            options["devices"] = str(self.args.devices)
        if self.args.runtime != "jax":  # which compare themselves with JAX on crops of a bank
            options.setdefault("bank", str(self.args.bank[0]))
        shape = (self._crop_size, self._crop_size, len(self._names))
        key = (shape, self.bank.dtype, self.layout.batch_size, *sorted(options.items()))
        if key not in self._runtimes:
            self._runtimes[key] = choose.make(
                self.args.runtime,
                self.model,
                self._blocks,
                self.args.channelwise,
                self.layout.batch_size,
                shape,
                self.bank.dtype,
                options,
            )
        return self._runtimes[key]

    def loader(self, layout: Layout | None = None) -> Loader:
        """Decodes the bank's crops."""
        return Loader(
            CropReader(self.bank),
            self.grid,
            self._crop_size,
            self.places,
            layout or self.layout,
            self.args.threads,
        )

    def close(self) -> None:
        """Gives back what is claimed."""
        if self.shared is not None:
            self.shared.close()

    def describe(self) -> str:
        """One line for the log."""
        height, width = self.bank.shape[1:3]
        left = self.grid.left_out
        edge = (
            f"; {left[0]} rows and {left[1]} columns of pixels at the edges do not fit and are left"
            " out, half on each side"
            if any(left)
            else ""
        )
        overlap = "" if self._stride == self._crop_size else f", {self._stride} px apart"
        return (
            f"{self.bank.path}: {len(self.bank)} images of {height} x {width} px, {len(self.grid)}"
            f" crops of {self._crop_size} px each{overlap}{edge}; channels {', '.join(self._names)}"
        )


def runtime_options(args: argparse.Namespace) -> dict[str, str]:
    """The options of the runtime; the crops that int8 is calibrated with are the first bank's for
    all banks, so that one encoder serves all.
    """
    pairs = [text.partition("=") for text in args.runtime_option]
    if bad := [key for key, equals, _ in pairs if not equals or not key]:
        raise UserError(f"--runtime_option {bad[0]}: give KEY=VALUE.")
    options = {key: value for key, _, value in pairs}
    if options.get("precision") == "int8" and args.bank:
        options.setdefault("bank", str(args.bank[0].absolute()))
    return options
