"""The keys that all objectives on images share: the data, and what the model knows of them."""

import dataclasses
import re
from typing import Any

from ml_collections import ConfigDict

from phenomjax.config import mixtures
from phenomjax.config.checks import check_banks, check_selection, divides_batch
from phenomjax.config.ranges import Section, choice, flag, number, several, share, text, whole
from phenomjax.data.simulated.screen_config import (
    ARMS,
    DEFECTS,
    POSITIVE,
    SHARES,
    SimulationConfig,
)
from phenomjax.system.errors import UserError

# keys of `data.simulate` that have another name than the setting of `SimulationConfig`
SHORT = {
    "plates": "num_plates",
    "wells": "wells_per_plate",
    "sites": "sites_per_well",
    "size": "field_px",
}


def add_sections(c: Section) -> None:
    """Adds `c.model`, with the keys that `tasks.image_objective` reads, and `c.data`."""
    c.model = Section()
    # True: a model for any subset of its channels (of a ViT: one token a channel and patch)
    c.model.channel_agnostic = flag(False)
    # channel names in order; () = taken from the banks (their union when channel_agnostic)
    c.model.channels = several(str)
    # compute dtype: "auto" = bfloat16 on GPU and TPU, float32 on a CPU
    c.model.dtype = choice("auto", ("auto", "float32", "bfloat16"))

    c.data = Section()
    # folders NAME.zarr made by `python -m phenomjax.prepare`; a file of `prepare index` names many
    c.data.banks = several(str)
    # file of `python -m phenomjax.prepare subset` that says which of their images; "" = all
    c.data.selection = text("")
    # share of what is trained on, chosen by hash: a smaller share lies within a larger one; what is
    # held out stays as it is; 1.0 = all
    c.data.subset = number(1.0, above=0, most=1)
    # where a node keeps a copy of the images, made before the first step, for all its processes:
    # "disk" (its folder for temporary files), "memory" (shared memory), or a folder; "" = none
    c.data.staging = text("")
    # share of the plates that is copied, another part of them on each node; 1.0 = all
    c.data.staging_share = number(1.0, above=0, most=1, where=("staging", ()))
    # of banks in stores (s3://…): where the processes of a node keep what they fetched, a folder on
    # a local disk; "" = PHENOMJAX_CACHE, or one in the folder for temporary files
    c.data.cache = text("")
    # at most this much; 0.0 = PHENOMJAX_CACHE_GB, or 64, or half of what is free
    c.data.cache_gb = number(
        0.0, least=0, zero="PHENOMJAX_CACHE_GB, or 64, or half of what is free"
    )
    mixtures.add_keys(c.data)
    # side of the square crops, pixels
    c.data.crop_size = whole(256, least=1)
    # crops of one decoded image; pays above about 40, or for banks with whole-plane chunks
    c.data.crops_per_image = whole(1, least=1)
    # random left-right and up-down flips
    c.data.flip = flag(False)
    # random rotations by multiples of 90 degrees
    c.data.rotate = flag(False)
    # metadata column whose groups are held out
    c.data.split_by = text("plate")
    # names of the held-out groups; () = by hash of the name, val_fraction of them
    c.data.val_groups = several(str)
    # share of the groups that is held out, where val_groups names none; 0.0 = nothing is held out
    c.data.val_fraction = number(0.1, least=0, below=1, zero="nothing is held out")
    # decoding threads a process; 0 = number of cores
    c.data.threads = whole(0, least=0, zero="number of cores")
    # decoded batches that wait in memory
    c.data.prefetch_batches = whole(2, least=1)
    # a damaged image: "error" ends the run; "skip" replaces it deterministically, and counts
    c.data.on_bad_image = choice("error", ("error", "skip"))
    # more of them than this end the run
    c.data.max_bad_images = whole(100, least=0, where=("on_bad_image", ("skip",)))
    # a simulated Cell-Painting screen, made in the workdir when no bank is given
    c.data.simulate = Section()
    # number of plates; 0 = off
    c.data.simulate.plates = whole(0, least=0, zero="off")
    # wells of a plate
    c.data.simulate.wells = whole(24, least=1, most=1536)
    # fields of view in a well
    c.data.simulate.sites = whole(1, least=1)
    # side of a field, pixels
    c.data.simulate.size = whole(512, least=32, most=2**14)
    # radius of a cell, pixels
    c.data.simulate.cell_radius = number(26.0, least=1)
    # and all other settings of data/simulated/screen_config.py, by their names there
    for field in dataclasses.fields(SimulationConfig):
        if field.name not in ("seed", "cell_radius", *SHORT.values()):
            c.data.simulate[field.name] = _declared(field.name, field.default)


def _declared(name: str, default: Any) -> Any:
    """A setting of a simulated screen with its range; what two of them allow together,
    `SimulationConfig` says.
    """
    least = int(name in POSITIVE)
    if isinstance(default, int):
        return whole(default, least, len(ARMS)) if name == "num_arms" else whole(default, least)
    shares = (*SHARES, *(f"{defect}_fraction" for defect in DEFECTS))
    return share(default) if name in shares else number(default, least)


def simulation(c: ConfigDict) -> SimulationConfig:
    """The screen that `data.simulate` describes.

    Raises:
      UserError: a value that no screen can have.
    """
    key_of = {SHORT.get(key, key): key for key in c.data.simulate}
    settings = {name: c.data.simulate[key] for name, key in key_of.items()}
    try:
        return SimulationConfig(seed=c.seed, **settings)
    except UserError as error:
        text = str(error)
        for name, key in key_of.items():
            text = re.sub(rf"\b{name}\b", f"config.data.simulate.{key}", text)
        raise UserError(text) from None


def check(c: ConfigDict) -> None:
    """Checks the keys that `add_sections` adds."""
    divides_batch(c, "data.crops_per_image")
    for key in ("channels", "classes", "cell_types"):
        names = tuple(c.model[key]) if key in c.model else ()
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"config.model.{key} has '{twice[0]}' {names.count(twice[0])} times, and parameters"
                " are known by these names. Set"
                f' --config.model.{key}="{tuple(dict.fromkeys(names))}".'
            )
    check_banks(c, c.data.simulate.plates, "images --source DIR --layout LAYOUT", "simulate")
    if not c.data.banks:
        simulation(c)
    mixtures.check(c)
    check_selection(c)
