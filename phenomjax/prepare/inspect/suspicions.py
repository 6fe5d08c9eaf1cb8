"""What looks wrong in a bank of whose images all decode: channels without a picture, the same
picture under two names, images that are copies.
"""

import collections
from collections.abc import Iterator, Sequence

from phenomjax.data.images.bank import ImageBank

SHOWN = 5  # lines of a kind


def image_name(bank: ImageBank, index: int) -> str:
    """'image 3 (plate P1, well A01, site 1), file .../c.3.0.0.0: ' for messages."""
    row = bank.rows([index], ["experiment", "plate", "well", "site", "time"]).to_pylist()[0]
    where = ", ".join(f"{key} {value}" for key, value in row.items() if value is not None)
    file = f", file {bank.shard_path(index)}" if bank.attributes else ""
    return f"image {index}{f' ({where})' if where else ''}{file}: "


def where(bank: ImageBank, index: int) -> str:
    """'image 3 (plate P1, well A01, site 1)'."""
    return image_name(bank, index).split(", file ")[0].removesuffix(": ")


def empty_channels(
    bank: ImageBank, whole: Sequence[int], constant: Sequence[tuple[int, int]]
) -> list[str]:
    """Names of the channels that are one value in each of all images.

    Args:
      bank: the bank.
      whole: the images that decode.
      constant: (image, channel) of planes that are one value everywhere.
    """
    counts = collections.Counter(channel for _, channel in constant)
    return [
        name
        for channel, name in enumerate(bank.channels)
        if whole and counts[channel] == len(whole)
    ]


def constant(
    bank: ImageBank, whole: Sequence[int], planes: Sequence[tuple[int, int]]
) -> Iterator[str]:
    """A line for each channel with planes of one value, and for each plate that has no other."""
    plates = bank.column("plate").to_pylist()
    sizes = collections.Counter(plates[index] for index in whole)
    for channel, name in enumerate(bank.channels):
        images = [index for index, one in planes if one == channel]
        if not images:
            continue
        yield (
            f"constant: channel {name} is one value everywhere in {len(images)} of"
            f" {len(whole)} images, for instance {where(bank, images[0])}"
        )
        counts = collections.Counter(plates[index] for index in images)
        all_over = [plate for plate, count in counts.items() if count == sizes[plate] > 1]
        if len(all_over) < len(sizes):
            for plate in all_over[:SHOWN]:
                yield f"constant: channel {name} in all {sizes[plate]} images of plate {plate}"
            if len(all_over) > SHOWN:
                yield f"constant: channel {name} in all images of {len(all_over)} plates"


def same_channels(
    bank: ImageBank, whole: Sequence[int], found: Sequence[tuple[int, int, int]]
) -> Iterator[str]:
    """A line for each two channels that have the same pixels somewhere."""
    pairs: dict[tuple[int, int], list[int]] = {}
    for index, one, other in found:
        pairs.setdefault((one, other), []).append(index)
    for (one, other), images in pairs.items():
        yield (
            f"identical: channels {bank.channels[one]} and {bank.channels[other]} have the same"
            f" pixels in {len(images)} of {len(whole)} images, for instance"
            f" {where(bank, images[0])}: was one file given to both?"
        )


def copies(bank: ImageBank) -> Iterator[str]:
    """A line for each group of images that were made of equal files with other names."""
    sums, sources = (bank.column(name).to_pylist() for name in ("checksum", "source"))
    groups: dict[str, dict[str, int]] = {}  # by checksum, then by source: the first image
    for index, (checksum, source) in enumerate(zip(sums, sources, strict=True)):
        if checksum and source:
            groups.setdefault(checksum, {}).setdefault(source, index)
    same = [list(group.values()) for group in groups.values() if len(group) > 1]
    for images in same[:SHOWN]:
        listed = " and ".join(where(bank, index) for index in images[:3])
        more = f" and {len(images) - 3} more" if len(images) > 3 else ""
        yield f"identical: {listed}{more} were made of equal files: was one copied over another?"
    if len(same) > SHOWN:
        count = sum(map(len, same))
        yield f"identical: {count} images in {len(same)} groups were made of equal files"
