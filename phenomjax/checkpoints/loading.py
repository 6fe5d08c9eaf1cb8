"""Reading checkpoints: find one, verify it, compare names and shapes, load parameters."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from phenomjax.checkpoints import recovery, seal
from phenomjax.checkpoints import workdir as workdir_lib
from phenomjax.checkpoints.workdir import CHECKPOINTS
from phenomjax.config import stored as config_stored
from phenomjax.data import store
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params


def _names(tree: object) -> dict[str, tuple[tuple[int, ...], str]]:
    """{"a/b/kernel": ((3, 4), "float32")} for a tree of arrays, abstract ones or metadata."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def diff(stored: object, wanted: object) -> list[str]:
    """One line for each array that is missing, too many, or of another shape or dtype."""
    have, want = _names(stored), _names(wanted)
    lines = [
        f"{n}: only in the checkpoint, {have[n][1]} {have[n][0]}"
        for n in sorted(have.keys() - want.keys())
    ]
    lines += [
        f"{n}: only in the model, {want[n][1]} {want[n][0]}"
        for n in sorted(want.keys() - have.keys())
    ]
    both = sorted(have.keys() & want.keys())
    return lines + [
        f"{n}: {have[n][1]} {have[n][0]} there, {want[n][1]} {want[n][0]} wanted"
        for n in both
        if have[n] != want[n]
    ]


MEND = (
    "Use the model.* and optimizer.* of the run that wrote it (its config.json), or another"
    " --workdir."
)


def check(item: Path, wanted: object, what: str) -> None:
    """Compares the metadata of a stored item with a tree before anything is read.

    Args:
      item: its folder.
      wanted: the tree.
      what: it is called in errors.

    Raises:
      UserError: the item is missing, or arrays differ (the first ten are listed).
    """
    if not item.is_dir():
        raise UserError(
            f"{item} does not exist: {what} cannot be read. Known items:"
            f" {sorted(p.name for p in item.parent.glob('*'))}."
        )
    lines = diff(metadata(item), wanted)
    if lines:
        more = f" … and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise UserError(
            f"{what[0].upper()}{what[1:]} does not fit this configuration, {len(lines)} arrays"
            f" differ: {'; '.join(lines[:10])}{more}. {MEND}"
        )


def metadata(item: Path) -> Params:
    """Tree of shapes and dtypes of a stored item."""
    return ocp.StandardCheckpointer().metadata(item).item_metadata.tree


def find(path: str | Path) -> Path:
    """Resolves a run's workdir or its folder of checkpoints (the newest sealed one), a checkpoint
    folder, or WORKDIR@STEP to the checkpoint folder.

    Raises:
      UserError: none of these.
    """
    path, step = workdir_lib.named(path)
    if step is not None:
        path = path / CHECKPOINTS / str(step)
    if (path / "params").is_dir():
        return path
    steps = workdir_lib.sealed_steps(path)
    if not path.exists():
        raise UserError(
            f"{path} does not exist.{store.beside(path)} Give the"
            " workdir of a run that saved, or one of its checkpoints/STEP folders."
        )
    if not steps:
        if (path / "SHA256SUMS").is_file() and (path / "model.safetensors").is_file():
            raise UserError(
                f"{path} is a release, or other published weights, and a checkpoint is wanted. Make"
                " one of it first: `python -m phenomjax.convert openphenom"
                f" {path} runs/NAME` (of a masked autoencoder), or `… convert densenet …` (of a"
                " model of perturbations); then give runs/NAME."
            )
        if not (unsealed := workdir_lib.steps(path)):
            raise UserError(
                f"{path} holds no checkpoint: it has neither a folder 'params' nor"
                f" '{CHECKPOINTS}/STEP'. Give the workdir of a run that saved, or one of its"
                " checkpoints/STEP folders."
            )
        raise UserError(
            f"No checkpoint in {path / CHECKPOINTS} has its digests (there are steps {unsealed}):"
            " each was interrupted, or written by an older version. If you trust one of them, run"
            f" `python -m phenomjax.checkpoints.seal {path / CHECKPOINTS}/STEP` first."
        )
    return path / CHECKPOINTS / str(steps[-1])


def verify(folder: Path, item: str, together: bool) -> None:
    """Hashes an item of a checkpoint before it is read.

    Args:
      folder: the checkpoint.
      item: "params" or "ema".
      together: whether all processes call this, and share the work.

    Raises:
      UserError: names what is damaged.
    """
    damage = recovery.damage if together else seal.damage
    wrong = damage(folder, items=(item,))
    if wrong:
        others = [
            s for s in workdir_lib.sealed_steps(folder.parent.parent) if str(s) != folder.name
        ]
        known = (
            f"Other checkpoints of that run are steps {others}."
            if others
            else "That run has no other checkpoint."
        )
        trust = (
            f" If you trust it, run `python -m phenomjax.checkpoints.seal {folder}` first."
            if not seal.sealed(folder)
            else ""
        )
        raise UserError(
            f"The checkpoint {folder} is damaged and is not used: {workdir_lib.some(wrong)}."
            f" {known}{trust}"
        )


def load(path: str | Path) -> tuple[ConfigDict, Params, int]:
    """Loads what inference needs from a run.

    Args:
      path: workdir, or WORKDIR/checkpoints/STEP.

    Returns:
      (config, params as float32 NumPy arrays, step); the parameters are the moving average where
      the run kept one, and beside them is what the carry shared (`system.types.Shared`).
    """
    folder = find(path)
    config = config_stored.load(folder.parent.parent / "config.json")
    params = {name: x for item in for_inference(folder) for name, x in _read(item).items()}
    return config, params, int(folder.name)


def for_inference(folder: Path) -> list[Path]:
    """The items of a checkpoint that inference reads."""
    shared = [folder / "shared"] if (folder / "shared").is_dir() else []
    return [folder / ("ema" if (folder / "ema").is_dir() else "params"), *shared]


def _read(item: Path) -> Params:
    """All arrays of an item, after its digests."""
    verify(item.parent, item.name, together=False)
    target = jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=_one_device()), metadata(item)
    )
    return jax.device_get(ocp.StandardCheckpointer().restore(item, target))


def write(workdir: Path, config: ConfigDict, params: Params, shared: Params | None = None) -> Path:
    """Writes parameters that came from elsewhere as the workdir of a run at step 0, for
    `init_from`, figures and embeddings.

    Args:
      workdir: folder of the run.
      config: resolved.
      params: parameters, and nothing else.
      shared: what the carry of the task shares, such as `{"batch_stats": …}`.

    Returns:
      The checkpoint folder.

    Raises:
      UserError: the folder holds a run already.
    """
    folder = workdir.absolute() / CHECKPOINTS / "0"
    if (workdir / "config.json").exists() or folder.exists():
        raise UserError(
            f"{workdir} holds a run already; nothing was written. Give another folder, or remove"
            " that one."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", params)
        if shared:
            checkpointer.save(folder / "shared", shared)
    seal.write_share(folder)
    workdir_lib.record_step(workdir, 0)
    config_stored.save(config, workdir / "config.json")
    return folder


def _one_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
