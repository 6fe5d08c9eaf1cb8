"""The keys of XLNet, for permutation language modelling."""

from ml_collections import ConfigDict

from phenomjax.config import parametrisation
from phenomjax.config.checks import at_least_one, choose
from phenomjax.config.language_models import add_shared_sections, check_even, check_shared
from phenomjax.data.sequences.spans import check_row
from phenomjax.system.errors import UserError


def add_sections(c: ConfigDict) -> None:
    """Adds `c.model` and `c.data`."""
    add_shared_sections(c, _xlnet)


def _xlnet(m: ConfigDict) -> None:
    """XLNet (Yang et al. 2019, https://arxiv.org/abs/1906.08237)."""
    m.embed_dim = 256
    m.num_layers = 6
    m.num_heads = 4
    m.head_dim = 64
    m.mlp_dim = 1024
    m.mem_len = 96
    # tokens of a row that are new, and that the next step's memory keeps
    m.reuse_len = 64
    # tokens that are permuted together; divides reuse_len
    m.perm_size = 64
    # targets a row
    m.num_predict = 22
    # a span of n targets comes with n * mask_alpha / mask_beta tokens of context
    m.mask_alpha = 6
    m.mask_beta = 1
    # half of the rows run backwards
    m.bi_data = True
    # "bi" or "uni"
    m.attention_type = "bi"
    m.clamp_len = 0
    m.same_length = False
    m.untie_bias = True
    # "exact" (erf, Hugging Face) or "tanh" (TensorFlow)
    m.gelu = "exact"
    m.dropout = 0.1
    m.attention_dropout = 0.1
    m.init_std = 0.02
    m.scan_layers = False
    m.remat = "none"
    parametrisation.add_keys(m)


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    m = c.model
    choose(c, "model.attention_type", ("bi", "uni"))
    choose(c, "model.remat", ("none", "dots", "full"))
    choose(c, "model.gelu", ("exact", "tanh"))
    for key in ("model.reuse_len", "model.perm_size", "model.mask_alpha", "model.mask_beta"):
        at_least_one(c, key)
    for length in {c.data.segment_len, c.data.eval_segment_len or c.data.segment_len}:
        check_row(length, m.reuse_len, m.num_predict)
    if m.reuse_len % m.perm_size:
        raise UserError(
            f"config.model.reuse_len {m.reuse_len} is not a multiple of config.model.perm_size"
            f" {m.perm_size}, the tokens that are permuted together. Set"
            f" --config.model.perm_size={m.reuse_len}, or a divisor of it."
        )
    check_even(c)
    parametrisation.check(c, "num_layers", norm="post")
    check_shared(c)
