"""The keys that all language models share: what the model knows of its banks, and the data.

The keys of each model stand beside: causal_lm.py, permutation_lm.py, bidirectional_lm.py.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from phenomjax.config import mixtures
from phenomjax.config.checks import check_banks, check_selection
from phenomjax.config.ranges import Section, choice, flag, number, several, text, whole
from phenomjax.data.sequences.vocabulary import UNITS
from phenomjax.system.errors import UserError


def add_shared_sections(c: Section, add_model: Callable[[Section], None]) -> None:
    """Adds `c.model` and `c.data`, and the optimiser these models are usually trained with.

    Args:
      c: the configuration so far.
      add_model: adds the keys of one model to `c.model`.
    """
    c.model = Section()
    # ids of the vocabulary; 0 = that of the banks; larger leaves unused rows, as published weights
    # have
    c.model.vocab_size = whole(0, least=0, zero="that of the banks")
    # The next three are what a trained model must know of its banks when they are gone.

    # alphabet of the tokens: "protein", "smiles" or "bytes"; "" = as in the banks
    c.model.alphabet = choice("", ("", *UNITS))
    # tokens around a sequence: "eos" or "bos_eos"; "" = as in the banks
    c.model.boundary = choice("", ("", "eos", "bos_eos"))
    # what became of the rare letters of proteins: "x", "keep" or "reject"; "" = as in the banks
    c.model.rare = choice("", ("", "x", "keep", "reject"))
    add_model(c.model)
    # compute dtype: "auto" = bfloat16 on GPU and TPU, float32 on a CPU
    c.model.dtype = choice("auto", ("auto", "float32", "bfloat16"))

    c.data = Section()
    # folders NAME.zarr made by `python -m phenomjax.prepare sequences`, read as one corpus
    c.data.banks = several(str)
    # file of `python -m phenomjax.prepare subset` that says which of their sequences; "" = all
    c.data.selection = text("")
    # share of what is trained on, chosen by hash: a smaller share lies within a larger one; what is
    # held out stays as it is; 1.0 = all
    c.data.subset = number(1.0, above=0, most=1)
    mixtures.add_keys(c.data)
    # tokens of a row and step
    c.data.segment_len = whole(128, least=1)
    # tokens of a row and evaluation batch; 0 = segment_len
    c.data.eval_segment_len = whole(0, least=0, zero="segment_len")
    # cut the corpus into lanes at another place every epoch
    c.data.random_offset = flag(True)
    # where a node keeps a copy of the banks, made before the first step, for all its processes:
    # "disk" (its folder for temporary files), "memory" (shared memory), or a folder; "" = none
    c.data.staging = text("")
    # of banks in stores (s3://…): where the processes of a node keep what they fetched, a folder on
    # a local disk; "" = PHENOMJAX_CACHE, or one in the folder for temporary files
    c.data.cache = text("")
    # at most this much; 0.0 = PHENOMJAX_CACHE_GB, or 64, or half of what is free
    c.data.cache_gb = number(
        0.0, least=0, zero="PHENOMJAX_CACHE_GB, or 64, or half of what is free"
    )
    # batches that wait in memory
    c.data.prefetch_batches = whole(2, least=1)
    # simulated protein families, made in the workdir when no bank is given
    c.data.simulate = Section()
    # number of families; 0 = off
    c.data.simulate.families = whole(0, least=0, zero="off")
    # proteins a family
    c.data.simulate.members = whole(40, least=1)
    # mean number of residues of an ancestor
    c.data.simulate.length = whole(120, least=1)

    c.optimizer.name, c.optimizer.schedule, c.optimizer.learning_rate = (
        "adam",
        "warmup_cosine",
        2.5e-4,
    )
    c.optimizer.b2, c.optimizer.weight_decay, c.optimizer.clip_norm = 0.999, 0.0, 0.25
    c.eval.num_batches = 0


def check_shared(c: ConfigDict) -> None:
    """Checks the keys that `add_shared_sections` adds."""
    check_banks(c, c.data.simulate.families, "sequences --source FILES", "simulate --kind proteins")
    mixtures.check(c)
    check_selection(c)


def check_even(c: ConfigDict) -> None:
    """Checks the width of a model whose positions are sines and cosines."""
    if c.model.embed_dim % 2:
        raise UserError(
            f"config.model.embed_dim {c.model.embed_dim} must be even: half of each position is"
            f" sines, half cosines. Set --config.model.embed_dim={c.model.embed_dim + 1}."
        )
