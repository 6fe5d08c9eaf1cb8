"""Checkpoints: save, restore on any mesh, compare, load parameters. Nothing else imports Orbax.

A checkpoint is WORKDIR/checkpoints/STEP with the items `params`, `ema` (when there is one), `rest` (step, optimiser state, carry) and
`meta` (JSON: what the loop has to remember). The position in the data is the step, so nothing about data is stored.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from phenomjax import config as config_lib
from phenomjax.errors import UserError
from phenomjax.state import TrainState

log = logging.getLogger("phenomjax")
FOLDER = "checkpoints"


class Checkpointer:
    """Saves asynchronously and keeps the latest N and the best M checkpoints of a run.

    Args:
      workdir: absolute folder of the run.
      config: `checkpoint.*` of the finalized configuration is read.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        keep = [checkpoint_managers.LatestN(config.checkpoint.keep_latest)]
        if config.checkpoint.keep_best:
            # Sorted ascending, the last n stay; checkpoints that were not evaluated are no candidates.
            keep.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda m: -m["val/loss"],
                    n=config.checkpoint.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._manager = ocp.CheckpointManager(
            workdir / FOLDER,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
                best_fn=lambda m: m["val/loss"],
                best_mode="min",
                cleanup_tmp_directories=True,
                step_prefix=None,
            ),
            item_names=("params", "ema", "rest", "meta"),
        )

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, meta: dict[str, Any], val_loss: float | None = None) -> None:
        """Starts writing a checkpoint; returns as soon as the arrays are copied from the devices. A step that is saved already stays."""
        if step in self._manager.all_steps():
            return
        metrics = None if val_loss is None else {"val/loss": val_loss}
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        self._manager.save(
            step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)), metrics=metrics, force=True
        )

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores a checkpoint into the shardings of `abstract`, strictly.

        Args:
          step: a complete checkpoint.
          abstract: TrainState of jax.ShapeDtypeStruct with the shardings wanted now.

        Returns:
          (state, meta).

        Raises:
          UserError: names, shapes or dtypes differ; lists which.
        """
        path, wanted = Path(self._manager.directory) / str(step), _items(abstract)
        for name, tree in wanted.items():
            check(path / name, tree, f"the {name} of checkpoint {path}")
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore()))
        rest = restored["rest"]
        ema = restored["ema"] if "ema" in wanted else ()
        carry = rest.get("carry", ())
        return TrainState(rest["step"], restored["params"], rest["opt_state"], ema, carry), restored["meta"]

    def delete_after(self, step: int) -> None:
        """Deletes checkpoints that are newer than `step` (after a roll-back)."""
        for newer in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(newer)

    def steps(self) -> list[int]:
        """All complete checkpoints."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The checkpoint with the lowest validation loss, or None when none was evaluated."""
        return self._manager.best_step()

    def wait(self) -> None:
        """Returns when every save has been written; raises what a background write raised."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the writes and frees the threads."""
        self._manager.close()


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
    """Resolves a run's workdir (its newest checkpoint) or a checkpoint folder to the checkpoint folder.

    Raises:
      UserError: neither.
    """
    path = Path(path).absolute()
    if (path / "params").is_dir():
        return path
    steps = [int(p.name) for p in (path / FOLDER).glob("*") if p.name.isdigit() and (p / "params").is_dir()]
    if not steps:
        raise UserError(
            f"{path} holds no checkpoint: it has neither a folder 'params' nor '{FOLDER}/STEP'. Give the --workdir of a run that saved, or one "
            "of its checkpoints/STEP folders."
        )
    return path / FOLDER / str(max(steps))


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
    target = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=_one_device()), _metadata(item))
    return config, jax.device_get(ocp.StandardCheckpointer().restore(item, target)), int(folder.name)


def load_params(path: str | Path, abstract: Any) -> Any:
    """Loads parameters only, into the shardings of `abstract` (for `init_from`); says what was loaded.

    Raises:
      UserError: any array is missing, too many, or of another shape.
    """
    folder = find(path)
    item = folder / ("ema" if (folder / "ema").is_dir() else "params")
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
    config_lib.save(config, workdir / "config.json")
    return folder


def _one_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
