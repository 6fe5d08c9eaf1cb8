"""The demo: a small MAE on a simulated Cell-Painting screen, on two CPU cores, in minutes.

  make demo    or    python -m phenomjax.main --config configs/mae_demo.py --workdir runs/mae_demo

Data: simulated in the workdir at the first start (no download): 4 plates of 48 wells, one plate
held out. Model: ViT 128 x 4 at patch 8. Work: 0.315 GFLOP per crop and step. Time: about 2 minutes
on 2 cores, 2.5 with the installation. Expected: val/loss 0.51 at step 1200, where predicting the
visible mean has 1.04.

  python -m phenomjax.maps demo

takes it from there: a screen it never saw, embedded, and a map of biology made of it. And

  python -m phenomjax.sweep --config configs/mae_demo.py --study runs/mae_sweep

varies search_space() below. A smaller mask_ratio makes the objective itself easier, so the lowest
val/loss is not always the best encoder.
"""

from phenomjax import config
from phenomjax.sweep.space import choice, log_uniform, uniform


def get_config():
    c = config.base()
    s = c.data.simulate
    s.plates, s.wells, s.size, s.cell_radius = 4, 48, 256, 22.0
    c.data.crop_size = 64
    c.data.flip = c.data.rotate = True
    c.data.val_groups = ("EXP02/P04",)
    m = c.model
    m.embed_dim, m.depth, m.num_heads, m.drop_path, m.patch_size = 128, 4, 4, 0.0, 8
    m.decoder_dim, m.decoder_depth, m.decoder_num_heads = 128, 2, 4
    m.layer_scale = 0.1  # a short run cannot grow LayerScale from 1e-4
    m.mask_ratio = 0.6
    # Many small steps: a masked autoencoder first learns the mean, and leaves that plateau by the
    # number of steps, not of crops.
    c.global_batch_size, c.num_steps = 16, 1200
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.clip_norm = "adamw", 2e-3, 1.0
    c.log.every_steps = 50
    c.eval.every_steps = c.checkpoint.every_steps = c.figures.every_steps = 300
    c.eval.num_batches = 8
    return c


def search_space():
    """What a sweep varies."""
    return {
        "model.patch_size": choice(8, 16),
        "model.mask_ratio": uniform(0.5, 0.9),
        "optimizer.learning_rate": log_uniform(3e-4, 1e-2),
    }
