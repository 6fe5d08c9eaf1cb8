"""SeqVec: ELMo on protein sequences, the recipe of Heinzinger et al. 2019 (https://doi.org/10.1186/s12859-019-3220-8).

  python -m phenomjax.main --config configs/seqvec.py:uniref50 --config.data.banks="('uniref50.zarr',)" --workdir runs/seqvec

Presets:
  uniref50  the published shapes: cells 4096, projection 512, 93.6 M parameters (character CNN 18.04 M, LSTMs 75.56 M, softmax).
            Work: 45.3 GFLOP per row of 100 residues and step (3 x forward, matrix products only), 29 TFLOP a step of 640.
  small     cells 512, projection 128, 6.8 M parameters: hours on a CPU, minutes on a GPU, for a proteome.
  demo      cells 128, projection 64: a minute on two CPU cores.

Data of uniref50: UniRef50, 33 million proteins, 9.58 billion residues. Hardware: theirs was 5 GPUs of 12 GB (128 rows each) for three
weeks. Adagrad at a constant 0.2. bilm-tf, which they trained with, differentiates 100 times the loss (the unrolled steps), with an
accumulator that begins at 1.0 and a clip at 10: on the loss itself that is 1.0 / 100**2 and 10 / 100, the numbers below.
The vocabulary here has 32 tokens, theirs a few less; the softmax has 16 416 parameters.
Nothing of that size has been trained with this code. Published, for what such a model reaches: Q3 79 %, Q10 68 %.
"""

from phenomjax import config
from phenomjax.errors import UserError, did_you_mean

PRESETS = ("uniref50", "small", "demo")


def get_config(arg="uniref50"):
    name = config.parse_arg(arg, size="uniref50")["size"]
    if name not in PRESETS:
        raise UserError(
            f"configs/seqvec.py has no preset '{name}'.{did_you_mean(name, PRESETS)} Presets: {', '.join(PRESETS)}."
        )
    c = config.base("bidirectional_lm")
    m, o = c.model, c.optimizer
    o.name, o.schedule, o.learning_rate = "adagrad", "constant", 0.2
    c.data.segment_len = 100
    o.initial_accumulator, o.clip_norm = 1.0 / c.data.segment_len**2, 10.0 / c.data.segment_len
    if name == "uniref50":
        m.cell_dim, m.projection_dim = 4096, 512
        c.global_batch_size = 128 * 5
        c.num_steps = 1_500_000  # 10 epochs
        c.mesh.preset = "dp"
        c.log.every_steps, c.checkpoint.every_steps, c.eval.every_steps = 100, 5000, 5000
        c.eval.num_batches = 100
        return c
    c.global_batch_size = 32
    if name == "small":
        m.cell_dim, m.projection_dim = 512, 128
        m.filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256))
        c.num_steps = 3000
    else:
        m.cell_dim, m.projection_dim = 128, 64
        m.filters, m.num_highway = ((1, 32), (2, 32), (3, 64)), 1
        c.num_steps = 300
    m.max_characters = 3 + max(width for width, _ in m.filters)
    c.log.every_steps, c.checkpoint.every_steps, c.eval.every_steps = 20, 200, 100
    return c
