"""The demo of weak supervision: a small DenseNet that tells the perturbations of a simulated screen
apart, also in experiments that it never saw and that were stained otherwise.

  python -m phenomjax.main --config configs/perturbation_demo.py --workdir runs/perturbation_demo
"""

from phenomjax import config


def get_config():
    c = config.base("perturbation")
    s = c.data.simulate
    # every experiment is one plate: 3 wells of each of 16 knock-outs, 12 of controls
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
    c.global_batch_size, c.num_steps = 48, 600
    c.optimizer.name, c.optimizer.learning_rate = "adamw", 3e-3
    c.optimizer.schedule, c.optimizer.weight_decay = "warmup_cosine", 1e-3
    c.log.every_steps = 50
    c.eval.every_steps = c.checkpoint.every_steps = c.figures.every_steps = 200
    c.eval.num_batches = 0
    c.checkpoint.best_metric = "val/accuracy_adabn"
    return c
