"""The keys of masked autoencoders on images, with their defaults and checks."""

from ml_collections import ConfigDict

from phenomjax.config import image_data
from phenomjax.config.ranges import Section, choice, flag, number, share, whole
from phenomjax.config.vit import VIT_SIZES, add_encoder, check_encoder, check_width, set_vit
from phenomjax.system.errors import UserError

__all__ = ["VIT_SIZES", "add_sections", "check", "set_vit"]


def add_sections(c: Section) -> None:
    """Adds `c.model` and `c.data`."""
    image_data.add_sections(c)
    add_encoder(c.model, decoder=True)
    # epsilon of its layer norms; the released OpenPhenom decoder uses 1e-5
    c.model.decoder_norm_eps = number(1e-6, above=0)
    # width of the decoder
    c.model.decoder_dim = whole(512, least=4)
    # blocks of the decoder
    c.model.decoder_depth = whole(8, least=1)
    # heads of its attention
    c.model.decoder_num_heads = whole(16, least=1)
    # share of tokens that the encoder does not see
    c.model.mask_ratio = number(0.75, above=0, below=1)
    # standardise each target patch
    c.model.norm_pix_loss = flag(False)
    # share a in the loss (1 - a) L_MAE + a L_Fourier; 0.0 = L_MAE alone
    c.model.fourier_weight = share(0.01, zero="none")
    # L_Fourier is of the amplitude spectrum of each "patch", of the whole "image", or the "legacy"
    # view
    c.model.fourier_mode = choice("patch", ("patch", "image", "legacy"))


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    check_encoder(c)
    check_width(c, "decoder_dim", "decoder_num_heads")
    crops, rows = c.data.crops_per_image, c.eval.batch_size
    if c.eval.num_batches and rows % crops:
        raise UserError(
            f"config.eval.batch_size {rows} is not a multiple of config.data.crops_per_image"
            f" {crops}. Set --config.eval.batch_size={-(-rows // crops) * crops}, or"
            " --config.eval.num_batches=0, which takes one crop of each image."
        )
    image_data.check(c)
