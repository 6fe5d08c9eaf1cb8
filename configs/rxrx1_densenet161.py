"""RxRx1 in full: DenseNet-161 on 6 channels of 512 px, trained on 33 experiments and judged on 18
others (Sypetkowski et al. 2023, https://arxiv.org/abs/2301.05768), each normalised by its own
statistics (AdaBN).

  python -m phenomjax.main --config configs/rxrx1_densenet161.py:seed=0 \
    --config.data.banks="('rxrx1.zarr',)" --workdir runs/rxrx1_0
  python -m phenomjax.evaluate perturbations --checkpoint runs/rxrx1_0 runs/rxrx1_1 runs/rxrx1_2 \
    --out runs/rxrx1_report

A model for each cell type, and all of them beside the one over all:

  python -m phenomjax.sweep --config configs/rxrx1_densenet161.py:cell_type=each \
    --vary data.cell_type=HUVEC,RPE,HEPG2,U2OS --study runs/rxrx1_each \
    --config.data.banks="('rxrx1.zarr',)"
  python -m phenomjax.evaluate perturbations \
    --checkpoint runs/rxrx1_0 runs/rxrx1_each/trials/* --out runs/rxrx1_each_report

`each` takes a quarter of the steps, so that the four together cost what the one does;
`:cell_type=HUVEC` alone trains as many epochs as the one over all.

Data: both sites and all controls, 81,224 images in training, 44,286 in the test.

  python -m phenomjax.prepare images --source rxrx1/images --layout rxrx1 \
    --metadata rxrx1/metadata.csv --out rxrx1.zarr

Model: cell type beside the pooled features, neck of two layers, 1,024 wide, 0.8 softmax + 0.2
ArcFace (s 30, m 0.5), CutMix, as the winner of the Kaggle contest trained it
(https://github.com/maciej-sypetkowski/kaggle-rcic-1st, MIT), but with four experiments a batch.
Work: 248 GFLOP per image and step. Hardware: 4 GPUs of 80 GB. Time: 3 to 9 hours a seed on these,
estimated from the work at 5 to 15 % of an H100's bfloat16 peak; not measured. Nothing of that size
has been trained with this code.

To beat: about 87 % with AdaBN on the 18 experiments (split `unseen`), as the paper is remembered.
Its table could not be read for this page, so take the number as unverified. The contest's 98.8 %
assigns the perturbations of a plate to its wells together, and trains on guessed labels of the
test: it is not comparable.
"""

from phenomjax import config
from phenomjax.config import perturbation

# images of both sites of the 33 training experiments, in RxRx1's metadata
IMAGES = {"": 81_224, "HUVEC": 39_342, "RPE": 17_246, "HEPG2": 17_244, "U2OS": 7_392}


def get_config(arg=""):
    o = config.parse_arg(arg, size="161", cell_type="", seed=0)
    config.preset(o["cell_type"], [*IMAGES, "each"])
    c = config.base("perturbation")
    c.seed = o["seed"]
    perturbation.set_densenet(c, o["size"])
    m = c.model
    m.cell_type = True
    m.arcface_weight, m.cutmix = 0.2, 1.0
    m.remat = "full"
    c.data.protocol = "rxrx1"
    c.data.crop_size = 512
    c.data.flip = c.data.rotate = True
    c.data.groups = 4
    c.global_batch_size = 128
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "adamw", 4e-4, 1e-2
    c.optimizer.schedule, c.optimizer.b2 = "warmup_cosine", 0.999
    if o["cell_type"] == "each":  # the sweep names it
        images = IMAGES[""] / 4
    else:
        c.data.cell_type = o["cell_type"]
        images = IMAGES[o["cell_type"]]
    epoch = round(images / c.global_batch_size)
    c.num_steps = 90 * epoch
    c.log.every_steps = 100
    c.eval.every_steps = c.checkpoint.every_steps = 5 * epoch
    return c
