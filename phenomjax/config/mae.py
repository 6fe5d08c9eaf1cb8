"""The keys of masked autoencoders on images, with their defaults and checks."""

from ml_collections import ConfigDict

from phenomjax.config import image_data
from phenomjax.config.checks import choose
from phenomjax.config.vit import VIT_SIZES, add_encoder, check_encoder, check_width, set_vit
from phenomjax.system.errors import UserError

__all__ = ["VIT_SIZES", "add_sections", "check", "set_vit"]


def add_sections(c: ConfigDict) -> None:
    """Adds `c.model` and `c.data`."""
    image_data.add_sections(c)
    add_encoder(c.model, decoder=True)
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


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    check_encoder(c)
    choose(c, "model.fourier_mode", ("patch", "image", "legacy"))
    check_width(c, "decoder_dim", "decoder_num_heads")
    m = c.model
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
