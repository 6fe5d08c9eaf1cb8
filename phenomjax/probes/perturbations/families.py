"""Runs that are one model: those whose configurations differ in the seed alone."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from phenomjax.config.checks import flatten
from phenomjax.probes.perturbations.scores import GROUPS
from phenomjax.system.errors import UserError

# sections and keys on which the parameters do not depend
NOT_COMPARED = (
    *("seed", "stop_at_step", "log.", "eval.", "figures.", "probes.", "checkpoint.", "watchdog."),
    *("divergence.", "mesh.", "data.threads", "data.prefetch_batches", "data.staging"),
    *("data.cache", "data.on_bad_image", "data.max_bad_images"),
)


def run_names(checkpoints: Sequence[str], names: Sequence[str] = ()) -> list[str]:
    """Short names of runs, all different: those given, or the folders' own, of a sweep's trial with
    the sweep's.

    Raises:
      UserError: not as many names as checkpoints, or two the same.
    """
    if names and len(names) != len(checkpoints):
        raise UserError(
            f"`names` has {len(names)} names for the {len(checkpoints)} folders of `checkpoint`."
            " Give as many."
        )
    found = list(names)
    for path in [] if names else map(Path, checkpoints):
        path = path.absolute()
        step = f" {path.name}" if path.parent.name == "checkpoints" else ""
        path = path.parents[1] if step else path
        sweep = f"{path.parents[1].name}/" if path.parent.name == "trials" else ""
        found.append(f"{sweep}{path.name}{step}")
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise UserError(
            f"Two checkpoints are called {twice}. Give each once, and names of their own with"
            " `names`."
        )
    return found


def group_of(config: ConfigDict) -> dict[str, str]:
    """{column: value} of the rows that a run was trained on alone."""
    return {name: config.data[name] for name in GROUPS if config.data[name]}


def families(configs: Mapping[str, ConfigDict], steps: Mapping[str, int]) -> dict[str, str]:
    """{run: name of its model}; runs of one model differ in the seed alone.

    Args:
      configs: of the runs.
      steps: of their checkpoints.

    Raises:
      UserError: two that do not even differ in the seed.
    """
    members: dict[str, list[str]] = {}
    for name, config in configs.items():
        flat = {k: v for k, v in flatten(config).items() if not k.startswith(NOT_COMPARED)}
        if config.data.simulate.plates:  # each workdir has its own
            del flat["data.banks"]
        members.setdefault(repr((steps[name], sorted(flat.items()))), []).append(name)
    found: dict[str, str] = {}
    for runs in members.values():
        of_seed: dict[int, str] = {}
        for run in runs:
            if (seed := configs[run].seed) in of_seed:
                raise UserError(
                    f"`checkpoint` {of_seed[seed]} and {run} are of one configuration, step and"
                    f" seed ({seed}): the spread over seeds would leave out what another seed"
                    " changes. Give one of them, or train the other again with"
                    f" --config.seed={seed + 1}."
                )
            of_seed[seed] = run
        name, of_sweep, _ = runs[0].partition("/")
        if len(runs) > 1 and not of_sweep:  # a number at its end tells seeds apart
            name = re.sub(r"[_. -]*(seed)?[_. -]*\d+$", "", name) or name
        for value in group_of(configs[runs[0]]).values():
            name += f" {value}" if value.casefold() not in name.casefold() else ""
        taken = set(found.values())
        if name in taken:
            name = next(f"{name} ({i})" for i in range(2, 99) if f"{name} ({i})" not in taken)
        found |= dict.fromkeys(runs, name)
    return {name: found[name] for name in configs}
