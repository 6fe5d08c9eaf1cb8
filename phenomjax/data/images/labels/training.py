"""What a run on labels can be trained on: its classes and cell types, and whether its groups do."""

import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from phenomjax.data.images.labels.coded import read
from phenomjax.data.images.labels.screen import PREPARE, Screen
from phenomjax.data.images.loading.split import path_of
from phenomjax.data.images.wells import natural
from phenomjax.system.errors import UserError, did_you_mean, first_of

log = logging.getLogger("phenomjax")
Images = Int64[np.ndarray, "images"]


def classes(screen: Screen, images: Images, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the classes of images to train on, in the order in which a person counts them.

    Args:
      screen: of all images.
      images: numbers of those to train on.
      given: by the user: only these.

    Raises:
      UserError: fewer than two, one without an image or with one alone; groups that a batch cannot
        have its statistics of.
    """
    _check_marked(screen)
    wanted, there = screen.wanted, screen.label.there(images[~screen.no_class[images]])
    _check_given("classes", given, there, wanted.label)
    found = list(given) or sorted(there, key=natural)
    rare = [name for name in found if there[name] == 1]
    if rare and wanted.on_rare_class == "error":
        raise UserError(
            f"{len(rare):,} of {len(found):,} classes have a single image to train on:"
            f" {first_of(rare)}. What images of a class share cannot be learnt from one. Leave them"
            " out with --config.data.on_rare_class=drop, or correct their names in the metadata."
        )
    found = [name for name in found if there[name] > 1]
    if len(found) < 2:
        raise UserError(
            f"There is nothing to tell apart: by data.label={wanted.label}, the images to train on"
            f" are of {len(found)} class{'es' * (len(found) != 1)} of two images or more"
            f"{f' ({found[0]})' if found else ''}. Train on another column"
            f" (--config.data.label={screen.other_label()}), or on more banks."
        )
    spelt = Counter(name.casefold().strip() for name in found)
    if alike := [name for name in found if spelt[name.casefold().strip()] > 1]:
        log.warning(
            "%d classes are called alike but for capitals and spaces: %s. What is one perturbation"
            " must have one name in the metadata.",
            *(len(alike), first_of(alike)),
        )
    images = images[(screen.label.places(found)[images] >= 0) | screen.no_class[images]]
    _check_groups(screen, images)
    if wanted.control_share:
        _check_controls(screen, images)
    return tuple(found)


def cell_types(
    screen: Screen, images: Images, given: Sequence[str] = (), needed: bool = False
) -> tuple[str, ...]:
    """Names of the cell types of images to train on.

    Args:
      screen, images, given: as of `classes`.
      needed: the model is told them.

    Raises:
      UserError: images without one, where it is needed; a name that none has.
    """
    there = screen.cell_type.there(images)
    _check_given("cell_types", given, there, "cell_type")
    missing = int((screen.cell_type.codes[images] < 0).sum())
    if needed and missing:
        raise UserError(
            f"config.model.cell_type is True, but {missing:,} of {len(images):,} images to train on"
            f" have no cell_type. Prepare the banks with a table that has it ({PREPARE}) or, where"
            " all are of one, `python -m phenomjax.prepare images --set cell_type=NAME`; or set"
            " --config.model.cell_type=False."
        )
    return tuple(given) or tuple(sorted(there, key=natural))


def _check_given(key: str, given: Sequence[str], there: Mapping[str, int], column: str) -> None:
    """Raises UserError where names that a user gave are not those of images, each once."""
    every = f'Leave it empty to take all {len(there):,}: --config.model.{key}="()".'
    for name, count in Counter(given).items():
        if count > 1:
            raise UserError(
                f"config.model.{key} names {name!r} {count} times. Name each once. {every}"
            )
        if name not in there:
            raise UserError(
                f"config.model.{key} names {name!r}, but no image to train on has that"
                f" {column}.{did_you_mean(name, there)} {every}"
            )


def _check_marked(screen: Screen) -> None:
    """Raises UserError where controls are asked for and none is marked."""
    wanted, asked = screen.wanted, screen.wanted.controls != "keep"
    controls = screen.control & (screen.kept | screen.controls_left_out)
    if controls.any() or not (asked or wanted.control_share):
        return
    key, mend = ("controls", "keep") if asked else ("control_share", "0.0")
    raise UserError(
        f"config.data.{key} is {getattr(wanted, key)}, but no image of {screen.named} is marked as"
        " a control (is_control, or the perturbation_type 'control'). Prepare the banks with a"
        f" table that has a column is_control: {PREPARE}; or set --config.data.{key}={mend}."
    )


def _check_groups(screen: Screen, images: Images) -> None:
    wanted, groups = screen.wanted, screen.group.codes[images]
    column = wanted.group_by
    if wanted.groups and (missing := int((groups < 0).sum())):
        raise UserError(
            f"{missing:,} of {len(images):,} images to train on have no {column}, by whose"
            f" statistics they are to be normalised (data.groups is {wanted.groups}). Prepare the"
            f" banks with it (`python -m phenomjax.prepare images --default {column}=NAME`), or mix"
            " the images of all groups: --config.data.groups=0."
        )
    if wanted.groups and len(np.unique(groups)) == 1:
        plates = read(screen.banks, path_of("plate")).codes[images]
        mend = ""
        if column == "experiment" and len(np.unique(plates[plates >= 0])) > 1:
            mend = "--config.data.group_by=plate --config.data.split_by=plate"
            mend += ' --config.data.val_groups="()"' * (wanted.split_by != "plate") + ", or "
        raise UserError(
            f"All {len(images):,} images to train on are of one {column}"
            f" ({screen.group.names[groups[0]]}), so batches with the statistics of each {column}"
            f" (data.groups is {wanted.groups}) teach nothing of others. Train on two or more, or"
            f" set {mend}--config.data.groups=0."
        )
    several = len(screen.group.names) + 1
    pairs = np.sort(screen.label.codes[images].astype(np.int64) * several + groups + 1)
    pairs = pairs[np.diff(pairs, prepend=-2) != 0]  # a class once for each of its groups
    classes_of_group = np.bincount(pairs % several)
    of_one, all_groups = (classes_of_group == 1).sum(), (classes_of_group > 0).sum()
    if wanted.groups and of_one == all_groups:
        raise UserError(
            f"The images of each {column} to train on are of one {wanted.label} alone, and a part"
            f" of a batch (data.groups is {wanted.groups}) is normalised by its own statistics, so"
            f" there is nothing in it to tell {wanted.label}s apart by. Group by a column whose"
            f" values have several, with --config.data.group_by, or mix the images of all groups:"
            " --config.data.groups=0."
        )
    if wanted.groups and of_one:
        log.warning(
            "%d of %d %ss to train on have images of one %s alone: a part of a batch that is of one"
            " of them, normalised by its own statistics, has nothing to tell %ss apart by.",
            *(of_one, all_groups, column, wanted.label, wanted.label),
        )
    alone = int((np.bincount(pairs // several) == 1).sum())
    if alone:
        log.warning(
            "%d of %d classes are in one %s only: a network can tell them by what is of the %s and"
            " not of the cells.",
            *(alone, len(screen.label.there(images)), column, column),
        )


def _check_controls(screen: Screen, images: Images) -> None:
    """Every group to train on must have controls and other images."""
    wanted, groups, control = screen.wanted, screen.group.codes[images], screen.control[images]
    lacking = np.setxor1d(groups[control], groups[~control])
    if not wanted.groups or not len(lacking):
        return
    column, names = wanted.group_by, [screen.group.names[code] for code in lacking]
    bare = np.setdiff1d(groups[~control], groups[control])
    lack = "has no control" if len(bare) else "has nothing but controls"
    cells = screen.cell_type.codes[images]
    types = np.setdiff1d(cells[~control], cells[control])
    if len(types) and types[0] >= 0:  # none in a whole cell type
        column, names = "cell_type", [screen.cell_type.names[code] for code in types]
    where = f"{column} not in {json.dumps(names)}"
    if column == "plate":  # its number means nothing without its experiment
        keys = ("plate", "experiment")
        pairs = [zip(keys, name.split("/")[::-1], strict=False) for name in names]
        parts = [" and ".join(f"{key} == {json.dumps(v)}" for key, v in one) for one in pairs]
        where = " and ".join(f"not ({part})" for part in parts)
    banks = " ".join(shlex.quote(str(bank.path)) for bank in screen.banks)
    raise UserError(
        f"data.control_share is {wanted.control_share}, so a part of a batch needs controls and"
        f" other images of one {wanted.group_by}, but {column} {first_of(names)} {lack} to train"
        f" on. Leave them out: `python -m phenomjax.prepare subset --bank {banks} --where"
        f" {shlex.quote(where)} --out controlled.parquet`, then"
        " --config.data.selection=controlled.parquet; or take controls as they come:"
        " --config.data.control_share=0.0."
    )
