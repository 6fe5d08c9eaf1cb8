"""OpenPhenom: channel-agnostic MAE ViT-S/16, the recipe of its model card and of Kraus et al. 2024
(https://arxiv.org/abs/2404.10242).

  python -m phenomjax.main --config configs/openphenom_ca_s16.py \
    --config.data.banks="('rxrx3.zarr','jump.zarr')" --workdir runs/openphenom

Data: RxRx3, JUMP ORF and JUMP CRISPR; banks may differ in their channels, every batch holds one
channel set. Hardware: theirs took 400 A100-hours. Model: 21.4 M encoder, 154.5 M decoder (8 blocks
x 6 channels, width 512). Work: 354 GFLOP per 6-channel crop and step. Expected: .214 StringDB
recall on JUMP-CP in the paper. Nothing of that size has been trained with this code.
"""

from phenomjax import config
from phenomjax.config import mae


def get_config():
    c = config.base()
    mae.set_vit(c, "S/16")
    c.model.channel_agnostic = True
    c.model.decoder_norm_eps = 1e-5  # as released
    c.model.fourier_weight = 0.0  # as released
    c.global_batch_size = 2048
    c.num_steps = 107_000  # 100 epochs of 2.2 million RxRx3 images
    c.optimizer.learning_rate = 1e-4
    c.eval.every_steps = c.checkpoint.every_steps = 1000
    c.figures.every_steps = 5000
    return c
