"""Checkpoints: save, verify, restore on any mesh, compare, load parameters. Nothing else imports
Orbax.

A checkpoint is WORKDIR/checkpoints/STEP with the items `params`, `ema` (when there is one),
`shared` (what the carry shares, likewise), `rest` (step, optimiser state, the carry's rows) and
`meta` (JSON: what the loop has to remember). The position in the data is the step, so nothing about
data is stored.

Orbax writes and commits it in threads; then every process hashes its share of the files in a thread
(`seal`), and when all have, process 0 records the step in WORKDIR/progress and deletes what need
not be kept any more. Only a checkpoint with all its digests is ever used.
"""

import dataclasses
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

from phenomjax.checkpoints import recovery, seal, second_tier
from phenomjax.checkpoints import workdir as workdir_lib
from phenomjax.checkpoints.loading import check
from phenomjax.checkpoints.workdir import CHECKPOINTS
from phenomjax.cluster import messages, ownership
from phenomjax.config import stored
from phenomjax.state import TrainState, divide, shared, unite, with_shared
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.types import Carry

log = logging.getLogger("phenomjax")


class Checkpointer:
    """Saves asynchronously and keeps the latest N, the best M and every K steps' checkpoints of a
    run. All processes call the same methods in the same order.

    Args:
      workdir: absolute folder of the run.
      config: `checkpoint.*` of the finalized configuration is read.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        self.workdir, self._config = workdir, config.checkpoint
        seconds = math.ceil(config.checkpoint.timeout_seconds)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=ocp.options.AsyncOptions(timeout_secs=seconds),
        )
        # of the sealed checkpoints: `config.rank`, smallest for the best
        self._losses: dict[int, float | None] = {}
        self._thread: threading.Thread | None = None
        self._writing, self._began = 0, 0.0
        self._error: BaseException | None = None
        self._tier = second_tier.open_tier(self._config.memory_every_steps)
        # where the state came from, in words; "" for a new run
        self.source = ""

    def resume(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state: of the copies in memory, or else of the newest good checkpoint. After a
        divergence only the latter counts.

        Args:
          abstract: TrainState of jax.ShapeDtypeStruct with the shardings wanted now.

        Returns:
          (state, meta), or None for a new run.

        Raises:
          UserError: as `newest_good` and `restore`.
        """
        if self._tier and not self.source:
            held = self._tier.find()
            step, self._losses = recovery.newest_good(self.workdir, self._config.best_metric, held)
            if step is not None and step == held and (found := self._tier.restore(abstract)):
                self.source = "the copies in memory"
                return found
        if self._tier:
            self._tier.clear()
        step = self.newest_good()
        if step is None:
            return None
        self.source = str(self._path(step))
        return self.restore(step, abstract)

    def copy(self, step: int, state: TrainState, meta: Mapping[str, object]) -> None:
        """Starts copying a state into the memory of two nodes, where they have keepers; returns as
        soon as it has left the devices. Nothing fails by it.
        """
        if self._tier:
            self._tier.copy(step, state, meta)

    def newest_good(self) -> int | None:
        """Verifies the newest checkpoint, and if it is damaged sets it aside and takes the one
        before (`recovery.newest_good`).

        Returns:
          The step to restore, the same in all processes; None for a new run.

        Raises:
          UserError: there were checkpoints and none is good, or the disk fails.
        """
        self.wait()
        step, self._losses = recovery.newest_good(self.workdir, self._config.best_metric)
        return step

    def save(
        self,
        step: int,
        state: TrainState,
        meta: Mapping[str, object],
        scores: Mapping[str, float | None] | None = None,
    ) -> None:
        """Starts writing a checkpoint; returns as soon as the arrays are copied from the devices. A
        step that is saved already stays.

        Args:
          step: of the state.
          state: all arrays.
          meta: what the loop has to remember.
          scores: what was measured at this step, by name; `checkpoint.best_metric` is looked for in
            it.

        Raises:
          UserError: this or the write before failed.
        """
        self.wait()
        if step in self._losses:
            return
        self._writing, self._began = step, time.monotonic()
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        args = ocp.args.Composite(
            **items, meta=ocp.args.JsonSave({**meta, recovery.SCORES: dict(scores or {})})
        )
        try:
            (self.workdir / CHECKPOINTS).mkdir(exist_ok=True)
            self._orbax.save(self._path(step), args=args)
        except Exception as error:
            self._error = error
            self.check()
        worth = stored.rank(scores or {}, self._config.best_metric)
        self._thread = threading.Thread(
            target=self._finish, args=(step, worth), daemon=True, name="seal checkpoint"
        )
        self._thread.start()

    def _finish(self, step: int, worth: float | None) -> None:
        """In a thread: waits for the commit, hashes, records, deletes."""
        try:
            self._orbax.wait_until_finished()
            ownership.confirm()
            seal.write_share(self._path(step), jax.process_index(), jax.process_count())
            messages.gather("seal", "", self._config.timeout_seconds)
            losses = {**self._losses, step: worth}
            c = self._config
            keep = recovery.kept(losses, c.keep_latest, c.keep_best, c.keep_every_steps)
            if messages.is_main():
                ownership.confirm()
                if wrong := seal.structure(self._path(step))[1]:
                    raise OSError(
                        f"another process changes {self._path(step)}: {workdir_lib.some(wrong)}"
                    )
                workdir_lib.record_step(self.workdir, step)
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
            mend = (
                "See whether that disk hangs, or raise --config.checkpoint.timeout_seconds (now"
                f" {self._config.timeout_seconds:g})"
            )
            raise UserError(
                f"The checkpoint {path} was not written within {self._config.timeout_seconds:g} s"
                f" ({workdir_lib.space(self.workdir)}). {workdir_lib.advice(self.workdir, mend)}",
                EXIT_FAILED,
            ) from error
        what = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"The checkpoint {path} could not be written: {what}"
            f" ({workdir_lib.space(self.workdir)})."
            f" {workdir_lib.advice(self.workdir, 'See that the folder is there and yours')}",
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
        return self.workdir / CHECKPOINTS / str(step)

    def restore(
        self, step: int, abstract: TrainState, workdir: Path | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Restores a checkpoint into the shardings of `abstract`, strictly; but the rows of the
        carry have the shapes that they were saved with, since batches may change.

        Args:
          step: of `newest_good`, or one that is known to be good.
          abstract: TrainState of jax.ShapeDtypeStruct with the shardings wanted now.
          workdir: of another run; None = this one.

        Returns:
          (state, meta).

        Raises:
          UserError: names, shapes or dtypes differ; lists which.
        """
        path = (workdir or self.workdir) / CHECKPOINTS / str(step)
        carry = _with_stored_rows(path, abstract.carry)
        abstract = dataclasses.replace(abstract, carry=carry)
        wanted = _items(abstract)
        for name, tree in wanted.items():
            check(path / name, tree, f"the {name} of checkpoint {path}")
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = self._orbax.restore(
            path, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore())
        )
        rest = restored["rest"]
        ema = restored["ema"] if "ema" in wanted else ()
        rows, kept = divide(abstract.carry)
        if "shared" in wanted:
            kept = with_shared(kept, restored["shared"])
        carry = unite(rest.get("carry", rows), kept)
        return (
            TrainState(rest["step"], restored["params"], rest["opt_state"], ema, carry),
            restored["meta"],
        )

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
        """Waits for the writes and frees the threads; after a failure it waits for nothing, since a
        failed write may never end.
        """
        if self._error is None:
            self.wait()
            if self._tier:
                self._tier.wait()
            self._orbax.close()


def _with_stored_rows(path: Path, carry: Carry) -> Carry:
    """A carry of shapes, whose rows have those of a checkpoint."""
    rows, held = divide(carry)
    leaves, structure = jax.tree.flatten(rows)
    if not leaves:
        return carry
    there = ocp.StandardCheckpointer().metadata(path / "rest").item_metadata.tree
    stored = jax.tree.leaves(there.get("carry", ()))
    if len(stored) != len(leaves):
        return carry
    as_stored = [
        jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=leaf.sharding)
        for one, leaf in zip(stored, leaves, strict=True)
    ]
    return unite(structure.unflatten(as_stored), held)


def _items(state: TrainState) -> dict[str, object]:
    """Splits a state into the items of a checkpoint; empty trees are left out."""
    rest = {"step": state.step, "opt_state": state.opt_state}
    rows, _ = divide(state.carry)
    if jax.tree.leaves(rows):
        rest["carry"] = rows
    items: dict[str, object] = {"params": state.params, "rest": rest}
    if jax.tree.leaves(state.ema):
        items["ema"] = state.ema
    if held := shared(state.carry):
        items["shared"] = held
    return items
