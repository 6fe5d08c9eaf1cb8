"""XLNet on proteins: ProtXLNet as published (Elnaggar et al. 2021, arXiv 2007.06225), and sizes for
one machine.

python -m phenomjax.main --config configs/prot_xlnet.py:uniref \
  --config.data.banks="('uniref100.zarr',)" --workdir runs/prot_xlnet
python -m phenomjax.main --config configs/prot_xlnet.py:small \
  --config.data.banks="('proteins.zarr',)" --workdir runs/small_xlnet
python -m phenomjax.main --config configs/prot_xlnet.py:demo --workdir runs/demo_xlnet

preset  layers x width, heads  parameters  per row       rows   steps    optimiser, rate, warm-up
uniref  30 x 1024, 16 x 64     409.4 M     1774.8 GFLOP  1,024  847,000  Adam 1e-5, 20,000
small   6 x 256, 4 x 64        5.1 M       5.04 GFLOP    32     4,000    Adam 0.0005, 400
demo    3 x 96, 3 x 32         0.4 M       0.163 GFLOP   16     600      Adam 0.002, 60

A row of uniref has 512 tokens, 256 of them new, sees a memory of 384, and predicts 85; of small
128, 64, 96 and 22. The published run took a TPU v3-512 in float32; the vocabulary of 37 is theirs,
of which a bank uses 32. Lengths of parts, permutation and masks are those of XLNet-Large (Yang et
al. 2019); the learning rate falls linearly. Nothing of that size has been trained with this code.
Published, for what such a model reaches: Q3 73 % on CASP12 and 78 % on CB513, Q10 68 %, Q2 87 %.

Expected: demo, on its simulated families, val/perplexity 18.4, 18.1 and 17.6 at steps 200, 400 and
600; on proteins joined from four motifs of six residues the same model reaches 1.08 in 500 steps.
Permutation models leave the level of residue frequencies late: small with 8 rows on two Mycoplasma
proteomes (427,329 tokens) had val/perplexity 17.6, 17.4 and 17.4 at steps 100, 200 and 300.
"""

from phenomjax import config

PRESETS = ("uniref", "small", "demo")


def get_config(arg: str = "small"):
    """One of the presets above."""
    size = config.preset(arg, PRESETS)
    c = config.base("permutation_lm")
    m, o = c.model, c.optimizer
    o.schedule, o.clip_norm = "warmup_linear", 1.0
    if size == "uniref":
        m.num_layers, m.embed_dim, m.num_heads, m.head_dim, m.mlp_dim, m.vocab_size = (
            30,
            1024,
            16,
            64,
            4096,
            37,
        )
        c.data.segment_len, m.mem_len, m.reuse_len, m.perm_size, m.num_predict = (
            512,
            384,
            256,
            256,
            85,
        )
        m.gelu = "tanh"  # of the TensorFlow code that they trained with
        m.scan_layers, m.remat = True, "full"
        c.global_batch_size, c.num_steps = 1024, 847_000
        o.learning_rate, o.warmup_fraction = 1e-5, 20_000 / c.num_steps
        c.mesh.preset = "hsdp"
        c.log.every_steps, c.eval.every_steps, c.checkpoint.every_steps, c.eval.num_batches = (
            100,
            5000,
            5000,
            8,
        )
    elif size == "small":
        c.global_batch_size, c.num_steps, o.learning_rate = 32, 4000, 5e-4
    else:
        m.num_layers, m.embed_dim, m.num_heads, m.head_dim, m.mlp_dim = 3, 96, 3, 32, 384
        c.data.segment_len, m.mem_len, m.reuse_len, m.perm_size, m.num_predict = 64, 48, 32, 32, 11
        m.dropout = m.attention_dropout = 0.0
        c.global_batch_size, c.num_steps, o.learning_rate = 16, 600, 2e-3
        c.data.simulate.families = 20
        c.log.every_steps, c.eval.every_steps, c.checkpoint.every_steps = 50, 200, 200
    return c
