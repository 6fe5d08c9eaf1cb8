"""SeqVec: ELMo on proteins, as published (Heinzinger et al. 2019,
https://doi.org/10.1186/s12859-019-3220-8), and sizes for one machine.

python -m phenomjax.main --config configs/seqvec.py:uniref50 \
  --config.data.banks="('uniref50.zarr',)" --workdir runs/seqvec
python -m phenomjax.main --config configs/seqvec.py:small --config.data.banks="('proteins.zarr',)" \
  --workdir runs/small_elmo

preset     cells, projection   parameters   per row       rows   steps       optimiser, rate
uniref50   2 x 4096, 512       93.6 M       45.3 GFLOP    640    1,500,000   Adagrad 0.2
small      2 x 512, 128        3.5 M        1.42 GFLOP    32     3,000       Adagrad 0.2
demo       2 x 128, 64         0.3 M        0.179 GFLOP   32     300         Adagrad 0.2

A row is a segment of 100 residues in each direction. The published model has 18.04 M parameters in
the character CNN (which is computed for the vocabulary, once a step, and not counted as work),
75.56 M in the LSTMs, and a softmax of 512 a token (32 tokens here). It was trained on UniRef50, 33
million proteins of 9.58 billion residues, on five GPUs of 12 GB with 128 rows each, for three
weeks; ten epochs are 1,500,000 steps. The authors' program, bilm-tf, differentiates 100 times the
loss (the steps of a segment), with an Adagrad accumulator that begins at 1.0 and a clip at 10: on
the loss itself these are 1.0 / 100**2 and 10 / 100, the values here.

Measured, on two Mycoplasma proteomes (1,296 proteins, one in twenty held out), where residue
frequencies alone have a perplexity of 17.4 or more: small 17.1 after 150 steps, demo 17.0 after
200. Nothing of the published size has been trained with this code.
"""

from phenomjax import config

PRESETS = ("uniref50", "small", "demo")


def get_config(arg: str = "small"):
    """One of the presets above."""
    size = config.preset(arg, PRESETS)
    c = config.base("bidirectional_lm")
    m, o = c.model, c.optimizer
    c.data.segment_len = 100
    o.name, o.schedule, o.learning_rate = "adagrad", "constant", 0.2
    o.initial_accumulator, o.clip_norm = 1.0 / c.data.segment_len**2, 10.0 / c.data.segment_len
    if size == "uniref50":
        m.cell_dim, m.projection_dim = 4096, 512
        c.global_batch_size, c.num_steps = 640, 1_500_000
        c.log.every_steps, c.checkpoint.every_steps, c.eval.every_steps, c.eval.num_batches = (
            100,
            5000,
            5000,
            100,
        )
    elif size == "small":
        m.filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256))
        c.global_batch_size, c.num_steps = 32, 3000
    else:
        m.cell_dim, m.projection_dim, m.filters, m.num_highway = (
            128,
            64,
            ((1, 32), (2, 32), (3, 64)),
            1,
        )
        c.data.simulate.families = 20
        c.global_batch_size, c.num_steps = 32, 300
        c.log.every_steps, c.eval.every_steps, c.checkpoint.every_steps = 20, 100, 100
    m.max_characters = 3 + max(width for width, _ in m.filters)
    return c
