"""Reading checkpoints: find one, verify it, compare names and shapes, load parameters."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from phenomjax.checkpoints import recovery, seal
from phenomjax.checkpoints import workdir as workdir_lib
from phenomjax.checkpoints.workdir import CHECKPOINTS
from phenomjax.config import stored as config_stored
from phenomjax.models import parametrisation
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

log = logging.getLogger("phenomjax")


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


def check(item: Path, wanted: object, what: str, levels: int = 0, mend: str = MEND) -> None:
    """Compares the metadata of a stored item with a tree before anything is read.

    Args:
      item: its folder.
      wanted: the tree.
      what: it is called in errors.
      levels: of names, from the top, at which it does not count what else is stored.
      mend: what helps where arrays differ.

    Raises:
      UserError: the item is missing, or arrays differ (the first ten are listed).
    """
    if not item.is_dir():
        raise UserError(
            f"{item} does not exist: {what} cannot be read. Known items:"
            f" {sorted(p.name for p in item.parent.glob('*'))}."
        )
    lines = diff(_pruned(_metadata(item), wanted, levels), wanted)
    if lines:
        more = f" … and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise UserError(
            f"{what[0].upper()}{what[1:]} does not fit this configuration, {len(lines)} arrays"
            f" differ: {'; '.join(lines[:10])}{more}. {mend}"
        )


def _pruned(stored: Params, wanted: Any, levels: int) -> Params:
    if not levels:
        return stored
    return {
        name: _pruned(stored[name], tree, levels - 1)
        for name, tree in wanted.items()
        if name in stored
    }


def _metadata(item: Path) -> Params:
    """Tree of shapes and dtypes of a stored item."""
    return ocp.StandardCheckpointer().metadata(item).item_metadata.tree


def find(path: str | Path) -> Path:
    """Resolves a run's workdir (its newest sealed checkpoint) or a checkpoint folder to the
    checkpoint folder.

    Raises:
      UserError: neither.
    """
    path = Path(path).absolute()
    if (path / "params").is_dir():
        return path
    steps = workdir_lib.sealed_steps(path)
    if not steps:
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


def _verify(folder: Path, item: str, together: bool) -> None:
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
    params = {name: x for item in _for_inference(folder) for name, x in _read(item).items()}
    return config, params, int(folder.name)


def _for_inference(folder: Path) -> list[Path]:
    """The items of a checkpoint that inference reads."""
    shared = [folder / "shared"] if (folder / "shared").is_dir() else []
    return [folder / ("ema" if (folder / "ema").is_dir() else "params"), *shared]


def _read(item: Path) -> Params:
    """All arrays of an item, after its digests."""
    _verify(item.parent, item.name, together=False)
    target = jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=_one_device()), _metadata(item)
    )
    return jax.device_get(ocp.StandardCheckpointer().restore(item, target))


def load_params(
    path: str | Path,
    abstract: Params,
    shared: Params | None = None,
    begins_with: Sequence[str] = (),
    model: ConfigDict | None = None,
) -> tuple[Params, Params]:
    """Loads parameters only, into the shardings of `abstract` (for `init_from`); says what was
    loaded.

    Args:
      path: workdir, or WORKDIR/checkpoints/STEP.
      abstract: all parameters.
      shared: likewise what the carry shares, if anything.
      begins_with: of a run of another task or another head, what may be taken alone: names of parts
        (first level) of the parameters.
      model: of the config. Where the run has other channels or cell types a word is said; where it
        has other classes, what it says of its own is not taken.

    Returns:
      (params, shared): all of both, or the parts that were taken.

    Raises:
      UserError: any array is missing, too many, or of another shape; or the model computes
        something else with them.
    """
    folder = find(path)
    if model:
        _check_scales(folder, model)
    item, *kept = _for_inference(folder)
    for each in (item, *kept):
        _verify(folder, each.name, together=True)
    others = _other_names(folder, model) if model else {}
    for name in {"channels", "cell_types"} & others.keys():
        log.warning(
            "init_from: %s has the %s %s, and this run has %s: weights go by place, not by name",
            *(folder, name.replace("_", " "), *map(", ".join, others[name])),
        )
    stored, fresh, left = _metadata(item), list[str](), list[str]()
    parts = [name for name in abstract if name in begins_with and name in stored]
    part_only = bool(parts) and ("classes" in others or bool(diff(stored, abstract)))
    if part_only:
        fresh, left = ([n for n in tree if n not in parts] for tree in (abstract, stored))
        abstract = {name: abstract[name] for name in parts}
        shared = {
            name: {part: tree[part] for part in parts if part in tree}
            for name, tree in (shared or {}).items()
        }
    found: Params = {}
    params = _restore(item, abstract, f"init_from: the parameters of {folder}", int(part_only))
    if kept and shared and jax.tree.leaves(shared):
        what = f"init_from: what the steps of {folder} share"
        found = _restore(kept[0], shared, what, 2 * part_only)
    log.info(
        "init_from: %.2f M parameters in %d arrays loaded from %s (step %s); optimiser and step"
        " start anew%s%s",
        sum(x.size for x in jax.tree.leaves(params)) / 1e6,
        len(jax.tree.leaves(params)),
        item,
        folder.name,
        f"; random: {', '.join(fresh)}" if fresh else "",
        f"; not taken: {', '.join(left)}" if left else "",
    )
    return params, found


def _check_scales(folder: Path, model: ConfigDict) -> None:
    """Checks that a model multiplies embeddings and logits as the run did that a folder is of."""
    theirs = config_stored.load(folder.parent.parent / "config.json").model
    if parametrisation.scales(theirs) != parametrisation.scales(model):
        raise UserError(
            f"init_from: {folder} was trained with config.model.parametrisation"
            f" '{theirs.parametrisation}' and config.model.base_width {theirs.base_width} at the"
            f" width {theirs.embed_dim}, and here they are '{model.parametrisation}' and"
            f" {model.base_width}: the logits of the same parameters would be others. Set"
            f" --config.model.parametrisation={theirs.parametrisation}"
            f" --config.model.base_width={theirs.base_width}."
        )


def _other_names(folder: Path, model: ConfigDict) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Of what a model names, {key: (the names of a run, those of this model)} where they differ."""
    theirs = config_stored.load(folder.parent.parent / "config.json").model
    keys = ["channels", "classes", *["cell_types"] * bool(model.get("cell_type"))]
    keys = [key for key in keys if key in theirs and key in model]
    found = {key: (tuple(theirs[key]), tuple(model[key])) for key in keys}
    return {key: names for key, names in found.items() if names[0] != names[1]}


def _restore(item: Path, wanted: Params, what: str, levels: int) -> Params:
    """What is wanted of an item; see `check`."""
    mend = (
        "Use the model.* of the run that wrote it (its config.json); weights of torchvision are"
        " fitted to other channels by `python -m phenomjax.convert densenet IN OUT --channels"
        " NAMES`."
    )
    check(item, wanted, what, levels, mend)
    args = ocp.checkpoint_utils.construct_restore_args(wanted)
    return ocp.PyTreeCheckpointer().restore(
        item,
        args=ocp.args.PyTreeRestore(item=wanted, restore_args=args, partial_restore=True),
    )


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
