"""A run that goes on in a folder of its own from a checkpoint of another one, with everything that
it has learnt and other settings: `continue_from=WORKDIR[@STEP]`.

Parameters, optimiser state, moving average, carry, step, position in the data and roll-backs go on.
The folder of the other run is read and never written. WORKDIR/continued_from.json of the new one
says where it comes from and what differs.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import SequenceKey
from ml_collections import ConfigDict

from phenomjax import optim, tasks
from phenomjax import state as state_lib
from phenomjax.checkpoints import recovery
from phenomjax.checkpoints import workdir as workdir_lib
from phenomjax.checkpoints.checkpointer import Checkpointer
from phenomjax.checkpoints.init_from import has_grid, position_grid
from phenomjax.checkpoints.workdir import CHECKPOINTS
from phenomjax.cluster import messages
from phenomjax.config import batches, mixtures, stored
from phenomjax.config.checks import flatten
from phenomjax.data.batches import Batches
from phenomjax.models.parameter_names import divide
from phenomjax.state import TrainState
from phenomjax.system.errors import UserError, did_you_mean, first_of
from phenomjax.system.user_files import at_step
from phenomjax.training import branch_record
from phenomjax.training.context import RunContext
from phenomjax.training.size import params_of, specs_of

# of a model with the same parameters, what they mean stays where these differ
FREE_OF_MODEL = (
    *("dropout", "attention_dropout", "drop_path", "mask_ratio", "norm_pix_loss", "dtype"),
    *("fourier_weight", "fourier_mode", "label_smoothing", "arcface_scale", "arcface_margin"),
    *("cutmix", "norm_momentum", "norm_rows", "control_share", "control_weight", "init_std"),
    *("mem_len", "eval_mem_len", "same_length", "clamp_len", "num_predict", "perm_size"),
    *(
        "position_grid",
        "mask_alpha",
        "mask_beta",
        "reuse_len",
        "bi_data",
        "remat",
        "attention",
        "attention_type",
    ),
)
# of the data, what leaves the order as it is; banks and selections are known by their checksums
FREE_OF_ORDER = ("data.crop_size", "data.flip", "data.rotate", "data.simulate.", "data.weights")


def begin(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Fills in what another run says of a run that goes on from it: its step in `continue_from`,
    and `batches_before`. All processes call it together.

    Args:
      config: resolved otherwise.
      workdir: of the new run.

    Raises:
      UserError: there is no such run or checkpoint, it is damaged, or it cannot go on with this
        configuration; each with the way.
    """
    with config.copy_and_resolve_references().unlocked() as c:
        c.batches_before = ()
        if c.continue_from:
            found = _found(c, workdir) if messages.is_main() else ("", (), {}, False)
            text, before, filled, fresh = messages.gather("continue_from", found)[0]
            if fresh and (wrong := recovery.damage(_folder(text))):
                raise UserError(_damaged(text, wrong))
            c.continue_from, c.batches_before = text, tuple(map(tuple, before))
            c.model.update(filled)
    return c.lock()


def origin(config: ConfigDict) -> tuple[Path, int]:
    """(folder of the run, step) that a run goes on from, whose configuration is complete."""
    return _parts(config.continue_from)


def restore(
    run: RunContext, checkpoints: Checkpointer, tx: optax.GradientTransformation, wanted: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """The state of the other run as this one goes on with it, and what its checkpoint remembers.

    Args:
      run: the new one.
      checkpoints: its checkpoints.
      tx: its optimiser.
      wanted: shapes and shardings of its state.

    Raises:
      UserError: arrays of the checkpoint do not fit.
    """
    workdir, step = origin(run.config)
    if not _folder(run.config.continue_from).is_dir():  # since `begin`
        raise UserError(_damaged(run.config.continue_from, []))
    theirs = stored.load(workdir / "config.json")
    theirs.mesh = run.config.mesh
    other = optim.make(theirs)
    _, abstract, _ = state_lib.abstract(run.task, other, theirs, run.mesh, run.spec)
    state, memory = checkpoints.restore(step, abstract, workdir)
    opt_state = _fitted(state.opt_state, wanted.opt_state)
    average = state.ema or jax.tree.map(jnp.copy, state.params)  # it begins as they are
    rows = Batches(batches.stages(run.config)).rows(memory_position(step, memory))
    state = dataclasses.replace(
        state, opt_state=opt_state, ema=average if run.config.optimizer.ema_decay else ()
    )
    state = state_lib.with_rows(state, rows, run.task, run.mesh, exactly=True)
    model = flatten(run.config.model) == flatten(theirs.model)
    kept = {"window": memory["window"] if model else None, "rollbacks": memory["rollbacks"]}
    return state, kept | {"redo": ["val", "probe"] * run.config.eval.at_start}


def memory_position(step: int, memory: Mapping[str, Any]) -> int:
    """Position in the data at a step, by what its checkpoint remembers."""
    return step + sum(each["skip"] for each in memory["rollbacks"])


def _found(
    c: ConfigDict, workdir: Path
) -> tuple[str, Sequence[Sequence[int]], dict[str, float], bool]:
    """In process 0: (RUN@STEP, `batches_before`, keys of `model` that are filled in, whether the
    run begins now).
    """
    run, step = _named(c.continue_from)
    if run == Path(os.path.realpath(workdir)):
        raise UserError(
            f"config.continue_from is {c.continue_from}, the --workdir itself. An interrupted run"
            " is continued by its own command, without continue_from; to go on with other"
            " settings, give another --workdir."
        )
    if workdir_lib.begun(workdir):
        before = stored.load(workdir / "config.json")
        if before.continue_from:
            there = origin(before)
            if run == there[0] and step in (None, there[1]):
                open_grid = has_grid(c) and not c.model.position_grid
                grid = {"position_grid": before.model.position_grid} if open_grid else {}
                return before.continue_from, before.batches_before, grid, False
        return f"{run}@{step}" if step is not None else str(run), (), {}, False
    theirs, step = _checkpoint(run, step, c.continue_from)
    filled = {}
    if has_grid(c) and has_grid(theirs):
        filled["position_grid"] = c.model.position_grid = position_grid(c, theirs)
    _check(c, theirs, run, step)
    try:
        memory = recovery.memory(run / CHECKPOINTS / str(step))
        position = memory_position(step, memory)
        memory["window"], memory["data"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        wrong = [f"meta/metadata cannot be read ({error})"]
        raise UserError(_damaged(f"{run}@{step}", wrong)) from error
    now = Batches(batches.own(c)).rows(position)
    why = _other_order(c, theirs, memory, position)
    earlier = [] if why else [each for each in batches.stages(theirs) if each[0] < position]
    branch_record.tell(c, theirs, workdir, (run, step, position), why)
    return f"{run}@{step}", [*earlier, (position, now)], filled, True


def _named(text: str) -> tuple[Path, int | None]:
    """(folder of the run, step or None) that a text names."""
    run, step = workdir_lib.named(text)
    if step is None and not run.is_dir() and "@" in run.name:
        raise UserError(
            f"config.continue_from is {text}: what follows the @ must be a step, as in"
            f" {str(run).rpartition('@')[0]}@1000."
        )
    return Path(os.path.realpath(run)), step


def _checkpoint(run: Path, step: int | None, text: str) -> tuple[ConfigDict, int]:
    """The configuration of a run and the step of it that is meant.

    Raises:
      UserError: there is none.
    """
    if "://" in text:
        raise UserError(
            f"config.continue_from is {text}, an address: the state of a run is read from a folder."
            " Copy that run, config.json and checkpoints, to a disk, and give the copy."
        )
    if run.is_file():
        raise UserError(
            f"config.continue_from is {text}, a file, and a run goes on from a workdir. Set"
            f" --config.continue_from={run.parent}"
        )
    if not run.is_dir():
        near = [each.name for each in run.parent.glob("*")]
        raise UserError(
            f"config.continue_from is {text}, and there is no folder {run}."
            f"{did_you_mean(run.name, near)} Give the workdir of the run to go on from, and if it"
            " is not its newest checkpoint its step: WORKDIR@STEP."
        )
    if not (run / "config.json").exists():
        inside = sorted(str(path.parent) for path in run.glob("*/config.json"))
        found = f" Runs in it are {first_of(inside, 8)}." if inside else ""
        raise UserError(
            f"config.continue_from is {text}, and {run} is not the workdir of a run, or lost its"
            f" configuration: it has no config.json.{found} Give the workdir of the run to go on"
            " from, and if it is not its newest checkpoint its step: WORKDIR@STEP."
        )
    theirs, there = stored.load(run / "config.json"), workdir_lib.sealed_steps(run)
    try:  # that it can be read, though its values may be refused by now
        batches.check(theirs)
        if "weights_later" in theirs.data:
            mixtures.check(theirs)
    except UserError as error:
        raise UserError(
            f"config.continue_from is {text}, and {run / 'config.json'} was edited, or is damaged:"
            f" {error}"
        ) from error
    if alone := [each for each in there if not (run / CHECKPOINTS / str(each) / "rest").is_dir()]:
        raise UserError(
            f"config.continue_from is {text}, and {run} holds parameters alone, without the state"
            " of an optimiser (`python -m phenomjax.convert` makes such folders). Begin a run from"
            " them: --config.continue_from=''"
            f" --config.init_from={run / CHECKPOINTS / str(alone[0])}"
        )
    if not there:
        raise UserError(
            f"config.continue_from is {text}, and {run} has no whole checkpoint to go on from"
            f" (in {run / CHECKPOINTS}). Wait for its first, or give another run."
        )
    if step is not None and step not in there:
        nearest = min(there, key=lambda each: abs(each - step))
        raise UserError(
            f"config.continue_from is {text}, and {run} has no whole checkpoint of step {step};"
            f" there are {there}. Set --config.continue_from={run}@{nearest}, or keep more of them"
            " while that run trains, with --config.checkpoint.keep_every_steps."
        )
    return theirs, there[-1] if step is None else step


def _parts(text: str) -> tuple[Path, int]:
    """(folder of the run, step) of a complete text, WORKDIR@STEP."""
    run, step = at_step(text)
    assert step is not None
    return Path(run), step


def _folder(text: str) -> Path:
    run, step = _parts(text)
    return run / CHECKPOINTS / str(step)


def _damaged(text: str, wrong: list[str]) -> str:
    run, step = _parts(text)
    others = [each for each in workdir_lib.sealed_steps(run) if each != step]
    ways = (
        f"Set --config.continue_from={run}@{others[-1]} (others are {others})."
        if others
        else "That run has no other; it was not touched."
    )
    if not _folder(text).is_dir():
        return (
            f"The checkpoint {_folder(text)} was there and is gone: its run trains on, keeps the"
            f" newest and the best alone, and deleted it. {ways} To have it keep more:"
            " --config.checkpoint.keep_every_steps."
        )
    return (
        f"The checkpoint {_folder(text)} is damaged, and nothing goes on from it:"
        f" {workdir_lib.some(wrong)}. {ways}"
    )


def _check(c: ConfigDict, theirs: ConfigDict, run: Path, step: int) -> None:
    """Checks that a run can go on with this configuration.

    Raises:
      UserError: names the keys, and the way.
    """
    if c.num_steps <= step:
        raise UserError(
            f"config.continue_from goes on at step {step} of {run}, and config.num_steps is"
            f" {c.num_steps}: there would be no step to do. Steps are counted on: to do 1000 more,"
            f" set --config.num_steps={step + 1000}."
        )
    if c.optimizer.schedule_from > step:
        raise UserError(
            f"config.optimizer.schedule_from is {c.optimizer.schedule_from}, and the run goes on at"
            f" step {step}: until then it would train at the rate with which the schedule begins."
            f" Set --config.optimizer.schedule_from={step}."
        )
    mine, old = flatten(c), flatten(theirs)
    inside = ":" in c.task or c.task != theirs.task  # of others nobody knows what a key means
    free = () if inside else tuple(f"model.{key}" for key in FREE_OF_MODEL)
    fixed = ["task", "optimizer.name", *(key for key in mine if key.startswith("model."))]
    if ":" in c.task:
        fixed = ["task", "optimizer.name"]
    wrong = [key for key in fixed if key not in free and mine[key] != old.get(key)]
    if c.init_from not in ("", theirs.init_from):
        wrong.append("init_from")
    if not wrong and _trains_others(c, theirs):
        wrong.append("freeze")
    if wrong:
        rows = "; ".join(f"{key}: {old.get(key)} there, {mine.get(key)} here" for key in wrong[:8])
        raise UserError(
            f"config.continue_from goes on with the parameters and the optimiser state of {run} at"
            f" step {step}, which are of another model or optimiser: {rows}. Set these keys as they"
            " are there; or begin a new run from its parameters alone: --config.continue_from=''"
            f" --config.init_from={run / CHECKPOINTS / str(step)}"
        )


def _trains_others(c: ConfigDict, theirs: ConfigDict) -> bool:
    """Whether `freeze` leaves other parameters to be trained, in whatever words it says so.

    Raises:
      UserError: a pattern describes no parameter.
    """
    if set(c.freeze) == set(theirs.freeze):
        return False
    task = tasks.make(c)
    loader = task.loader("train", 0, 1)
    assert loader is not None
    params = params_of(task, specs_of(loader)[0])
    mine, old = (divide(params, each.freeze)[0] for each in (c, theirs))
    return jax.tree.structure(mine) != jax.tree.structure(old)


def _other_order(
    c: ConfigDict, theirs: ConfigDict, memory: Mapping[str, Any], position: int
) -> str:
    """Why the order of the data is another one than that of the run before; "" where it goes on."""
    free = tuple(key for key in stored.CHANGEABLE if key.startswith("data.")) + FREE_OF_ORDER
    mine, old = flatten(c), flatten(theirs)
    keys = ["seed", "model.reuse_len", "model.bi_data"]
    keys += [key for key in {**mine, **old} if key.startswith("data.")]
    for key in keys:
        if not key.startswith(free) and mine.get(key) != old.get(key):
            return f"config.{key} is another one"
    mixed = [
        [stage for stage in mixtures.stages(each.data) if stage[0] < position]
        if "weights" in each.data
        else []
        for each in (c, theirs)
    ]
    if mixed[0] != mixed[1]:
        return (
            "config.data.weights is another one. To mix otherwise from here on alone, leave it and"
            f' set --config.data.weights_later="(({position}, …),)"'
        )
    loader = tasks.make(c).loader("train", 0, 1)
    if loader is None or list(loader.fingerprints.values()) != list(memory["data"].values()):
        return "the banks are others, or have changed"
    grows = Batches(batches.own(c)).rows(position) != Batches(batches.stages(theirs)).rows(position)
    if grows and (c.data.get("groups") or c.data.get("control_share")):
        return "a batch has parts of another size"
    return ""


def _names(state: optax.OptState) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Names and shapes of the arrays of an optimiser state, whatever their place in a chain."""
    return [
        (tuple(str(key) for key in path if not isinstance(key, SequenceKey)), leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(state)
    ]


def _fitted(state: optax.OptState, wanted: optax.OptState) -> optax.OptState:
    """An optimiser state in the structure of another chain: clipping has no arrays of its own."""
    assert _names(state) == _names(wanted)  # `_check` refuses what would change them
    return jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(state))
