"""The study: its settings in DIR/sweep.json, its trials in Optuna's storage (DIR/journal.log, or a
database by URL).

How a sweep maps to Optuna: an Optuna trial is one point of the space, and its intermediate values
are val/loss by step. Optuna's finished trials can never run again, so a trial that is paused at a
rung stays RUNNING there, and only when the sweep ends, PRUNED. One that got to the end of its run
is COMPLETE with its last val/loss; one that diverged is PRUNED; one that could not run is FAIL.
What halving needs besides stands in user attributes: `heading` (rung that the trial runs to),
`losses` (val/loss at the rungs it reached), `starts`, `outcome` (why it was closed). Who works on a
trial is no matter of Optuna's: see phenomjax.sweep.claims.py. Where the points are given, one by
one with lengths of their own (as a ladder's are), a trial is the point of its number, and Optuna
knows no values of it. When a sweep that was done gets more
--trials, the pruned ones still count in their rungs, and only new trials can go on from there.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from phenomjax.config import base, stored
from phenomjax.config.checks import flatten
from phenomjax.sweep import halving
from phenomjax.sweep import space as space_lib
from phenomjax.sweep.halving import Standing
from phenomjax.system import files
from phenomjax.system.errors import UserError, first_of

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclasses.dataclass
class SweepSettings:
    """What all workers must know.

    Those of `CHANGEABLE` may change when the sweep is continued (of `points`, more can be added);
    the others make it another sweep.
    """

    folder: str  # absolute
    config: str  # FILE or FILE:ARG
    overrides: list[str]  # --config.KEY=VALUE of all trials
    space: space_lib.StoredSpace
    sampler: str
    pruner: str
    rungs: list[int]  # steps
    eta: int
    seed: int
    num_trials: int
    program: list[str]  # the words that start a trial, before its flags
    storage: str  # URL; "" = journal.log in the folder
    directory: str  # where the trials are started, for paths relative to it
    # of the sampler "given": {key: value} of each trial, with its num_steps
    points: list[dict[str, space_lib.Value]] = dataclasses.field(default_factory=list)
    # {key: value} that file and overrides come to, whatever they are called; none of given points
    recipe: dict[str, object] = dataclasses.field(default_factory=dict)

    CHANGEABLE = (
        *("config", "overrides", "num_trials", "program", "storage", "directory", "points"),
    )

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def same_sweep(self) -> dict[str, object]:
        """What must not change; whoever gives the points looks after the recipe."""
        content = dataclasses.asdict(self).items()
        return {k: v for k, v in content if k not in self.CHANGEABLE}

    def changed(self, there: Mapping[str, Any]) -> list[str]:
        """What differs in a sweep that is there, as sentences."""
        mine, now = self.same_sweep(), flatten(self.recipe)
        before = now
        if now and "recipe" in there:
            before = flatten(base(str(now["task"]))) | flatten(there["recipe"])
        elif now:  # of a version that compared the words
            mine |= {"config": self.config, "overrides": self.overrides}
        del mine["recipe"]
        rows = [(k, there.get(k), value) for k, value in mine.items() if value != there.get(k)]
        differ = stored.changed(before, now, stored.JUDGED)
        rows += [(f"config.{k}", before.get(k), now.get(k)) for k in differ]
        return [f"{name}: {old} there, {new} now" for name, old, new in rows]

    def workdir(self, number: int) -> Path:
        """Folder of a trial."""
        return self.path / "trials" / f"{number:04d}"

    def rungs_of(self, number: int) -> list[int]:
        """Steps of the rungs of a trial."""
        return [int(self.points[number]["num_steps"])] if self.points else self.rungs

    @property
    def num_rungs(self) -> int:
        """Of each trial; given points have but their end."""
        return 1 if self.points else len(self.rungs)

    def values(self, trial: FrozenTrial) -> dict[str, space_lib.Value]:
        """{key: value} of a trial."""
        return self.points[trial.number] if self.points else trial.params


class Study:
    """The trials of a sweep."""

    def __init__(self, settings: SweepSettings, create: bool = False):
        """Opens the study of some settings, and with `create` makes it where it is not there yet.

        Raises:
          UserError: the storage cannot be reached, or holds another sweep under this name.
        """
        self.settings = settings
        self.space = space_lib.from_json(settings.space)
        try:
            settings.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"`study` {settings.folder} cannot be made ({error.strerror}). Give a folder that"
                " you own."
            ) from None
        self.storage = _open_storage(settings)
        name = settings.path.name
        if create:
            try:
                new = self.storage.create_new_study([StudyDirection.MINIMIZE], name)
                self.storage.set_study_user_attr(new, "settings", settings.same_sweep())
            except optuna.exceptions.DuplicatedStudyError:
                pass
        self.id = self.storage.get_study_id_from_name(name)
        there = self.storage.get_study_user_attrs(self.id).get("settings")
        if create and there is None:  # whoever began to make it was killed in between
            self.storage.set_study_user_attr(self.id, "settings", settings.same_sweep())
        elif there is not None and (rows := settings.changed(there)):
            raise UserError(
                f"{settings.storage or settings.path} holds a study '{name}' with other settings:"
                f" {first_of(rows, 8)}. Trials of two spaces or lengths cannot be compared: give a"
                " new folder to `study`, or the same settings to continue that one (they stand in"
                " its sweep.json)."
            )
        if create:
            save(settings)

    def trials(self) -> list[FrozenTrial]:
        """All trials by number."""
        return self.storage.get_all_trials(self.id, deepcopy=False)

    def standings(self) -> list[Standing]:
        """All trials as the decisions see them."""
        return [standing(t) for t in self.trials()]

    def create(self, params: dict[str, space_lib.Value]) -> None:
        """Adds a trial that nobody works on yet."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=distributions(self.space),
            user_attrs={"heading": 0, "losses": [], "starts": 0},
        )
        self.storage.create_new_trial(self.id, template_trial=trial)

    def trial(self, number: int) -> FrozenTrial:
        """One trial as it is now."""
        return self.storage.get_trial(
            self.storage.get_trial_id_from_study_id_trial_number(self.id, number)
        )

    def set(self, number: int, **attributes: int | list[float]) -> None:
        """Sets user attributes."""
        trial = self.storage.get_trial_id_from_study_id_trial_number(self.id, number)
        for name, value in attributes.items():
            self.storage.set_trial_user_attr(trial, name, value)

    def add_losses(self, number: int, losses: dict[int, float]) -> None:
        """Adds val/loss of some steps."""
        trial = self.storage.get_trial_id_from_study_id_trial_number(self.id, number)
        for step, loss in losses.items():
            self.storage.set_trial_intermediate_value(trial, step, loss)

    def close(self, number: int, state: TrialState, value: float | None, outcome: str) -> None:
        """Ends a trial for good; nothing happens when it was ended before."""
        trial = self.storage.get_trial_id_from_study_id_trial_number(self.id, number)
        try:
            self.storage.set_trial_user_attr(trial, "outcome", outcome)
            self.storage.set_trial_state_values(trial, state, None if value is None else [value])
        except (optuna.exceptions.UpdateFinishedTrialError, RuntimeError):
            if not self.storage.get_trial(trial).state.is_finished():
                raise

    def done(self) -> bool:
        """Whether no work is left; the trials that are still paused are then closed."""
        s = self.settings
        done = (
            halving.decide(self.standings(), s.num_rungs, s.eta, s.num_trials, set())
            == halving.DONE
        )
        if done:
            self.finish()
        return done

    def finish(self) -> None:
        """Closes the trials that are still paused: nothing will promote them any more."""
        for e in self.standings():
            if not e.closed and not e.underway:
                step, loss = self.settings.rungs_of(e.number)[e.heading], e.losses[-1]
                self.close(e.number, TrialState.PRUNED, loss, f"pruned at step {step}")


def standing(trial: FrozenTrial) -> Standing:
    """A trial as the decisions see it."""
    a = trial.user_attrs
    closed = trial.state.is_finished()
    diverged = closed and a.get("outcome", "").startswith("diverged")
    return Standing(trial.number, tuple(a.get("losses", ())), a.get("heading", 0), closed, diverged)


def distributions(space: dict[str, space_lib.Axis]) -> dict[str, BaseDistribution]:
    """The axes in Optuna's terms."""
    result: dict[str, BaseDistribution] = {}
    for key, axis in space.items():
        if isinstance(axis, space_lib.Choice):
            result[key] = CategoricalDistribution(axis.values)
        elif axis.integer:
            result[key] = IntDistribution(int(axis.low), int(axis.high), axis.log, int(axis.step))
        else:
            result[key] = FloatDistribution(axis.low, axis.high, axis.log, axis.step or None)
    return result


def save(settings: SweepSettings) -> None:
    """Writes DIR/sweep.json; a URL with a password is for the owner's eyes only."""
    with files.replacing(settings.path / "sweep.json") as partial:
        partial.touch(mode=0o600 if settings.storage else 0o666)
        partial.write_text(json.dumps(dataclasses.asdict(settings), indent=2) + "\n")


def load(folder: Path) -> SweepSettings:
    """Reads DIR/sweep.json.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = folder.absolute() / "sweep.json"
    try:
        return SweepSettings(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not the folder of a sweep: it has no sweep.json. Begin one with `python"
            f" -m phenomjax.sweep --config FILE --study {folder}`."
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Run the command that began the sweep again: it writes it"
            " anew."
        ) from None


def _open_storage(settings: SweepSettings) -> optuna.storages.BaseStorage:
    """The journal on the shared file system, or a database."""
    if not settings.storage:
        backend = JournalFileBackend(str(settings.path / "journal.log"))
        return optuna.storages.JournalStorage(backend)
    url = settings.storage
    for short in ("postgres://", "postgresql://"):
        if url.startswith(short):
            # psycopg 3, which the extra `sweep` installs
            url = "postgresql+psycopg://" + url.removeprefix(short)
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except (SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError) as error:
        try:
            shown = make_url(url).render_as_string(hide_password=True)
        except SQLAlchemyError:
            shown = settings.storage.partition("://")[0] + "://…"
        first = " ".join(str(error).split("\n")[0].split())[:300].rstrip(".")
        raise UserError(
            f"The storage {shown} cannot be opened: {first}. Check that the server runs and that"
            " user, password and database are right, as in `storage`"
            " postgresql://user@host:5432/database (a password may stand in ~/.pgpass); without"
            " `storage` the study is a file."
        ) from None
