"""The demo of weak supervision: a small DenseNet tells the perturbations of a simulated screen
apart, also in experiments that it never saw and that were stained otherwise.

  python -m phenomjax.main --config configs/perturbation_demo.py --workdir runs/perturbation_demo

Data: simulated in the workdir at the first start (no download): 10 experiments of one plate of 96
wells with 16 knock-outs and two kinds of controls, each experiment with its own staining, blur and
bleed-through; the last three are held out. Model: 0.09 M parameters. Work: 0.207 GFLOP per image
and step. Time: two to three minutes on two idle cores (200 seconds of CPU time, with the
simulation). Expected at the end, of the 18 classes in the experiments that were held out:

  val/accuracy        0.48    batch norms by the running statistics of training
  val/accuracy_adabn  0.70    by those of each experiment (of parts of 24 of its images)
  untrained twin      0.05    by either; 0.24 by the nearest class in its embeddings
  chance              0.10    always the most frequent class, 0.06 any class

No network can tell the two kinds of controls apart, a fifth of the images: 0.90 is the most. The
first of these sets it beside its twin and chance, by statistics of whole experiments (0.74); the
second measures what a shift of the staining costs, and what statistics of the batch bring back
(docs/how-to/perturbations.md, section 3, has the keys for experiments that have few perturbations):

  python -m phenomjax.evaluate perturbations --checkpoint runs/perturbation_demo --out report/
  python -m bench.batches
"""

from phenomjax import config


def get_config():
    c = config.base("perturbation")
    s = c.data.simulate
    # every experiment is one plate: 4 or 5 wells of each of 16 knock-outs, 20 of controls
    s.plates, s.plates_per_experiment, s.wells, s.size, s.cell_radius = 10, 1, 96, 128, 16.0
    s.num_complexes, s.num_single_genes, s.inactive_fraction, s.num_compounds = 0, 16, 0.0, 0
    s.effect_size = 4.0
    s.staining_shift = 1.0  # of each experiment: what no scaling of channels takes back
    c.data.val_groups = ("EXP08", "EXP09", "EXP10")
    c.data.crop_size = 96
    c.data.flip = c.data.rotate = True
    c.data.groups = 2
    m = c.model
    m.block_config, m.growth_rate, m.stem_features, m.neck_dim = (2, 2, 2), 16, 24, 64
    c.global_batch_size, c.num_steps = 48, 500
    c.optimizer.name, c.optimizer.learning_rate = "adamw", 3e-3
    c.optimizer.schedule, c.optimizer.weight_decay = "warmup_cosine", 1e-3
    c.log.every_steps = 50
    c.eval.every_steps = c.checkpoint.every_steps = c.figures.every_steps = 250
    c.eval.num_batches = 0
    c.checkpoint.best_metric = "val/accuracy_adabn"
    return c
