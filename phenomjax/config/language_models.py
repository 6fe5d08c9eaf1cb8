"""The model and data keys of language models on sequences, with their defaults and checks."""

from ml_collections import ConfigDict

from phenomjax.config.checks import at_least_one, check_banks, choose
from phenomjax.data.sequences.spans import check_row
from phenomjax.system.errors import UserError


def add_sections(c: ConfigDict) -> None:
    """Adds `c.model` and `c.data` of the task `c.task`, and the optimiser these models are usually
    trained with.
    """
    c.model = ConfigDict()
    # 0 = that of the banks; larger leaves unused rows, as published weights have
    c.model.vocab_size = 0
    # What a trained model must know of its banks when they are gone; "" = as in the banks
    # of the tokens: "protein", "smiles" or "bytes"
    c.model.alphabet = ""
    # tokens around a sequence: "eos" or "bos_eos"
    c.model.boundary = ""
    # what became of the rare letters of proteins: "x", "keep" or "reject"
    c.model.rare = ""
    {"causal_lm": _transformer_xl, "permutation_lm": _xlnet, "bidirectional_lm": _elmo}[c.task](
        c.model
    )
    # compute dtype: "auto" = bfloat16 on GPU and TPU, float32 on a CPU
    c.model.dtype = "auto"

    c.data = ConfigDict()
    # folders NAME.zarr made by `python -m phenomjax.prepare sequences`, read as one corpus
    c.data.banks = ()
    # tokens of a row and step
    c.data.segment_len = 128
    # tokens of a row and evaluation batch; 0 = segment_len
    c.data.eval_segment_len = 0
    # cut the corpus into lanes at another place every epoch
    c.data.random_offset = True
    # folder on a local disk or in shared memory into which the banks are copied first; "" = none
    c.data.staging = ""
    # batches that wait in memory
    c.data.prefetch_batches = 2
    # simulated protein families, made in the workdir when no bank is given
    c.data.simulate = ConfigDict()
    # 0 = off
    c.data.simulate.families = 0
    # proteins a family
    c.data.simulate.members = 40
    # mean number of residues of an ancestor
    c.data.simulate.length = 120

    c.optimizer.name, c.optimizer.schedule, c.optimizer.learning_rate = (
        "adam",
        "warmup_cosine",
        2.5e-4,
    )
    c.optimizer.b2, c.optimizer.weight_decay, c.optimizer.clip_norm = 0.999, 0.0, 0.25
    c.eval.num_batches = 0


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


def _elmo(m: ConfigDict) -> None:
    """ELMo (Peters et al.

    2018, https://arxiv.org/abs/1802.05365), SeqVec's shapes (Heinzinger et al. 2019) by default
    smaller.
    """
    m.char_dim = 16
    # (width, number)
    m.filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    m.num_highway = 2
    # 3 + the widest filter gives the outputs of the published 50 for tokens of one byte, at a
    # fifth of the cost
    m.max_characters = 10
    # of a token and of each direction's output
    m.projection_dim = 128
    m.cell_dim = 512
    m.num_layers = 2
    # bound of the memory cells; 0.0 = none
    m.cell_clip = 3.0
    m.projection_clip = 3.0
    # the input of layers from the second on is added to their output
    m.skip_connections = True
    m.dropout = 0.1
    # LSTM states are carried from step to step
    m.stateful = True


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    m = c.model
    choose(c, "model.dtype", ("auto", "float32", "bfloat16"))
    at_least_one(c, "data.segment_len")
    if c.task == "causal_lm":
        choose(c, "model.same_length", ("none", "kimiyoung", "nvidia"))
        choose(c, "model.norm", ("post", "pre"))
        choose(c, "model.attention", ("auto", "xla", "looped", "cudnn"))
        if m.same_length == "kimiyoung" and not (m.mem_len and (m.eval_mem_len or m.mem_len)):
            raise UserError(
                "config.model.same_length 'kimiyoung' lets each query see mem_len keys, and"
                " config.model.mem_len is 0: nothing would be seen. Set --config.model.mem_len, or"
                " --config.model.same_length=none."
            )
        if m.embed_dim % 2:
            raise UserError(
                f"config.model.embed_dim {m.embed_dim} must be even: half of each position is"
                " sines, half cosines."
            )
        if (
            list(m.cutoffs) != sorted(set(m.cutoffs))
            or m.div_val < 1
            or m.embed_dim % m.div_val ** len(m.cutoffs)
        ):
            raise UserError(
                f"config.model.cutoffs {tuple(m.cutoffs)} must rise, and config.model.embed_dim"
                f" {m.embed_dim} be a multiple of config.model.div_val {m.div_val} to the power"
                f" {len(m.cutoffs)}."
            )
    choose(c, "model.boundary", ("", "eos", "bos_eos"))
    choose(c, "model.rare", ("", "x", "keep", "reject"))
    if c.task == "bidirectional_lm":
        widest = max((width for width, _ in m.filters), default=0)
        if not 1 <= widest <= m.max_characters or m.max_characters < 3:
            raise UserError(
                f"config.model.max_characters {m.max_characters} must hold a token of one byte with"
                f" its two marks, and the widest of config.model.filters {tuple(m.filters)}. Set"
                f" --config.model.max_characters={3 + max(widest, 1)} and at least one filter."
            )
    if c.task in ("causal_lm", "permutation_lm"):
        choose(c, "model.remat", ("none", "dots", "full"))
    if c.task == "permutation_lm":
        _check_xlnet(c)
    check_banks(c, c.data.simulate.families, "sequences --source FILES", "simulate --kind proteins")


def _check_xlnet(c: ConfigDict) -> None:
    m = c.model
    choose(c, "model.attention_type", ("bi", "uni"))
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
    if m.embed_dim % 2:
        raise UserError(
            f"config.model.embed_dim {m.embed_dim} must be even: half of each position is sines,"
            " half cosines."
        )
