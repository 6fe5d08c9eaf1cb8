"""What came of a sweep: a table of its trials, the command that trains the winner, and Optuna's
figures of importance and of all values.
"""

import warnings
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from phenomjax.sweep.study import Study, standing
from phenomjax.system import ending, files
from phenomjax.system.log import table

STATES = ("complete", "pruned", "paused", "running", "diverged", "failed")


def report(study: Study) -> str:
    """The table, the figures that were drawn, and the best trial."""
    s, trials = study.settings, sorted(study.trials(), key=_rank)
    states = [_state(study, t) for t in trials]
    lines = [_trials(study, trials)]
    counts = [f"{states.count(state)} {state}" for state in STATES if state in states]
    steps, full = (
        sum(max(t.intermediate_values, default=0) for t in trials),
        sum(s.rungs_of(t.number)[-1] for t in trials),
    )
    saved = f"; all of them to the end would have been {full}" if steps < full else ""
    lines.append(f"{len(trials)} trials: {', '.join(counts)}; {steps} steps{saved}")
    for trial, state in zip(trials, states, strict=True):
        if state in ("failed", "diverged"):
            lines.append(f"trial {trial.number:04d} {trial.user_attrs['outcome']}")
    lines += importance(study, trials)
    if not trials or not trials[0].user_attrs["losses"]:
        return "\n".join([*lines, "no trial has a val/loss yet"])
    best = _described(study, trials[0])
    lines.append(
        f"best: trial {best['trial']:04d}, val/loss {best['val/loss']:.4f} at step {best['step']},"
        f" trained in {_shown(study.settings.workdir(best['trial']))}"
    )
    return "\n".join(lines)


def tell(study: Study) -> None:
    """What a script wants to know of it; and the command that trains the winner."""
    s, trials = study.settings, sorted(study.trials(), key=_rank)
    states = [_state(study, t) for t in trials]
    described = [_described(study, t) for t in trials]
    best = described[0] if described and described[0]["val/loss"] is not None else None
    ending.note(
        study=s.folder,
        trials={state: states.count(state) for state in STATES if state in states},
        best=best,
        all_trials=described,
    )
    if best is None:
        return
    values = [f"--config.{key}={value}" for key, value in best["settings"].items()]
    words = [s.config, *s.overrides, *values, "--workdir", _shown(s.path / "winner")]
    command = "python -m phenomjax.main --config" + " {}" * len(words)
    ending.then("train the best anew", command, *words)


def _described(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """A trial as scripts read it: its last val/loss, and of which step, None without one."""
    s, losses = study.settings, trial.user_attrs["losses"]
    return {
        "trial": trial.number,
        "state": _state(study, trial),
        "val/loss": losses[-1] if losses else None,
        "step": s.rungs_of(trial.number)[len(losses) - 1] if losses else None,
        "workdir": str(s.workdir(trial.number)),
        "settings": s.values(trial),
    }


def _trials(study: Study, trials: list[FrozenTrial]) -> str:
    """One row a trial, those that came farthest first, best first."""
    values = {t.number: study.settings.values(t) for t in trials}
    keys = list(study.space) or sorted(set().union(*values.values()))
    header = ["trial", "state", "step", "val/loss", "starts", *keys]
    rows = [
        [
            f"{t.number:04d}",
            _state(study, t),
            str(max(t.intermediate_values, default=0)),
            (
                f"{t.intermediate_values[max(t.intermediate_values)]:.4f}"
                if t.intermediate_values
                else "-"
            ),
            str(t.user_attrs["starts"]),
            *(
                f"{value:.4g}" if isinstance(value, float) else str(value)
                for value in (values[t.number].get(k, "") for k in keys)
            ),
        ]
        for t in trials
    ]
    return table(header, rows)


def importance(study: Study, trials: list[FrozenTrial]) -> list[str]:
    """Shares of the variance that each key explains (PED-ANOVA), and the figures, at the lowest
    rung: all trials have a val/loss there.

    Returns:
      Lines that say what was found and written; none with fewer than two trials at the rung.
    """
    if study.settings.points:  # of different lengths, at which no key alone can be judged
        return []
    step = study.settings.rungs[0]
    there = [t for t in trials if t.user_attrs.get("losses")]
    if len(there) < 2 or len({t.user_attrs["losses"][0] for t in there}) < 2:
        return []
    view, name = _lowest_rung(study, there), f"val/loss at step {step}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its matplotlib figures experimental
        shares = optuna.importance.get_param_importances(view)
        drawn = _draw(view, name, study.settings.path / "figures")
    said = ", ".join(f"{key} {100 * share:.0f} %" for key, share in shares.items())
    return [f"importance for {name}: {said}", f"figures: {drawn}"]


def _lowest_rung(study: Study, there: list[FrozenTrial]) -> optuna.Study:
    """A study of the same trials, each with its val/loss at the lowest rung."""
    last = [key.rsplit(".", 1)[-1] for key in study.space]
    short = {
        key: name if last.count(name) == 1 else key
        for key, name in zip(study.space, last, strict=True)
    }
    view = optuna.create_study()
    for t in there:
        view.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=t.user_attrs["losses"][0],
                # Optuna cuts long names
                params={short[key]: value for key, value in t.params.items()},
                distributions={short[key]: axis for key, axis in t.distributions.items()},
                intermediate_values=t.intermediate_values,
            )
        )
    return view


def _draw(view: optuna.Study, name: str, folder: Path) -> str:
    """Optuna's figures of a study; returns their paths in one."""
    matplotlib.use("agg")
    from optuna.visualization import matplotlib as draw

    axes = {
        "importance": draw.plot_param_importances(view, target_name=name),
        "parallel_coordinate": draw.plot_parallel_coordinate(view, target_name=name),
        "curves": draw.plot_intermediate_values(view),
    }
    axes["curves"].set(xlabel="step", ylabel="val/loss")
    if (legend := axes["curves"].get_legend()) and len(view.trials) > 10:
        legend.remove()
    for file, ax in axes.items():
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.set_size_inches(9, 5)
        with files.replacing(folder / f"{file}.png") as partial:
            figure.savefig(partial, dpi=120, bbox_inches="tight")
    matplotlib.pyplot.close("all")
    return f"{_shown(folder)}/{{{','.join(axes)}}}.png"


def _rank(trial: FrozenTrial) -> tuple:
    """Farthest first, then the lowest val/loss; those without any last."""
    losses = trial.user_attrs.get("losses") or []
    return (-len(losses), losses[-1] if losses else 0.0, trial.number)


def _state(study: Study, trial: FrozenTrial) -> str:
    e = standing(trial)
    if e.diverged:
        return "diverged"
    if e.closed:
        return {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(
            trial.state, "failed"
        )
    return "running" if e.underway else "paused"


def _shown(path: Path) -> str:
    """A path below the present folder without that folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
