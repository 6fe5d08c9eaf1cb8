"""Whether banks and settings of a loader fit each other."""

import logging
from typing import Protocol

from phenomjax.data.batches import Batches
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.loading.reader import amplification
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
HIGH_AMPLIFICATION = 4  # bytes decoded for one delivered, above which the user is told what to do


class Asked(Protocol):
    """What a loader is asked for; see `loader.ImageLoader`."""

    banks: list[ImageBank]
    channels: tuple[str, ...]
    batches: Batches
    crop_size: int
    crops_per_image: int
    on_bad_image: str


def check(loader: Asked, process_count: int) -> None:
    """Raises UserError where banks and settings of a loader do not fit each other."""
    if not loader.banks:
        raise UserError(
            "There is no bank to read: data.banks is empty. Make one with `python -m"
            " phenomjax.prepare`."
        )
    for key, divisor, mend in (
        ("process_count", process_count, "a multiple of the number of processes"),
        (
            "data.crops_per_image",
            loader.crops_per_image,
            "a multiple of it, or change data.crops_per_image",
        ),
    ):
        for _, size in loader.batches.stages:
            if divisor < 1 or size < 1 or size % divisor:
                raise UserError(
                    f"global_batch_size={size} is not divisible by {key}={divisor}. Make it {mend}."
                )
    if loader.on_bad_image not in ("error", "skip"):
        raise UserError(
            f"data.on_bad_image={loader.on_bad_image!r} is unknown. There are: error, skip."
        )
    if sum(map(len, loader.banks)) >= 2**31:
        raise UserError(
            f"The {len(loader.banks)} banks have {sum(map(len, loader.banks)):,} images, and a run"
            " counts at most 2,147,483,647. Take fewer banks, or a part of their images."
        )
    for bank in loader.banks:
        if loader.crop_size > min(bank.shape[1:3]):
            raise UserError(
                f"data.crop_size={loader.crop_size} is larger than the images of {bank.path},"
                f" which are {bank.shape[1]} x {bank.shape[2]} px. Set"
                f" --config.data.crop_size={min(bank.shape[1:3])} or less."
            )
        for name in bank.channels:
            if name not in loader.channels:
                raise UserError(
                    f"The bank {bank.path} has a channel {name!r}, which the model does not"
                    f" know. It knows: {', '.join(loader.channels)}. Leave"
                    " model.channels empty to take all channels of the banks, or prepare the"
                    " bank with other channel names."
                )


def warn_of_amplification(loader: Asked) -> None:
    """Says where much more is decoded than delivered."""
    for bank in {(bank.shape[1:3], bank.chunk_shape): bank for bank in loader.banks}.values():
        if (
            times := amplification(bank, loader.crop_size, loader.crops_per_image)
        ) > HIGH_AMPLIFICATION:
            log.warning(
                "%s: %.1f bytes are decoded for one byte delivered, because its chunks of %s x"
                " %s px are large against crops of %d px. Make it with `python -m"
                " phenomjax.prepare images --chunk %d`, or take several crops of an image with"
                " --config.data.crops_per_image.",
                bank.path,
                times,
                *bank.chunk_shape[:2],
                loader.crop_size,
                max(loader.crop_size // 2, 16),
            )
