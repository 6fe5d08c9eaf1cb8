"""The keys of the course of the learning rate, and their checks."""

from ml_collections import ConfigDict

from phenomjax.config.ranges import Section, choice, number, share, whole
from phenomjax.system.errors import UserError

NAMES = ("one_cycle", "warmup_cosine", "warmup_linear", "warmup_constant", "wsd", "constant")
COOLING = ("schedule", ("wsd",))
WARMING = ("schedule", NAMES[:-1])
FALLING = ("schedule", ("warmup_cosine", "warmup_linear", "wsd"))


def add_keys(o: Section) -> None:
    """Adds them to `config.optimizer`."""
    # peak
    o.learning_rate = number(1e-4, least=0)
    # "one_cycle" (cosine up and down), "warmup_cosine", "warmup_linear", "warmup_constant", "wsd"
    # (warm-up, stable, then down), "constant"
    o.schedule = choice("one_cycle", NAMES)
    # step at which the schedule begins, of a run that goes on from another (continue_from): warm-up
    # and shares are of the steps from there on
    o.schedule_from = whole(0, least=0, zero="with the run")
    # share of num_steps until the peak
    o.warmup_fraction = share(0.1, zero="none", where=WARMING)
    # the same in steps, which does not move with num_steps; 0 = by warmup_fraction
    o.warmup_steps = whole(0, least=0, zero="by warmup_fraction", where=WARMING)
    # of the peak, where "warmup_cosine", "warmup_linear" and "wsd" end
    o.final_fraction = share(0.0, zero="none", where=FALLING)
    # of "wsd": share of num_steps, at its end, in which the rate goes down
    o.cooldown_fraction = share(0.2, where=COOLING)
    # the same in steps; 0 = by cooldown_fraction
    o.cooldown_steps = whole(0, least=0, zero="by cooldown_fraction", where=COOLING)
    # how it goes down: "linear", "sqrt" (1 - the root of the share that is over), "cosine"
    o.cooldown_shape = choice("sqrt", ("linear", "sqrt", "cosine"), where=COOLING)


def lengths(c: ConfigDict) -> tuple[int, int, int]:
    """(steps of the schedule, of its warm-up, of its cooldown)."""
    o = c.optimizer
    steps = c.num_steps - o.schedule_from
    warmup = o.warmup_steps or max(round(o.warmup_fraction * steps), 1)
    if o.schedule != "wsd":
        return steps, warmup, 0
    return steps, warmup, o.cooldown_steps or round(o.cooldown_fraction * steps)


def check(c: ConfigDict) -> None:
    """Checks keys that are read together."""
    o = c.optimizer
    if o.schedule_from >= c.num_steps:
        raise UserError(
            f"config.optimizer.schedule_from is {o.schedule_from}, and the run ends at"
            f" config.num_steps {c.num_steps}: there would be no step of the schedule. Set"
            " --config.optimizer.schedule_from=0, or a larger --config.num_steps."
        )
    steps, warmup, cooldown = lengths(c)
    if o.schedule != "constant" and warmup + cooldown > max(steps, 1):
        parts = f"a warm-up of {warmup}" + f" and a cooldown of {cooldown}" * bool(cooldown)
        raise UserError(
            f"The schedule '{o.schedule}' has {steps} steps (config.num_steps {c.num_steps}), and"
            f" {parts} do not fit into it. Set a larger --config.num_steps, or lower"
            " --config.optimizer.warmup_steps (or warmup_fraction)"
            + " and --config.optimizer.cooldown_steps (or cooldown_fraction)" * bool(cooldown)
            + "."
        )
