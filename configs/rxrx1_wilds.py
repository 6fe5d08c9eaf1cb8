r"""RxRx1-WILDS: which of 1,139 perturbations was an image given, in experiments never seen
(Koh et al. 2021, https://arxiv.org/abs/2012.07421).

  python -m phenomjax.main --config configs/rxrx1_wilds.py:seed=0 \
    --config.data.banks="('rxrx1_wilds.zarr',)" --workdir runs/wilds_0
  python -m phenomjax.evaluate perturbations --checkpoint runs/wilds_0 runs/wilds_1 runs/wilds_2 \
    --out runs/wilds_report

Three seeds make a result (:seed=1, :seed=2); one command trains them all, as runs/wilds/trials/*:

  python -m phenomjax.sweep --config configs/rxrx1_wilds.py --vary seed=0,1,2 --study runs/wilds \
    --config.data.banks="('rxrx1_wilds.zarr',)"

Data: 256 px, 3 channels, as the benchmark publishes them (rxrx1_v1.0: images of three samples a
pixel, and metadata.csv). Training: site 1 of 33 experiments, 40,612 images; site 2 of these is the
in-distribution test; 4 other experiments are for validation, 14 the test (34,432 images).

  python -m phenomjax.prepare images --source rxrx1_v1.0/images --layout generic --pages c \
    --pattern '(?P<experiment>[^/]+)/Plate(?P<plate>\d+)/(?P<well>\w+)_s(?P<site>\d).png' \
    --channels 1=Hoechst,2=ConA,3=Phalloidin --metadata rxrx1_v1.0/metadata.csv \
    --out rxrx1_wilds.zarr

Model: DenseNet-161, 0.8 softmax + 0.2 ArcFace, CutMix, 90 epochs. Work: 60.6 GFLOP per image and
step. Hardware: one GPU of 80 GB. Time: half an hour to two hours a seed, estimated from the work at
5 to 15 % of an H100's bfloat16 peak; not measured. Nothing of that size has been trained with this
code.

To beat, on the out-of-distribution test: 29.9 % (ERM, ResNet-50), and 39.8 %, which the same
network has when it is trained on images of the test's experiments too: what batch effects cost.
Both are of the benchmark's paper, and `evaluate` prints them beside ours. By its rules nothing is
fitted to the test (running statistics), images have 3 channels, and there are three seeds or more.

The ladder, one step at a time:

  :recipe=erm        the paper's own recipe: softmax alone, no CutMix, Adam at 1e-3
  :recipe=arcface    the recipe above; both with batches of all experiments mixed
  :groups=4          batches of four experiments, each normalised by itself, for AdaBN at the test
                     (`evaluate perturbations --statistics experiment`); no standard result any more
  configs/rxrx1_densenet161.py: 6 channels, 512 px

`:cell_type=HUVEC` trains on one cell type, `:121` a smaller network.
"""

from phenomjax import config
from phenomjax.config import perturbation

# images of site 1 of the 33 training experiments, in RxRx1's metadata
IMAGES = {"": 40_612, "HUVEC": 19_671, "RPE": 8_623, "HEPG2": 8_622, "U2OS": 3_696}
RECIPES = ("arcface", "erm")


def get_config(arg=""):
    o = config.parse_arg(arg, size="161", recipe="arcface", groups=0, cell_type="", seed=0)
    config.preset(o["recipe"], RECIPES)
    config.preset(o["cell_type"], IMAGES)
    c = config.base("perturbation")
    c.seed = o["seed"]
    perturbation.set_densenet(c, o["size"])
    c.model.channels = ("Hoechst", "ConA", "Phalloidin")
    c.data.protocol = "rxrx1_wilds"
    c.data.crop_size = 256
    c.data.flip = c.data.rotate = True
    c.data.groups, c.data.cell_type = o["groups"], o["cell_type"]
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "adamw", 4e-4, 1e-2
    c.optimizer.schedule, c.optimizer.b2 = "warmup_cosine", 0.999
    c.global_batch_size = 128
    if o["recipe"] == "erm":
        c.global_batch_size = 72
        # WILDS also adds 1e-5 of the weights to the gradients; Adam here knows no decay
        c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "adam", 1e-3, 0.0
    else:
        c.model.arcface_weight, c.model.cutmix = 0.2, 1.0
    epoch = -(-IMAGES[o["cell_type"]] // c.global_batch_size)
    c.num_steps = 90 * epoch
    c.log.every_steps = 100
    c.eval.every_steps, c.eval.num_batches = 5 * epoch, 0
    c.checkpoint.every_steps = 5 * epoch
    return c
