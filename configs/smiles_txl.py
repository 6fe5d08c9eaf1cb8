"""Transformer-XL on molecules written as SMILES, with an adaptive softmax.

python -m phenomjax.prepare sequences --source hiv.csv --column smiles --alphabet smiles \
  --out smiles.zarr
python -m phenomjax.main --config configs/smiles_txl.py:small \
  --config.data.banks="('smiles.zarr',)" --workdir runs/smiles

preset   layers x width, heads   parameters   per row        rows   steps   optimiser, peak rate
small    6 x 256, 4 x 64         5.3 M        5.17 GFLOP     32     4,000   Adam 0.001

Tokens are atoms, bonds, ring numbers and the insides of brackets. The first 57 ids are what organic
molecules are made of; the elements of the periodic table are a cluster of the softmax with
embeddings of a quarter of the width. A row is a segment of 128 tokens that sees a memory of 128.
"""

from phenomjax import config

PRESETS = ("small",)


def get_config(arg: str = "small"):
    """One of the presets above."""
    config.preset(arg, PRESETS)
    c = config.base("causal_lm")
    c.model.cutoffs, c.model.div_val, c.model.norm = (57,), 4, "pre"
    c.global_batch_size, c.num_steps, c.optimizer.learning_rate = 32, 4000, 1e-3
    return c
