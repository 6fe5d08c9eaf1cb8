"""The keys of masked autoencoders on images, with their defaults, presets and checks."""

from ml_collections import ConfigDict

from phenomjax.config import image_data
from phenomjax.config.checks import choose
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


def add_sections(c: ConfigDict) -> None:
    """Adds `c.model` and `c.data`."""
    image_data.add_sections(c)
    # True: CA-MAE, one token a channel and patch, any subset of channels
    c.model.channel_agnostic = False
    c.model.embed_dim, c.model.depth, c.model.num_heads, c.model.mlp_ratio, c.model.drop_path = (
        VIT_SIZES["S"]
    )
    c.model.patch_size = 16
    # "parallel" (ViT-22B, as Phenom-1) or "prenorm" (plain ViT)
    c.model.block = "parallel"
    # LayerNorm of queries and keys over the head dimension
    c.model.qk_norm = True
    # initial LayerScale; 0.0 = none
    c.model.layer_scale = 1e-4
    c.model.class_token = True
    # where the MLP bias of parallel blocks goes; "timm_legacy": as timm <= 1.0.24 misplaced it
    c.model.bias_order = "mlp"
    c.model.norm_eps = 1e-6
    # the released OpenPhenom decoder uses 1e-5
    c.model.decoder_norm_eps = 1e-6
    c.model.decoder_dim = 512
    c.model.decoder_depth = 8
    c.model.decoder_num_heads = 16
    # share of tokens that the encoder does not see
    c.model.mask_ratio = 0.75
    # standardise each target patch
    c.model.norm_pix_loss = False
    # a in (1 - a) L_MAE + a L_Fourier
    c.model.fourier_weight = 0.01
    # amplitude spectrum of each "patch", of the whole "image", or the "legacy" view
    c.model.fourier_mode = "patch"
    # "exact" (erf) or "tanh"
    c.model.gelu = "exact"
    # True: compile one block and scan it (shorter compile, stacked parameters)
    c.model.scan_layers = False
    # rematerialisation: "none", "dots" (keep matmul results), "full"
    c.model.remat = "none"
    # "auto", "matmul", "products", "xla", "cudnn"
    c.model.attention = "auto"


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


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    choose(c, "model.block", ("parallel", "prenorm"))
    choose(c, "model.bias_order", ("mlp", "timm_legacy"))
    choose(c, "model.fourier_mode", ("patch", "image", "legacy"))
    choose(c, "model.gelu", ("exact", "tanh"))
    choose(c, "model.remat", ("none", "dots", "full"))
    choose(c, "model.attention", ("auto", "matmul", "products", "xla", "cudnn"))
    m = c.model
    if c.data.crop_size % m.patch_size:
        fitting = max(c.data.crop_size // m.patch_size, 1) * m.patch_size
        raise UserError(
            f"config.data.crop_size {c.data.crop_size} is not a multiple of config.model.patch_size"
            f" {m.patch_size}. Set --config.data.crop_size={fitting}."
        )
    for dim, heads in (("embed_dim", "num_heads"), ("decoder_dim", "decoder_num_heads")):
        if m[dim] % m[heads] or m[dim] % 4:
            raise UserError(
                f"config.model.{dim} {m[dim]} must be a multiple of config.model.{heads}"
                f" {m[heads]}, and of 4 for the sin-cos position table."
            )
    if not 0.0 < m.mask_ratio < 1.0:
        raise UserError(
            f"config.model.mask_ratio is {m.mask_ratio}; it must lie between 0 and 1, e.g. 0.75."
        )
    if not 0.0 <= m.fourier_weight <= 1.0:
        raise UserError(
            f"config.model.fourier_weight is {m.fourier_weight}; it must lie between 0 and 1, e.g."
            " 0.01."
        )
    image_data.check(c)
