"""Transformer-XL on source code, byte by byte, with an adaptive softmax; the shape of the enwik8
model of Dai et al. 2019 as `large`.

python -m phenomjax.prepare sequences --source code.jsonl.gz --field code --alphabet bytes \
  --out code.zarr
python -m phenomjax.main --config configs/code_txl.py:small --config.data.banks="('code.zarr',)" \
  --workdir runs/code

preset   layers x width, heads   parameters   per row        rows   steps     optimiser, peak rate
large    24 x 1024, 8 x 128      279.6 M      1914.6 GFLOP   64     400,000   Adam 0.00025
small    6 x 256, 4 x 64         5.3 M        12.2 GFLOP     32     4,000     Adam 0.001

ASCII is the head of the softmax, bytes of longer UTF-8 characters are a cluster with embeddings of
a quarter of the width. A row of large is a segment of 768 bytes that sees a memory of 768,
evaluated with a memory of 3,800 whose distances count up to 1,000; of small 256 and 256.
"""

from phenomjax import config

PRESETS = ("large", "small")


def get_config(arg: str = "small"):
    """One of the presets above."""
    config.preset(arg, PRESETS)
    c = config.base("causal_lm")
    m = c.model
    m.cutoffs, m.div_val, m.norm = (135,), 4, "pre"
    c.data.segment_len = m.mem_len = 256
    c.global_batch_size, c.num_steps, c.optimizer.learning_rate = 32, 4000, 1e-3
    if arg == "large":
        m.embed_dim, m.num_layers, m.num_heads, m.head_dim, m.mlp_dim, m.scan_layers = (
            1024,
            24,
            8,
            128,
            3072,
            True,
        )
        m.norm, m.same_length, m.clamp_len, m.eval_mem_len = "post", "kimiyoung", 1000, 3800
        c.data.segment_len, m.mem_len, c.data.eval_segment_len = 768, 768, 128
        c.global_batch_size, c.num_steps = 64, 400_000
        c.optimizer.learning_rate, c.optimizer.warmup_fraction = 2.5e-4, 0.01
    return c
