"""Transformer-XL on proteins: ProtTXL as published (Elnaggar et al. 2021, arXiv 2007.06225), and
sizes for one machine.

python -m phenomjax.main --config configs/prot_txl.py:uniref \
  --config.data.banks="('uniref100.zarr',)" --workdir runs/prot_txl
python -m phenomjax.main --config configs/prot_txl.py:small \
  --config.data.banks="('proteins.zarr',)" --workdir runs/small_txl
python -m phenomjax.sweep --config configs/prot_txl.py:demo --study runs/txl_sweep  # search_space()
make demo-protein

preset  layers x width, heads  parameters  per row       rows    steps   optimiser, rate, warm-up
uniref  30 x 1024, 16 x 64     409.3 M     1642.9 GFLOP  22,464  31,300  LAMB 0.002, 5,500
bfd     32 x 1024, 14 x 128    562.4 M     2448.2 GFLOP  44,928  40,700  LAMB 0.0005, 13,600
small   6 x 256, 4 x 64        5.1 M       5.14 GFLOP    32      4,000   Adam 0.001, 400
demo    4 x 128, 4 x 32        0.9 M       0.43 GFLOP    16      600     Adam 0.003, 60

Expected: demo, on the families it simulates, val/perplexity 4.35 at step 600 (residue frequencies
alone have 18), 80 s on 2 cores. Each held-out token counts once, in 35 lanes of 4 segments, the
first of which has no memory: a fourth of them all. The same parameters have 3.78 in the 16 longer
lanes of --config.eval.num_batches=9, which hang on the batch; older versions measured in these, and
on another CPU found 3.62.

A row of uniref and bfd is a segment of 512 residues that sees a memory of 512; of small 128 and
128. The published runs took 5,616 V100 for uniref and for bfd, one GPU with 4 or 8 rows each; the
vocabulary of 37 is theirs, of which a bank uses 32.
"""

from phenomjax import config
from phenomjax.sweep.space import choice, log_uniform

PRESETS = ("uniref", "bfd", "small", "demo")
# layers, heads, head_dim, rows a step, steps, peak learning rate, warm-up steps
PUBLISHED = {
    "uniref": (30, 16, 64, 22464, 31300, 2e-3, 5500),
    "bfd": (32, 14, 128, 44928, 40700, 5e-4, 13600),
}


def get_config(arg: str = "small"):
    """One of the presets above."""
    size = config.preset(arg, PRESETS)
    c = config.base("causal_lm")
    if size in PUBLISHED:
        (
            c.model.num_layers,
            c.model.num_heads,
            c.model.head_dim,
            c.global_batch_size,
            c.num_steps,
            rate,
            warmup,
        ) = PUBLISHED[size]
        c.model.vocab_size, c.model.embed_dim, c.model.mlp_dim, c.model.dropout = (
            37,
            1024,
            4096,
            0.15,
        )
        c.data.segment_len = c.model.mem_len = 512
        c.model.scan_layers = True
        c.optimizer.name, c.optimizer.eps, c.optimizer.learning_rate = "lamb", 1e-6, rate
        c.optimizer.warmup_fraction = warmup / c.num_steps
        c.mesh.preset = "hsdp"
        c.eval.num_batches = 8
    elif size == "small":
        c.global_batch_size, c.num_steps, c.optimizer.learning_rate = 32, 4000, 1e-3
    else:
        c.model.num_layers, c.model.embed_dim, c.model.head_dim, c.model.mlp_dim = 4, 128, 32, 512
        c.data.segment_len, c.model.mem_len, c.model.norm, c.model.dropout = 64, 64, "pre", 0.0
        c.global_batch_size, c.num_steps, c.optimizer.learning_rate = 16, 600, 3e-3
        c.data.simulate.families = 20
        c.log.every_steps, c.eval.every_steps, c.checkpoint.every_steps = 50, 200, 200
    return c


def search_space():
    """What a sweep varies: at the same number of steps, a larger batch also reads more tokens."""
    return {
        "global_batch_size": choice(8, 16, 32),
        "optimizer.learning_rate": log_uniform(3e-4, 1e-2),
    }
