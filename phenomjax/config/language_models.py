"""The keys that all language models share: what the model knows of its banks, and the data.

The keys of each model stand beside: causal_lm.py, permutation_lm.py, bidirectional_lm.py.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from phenomjax.config.checks import at_least_one, check_banks, check_selection, choose
from phenomjax.system.errors import UserError


def add_shared_sections(c: ConfigDict, add_model: Callable[[ConfigDict], None]) -> None:
    """Adds `c.model` and `c.data`, and the optimiser these models are usually trained with.

    Args:
      c: the configuration so far.
      add_model: adds the keys of one model to `c.model`.
    """
    c.model = ConfigDict()
    # 0 = that of the banks; larger leaves unused rows, as published weights have
    c.model.vocab_size = 0
    # The next three are what a trained model must know of its banks when they are gone.
    # of the tokens: "protein", "smiles" or "bytes"; "" = as in the banks
    c.model.alphabet = ""
    # tokens around a sequence: "eos" or "bos_eos"; "" = as in the banks
    c.model.boundary = ""
    # what became of the rare letters of proteins: "x", "keep" or "reject"; "" = as in the banks
    c.model.rare = ""
    add_model(c.model)
    # compute dtype: "auto" = bfloat16 on GPU and TPU, float32 on a CPU
    c.model.dtype = "auto"

    c.data = ConfigDict()
    # folders NAME.zarr made by `python -m phenomjax.prepare sequences`, read as one corpus
    c.data.banks = ()
    # file of `python -m phenomjax.prepare subset` that says which of their sequences; "" = all
    c.data.selection = ""
    # share of what is trained on, chosen by hash: a smaller share lies within a larger one; what is
    # held out stays as it is; 1.0 = all
    c.data.subset = 1.0
    # tokens of a row and step
    c.data.segment_len = 128
    # tokens of a row and evaluation batch; 0 = segment_len
    c.data.eval_segment_len = 0
    # cut the corpus into lanes at another place every epoch
    c.data.random_offset = True
    # where a node keeps a copy of the banks, made before the first step, for all its processes:
    # "disk" (its folder for temporary files), "memory" (shared memory), or a folder; "" = none
    c.data.staging = ""
    # of banks in stores (s3://…): where the processes of a node keep what they fetched, a folder on
    # a local disk; "" = PHENOMJAX_CACHE, or one in the folder for temporary files
    c.data.cache = ""
    # at most this much; 0.0 = PHENOMJAX_CACHE_GB, or 64, or half of what is free
    c.data.cache_gb = 0.0
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


def check_shared(c: ConfigDict) -> None:
    """Checks the keys that `add_shared_sections` adds."""
    choose(c, "model.dtype", ("auto", "float32", "bfloat16"))
    at_least_one(c, "data.segment_len")
    choose(c, "model.boundary", ("", "eos", "bos_eos"))
    choose(c, "model.rare", ("", "x", "keep", "reject"))
    check_banks(c, c.data.simulate.families, "sequences --source FILES", "simulate --kind proteins")
    check_selection(c)


def check_even(c: ConfigDict) -> None:
    """Checks the width of a model whose positions are sines and cosines."""
    if c.model.embed_dim % 2:
        raise UserError(
            f"config.model.embed_dim {c.model.embed_dim} must be even: half of each position is"
            " sines, half cosines."
        )
