"""The demo: a small MAE on a simulated Cell-Painting screen, on two CPU cores, in minutes.

  make demo            or            python -m phenomjax.main --config configs/mae_demo.py --workdir runs/mae_demo

Data: simulated in the workdir at the first start (no download). Model: ViT 128 x 4 at patch 16, 128 px crops.
"""

from phenomjax import config


def get_config():
    c = config.base()
    c.data.simulate.plates, c.data.simulate.wells, c.data.simulate.size = 4, 24, 256
    c.data.crop_size = 128
    c.data.flip = c.data.rotate = True
    c.data.val_groups = ()
    c.data.val_fraction = 0.25
    m = c.model
    m.embed_dim, m.depth, m.num_heads, m.drop_path = 128, 4, 4, 0.0
    m.patch_size = 8
    m.decoder_dim, m.decoder_depth, m.decoder_num_heads = 128, 2, 4
    m.layer_scale = 0.1  # a short run cannot grow LayerScale from 1e-4
    c.global_batch_size = 32
    c.num_steps = 400
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.clip_norm = "adamw", 1e-3, 1.0
    c.log.every_steps = 20
    c.eval.every_steps, c.eval.num_batches = 100, 2
    c.figures.every_steps = 100
    c.checkpoint.every_steps = 100
    return c
