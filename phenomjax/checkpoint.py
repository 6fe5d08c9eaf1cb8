"""Checkpoints: save, verify, restore on any mesh, compare, load parameters. Nothing else imports Orbax.

A checkpoint is WORKDIR/checkpoints/STEP with the items `params`, `ema` (when there is one), `rest` (step, optimiser state, carry) and
`meta` (JSON: what the loop has to remember). The position in the data is the step, so nothing about data is stored.

Orbax writes and commits it in threads; then every process hashes its share of the files in a thread (phenomjax/digests.py), and when all have,
process 0 records the step in WORKDIR/progress and deletes what need not be kept any more. Only a checkpoint with all its digests is ever used.
"""

import json
import logging
import math
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from phenomjax import cluster, digests, recovery
from phenomjax import config as config_lib
from phenomjax import workdir as workdir_lib
from phenomjax.errors import EXIT_FAILED, UserError
from phenomjax.state import TrainState
from phenomjax.workdir import CHECKPOINTS as FOLDER

log = logging.getLogger("phenomjax")


class Checkpointer:
    """Saves asynchronously and keeps the latest N and the best M checkpoints of a run. All processes call the same methods in the same order.

    Args:
      workdir: absolute folder of the run.
      config: `checkpoint.*` of the finalized configuration is read.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        self.workdir, self._config = workdir, config.checkpoint
        seconds = math.ceil(config.checkpoint.timeout_seconds)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(), async_options=ocp.options.AsyncOptions(timeout_secs=seconds)
        )
        self._losses: dict[int, float | None] = {}  # of the sealed checkpoints: `config.rank`, smallest for the best
        self._thread: threading.Thread | None = None
        self._writing, self._began = 0, 0.0
        self._error: BaseException | None = None

    def newest_good(self) -> int | None:
        """Verifies the newest checkpoint, and if it is damaged sets it aside and takes the one before (`recovery.newest_good`).

        Returns:
          The step to restore, the same in all processes; None for a new run.

        Raises:
          UserError: there were checkpoints and none is good, or the disk fails.
        """
        self.wait()
        step, self._losses = recovery.newest_good(self.workdir, self._config.best_metric)
        return step

    def save(
        self, step: int, state: TrainState, meta: dict[str, Any], scores: Mapping[str, float | None] | None = None
    ) -> None:
        """Starts writing a checkpoint; returns as soon as the arrays are copied from the devices. A step that is saved already stays.

        Args:
          step: of the state.
          state: all arrays.
          meta: what the loop has to remember.
          scores: what was measured at this step, by name; `checkpoint.best_metric` is looked for in it.

        Raises:
          UserError: this or the write before failed.
        """
        self.wait()
        if step in self._losses:
            return
        self._writing, self._began = step, time.monotonic()
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        args = ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta | {recovery.SCORES: dict(scores or {})}))
        try:
            (self.workdir / FOLDER).mkdir(exist_ok=True)
            self._orbax.save(self._path(step), args=args)
        except Exception as error:
            self._error = error
            self.check()
        worth = config_lib.rank(scores or {}, self._config.best_metric)
        self._thread = threading.Thread(target=self._finish, args=(step, worth), daemon=True, name="seal checkpoint")
        self._thread.start()

    def _finish(self, step: int, worth: float | None) -> None:
        """In a thread: waits for the commit, hashes, records, deletes."""
        try:
            self._orbax.wait_until_finished()
            digests.write_share(self._path(step), jax.process_index(), jax.process_count())
            recovery.gather("seal", "", self._config.timeout_seconds)
            losses = {**self._losses, step: worth}
            keep = recovery.kept(losses, self._config.keep_latest, self._config.keep_best)
            if cluster.is_main():
                if wrong := digests.structure(self._path(step))[1]:
                    raise OSError(f"another process changes {self._path(step)}: {workdir_lib.some(wrong)}")
                workdir_lib.write_progress(self.workdir, step)
                for old in losses.keys() - keep:
                    workdir_lib.delete(self.workdir, old)
            self._losses = {s: loss for s, loss in losses.items() if s in keep}
        except BaseException as error:
            self._error = error

    def check(self) -> None:
        """Raises what failed in the background, as soon as it did; cheap enough for every step.

        Raises:
          UserError: a write failed or took longer than `checkpoint.timeout_seconds`.
        """
        late = self._thread is not None and self._thread.is_alive() and self._seconds_left() < 0
        if self._error is None and not late:
            return
        path = self._path(self._writing)
        error = self._error or TimeoutError()
        self._error = error  # it stays: nothing is waited for any more
        mended = workdir_lib.workdir_error(error, self.workdir, f"The checkpoint {path}")
        if mended:  # what there is of it only fills the disk
            shutil.rmtree(path.with_name(path.name + workdir_lib.LEFTOVERS[0]), ignore_errors=True)
            raise mended from error
        if isinstance(error, UserError):
            raise error
        if self._seconds_left() < 1:
            mend = f"See whether that disk hangs, or raise --config.checkpoint.timeout_seconds (now {self._config.timeout_seconds:g})"
            raise UserError(
                f"The checkpoint {path} was not written within {self._config.timeout_seconds:g} s ({workdir_lib.space(self.workdir)}). "
                f"{workdir_lib.advice(self.workdir, mend)}",
                EXIT_FAILED,
            ) from error
        what = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"The checkpoint {path} could not be written: {what} ({workdir_lib.space(self.workdir)}). "
            f"{workdir_lib.advice(self.workdir, 'See that the folder is there and yours')}",
            EXIT_FAILED,
        ) from error

    def wait(self) -> None:
        """Returns when the last save is sealed.

        Raises:
          UserError: as `check`.
        """
        if self._thread is not None and self._error is None:
            self._thread.join(max(self._seconds_left(), 0.0) + 1)
        self.check()
        self._thread = None

    def _seconds_left(self) -> float:
        return self._began + self._config.timeout_seconds - time.monotonic()

    def _path(self, step: int) -> Path:
        return self.workdir / FOLDER / str(step)

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores a checkpoint into the shardings of `abstract`, strictly.

        Args:
          step: of `newest_good`.
          abstract: TrainState of jax.ShapeDtypeStruct with the shardings wanted now.

        Returns:
          (state, meta).

        Raises:
          UserError: names, shapes or dtypes differ; lists which.
        """
        path, wanted = self._path(step), _items(abstract)
        for name, tree in wanted.items():
            check(path / name, tree, f"the {name} of checkpoint {path}")
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = self._orbax.restore(path, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore()))
        rest = restored["rest"]
        ema = restored["ema"] if "ema" in wanted else ()
        carry = rest.get("carry", ())
        return TrainState(rest["step"], restored["params"], rest["opt_state"], ema, carry), restored["meta"]

    def latest_step(self) -> int | None:
        """The newest sealed checkpoint, or None."""
        return max(self._losses, default=None)

    def steps(self) -> list[int]:
        """All sealed checkpoints."""
        return sorted(self._losses)

    def best_step(self) -> int | None:
        """The checkpoint that is best by `checkpoint.best_metric`, or None when no one has it."""
        return max(recovery.kept(self._losses, 0, 1), default=None)

    def close(self) -> None:
        """Waits for the writes and frees the threads; after a failure it waits for nothing, since a failed write may never end."""
        if self._error is None:
            self.wait()
            self._orbax.close()


def _items(state: TrainState) -> dict[str, Any]:
    """Splits a state into the items of a checkpoint; empty trees are left out."""
    rest = {"step": state.step, "opt_state": state.opt_state}
    if jax.tree.leaves(state.carry):
        rest["carry"] = state.carry
    items = {"params": state.params, "rest": rest}
    if jax.tree.leaves(state.ema):
        items["ema"] = state.ema
    return items


def _names(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """{"a/b/kernel": ((3, 4), "float32")} for a tree of arrays, abstract arrays or Orbax metadata."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def diff(stored: Any, wanted: Any) -> list[str]:
    """One line for each array that is missing, too many, or of another shape or dtype."""
    have, want = _names(stored), _names(wanted)
    lines = [f"{n}: only in the checkpoint, {have[n][1]} {have[n][0]}" for n in sorted(have.keys() - want.keys())]
    lines += [f"{n}: only in the model, {want[n][1]} {want[n][0]}" for n in sorted(want.keys() - have.keys())]
    both = sorted(have.keys() & want.keys())
    return lines + [
        f"{n}: {have[n][1]} {have[n][0]} there, {want[n][1]} {want[n][0]} wanted" for n in both if have[n] != want[n]
    ]


def check(item: Path, wanted: Any, what: str) -> None:
    """Compares the metadata of a stored item with a tree before anything is read.

    Raises:
      UserError: the item is missing, or arrays differ (the first ten are listed).
    """
    if not item.is_dir():
        raise UserError(
            f"{item} does not exist: {what} cannot be read. Known items: {sorted(p.name for p in item.parent.glob('*'))}."
        )
    lines = diff(_metadata(item), wanted)
    if lines:
        more = f" … and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise UserError(
            f"{what[0].upper()}{what[1:]} does not fit this configuration, {len(lines)} arrays differ: {'; '.join(lines[:10])}{more}. Use the "
            "model.* and optimizer.* of the run that wrote it (its config.json), or another --workdir."
        )


def _metadata(item: Path) -> Any:
    """Tree of shapes and dtypes of a stored item."""
    return ocp.StandardCheckpointer().metadata(item).item_metadata.tree


def find(path: str | Path) -> Path:
    """Resolves a run's workdir (its newest sealed checkpoint) or a checkpoint folder to the checkpoint folder.

    Raises:
      UserError: neither.
    """
    path = Path(path).absolute()
    if (path / "params").is_dir():
        return path
    steps = workdir_lib.sealed_steps(path)
    if not steps:
        unsealed = workdir_lib.steps(path)
        raise UserError(
            f"{path} holds no checkpoint: it has neither a folder 'params' nor '{FOLDER}/STEP'. Give the --workdir of a run that saved, or one "
            "of its checkpoints/STEP folders."
            if not unsealed
            else f"No checkpoint in {path / FOLDER} has its digests (there are steps {unsealed}): each was interrupted, or written by an older "
            f"version. If you trust one of them, run `python -m phenomjax.digests {path / FOLDER}/STEP` first."
        )
    return path / FOLDER / str(steps[-1])


def _verify(folder: Path, item: str, together: bool) -> None:
    """Hashes an item of a checkpoint before it is read.

    Args:
      folder: the checkpoint.
      item: "params" or "ema".
      together: whether all processes call this, and share the work.

    Raises:
      UserError: names what is damaged.
    """
    index, count = (jax.process_index(), jax.process_count()) if together else (0, 1)
    wrong = digests.damage(folder, index, count, items=(item,))
    if together:
        texts = recovery.gather("verify", json.dumps(wrong))
        wrong = sorted({line for text in texts for line in json.loads(text)})
    if wrong:
        others = [s for s in workdir_lib.sealed_steps(folder.parent.parent) if str(s) != folder.name]
        known = f"Other checkpoints of that run are steps {others}." if others else "That run has no other checkpoint."
        trust = (
            f" If you trust it, run `python -m phenomjax.digests {folder}` first." if not digests.sealed(folder) else ""
        )
        raise UserError(
            f"The checkpoint {folder} is damaged and is not used: {workdir_lib.some(wrong)}. {known}{trust}"
        )


def load(path: str | Path) -> tuple[ConfigDict, Any, int]:
    """Loads what inference needs from a run.

    Args:
      path: workdir, or WORKDIR/checkpoints/STEP.

    Returns:
      (config, params as float32 NumPy arrays, step); the parameters are the moving average where the run kept one.
    """
    folder = find(path)
    config = config_lib.load(folder.parent.parent / "config.json")
    item = folder / ("ema" if (folder / "ema").is_dir() else "params")
    _verify(folder, item.name, together=False)
    target = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=_one_device()), _metadata(item))
    return config, jax.device_get(ocp.StandardCheckpointer().restore(item, target)), int(folder.name)


def load_params(path: str | Path, abstract: Any) -> Any:
    """Loads parameters only, into the shardings of `abstract` (for `init_from`); says what was loaded.

    Raises:
      UserError: any array is missing, too many, or of another shape.
    """
    folder = find(path)
    item = folder / ("ema" if (folder / "ema").is_dir() else "params")
    _verify(folder, item.name, together=True)
    check(item, abstract, f"init_from: the parameters of {folder}")
    params = ocp.StandardCheckpointer().restore(item, abstract)
    count = sum(x.size for x in jax.tree.leaves(params))
    log.info("init_from: %.2f M parameters in %d arrays loaded from %s (step %s); optimiser and step start anew",
             count / 1e6, len(jax.tree.leaves(params)), item, folder.name)  # fmt: skip
    return params


def write(workdir: Path, config: ConfigDict, params: Any) -> Path:
    """Writes parameters that came from elsewhere as the workdir of a run at step 0, for `init_from`, figures and embeddings.

    Returns:
      The checkpoint folder.

    Raises:
      UserError: the folder holds a run already.
    """
    folder = workdir.absolute() / FOLDER / "0"
    if (workdir / "config.json").exists() or folder.exists():
        raise UserError(f"{workdir} holds a run already; nothing was written. Give another folder, or remove that one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", params)
    digests.write_share(folder)
    workdir_lib.write_progress(workdir, 0)
    config_lib.save(config, workdir / "config.json")
    return folder


def _one_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
