"""The keys of XLNet, for permutation language modelling."""

from ml_collections import ConfigDict

from phenomjax.config import parametrisation
from phenomjax.config.language_models import add_shared_sections, check_even, check_shared
from phenomjax.config.ranges import Section, choice, flag, number, whole
from phenomjax.data.sequences.spans import check_row
from phenomjax.system.errors import UserError


def add_sections(c: Section) -> None:
    """Adds `c.model` and `c.data`."""
    add_shared_sections(c, _xlnet)


def _xlnet(m: Section) -> None:
    """XLNet (Yang et al. 2019, https://arxiv.org/abs/1906.08237)."""
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
    m.mem_len = whole(96, least=0, zero="none")
    # tokens of a row that are new, and that the next step's memory keeps
    m.reuse_len = whole(64, least=1)
    # tokens that are permuted together; divides reuse_len
    m.perm_size = whole(64, least=1)
    # targets a row
    m.num_predict = whole(22, least=2)
    # a span of n targets comes with n * mask_alpha / mask_beta tokens of context
    m.mask_alpha = whole(6, least=1)
    # see mask_alpha
    m.mask_beta = whole(1, least=1)
    # half of the rows run backwards
    m.bi_data = flag(True)
    # a token sees both sides ("bi") or what stands before it ("uni")
    m.attention_type = choice("bi", ("bi", "uni"))
    # distances beyond this count as this; 0 = no limit
    m.clamp_len = whole(0, least=0, zero="no limit")
    # of "uni": every query sees mem_len + 1 keys
    m.same_length = flag(False)
    # True: each layer has its own biases of the relative attention
    m.untie_bias = flag(True)
    # form of GELU: "exact" (erf, Hugging Face) or "tanh" (TensorFlow)
    m.gelu = choice("exact", ("exact", "tanh"))
    # share of activations that are left out in training; 0.0 = off
    m.dropout = number(0.1, least=0, below=1, zero="off")
    # share of attention weights that are left out in training; 0.0 = off
    m.attention_dropout = number(0.1, least=0, below=1, zero="off")
    # standard deviation of first values
    m.init_std = number(0.02, above=0)
    # True: compile one layer and scan it (shorter compile, stacked parameters)
    m.scan_layers = flag(False)
    # rematerialisation: "none", "dots" (keep matmul results), "full"
    m.remat = choice("none", ("none", "dots", "full"))
    parametrisation.add_keys(m)


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    m = c.model
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
