"""The keys of Transformer-XL, for next-token prediction."""

from ml_collections import ConfigDict

from phenomjax.config import parametrisation
from phenomjax.config.checks import choose
from phenomjax.config.language_models import add_shared_sections, check_even, check_shared
from phenomjax.system.errors import UserError


def add_sections(c: ConfigDict) -> None:
    """Adds `c.model` and `c.data`."""
    add_shared_sections(c, _transformer_xl)


def _transformer_xl(m: ConfigDict) -> None:
    """Transformer-XL (Dai et al. 2019, https://arxiv.org/abs/1901.02860)."""
    m.embed_dim = 256
    m.num_layers = 6
    m.num_heads = 4
    m.head_dim = 64
    m.mlp_dim = 1024
    # positions of earlier segments that attention sees; 0 = none
    m.mem_len = 128
    # the same in evaluation, usually longer; 0 = mem_len
    m.eval_mem_len = 0
    # distances beyond this count as this; 0 = no limit
    m.clamp_len = 0
    # every query sees equally many keys: "none", "kimiyoung" (mem_len keys), "nvidia" (mem_len
    # + 1)
    m.same_length = "none"
    # LayerNorm after ("post", as published) or before ("pre") each branch
    m.norm = "post"
    # True: each layer has its own biases u and v of the relative attention
    m.untie_bias = False
    m.dropout = 0.1
    m.attention_dropout = 0.0
    # adaptive softmax and input: first ids of the tail clusters; () = plain softmax, best for
    # proteins
    m.cutoffs = ()
    # cluster i has embeddings of embed_dim / div_val**i numbers
    m.div_val = 1
    m.init_std = 0.02
    # True: compile one layer and scan it (shorter compile, stacked parameters)
    m.scan_layers = False
    # rematerialisation: "none", "dots" (keep matmul results), "full"
    m.remat = "none"
    # "auto", "xla", "looped" (for a CPU) or "cudnn" (relative bias through cuDNN's flash
    # attention)
    m.attention = "auto"
    parametrisation.add_keys(m)


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    m = c.model
    choose(c, "model.same_length", ("none", "kimiyoung", "nvidia"))
    choose(c, "model.norm", ("post", "pre"))
    choose(c, "model.attention", ("auto", "xla", "looped", "cudnn"))
    choose(c, "model.remat", ("none", "dots", "full"))
    if m.same_length == "kimiyoung" and not (m.mem_len and (m.eval_mem_len or m.mem_len)):
        raise UserError(
            "config.model.same_length 'kimiyoung' lets each query see mem_len keys, and"
            " config.model.mem_len is 0: nothing would be seen. Set --config.model.mem_len, or"
            " --config.model.same_length=none."
        )
    check_even(c)
    parametrisation.check(c, "num_layers", m.norm)
    rising = list(m.cutoffs) == sorted(set(m.cutoffs))
    if not rising or m.div_val < 1 or m.embed_dim % m.div_val ** len(m.cutoffs):
        raise UserError(
            f"config.model.cutoffs {tuple(m.cutoffs)} must rise, and config.model.embed_dim"
            f" {m.embed_dim} be a multiple of config.model.div_val {m.div_val} to the power"
            f" {len(m.cutoffs)}."
        )
    check_shared(c)
