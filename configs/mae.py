"""Masked autoencoder of any size on your own banks.

  python -m phenomjax.main --config configs/mae.py:L/8,mask=0.75 \
    --config.data.banks="('plates.zarr',)" --workdir runs/l8

Options behind the colon: the size (S, B, L or G, a slash, the patch size in pixels), mask=RATIO,
ca=true for the channel-agnostic model, batch=GLOBAL_BATCH_SIZE, steps=NUM_STEPS, plain=true for
plain pre-norm blocks. Recipe: Lion 0.9/0.95, weight decay 0.05, one-cycle; learning rate 1e-4 up to
B and 3e-5 from L on at the published batch sizes, scaled by the square root of the batch size.
"""

from phenomjax import config
from phenomjax.config import mae


def get_config(arg: str = "S/16"):
    options = config.parse_arg(
        arg, size="S/16", mask=0.75, ca=False, batch=256, steps=10_000, plain=False
    )
    c = config.base()
    mae.set_vit(c, options["size"])
    c.num_steps, c.global_batch_size = options["steps"], options["batch"]
    c.model.mask_ratio, c.model.channel_agnostic = options["mask"], options["ca"]
    if options["plain"]:
        c.model.block, c.model.qk_norm, c.model.layer_scale = "prenorm", False, 0.0
    peak, published_batch = (1e-4, 2048) if c.model.depth <= 12 else (3e-5, 16384)
    # so the rate follows --config.global_batch_size
    batch = c.get_ref("global_batch_size").to_float()
    c.optimizer.learning_rate = peak * (batch / published_batch) ** 0.5
    c.optimizer.clip_norm = 1.0
    return c
