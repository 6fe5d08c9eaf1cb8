"""The plan of a job: which files make which image, in the order of the bank, and which files
cannot. Never holds pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

from phenomjax.prepare.images.records import Finding, ImageKey


class ImageFiles(NamedTuple):
    """One image to be.

    Attributes:
      key: where in the screen.
      files: each once, relative to the source folder.
      channels: for each channel of the bank, (which of the files, which page of it) of its planes;
        several are projected.
      stamp: digest of names, sizes and modification times: another stamp is another image.
    """

    key: ImageKey
    files: tuple[str, ...]
    channels: tuple[tuple[tuple[int, int], ...], ...]
    stamp: str


class ImagePlan(NamedTuple):
    """Everything there is to do.

    Attributes:
      entries: the images, in the order of the bank.
      rejected: what cannot go into the bank, as far as names and indexes say it.
      remarks: what was left out on purpose, or went in with a remark.
      channels: names, in the order of the bank.
      projection: how several planes of a channel become one, "max" or "mean"; None where there are
        none.
      pixel_size_um: where the source says it.
      largest_value: the highest value of the camera, where the source says it.
      told: sentences for the screen.
      single: each file holds one plane only.
    """

    entries: list[ImageFiles]
    rejected: list[Finding]
    remarks: list[Finding]
    channels: tuple[str, ...]
    projection: str | None = None
    pixel_size_um: float | None = None
    largest_value: int | None = None
    told: tuple[str, ...] = ()
    single: bool = False


def sample(entries: Sequence, count: int = 64) -> list:
    """Up to `count` evenly spaced items, the same whenever the plan is the same."""
    return (
        [entries[i * len(entries) // count] for i in range(count)]
        if len(entries) > count
        else list(entries)
    )
