"""The plan of a ladder: which models, how long, on how much data, and what it all costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from phenomjax.config.experiment import with_values
from phenomjax.scaling.costs import cost_of
from phenomjax.scaling.ladder import rules, sizes
from phenomjax.scaling.ladder.sizes import Settings, Size
from phenomjax.system.errors import UserError
from phenomjax.training.size import Size as Cost

LOOKS = ("eval.every_steps", "checkpoint.every_steps", "log.every_steps")
# what a step costs does not depend on
PACE = (*LOOKS, "num_steps", "optimizer.learning_rate", "optimizer.ema_decay")
SEARCHED = 4096  # widths of the grid that are tried at most


@dataclass(frozen=True)
class Run:
    """A run of a ladder.

    Attributes:
      budget: FLOPs that it was planned for.
      size: of its model, by name.
      seed, subset: of the run; share of the training data.
      params, flops, seen, unique: N, C, D and U.
      steps, batch, rate, warmup: of its schedule; warm-up in steps.
      settings: {key: value}, what it has of its own.
    """

    budget: float
    size: str
    seed: int
    subset: float
    params: int
    flops: float
    seen: int
    unique: int
    steps: int
    batch: int
    rate: float
    warmup: int
    settings: Settings

    @property
    def flops_per_step(self) -> float:
        return self.flops / self.steps

    @property
    def epochs(self) -> float:
        """How often it reads its data."""
        return self.seen / self.unique if self.unique else math.nan

    @property
    def same(self) -> tuple:
        """What makes it the same run, however often it is looked at."""
        return tuple(sorted((k, v) for k, v in self.settings.items() if k not in LOOKS))


@dataclass(frozen=True)
class Wanted:
    """What a ladder is to have.

    Attributes:
      budgets: FLOPs, rising.
      sizes: words of `sizes`; none: by `tokens_per_parameter`.
      tokens_per_parameter: C / 6 N^2 of the models of each budget.
      seeds, subsets: of each.
      depth: "aspect" or "fixed".
      exponents: of batch and learning rate.
      reference_seen: units of data at which the configuration's values hold; 0 = of its own run.
      devices: that a batch is shared by.
      min_steps: shorter runs are left out.
      evaluations: of each run.
    """

    budgets: tuple[float, ...]
    sizes: tuple[str, ...]
    tokens_per_parameter: tuple[float, ...]
    seeds: tuple[int, ...]
    subsets: tuple[float, ...]
    depth: str
    exponents: rules.Exponents
    reference_seen: float
    devices: int
    min_steps: int
    evaluations: int


class Planner:
    """Plans the runs of a configuration.

    Args:
      config: with what holds for all runs.
      wanted: what the ladder is to have.
      folder: of the ladder, for data that the configuration simulates.
      own: keys that the user gave for all runs; the plan leaves them alone.

    Attributes:
      reference: where the configuration's own values hold.
      unit, data: what data are counted in, and their checksums.
      left_out: what was not planned, and why.
    """

    def __init__(self, config: ConfigDict, wanted: Wanted, folder: Path, own: Sequence[str] = ()):
        self._config, self._wanted, self._folder, self._own = config, wanted, folder, set(own)
        self._costs = dict[tuple, Cost]()
        self.left_out = list[str]()
        own_cost = self._cost({})
        self.unit, self.data = own_cost.unit, own_cost.data
        self._units_per_row = own_cost.units_per_step / config.global_batch_size
        self._multiple = rules.batch_multiple(config, wanted.devices)
        o = config.optimizer
        self.reference = rules.Reference(
            seen=wanted.reference_seen or config.num_steps * own_cost.units_per_step,
            batch=config.global_batch_size,
            rate=o.learning_rate,
            steps=config.num_steps,
            ema_decay=o.ema_decay,
        )

    def runs(self) -> list[Run]:
        """All runs, the cheapest first.

        Raises:
          UserError: none is long enough.
        """
        found = list[Run]()
        for budget in self._wanted.budgets:
            for size in self._sizes(budget):
                for subset in self._wanted.subsets:
                    found += self._runs(budget, size, subset)
        if not found:
            raise UserError(
                f"No run of this ladder has `min_steps` {self._wanted.min_steps} steps:"
                f" {'; '.join(self.left_out)}. Give larger `budgets`, smaller `sizes`, or a lower"
                " `min_steps`."
            )
        # budgets that are nearly the same pay for one and the same run
        once = {run.same: run for run in reversed(found)}.values()
        return sorted(once, key=lambda run: (run.budget, run.params, run.subset, run.seed))

    def _runs(self, budget: float, size: Size, subset: float) -> list[Run]:
        """The runs of a budget and a size, one a seed; none where they would be too short."""
        c, wanted = self._config, self._wanted
        model: Settings = dict(size.settings)
        if wanted.subsets != (1.0,):
            model["data.subset"] = subset
        cost = self._cost(model)
        per_unit = cost.flops_per_step / cost.units_per_step
        timed = rules.schedule(
            self.reference,
            wanted.exponents,
            seen=budget / per_unit,
            units_per_row=self._units_per_row,
            width_ratio=size.ratio,
            multiple=self._multiple,
        )
        if timed.steps < wanted.min_steps:
            self.left_out.append(
                f"{size.name} at {budget:.3g} FLOPs, {timed.steps} steps of {timed.batch} rows"
            )
            return []
        settings: Settings = {
            **model,
            "num_steps": timed.steps,
            "global_batch_size": timed.batch,
            "optimizer.learning_rate": timed.rate,
            **self._own_pace(timed.steps),
        }
        if timed.ema_decay:
            settings["optimizer.ema_decay"] = timed.ema_decay
        # once more as it will be run: a batch that the data or the model cannot have is told here
        cost = self._cost(settings)
        return [
            Run(
                budget=budget,
                size=size.name,
                seed=seed,
                subset=subset,
                params=cost.params,
                flops=cost.flops_per_step * timed.steps,
                seen=cost.units_per_step * timed.steps,
                unique=cost.units_per_epoch,
                steps=timed.steps,
                batch=timed.batch,
                rate=timed.rate,
                warmup=c.optimizer.warmup_steps or round(c.optimizer.warmup_fraction * timed.steps),
                settings={**settings, "seed": seed},
            )
            for seed in wanted.seeds
        ]

    def _own_pace(self, steps: int) -> Settings:
        """How often a run of so many steps evaluates, saves and logs."""
        every = max(1, steps // self._wanted.evaluations)
        pace: Settings = {
            "eval.every_steps": every,
            "checkpoint.every_steps": every,
            "log.every_steps": max(1, min(self._config.log.every_steps, steps // 20)),
        }
        return {key: value for key, value in pace.items() if key not in self._own}

    def _sizes(self, budget: float) -> list[Size]:
        """The models of a budget."""
        config, wanted = self._config, self._wanted
        if wanted.sizes:
            return sizes.named(list(wanted.sizes), config, wanted.depth)
        grown = sizes.family(config)
        found = dict[str, Size]()
        for ratio in wanted.tokens_per_parameter:
            size = self._nearest(grown, math.sqrt(budget / (6 * ratio)))
            found[size.name] = size
        return list(found.values())

    def _nearest(self, grown: sizes.Family, params: float) -> Size:
        """The model of the grid of widths whose parameters are nearest to so many."""

        def at(k: int) -> Size:
            width = grown.width_at(k)
            return sizes.sized(grown, width, grown.depth_at(width, self._wanted.depth))

        def count(k: int) -> int:
            return self._cost(at(k).settings).params

        low, high = 1, 2
        while count(high) < params and high < SEARCHED:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(middle) < params else (low, middle)
        return at(min((low, high), key=lambda k: abs(math.log(count(k) / params))))

    def _cost(self, settings: Settings) -> Cost:
        """What a run with these settings costs."""
        key = tuple(sorted((name, value) for name, value in settings.items() if name not in PACE))
        if key not in self._costs:
            self._costs[key] = cost_of(with_values(self._config, settings), self._folder)
        return self._costs[key]
