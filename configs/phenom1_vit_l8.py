"""Phenom-1: MAE ViT-L/8 on 6-channel Cell Painting, the recipe of Kraus et al. 2023/2024
(https://arxiv.org/abs/2404.10242).

  python -m phenomjax.main --config configs/phenom1_vit_l8.py --config.data.banks="('rpi.zarr',)" \
    --workdir runs/phenom1

Data: 93 million 2048 px images of the authors, 3.5 billion 256 px crops; any bank of 6 channels
works here. Hardware: theirs was 128 A100 for 20 000 A100-hours. The state (parameters, two momenta
at most) fits one 80 GB GPU; hsdp divides it within a node. Work: 694 GFLOP per crop and step (3 x
forward, matmuls only), 1.14e16 a step of 16384 crops. On several nodes say what network a GPU has
between them, so that sums there are hidden: PHENOMJAX_NETWORK_GBPS=400 sbatch launch/train.sbatch
… (docs/how-to/slurm.md). Expected: the paper reports .62 CORUM recall on RxRx3 after TVN. Nothing
of that size has been trained with this code.
"""

from phenomjax import config
from phenomjax.config import mae


def get_config():
    c = config.base()
    mae.set_vit(c, "L/8")
    c.global_batch_size = 16384
    c.num_steps = 213_600  # 3.5 billion crops
    c.optimizer.learning_rate = 3e-5
    c.model.remat = "full"
    c.mesh.preset = "hsdp"
    c.eval.every_steps = c.checkpoint.every_steps = 1000
    c.figures.every_steps = 5000
    return c
