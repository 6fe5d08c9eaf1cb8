"""The keys of the course of the learning rate, and their checks."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from phenomjax.config.ranges import Section, choice, declared, number, share, whole
from phenomjax.system.errors import UserError

NAMES = ("one_cycle", "warmup_cosine", "warmup_linear", "warmup_constant", "wsd", "constant")
COOLING = ("schedule", ("wsd",))
WARMING = ("schedule", NAMES[:-1])
FALLING = ("schedule", ("warmup_cosine", "warmup_linear", "wsd"))
# learning rates that `lr_find` tries, from the lowest to the highest, and in how many steps
SEARCHED = (1e-7, 1.0, 200)


def add_keys(o: Section) -> None:
    """Adds them to `config.optimizer`."""
    # the learning rate at its peak
    o.learning_rate = number(1e-4, least=0)
    # its course: "one_cycle" (cosine up and down), "warmup_cosine", "warmup_linear",
    # "warmup_constant", "wsd" (warm-up, stable, then down), "constant"
    o.schedule = choice("one_cycle", NAMES)
    # step at which the schedule begins, of a run that goes on from another (continue_from): warm-up
    # and shares are of the steps from there on
    o.schedule_from = whole(0, least=0, zero="with the run")
    # share of num_steps until the peak
    o.warmup_fraction = share(0.1, zero="none", where=WARMING)
    # the same in steps, which does not move with num_steps; 0 = by warmup_fraction
    o.warmup_steps = whole(0, least=0, zero="by warmup_fraction", where=WARMING)
    # share of the peak at which "warmup_cosine", "warmup_linear" and "wsd" end
    o.final_fraction = share(0.0, zero="none", where=FALLING)
    # of "wsd": share of num_steps, at its end, in which the rate goes down
    o.cooldown_fraction = share(0.2, where=COOLING)
    # the same in steps; 0 = by cooldown_fraction
    o.cooldown_steps = whole(0, least=0, zero="by cooldown_fraction", where=COOLING)
    # how it goes down: "linear", "sqrt" (1 - the root of the share that is over), "cosine"
    o.cooldown_shape = choice("sqrt", ("linear", "sqrt", "cosine"), where=COOLING)


def shape(config: Mapping[str, Any]) -> tuple[str, float, float]:
    """What is the same in runs of any length whose rates follow one course: (name and cooldown,
    share of the warm-up, share of the peak at the end).

    Args:
      config: {dotted key: value}; older ones lack some.
    """
    of = {key.removeprefix("optimizer."): value for key, value in config.items()}
    name, steps = str(of.get("schedule", "")), max(int(of.get("num_steps", 1)), 1)
    shares = {
        part: of[f"{part}_steps"] / steps if of.get(f"{part}_steps") else of.get(f"{part}_fraction")
        for part in ("warmup", "cooldown")
    }
    if name == "wsd":
        name += f" {shares['cooldown']:.2f} {of['cooldown_shape']}"
    return name, float(shares["warmup"] or 0.0), float(of.get("final_fraction", 0.0))


def lengths(c: ConfigDict) -> tuple[int, int, int]:
    """(steps of the schedule, of its warm-up, of its cooldown)."""
    o = c.optimizer
    steps = c.num_steps - o.schedule_from
    warmup = o.warmup_steps or max(round(o.warmup_fraction * steps), 1)
    if o.schedule != "wsd":
        return steps, warmup, 0
    return steps, warmup, o.cooldown_steps or round(o.cooldown_fraction * steps)


def words(c: ConfigDict, name: str, **others: float | str) -> str:
    """The words of a command line that give a configuration another schedule: keys that were set
    and which that one does not read are reset.

    Args:
      c: the configuration.
      name: of the schedule.
      **others: keys of `optimizer` with their values.
    """
    own = Section()
    add_keys(own)
    reset = {
        key: own[key]
        for key, allowed in declared(own).items()
        if allowed.where and name not in allowed.where[1] and c.optimizer[key] != own[key]
    }
    values = {"schedule": name, **reset, **others}
    return " ".join(
        f"--config.optimizer.{key}={value:.6g}"
        if isinstance(value, float)
        else f"--config.optimizer.{key}={value}"
        for key, value in values.items()
    )


def check(c: ConfigDict) -> None:
    """Checks keys that are read together."""
    o = c.optimizer
    if o.schedule_from >= c.num_steps:
        raise UserError(
            f"config.optimizer.schedule_from is {o.schedule_from}, and the run ends at"
            f" config.num_steps {c.num_steps}: there would be no step of the schedule. Set"
            " --config.optimizer.schedule_from=0, or a larger --config.num_steps."
        )
    if o.schedule_from and not c.continue_from:
        raise UserError(
            f"config.optimizer.schedule_from is {o.schedule_from}, and this run begins at step 0:"
            " until then it would train at the rate with which the schedule begins. It is for runs"
            " that go on from another one at that step or later: set --config.continue_from, or"
            " --config.optimizer.schedule_from=0."
        )
    steps, warmup, cooldown = lengths(c)
    # a cycle falls, too, or it would not rise
    room = max(steps, 2) - 1 if o.schedule == "one_cycle" else max(steps, 1)
    if o.schedule != "constant" and warmup + cooldown > room:
        parts = f"a warm-up of {warmup}" + f" and a cooldown of {cooldown}" * bool(cooldown)
        raise UserError(
            f"The schedule '{o.schedule}' has {steps} steps (config.num_steps {c.num_steps}), and"
            f" {parts} do not fit into it. Set a larger --config.num_steps, or lower"
            " --config.optimizer.warmup_steps (or warmup_fraction)"
            + " and --config.optimizer.cooldown_steps (or cooldown_fraction)" * bool(cooldown)
            + "."
        )
