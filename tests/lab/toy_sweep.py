"""A config file with a search space for tests of sweeps; the program of its trials is toy_trial.py
or toy_main.py.
"""

from phenomjax import config
from phenomjax.sweep.space import choice, log_uniform


def get_config():
    c = config.base()
    c.num_steps, c.global_batch_size, c.optimizer.name = 32, 8, "adamw"
    c.log.every_steps = c.eval.every_steps = c.checkpoint.every_steps = 4
    c.log.tensorboard, c.eval.num_batches = False, 1
    return c


def search_space():
    return {
        "optimizer.learning_rate": log_uniform(1e-4, 1e-1),
        "optimizer.weight_decay": choice(0.0, 0.1),
    }
