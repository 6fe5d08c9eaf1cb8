"""The keys of Transformer-XL, for next-token prediction."""

from ml_collections import ConfigDict

from phenomjax.config import parametrisation
from phenomjax.config.language_models import add_shared_sections, check_even, check_shared
from phenomjax.config.ranges import Section, choice, flag, number, several, whole
from phenomjax.system.errors import UserError


def add_sections(c: Section) -> None:
    """Adds `c.model` and `c.data`."""
    add_shared_sections(c, _transformer_xl)


def _transformer_xl(m: Section) -> None:
    """Transformer-XL (Dai et al. 2019, https://arxiv.org/abs/1901.02860)."""
    # width of the model
    m.embed_dim = whole(256, least=2)
    # number of layers
    m.num_layers = whole(6, least=1)
    # heads of the attention
    m.num_heads = whole(4, least=1)
    # width of a head
    m.head_dim = whole(64, least=1)
    # hidden width of each MLP
    m.mlp_dim = whole(1024, least=1)
    # positions of earlier segments that attention sees; 0 = none
    m.mem_len = whole(128, least=0, zero="none")
    # the same in evaluation, usually longer; 0 = mem_len
    m.eval_mem_len = whole(0, least=0, zero="mem_len")
    # distances beyond this count as this; 0 = no limit
    m.clamp_len = whole(0, least=0, zero="no limit")
    # every query sees equally many keys: "none", "kimiyoung" (mem_len keys), "nvidia" (mem_len
    # + 1)
    m.same_length = choice("none", ("none", "kimiyoung", "nvidia"))
    # LayerNorm after ("post", as published) or before ("pre") each branch
    m.norm = choice("post", ("post", "pre"))
    # True: each layer has its own biases u and v of the relative attention
    m.untie_bias = flag(False)
    # share of activations that are left out in training; 0.0 = off
    m.dropout = number(0.1, least=0, below=1, zero="off")
    # share of attention weights that are left out in training; 0.0 = off
    m.attention_dropout = number(0.0, least=0, below=1, zero="off")
    # adaptive softmax and input: first ids of the tail clusters; () = plain softmax, best for
    # proteins
    m.cutoffs = several(int, least=1)
    # cluster i has embeddings of embed_dim / div_val**i numbers
    m.div_val = whole(1, least=1, where=("cutoffs", ()))
    # standard deviation of first values
    m.init_std = number(0.02, above=0)
    # True: compile one layer and scan it (shorter compile, stacked parameters)
    m.scan_layers = flag(False)
    # rematerialisation: "none", "dots" (keep matmul results), "full"
    m.remat = choice("none", ("none", "dots", "full"))
    # "auto", "xla", "looped" (for a CPU) or "cudnn" (relative bias through cuDNN's flash
    # attention)
    m.attention = choice("auto", ("auto", "xla", "looped", "cudnn"))
    parametrisation.add_keys(m)


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    m = c.model
    if m.same_length == "kimiyoung" and not (m.mem_len and (m.eval_mem_len or m.mem_len)):
        raise UserError(
            "config.model.same_length 'kimiyoung' lets each query see mem_len keys, and"
            " config.model.mem_len is 0: nothing would be seen. Set --config.model.mem_len, or"
            " --config.model.same_length=none."
        )
    if m.attention == "cudnn":
        for key, length in (("data.segment_len", c.data.segment_len), ("model.mem_len", m.mem_len)):
            if length % 2:
                raise UserError(
                    f"config.{key} is {length}, and config.model.attention 'cudnn' takes no odd"
                    f" lengths in training. Set --config.{key}={length + 1}, or"
                    " --config.model.attention=auto."
                )
    check_even(c)
    parametrisation.check(c, "num_layers", m.norm)
    rising = list(m.cutoffs) == sorted(set(m.cutoffs))
    if not rising or m.embed_dim % m.div_val ** len(m.cutoffs):
        raise UserError(
            f"config.model.cutoffs {tuple(m.cutoffs)} must rise, and config.model.embed_dim"
            f" {m.embed_dim} be a multiple of config.model.div_val {m.div_val} to the power"
            f" {len(m.cutoffs)}."
        )
    check_shared(c)
