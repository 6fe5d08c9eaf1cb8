"""The options of embedding images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from phenomjax.inference.options import EmbedOptions
from phenomjax.system.errors import UserError

Count = Annotated[int, arg(metavar="N")]
Pixels = Annotated[int, arg(metavar="PX")]


@dataclass(frozen=True, kw_only=True)
class Options(EmbedOptions):
    """Of `python -m phenomjax.embed images`."""

    bank: Annotated[tuple[Path, ...], arg(metavar="BANK …")] = ()
    """image banks of phenomjax.prepare, or OME-Zarr plates. Run the same command in any number of
    processes, on any number of hosts that share the disk: they divide the work"""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """what to write: NAME.zarr, or with several banks a folder, in which each gets BANK.zarr"""
    level: Literal["crop", "site", "well"] = "well"
    """what a vector stands for: a crop, the mean of an image's crops, or the mean of a well's
    images"""
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
    batch_size: Count = 0
    """crops of a batch; less if memory runs out; 0: measured"""
    runtime: Annotated[str, arg(metavar="NAME")] = "jax"
    """what computes: jax, onnxruntime, openvino, tensorrt"""
    runtime_option: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE …")] = ()
    """options of the runtime"""
    threads: Count = 0
    """that decode images; 0: one a core"""
    unit_crops: Count = 0
    """about how many crops are claimed and committed together; 0: enough for a minute or so"""
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
        chosen.setdefault("bank", str(options.bank[0].absolute()))
    return chosen
