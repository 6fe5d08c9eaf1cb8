"""The keys of vision transformers, of every objective that has one, with their sizes and checks."""

import math

from ml_collections import ConfigDict

from phenomjax.config import parametrisation
from phenomjax.config.ranges import Section, choice, flag, number, whole
from phenomjax.system.errors import UserError, did_you_mean

# embed_dim, depth, num_heads, MLP width / embed_dim, drop path of the encoders of Phenom-1 and its
# relatives. ViT-G is 1664 x 48 with 1860 M parameters as published; heads and MLP width (16, 8192)
# are those of ViT-G/14 (Zhai et al. 2022, https://arxiv.org/abs/2106.04560), which give that count.
VIT_SIZES = {
    "S": (384, 12, 6, 4.0, 0.1),
    "B": (768, 12, 12, 4.0, 0.1),
    "L": (1024, 24, 16, 4.0, 0.3),
    "G": (1664, 48, 16, 8192 / 1664, 0.6),
}


def add_encoder(m: Section, decoder: bool = False) -> None:
    """Adds the keys of an encoder to `config.model`; `decoder`: it has a decoder, too."""
    width, depth, heads, ratio, drop = VIT_SIZES["S"]
    # width of the encoder
    m.embed_dim = whole(width, least=4)
    # blocks of the encoder
    m.depth = whole(depth, least=1)
    # heads of the attention
    m.num_heads = whole(heads, least=1)
    # MLP width / embed_dim
    m.mlp_ratio = number(ratio, above=0)
    # share of the rows that skip the last block in training, rising from 0 in the first; 0.0 = off
    m.drop_path = number(drop, least=0, below=1, zero="off")
    # side of a patch, pixels
    m.patch_size = whole(16, least=1)
    # tokens along an axis between whose places all others are put, so that a model knows the
    # positions in crops of another size; 0.0 = own places, 0, 1, 2, … Filled in where `init_from`
    # names a run of another patch_size or crop_size
    m.position_grid = number(0.0, least=0, zero="own places")
    # kind of block: "parallel" (ViT-22B, as Phenom-1) or "prenorm" (plain ViT)
    m.block = choice("parallel", ("parallel", "prenorm"))
    # LayerNorm of queries and keys over the head dimension
    m.qk_norm = flag(True)
    # initial LayerScale; 0.0 = none
    m.layer_scale = number(1e-4, least=0, zero="none")
    # True: a class token stands before those of the patches
    m.class_token = flag(True)
    # where the MLP bias of parallel blocks goes; "timm_legacy": as timm <= 1.0.24 misplaced it
    m.bias_order = choice("mlp", ("mlp", "timm_legacy"))
    # epsilon of layer norms
    m.norm_eps = number(1e-6, above=0)
    # form of GELU: "exact" (erf) or "tanh"
    m.gelu = choice("exact", ("exact", "tanh"))
    # True: compile one block and scan it (shorter compile, stacked parameters)
    m.scan_layers = flag(False)
    # rematerialisation: "none", "dots" (keep matmul results), "full"
    m.remat = choice("none", ("none", "dots", "full"))
    # how attention is computed: "auto" (cudnn where it can be, matmul on a CPU, else xla),
    # "matmul", "products", "xla", "cudnn"
    m.attention = choice("auto", ("auto", "matmul", "products", "xla", "cudnn"))
    parametrisation.add_keys(m, decoder)


def set_vit(config: ConfigDict, size: str) -> None:
    """Sets the encoder of `config.model` to a named size such as "L/8"; scans layers from 24 on.

    Raises:
      UserError: an unknown size or a patch that is not a number.
    """
    name, _, patch = size.partition("/")
    if name not in VIT_SIZES or not patch.isdigit():
        known = [f"{s}/{p}" for s in VIT_SIZES for p in (8, 16)]
        raise UserError(
            f"There is no model size '{size}'.{did_you_mean(size, known)} Sizes: {', '.join(known)}"
            " (any patch size works)."
        )
    m = config.model
    m.embed_dim, m.depth, m.num_heads, m.mlp_ratio, m.drop_path = VIT_SIZES[name]
    m.patch_size = int(patch)
    m.scan_layers = m.depth >= 24


def check_encoder(c: ConfigDict) -> None:
    """Checks the keys that `add_encoder` adds."""
    m = c.model
    if not round(m.embed_dim * m.mlp_ratio):
        raise UserError(
            f"config.model.mlp_ratio {m.mlp_ratio} of config.model.embed_dim {m.embed_dim} is no"
            " unit of the MLP. Set --config.model.mlp_ratio=4.0."
        )
    if c.data.crop_size % m.patch_size:
        fitting = max(c.data.crop_size // m.patch_size, 1) * m.patch_size
        raise UserError(
            f"config.data.crop_size {c.data.crop_size} is not a multiple of config.model.patch_size"
            f" {m.patch_size}. Set --config.data.crop_size={fitting}."
        )
    check_width(c, "embed_dim", "num_heads")
    parametrisation.check(c, "depth")


def check_width(c: ConfigDict, dim: str, heads: str) -> None:
    """Checks that heads and the position table divide the width of a transformer."""
    m = c.model
    step = math.lcm(m[heads], 4)
    if m[dim] % step:
        raise UserError(
            f"config.model.{dim} {m[dim]} must be a multiple of config.model.{heads} {m[heads]},"
            " and of 4 for the sin-cos position table. Set"
            f" --config.model.{dim}={max(round(m[dim] / step), 1) * step}."
        )
