"""The keys that all objectives on images share: the data, and what the model knows of them."""

import dataclasses
import re

from ml_collections import ConfigDict

from phenomjax.config.checks import (
    at_least_one,
    check_banks,
    check_selection,
    choose,
    divides_batch,
)
from phenomjax.data.simulated.screen_config import SimulationConfig
from phenomjax.system.errors import UserError

# keys of `data.simulate` that have another name than the setting of `SimulationConfig`
SHORT = {
    "plates": "num_plates",
    "wells": "wells_per_plate",
    "sites": "sites_per_well",
    "size": "field_px",
}


def add_sections(c: ConfigDict) -> None:
    """Adds `c.model`, with the keys that `tasks.image_objective` reads, and `c.data`."""
    c.model = ConfigDict()
    # True: a model for any subset of its channels (of a ViT: one token a channel and patch)
    c.model.channel_agnostic = False
    # channel names in order; () = taken from the banks (their union when channel_agnostic)
    c.model.channels = ()
    # compute dtype: "auto" = bfloat16 on GPU and TPU, float32 on a CPU
    c.model.dtype = "auto"

    c.data = ConfigDict()
    # folders NAME.zarr made by `python -m phenomjax.prepare`; a file of `prepare index` names many
    c.data.banks = ()
    # file of `python -m phenomjax.prepare subset` that says which of their images; "" = all
    c.data.selection = ""
    # share of what is trained on, chosen by hash: a smaller share lies within a larger one; what is
    # held out stays as it is; 1.0 = all
    c.data.subset = 1.0
    # where a node keeps a copy of the images, made before the first step, for all its processes:
    # "disk" (its folder for temporary files), "memory" (shared memory), or a folder; "" = none
    c.data.staging = ""
    # share of the plates that is copied, another part of them on each node; 1.0 = all
    c.data.staging_share = 1.0
    # of banks in stores (s3://…): where the processes of a node keep what they fetched, a folder on
    # a local disk; "" = PHENOMJAX_CACHE, or one in the folder for temporary files
    c.data.cache = ""
    # at most this much; 0.0 = PHENOMJAX_CACHE_GB, or 64, or half of what is free
    c.data.cache_gb = 0.0
    # share of crops from each bank; () = by number of images
    c.data.weights = ()
    # pixels; crops are square
    c.data.crop_size = 256
    # crops of one decoded image; pays above about 40, or for banks with whole-plane chunks
    c.data.crops_per_image = 1
    # random left-right and up-down flips
    c.data.flip = False
    # random rotations by multiples of 90 degrees
    c.data.rotate = False
    # metadata column whose groups are held out
    c.data.split_by = "plate"
    # names of the held-out groups; () = by hash of the name, val_fraction of them
    c.data.val_groups = ()
    c.data.val_fraction = 0.1
    # decoding threads a process; 0 = number of cores
    c.data.threads = 0
    # decoded batches that wait in memory
    c.data.prefetch_batches = 2
    # "skip": replace damaged images deterministically, count them
    c.data.on_bad_image = "error"
    # skipping more than this stops the run
    c.data.max_bad_images = 100
    # a simulated Cell-Painting screen, made in the workdir when no bank is given
    c.data.simulate = ConfigDict()
    # 0 = off
    c.data.simulate.plates = 0
    # a plate
    c.data.simulate.wells = 24
    # a well
    c.data.simulate.sites = 1
    # pixels
    c.data.simulate.size = 512
    # pixels
    c.data.simulate.cell_radius = 26.0
    # and all other settings of data/simulated/screen_config.py, by their names there
    for field in dataclasses.fields(SimulationConfig):
        if field.name not in ("seed", "cell_radius", *SHORT.values()):
            c.data.simulate[field.name] = field.default


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
    choose(c, "model.dtype", ("auto", "float32", "bfloat16"))
    choose(c, "data.on_bad_image", ("error", "skip"))
    at_least_one(c, "data.crops_per_image")
    divides_batch(c, "data.crops_per_image")
    check_banks(c, c.data.simulate.plates, "images --source DIR --layout LAYOUT", "simulate")
    if not c.data.banks:
        simulation(c)
    check_selection(c)
