"""`DIR/ladder.json`: the runs of a ladder, and the rules by which they were planned. A ladder grows
by the same command with more budgets, sizes, seeds or subsets; rules do not change.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phenomjax.config import stored
from phenomjax.config.checks import flatten
from phenomjax.scaling.ladder.plan import Run
from phenomjax.scaling.ladder.rules import Exponents, Reference
from phenomjax.system import files
from phenomjax.system.errors import UserError, first_of

FILE = "ladder.json"


@dataclass(frozen=True)
class Ladder:
    """A ladder as it is on disk.

    Attributes:
      config: FILE or FILE:ARG.
      overrides: `--config.KEY=VALUE` of all runs.
      values: {key: value} of the configuration.
      told: the rules, as sentences.
      depth, exponents, reference: of the rules.
      unit: of data.
      data: {data set: checksum}.
      runs: as planned.
      trials: of each trial, in `trials/NNNN`, the number of its run. A run that failed has several,
        of which the last one counts.
    """

    config: str
    overrides: tuple[str, ...]
    values: dict[str, Any]
    told: tuple[str, ...]
    depth: str
    exponents: Exponents
    reference: Reference
    unit: str
    data: dict[str, str]
    runs: tuple[Run, ...]
    trials: tuple[int, ...]

    def trial_of(self, run: int) -> int:
        """The trial that counts of a run."""
        return max(trial for trial, its in enumerate(self.trials) if its == run)

    def workdir(self, run: int) -> str:
        """Where a run trains, in the folder of the ladder."""
        return f"trials/{self.trial_of(run):04d}"

    def again(self, trials: Sequence[int]) -> "Ladder":
        """This ladder with new trials of the runs of these."""
        new = tuple(self.trials[trial] for trial in trials)
        return dataclasses.replace(self, trials=self.trials + new)

    def save(self, folder: Path) -> None:
        """Writes DIR/ladder.json."""
        content = dataclasses.asdict(self)
        for number, run in enumerate(content["runs"]):
            run["workdir"] = self.workdir(number)
        files.write_json(folder / FILE, content)

    def grown(self, other: "Ladder", folder: Path) -> "Ladder":
        """This ladder with the runs of a new plan that it does not have yet.

        Raises:
          UserError: the new plan is of another configuration, or by other rules.
        """
        changed = [
            f"config.{key} was {_short(self.values.get(key))}, is now"
            f" {_short(other.values.get(key))}"
            for key in stored.changed(self.values, other.values, stored.JUDGED)
        ]
        mine, others = dataclasses.asdict(self), dataclasses.asdict(other)
        changed += [
            f"{name} was {mine[name]}, is now {others[name]}"
            for name in ("depth", "exponents", "reference", "data")
            if mine[name] != others[name]
        ]
        if changed:
            raise UserError(
                f"{folder} holds a ladder of another configuration or by other rules:"
                f" {first_of(changed)}. Runs of two recipes make no ladder: give another folder to"
                " `out`, or the same settings to continue this one."
            )
        known = {run.same for run in self.runs}
        runs = self.runs + tuple(run for run in other.runs if run.same not in known)
        trials = self.trials + tuple(range(len(self.runs), len(runs)))
        return dataclasses.replace(other, runs=runs, trials=trials)


def load(folder: Path) -> Ladder | None:
    """The ladder of a folder; None where there is none.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = files.read_json(path)
        for run in content["runs"]:
            del run["workdir"]
        return Ladder(
            config=content["config"],
            overrides=tuple(content["overrides"]),
            values=flatten(content["values"]),
            told=tuple(content["told"]),
            depth=content["depth"],
            exponents=Exponents(**content["exponents"]),
            reference=Reference(**content["reference"]),
            unit=content["unit"],
            data=content["data"],
            runs=tuple(Run(**run) for run in content["runs"]),
            trials=tuple(content["trials"]),
        )
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). The runs in {folder}/trials are whole: fit them as they"
            " are, or give a new folder to `out`."
        ) from None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
