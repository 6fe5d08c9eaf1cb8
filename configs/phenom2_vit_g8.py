"""Phenom-2: MAE ViT-G/8, the recipe of Kenyon-Dean et al. 2024, "ViTally Consistent"
(https://arxiv.org/abs/2411.02572).

  python -m phenomjax.main --config configs/phenom2_vit_g8.py \
    --config.data.banks="('phenoprints.zarr',)" --workdir runs/phenom2

Data: Phenoprints-16M of the authors, 8 billion crops (500 epochs). Hardware: theirs took 48 000
H100-hours. Work: 3111 GFLOP per crop and step. Heads and MLP width are not published; those of
ViT-G/14 give the published 1860 M (phenomjax/config/mae.py). Expected: they read embeddings from
block 38 of 48. Nothing of that size has been trained with this code.
"""

from phenomjax import config
from phenomjax.config import mae


def get_config():
    c = config.base()
    mae.set_vit(c, "G/8")
    c.global_batch_size = 8192
    c.num_steps = 976_600  # 8 billion crops
    c.optimizer.learning_rate = 3e-5
    c.model.remat = "full"
    c.mesh.preset = "hsdp"
    c.eval.every_steps = c.checkpoint.every_steps = 1000
    return c
