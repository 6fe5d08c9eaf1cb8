"""Which of the images of a screen are of which split, by groups that are held out or by an official
protocol.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from phenomjax.data.images.labels import protocols
from phenomjax.data.images.labels.coded import read
from phenomjax.data.images.labels.screen import Screen
from phenomjax.data.images.loading.split import path_of, split_rows
from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.images.rows import Rows
from phenomjax.data.images.wells import natural
from phenomjax.data.selections import Chosen
from phenomjax.system.errors import UserError, did_you_mean, first_of

ALL = "all"  # the split of all images, held out or not


def rows_of(screen: Screen, split: str) -> list[Rows] | None:
    """Rows of each bank that are of a split; None where it has none.

    Args:
      screen: the images.
      split: "train", "val", one of the protocol's, or `ALL`.

    Raises:
      UserError: nothing to train on; a group in both splits; experiments that the protocol does not
        know.
    """
    if split == ALL:
        found = screen.numbering.rows(screen.kept)
    elif screen.wanted.protocol:
        found = screen.numbering.rows(screen.kept & _official(screen, split))
    elif split in ("train", "val"):
        found = _split_rows(screen, split)
    else:
        return None
    if any(map(len, found)):
        return found
    if split != "train":
        return None
    raise UserError(
        f"No image of {screen.named} is left to train on: data.protocol is"
        f" '{screen.wanted.protocol}', and they are all of experiments that it holds out. Give the"
        " banks of the others too, or hold out your own: --config.data.protocol=''."
    )


def official_share(screen: Screen, split: str) -> str:
    """Whether a split of the protocol is all of the official one, in words; "" where nobody has
    published how many images that is.
    """
    name = screen.wanted.protocol
    protocol = protocols.PROTOCOLS[name]
    whole, form = protocol.images.get(split), "{} x {} px of {} channels".format(*protocol.form)
    if whole is None:
        return ""
    everyone = screen.kept | screen.controls_left_out
    images = int((everyone & _official(screen, split)).sum())
    others = {"{} x {} px of {}".format(*bank.shape[1:]) for bank in screen.banks}
    if images == whole and all(tuple(bank.shape[1:]) == protocol.form for bank in screen.banks):
        without = ", without its controls" if screen.controls_left_out.any() else ""
        return f"This is the whole {split} split of {name}{without}."
    return (
        f"The {split} split of {name} has {whole:,} images of {form}, here are {images:,} of"
        f" {' and '.join(sorted(others))}: what is measured here cannot be set beside published"
        " numbers."
    )


def _split_rows(screen: Screen, split: str) -> list[Rows]:
    wanted, kept = screen.wanted, screen.numbering.rows(screen.kept)
    halves = functools.partial(
        split_rows,
        screen.banks,
        chosen=[Chosen(rows.array(), "") for rows in kept],
        split_by=wanted.split_by,
        val_groups=_held_out(screen),
        val_fraction=wanted.val_fraction,
    )
    trained = halves("train")
    if sum(map(len, trained)) == sum(map(len, kept)):
        return trained if split == "train" else []
    held_out = halves("val")
    codes = screen.group.codes
    own, others = (codes[screen.numbering.of(rows)] for rows in (trained, held_out))
    both = np.intersect1d(own, others)
    both = both[both >= 0]
    if len(both):
        counts = [int((half == both[0]).sum()) for half in (own, others)]
        raise _in_both(screen, screen.group.names[both[0]], counts)
    return trained if split == "train" else held_out


def _held_out(screen: Screen) -> list[str]:
    """The groups to hold out, without those that are there and have no image that is read, such as
    those of other cell types.
    """
    wanted = screen.wanted
    if not wanted.val_groups or wanted.split_by not in METADATA_SCHEMA.names:
        return list(wanted.val_groups)
    groups = read(screen.banks, path_of(wanted.split_by))
    there = groups.there(screen.kept)
    held_out = [name for name in wanted.val_groups if name in there or name not in groups.names]
    if not held_out:
        others = sorted(there, key=natural)
        raise UserError(
            f"No image of the {wanted.split_by}s that data.val_groups names is read"
            f" ({first_of(wanted.val_groups)}): {' '.join(screen.told)} Hold out others, of"
            f" {first_of(others)}, or by hash:"
            ' --config.data.val_groups="()".'
        )
    return held_out


def _in_both(screen: Screen, name: str, counts: Sequence[int]) -> UserError:
    wanted = screen.wanted
    empty = ' --config.data.val_groups="()"'
    mend = f"--config.data.split_by={wanted.group_by}"
    nothing = f"; or hold out nothing:{empty} --config.data.val_fraction=0.0"
    if wanted.val_groups or wanted.split_by == wanted.group_by:
        mend += f" --config.data.val_groups=\"('{name}',)\""
    if len(screen.group.there(screen.kept)) == 1:  # whole ones leave nothing to train on
        mend = "--config.data.split_by=plate --config.data.group_by=plate"
        mend, nothing = mend + empty * (wanted.split_by != "plate"), ""
    return UserError(
        f"The {wanted.group_by} {name} is in both splits: {counts[0]:,} of its images are trained"
        f" on and {counts[1]:,} held out (data.split_by is '{wanted.split_by}'), so the validation"
        f" would not be of batches that were never seen. Hold out whole ones: {mend}{nothing}."
    )


def _official(screen: Screen, split: str) -> Bool[np.ndarray, "images"]:
    """Which of all images are of a split of the protocol."""
    protocol = screen.wanted.protocol
    place = read(screen.banks, ("experiment", "site"))
    if protocol not in protocols.PROTOCOLS:
        raise UserError(
            f"config.data.protocol is"
            f" '{protocol}'.{did_you_mean(protocol, protocols.PROTOCOLS)} There are:"
            f" {', '.join(protocols.PROTOCOLS)}."
        )
    # a site without an experiment is called by itself
    places = [("", *name.rsplit("/", 1))[-2:] for name in place.names] + [("", "")]
    found = [protocols.splits_of(protocol, *one) for one in places]
    there = np.unique(place.codes[screen.kept])
    if unknown := [places[code] for code in there if found[code] is None]:
        raise protocols.not_of(protocol, unknown)
    mine = [split in (splits or ()) for splits in found[:-1]]
    return place.where(mine)
