"""Every configuration key with its default, the presets that experiment files compose, and the checks before a run.

Configs are closed: `base()` holds every key, so a typo is an error, and code reads keys as attributes only.
"""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from phenomjax.errors import UserError

# embed_dim, depth, num_heads, MLP width / embed_dim, drop path of the encoders of Phenom-1 and its relatives.
# ViT-G is 1664 x 48 with 1860 M parameters as published; heads and MLP width (16, 8192) are those of ViT-G/14
# (Zhai et al. 2022, https://arxiv.org/abs/2106.04560), which give that count.
VIT_SIZES = {
    "S": (384, 12, 6, 4.0, 0.1),
    "B": (768, 12, 12, 4.0, 0.1),
    "L": (1024, 24, 16, 4.0, 0.3),
    "G": (1664, 48, 16, 8192 / 1664, 0.6),
}

# Keys that may differ when a run is continued in its workdir: they change speed, logging or the length, not the mathematics.
CHANGEABLE = (
    "num_steps", "mesh", "log", "eval", "figures", "checkpoint", "divergence", "data.banks", "data.threads",
    "data.prefetch_batches", "data.on_bad_image", "data.max_bad_images", "model.remat", "model.attention",
)  # fmt: skip


def base() -> ConfigDict:
    """Returns the complete configuration of a masked autoencoder with all defaults; experiment files override it."""
    c = ConfigDict()
    c.task = "mae"  # pretraining objective: a name in phenomjax.tasks.TASKS
    c.seed = 0  # of initialisation, data order, crops, masks, drop path
    c.num_steps = 1000  # optimiser steps of the whole run; schedules end here
    c.global_batch_size = 64  # crops a step over all devices and hosts
    c.init_from = ""  # workdir or checkpoint folder whose parameters start this run ("" = random)

    c.model = ConfigDict()
    c.model.channel_agnostic = False  # True: CA-MAE, one token a channel and patch, any subset of channels
    c.model.channels = ()  # channel names in order; () = taken from the banks (their union when channel_agnostic)
    c.model.embed_dim, c.model.depth, c.model.num_heads, c.model.mlp_ratio, c.model.drop_path = VIT_SIZES["S"]
    c.model.patch_size = 16
    c.model.block = "parallel"  # "parallel" (ViT-22B, as Phenom-1) or "prenorm" (plain ViT)
    c.model.qk_norm = True  # LayerNorm of queries and keys over the head dimension
    c.model.layer_scale = 1e-4  # initial LayerScale; 0.0 = none
    c.model.class_token = True
    c.model.bias_order = (
        "mlp"  # where the MLP bias of parallel blocks goes; "timm_legacy": as timm <= 1.0.24 misplaced it
    )
    c.model.norm_eps = 1e-6
    c.model.decoder_norm_eps = 1e-6  # the released OpenPhenom decoder uses 1e-5
    c.model.decoder_dim = 512
    c.model.decoder_depth = 8
    c.model.decoder_num_heads = 16
    c.model.mask_ratio = 0.75  # share of tokens that the encoder does not see
    c.model.norm_pix_loss = False  # standardise each target patch
    c.model.fourier_weight = 0.01  # a in (1 - a) L_MAE + a L_Fourier
    c.model.fourier_mode = "patch"  # amplitude spectrum of each "patch", of the whole "image", or the "legacy" view
    c.model.gelu = "exact"  # "exact" (erf) or "tanh"
    c.model.dtype = "auto"  # compute dtype: "auto" = bfloat16 on GPU and TPU, float32 on a CPU
    c.model.scan_layers = False  # True: compile one block and scan it (shorter compile, stacked parameters)
    c.model.remat = "none"  # rematerialisation: "none", "dots" (keep matmul results), "full"
    c.model.attention = "auto"  # "auto", "matmul", "xla", "cudnn"

    c.data = ConfigDict()
    c.data.banks = ()  # folders NAME.zarr made by `python -m phenomjax.prepare`
    c.data.weights = ()  # share of crops from each bank; () = by number of images
    c.data.crop_size = 256  # pixels; crops are square
    c.data.crops_per_image = 1  # crops of one decoded image; pays above about 40, or for banks with whole-plane chunks
    c.data.flip = False  # random left-right and up-down flips
    c.data.rotate = False  # random rotations by multiples of 90 degrees
    c.data.split_by = "plate"  # metadata column whose groups are held out
    c.data.val_groups = ()  # names of the held-out groups; () = by hash of the name, val_fraction of them
    c.data.val_fraction = 0.1
    c.data.threads = 0  # decoding threads a process; 0 = number of cores
    c.data.prefetch_batches = 2  # decoded batches that wait in memory
    c.data.on_bad_image = "error"  # "skip": replace damaged images deterministically, count them
    c.data.max_bad_images = 100  # skipping more than this stops the run
    c.data.simulate = ConfigDict()  # a simulated Cell-Painting screen, made in the workdir when no bank is given
    c.data.simulate.plates = 0  # 0 = off
    c.data.simulate.wells = 24  # a plate
    c.data.simulate.sites = 1  # a well
    c.data.simulate.size = 512  # pixels
    c.data.simulate.cell_radius = 26.0  # pixels

    c.optimizer = ConfigDict()
    c.optimizer.name = "lion"  # "lion" or "adamw"
    c.optimizer.learning_rate = 1e-4  # peak
    c.optimizer.schedule = "one_cycle"  # "one_cycle" (cosine up and down), "warmup_cosine", "constant"
    c.optimizer.warmup_fraction = 0.1  # share of num_steps until the peak
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.95
    c.optimizer.weight_decay = 0.05  # of matrices; biases, norms, tokens and LayerScale are never decayed
    c.optimizer.clip_norm = 0.0  # global-norm clipping; 0.0 = off
    c.optimizer.accumulate_steps = 1  # micro-batches a step, each global_batch_size / accumulate_steps
    c.optimizer.ema_decay = 0.0  # exponential moving average of the parameters; 0.0 = none

    c.mesh = ConfigDict()
    c.mesh.preset = "dp"  # "dp", "fsdp" (parameters sharded over data), "fsdp_tp" (and over model)
    c.mesh.data = -1  # devices on the data axis; -1 = all that are left
    c.mesh.model = 1  # devices on the model axis

    c.log = ConfigDict()
    c.log.every_steps = 50
    c.log.tensorboard = True  # when tensorboardX is installed
    c.log.wandb_project = ""  # Weights & Biases project; "" = off

    c.eval = ConfigDict()
    c.eval.every_steps = 500  # 0 = never
    c.eval.num_batches = 4  # of global_batch_size held-out crops, the same at every evaluation

    c.figures = ConfigDict()
    c.figures.every_steps = 0  # 0 = only at the end of the run
    c.figures.num_images = 4

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 500
    c.checkpoint.every_minutes = 30.0  # checked at log steps; 0.0 = off
    c.checkpoint.keep_latest = 2
    c.checkpoint.keep_best = (
        1  # by val/loss; unless it is 0, every evaluated step is saved, so that the best can be kept
    )

    c.divergence = ConfigDict()
    c.divergence.action = "stop"  # "stop", or "rollback": last good checkpoint, skip the window's data, go on
    c.divergence.max_grad_norm = 0.0  # a larger gradient norm counts as diverged; 0.0 = only non-finite values do
    c.divergence.max_rollbacks = 3
    return c


def parse_arg(arg: str, **options: Any) -> dict[str, Any]:
    """Reads the argument behind `--config FILE:ARG`, e.g. "L/8,mask=0.75".

    Args:
      arg: comma-separated items; the one without "=" is the model size.
      **options: allowed names with their defaults; a value takes the default's type. `size` names the model preset.

    Returns:
      All options with their values.

    Raises:
      UserError: an unknown name or a value of another type.
    """
    values = dict(options)
    for item in filter(None, arg.split(",")):
        name, _, text = item.partition("=") if "=" in item else ("size", "", item)
        if name not in options:
            raise UserError(
                f"The preset '{arg}' has no option '{name}'.{did_you_mean(name, options)} Options: {', '.join(options)}."
            )
        try:
            kind = type(options[name])
            values[name] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise UserError(f"The preset '{arg}' gives {name}={text}, which is not a {kind.__name__}.") from None
    return values


def set_vit(config: ConfigDict, size: str) -> None:
    """Sets the encoder of `config.model` to a named size such as "L/8"; scans layers from 24 on.

    Raises:
      UserError: an unknown size or a patch that is not a number.
    """
    name, _, patch = size.partition("/")
    if name not in VIT_SIZES or not patch.isdigit():
        known = [f"{s}/{p}" for s in VIT_SIZES for p in (8, 16)]
        raise UserError(
            f"There is no model size '{size}'.{did_you_mean(size, known)} Sizes: {', '.join(known)} (any patch size works)."
        )
    m = config.model
    m.embed_dim, m.depth, m.num_heads, m.mlp_ratio, m.drop_path = VIT_SIZES[name]
    m.patch_size = int(patch)
    m.scan_layers = m.depth >= 24


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def choose(config: ConfigDict, key: str, known: Iterable[str]) -> None:
    """Checks that the value of a dotted key is one of the known names."""
    value = flatten(config)[key]
    if value not in known:
        raise UserError(f"config.{key} is '{value}'.{did_you_mean(str(value), known)} It can be {', '.join(known)}.")


def finalize(config: ConfigDict) -> ConfigDict:
    """Checks what can be checked before a device is touched and returns a locked copy.

    Raises:
      UserError: names the key, its value and a value that works.
    """
    c = ConfigDict(config.to_dict())  # resolves references
    known = set(flatten(base()))
    for key in flatten(c):
        if key not in known:
            raise UserError(
                f"config.{key} is not a key.{did_you_mean(key, known)} All keys stand in phenomjax/config.py."
            )
    choose(c, "optimizer.name", ("lion", "adamw"))
    choose(c, "optimizer.schedule", ("one_cycle", "warmup_cosine", "constant"))
    choose(c, "mesh.preset", ("dp", "fsdp", "fsdp_tp"))
    choose(c, "divergence.action", ("stop", "rollback"))
    choose(c, "data.on_bad_image", ("error", "skip"))
    choose(c, "model.block", ("parallel", "prenorm"))
    choose(c, "model.bias_order", ("mlp", "timm_legacy"))
    choose(c, "model.fourier_mode", ("patch", "image", "legacy"))
    choose(c, "model.gelu", ("exact", "tanh"))
    choose(c, "model.dtype", ("auto", "float32", "bfloat16"))
    choose(c, "model.remat", ("none", "dots", "full"))
    choose(c, "model.attention", ("auto", "matmul", "xla", "cudnn"))
    for key in ("num_steps", "global_batch_size", "optimizer.accumulate_steps", "log.every_steps", "eval.num_batches",
                "checkpoint.every_steps", "checkpoint.keep_latest", "data.crops_per_image"):  # fmt: skip
        if flatten(c)[key] < 1:
            raise UserError(f"config.{key} is {flatten(c)[key]}; it must be at least 1.")
    m = c.model
    if c.data.crop_size % m.patch_size:
        raise UserError(
            f"config.data.crop_size {c.data.crop_size} is not a multiple of config.model.patch_size {m.patch_size}. "
            f"Set --config.data.crop_size={c.data.crop_size // m.patch_size * m.patch_size or m.patch_size}."
        )
    for dim, heads in (("embed_dim", "num_heads"), ("decoder_dim", "decoder_num_heads")):
        if m[dim] % m[heads] or m[dim] % 4:
            raise UserError(
                f"config.model.{dim} {m[dim]} must be a multiple of config.model.{heads} {m[heads]}, and of 4 for the sin-cos position table."
            )
    if not 0.0 < m.mask_ratio < 1.0:
        raise UserError(f"config.model.mask_ratio is {m.mask_ratio}; it must lie between 0 and 1, e.g. 0.75.")
    if not 0.0 <= m.fourier_weight <= 1.0:
        raise UserError(f"config.model.fourier_weight is {m.fourier_weight}; it must lie between 0 and 1, e.g. 0.01.")
    for key in ("optimizer.accumulate_steps", "data.crops_per_image"):
        if c.global_batch_size % flatten(c)[key]:
            raise UserError(
                f"config.global_batch_size {c.global_batch_size} is not a multiple of config.{key} {flatten(c)[key]}."
            )
    if not c.data.banks and not c.data.simulate.plates:
        raise UserError(
            "config.data.banks is empty: there is nothing to train on. Make a bank with `python -m phenomjax.prepare images` (or "
            "`simulate`) and give it with --config.data.banks=\"('bank.zarr',)\"."
        )
    for path in c.data.banks:
        if not Path(path).is_dir():
            raise UserError(
                f"config.data.banks names {path}, which does not exist (looked in {Path(path).absolute().parent}). Make it with "
                f"`python -m phenomjax.prepare images --source DIR --layout LAYOUT --out {path}`, or correct the path."
            )
    return c.lock()


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """Returns {"model.depth": 12, ...} with lists as tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def save(config: ConfigDict, path: Path) -> None:
    """Writes the resolved config as JSON."""
    path.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def load(path: Path) -> ConfigDict:
    """Reads a config that `save` wrote; keys that are newer than the file take their defaults.

    Raises:
      UserError: the file is missing or is not JSON.
    """
    try:
        stored = flatten(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"There is no {path}: {path.parent} is not the folder of a run, or lost its configuration."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); restore it from the run's first lines of output."
        ) from None
    config = base()
    for key, value in stored.items():
        parent = config
        *parents, leaf = key.split(".")
        for name in parents:
            parent = parent[name] if name in parent else parent.setdefault(name, ConfigDict())
        parent[leaf] = value
    return config


def check_same_run(config: ConfigDict, stored: ConfigDict, workdir: Path) -> None:
    """Raises UserError when a workdir belongs to a run with another configuration, listing the keys that differ."""
    new, old = flatten(config), flatten(stored)
    differ = [k for k in sorted(new.keys() | old.keys()) if new.get(k) != old.get(k) and not k.startswith(CHANGEABLE)]
    if differ:
        rows = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in differ[:8])
        more = f" (and {len(differ) - 8} more)" if len(differ) > 8 else ""
        raise UserError(
            f"{workdir} holds a run with another configuration: {rows}{more}. Give another --workdir to start a new run, or the same "
            f"configuration to continue that one (its resolved config is {workdir / 'config.json'})."
        )
