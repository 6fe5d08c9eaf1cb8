"""Begins a run with the parameters of another: what is the same is taken, channels, classes and
tokens go by name, patches are resampled, layers are stacked or unstacked, and `init_from.json` in
the workdir says of each parameter what became of it.
"""

import dataclasses
import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from phenomjax import state as state_lib
from phenomjax.checkpoints import loading, named_axes
from phenomjax.checkpoints import workdir as workdir_lib
from phenomjax.checkpoints.init_plan import (
    BY_NAME,
    FRESH,
    LEFT,
    RESAMPLED,
    RESTACKED,
    TAKEN,
    Begun,
    names_there,
    others,
    plain,
    plan,
)
from phenomjax.cluster import messages
from phenomjax.config import stored as config_stored
from phenomjax.models import parametrisation
from phenomjax.state import TrainState
from phenomjax.system import files
from phenomjax.system.errors import UserError

log = logging.getLogger("phenomjax")
FILE = "init_from.json"


def begun(
    state: TrainState, abstract: TrainState, begins_with: Sequence[str], config: ConfigDict
) -> tuple[TrainState, dict[str, Any]]:
    """A fresh state with the parameters of the run that `init_from` names.

    Args:
      state: fresh.
      abstract: its shapes and shardings.
      begins_with: parts (first level) of the parameters that stand for themselves: where others do
        not fit, they begin anew. () = the run takes all or none.
      config: resolved.

    Returns:
      (state, what `write` writes).

    Raises:
      UserError: the checkpoint is damaged, or of another architecture.
    """
    folder = loading.find(config.init_from)
    theirs = config_stored.load(folder.parent.parent / "config.json")
    _check_scales(folder, theirs.model, config.model)
    items = loading.for_inference(folder)
    for item in items:
        loading.verify(folder, item.name, together=True)
    stored = {name: x for item in items for name, x in _flat(loading.metadata(item)).items()}
    shared = state_lib.shared(state.carry)
    wanted = _flat({**abstract.params, **state_lib.shared(abstract.carry)})
    table = plan(stored, wanted, (theirs, config), begins_with, tuple(shared), str(folder))
    fresh = _flat({**state.params, **shared})
    found = traverse_util.unflatten_dict(
        {
            tuple(name.split("/")): x
            for name, x in (fresh | _made(items, table, wanted, fresh, config)).items()
        }
    )
    params = {name: tree for name, tree in found.items() if name not in shared}
    # The average must be a copy of its own: the step donates both.
    ema = jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else ()
    carry = state_lib.with_shared(state.carry, {name: found.get(name, {}) for name in shared})
    report = _report(folder, items[0].name, theirs, config, table, stored, wanted)
    _say(report)
    _warn_of_channels(theirs, config)
    return dataclasses.replace(state, params=params, ema=ema, carry=carry), report


def look(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError where there is no checkpoint to begin with, before data are made."""
    if not config.init_from or workdir_lib.begun(workdir):
        return
    if "://" in config.init_from:
        raise UserError(
            f"config.init_from is {config.init_from}, an address: checkpoints are read from a"
            " folder. Copy that run, config.json and checkpoints, to a disk, and give the copy."
        )
    try:
        loading.find(config.init_from)
    except UserError as error:
        raise UserError(f"config.init_from is {config.init_from}: {error}") from None


def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Fills in `model.position_grid` where a ViT begins with one that had other numbers of tokens.

    Tokens lie where they are in the crop, measured in tokens of the run, so that another patch size
    moves nothing; and a field that is larger than any that the run saw is scaled into the largest,
    since positions beyond were never learnt.

    Args:
      config: resolved otherwise.
      workdir: of the run; where it has begun it goes on as it is.
    """
    if not config.init_from or not has_grid(config) or config.model.position_grid:
        return config
    begun = workdir_lib.begun(workdir)
    folder = workdir if begun else loading.find(config.init_from).parent.parent
    theirs = config_stored.load(folder / "config.json")
    if not has_grid(theirs):
        return config
    with config.copy_and_resolve_references().unlocked() as c:
        c.model.position_grid = theirs.model.position_grid if begun else position_grid(c, theirs)
    return c.lock()


def position_grid(config: ConfigDict, theirs: ConfigDict) -> float:
    """`model.position_grid` of a run that begins with what another one learnt, of models that have
    it: its own where it is set, or that of `resolve`.
    """
    if config.model.position_grid:
        return config.model.position_grid
    known = theirs.model.position_grid or theirs.data.crop_size / theirs.model.patch_size
    known = min(known, known * config.data.crop_size / theirs.data.crop_size)
    own = config.data.crop_size / config.model.patch_size
    return 0.0 if known == own else float(known)


def has_grid(config: ConfigDict) -> bool:
    """Whether the places of a model's tokens can be scaled into a grid."""
    return "position_grid" in config.model and "densenet" not in _backbone(config.model)


def _backbone(model: ConfigDict) -> str:
    return str(model.backbone) if "backbone" in model else "vit"


def write(report: Mapping[str, Any], workdir: Path) -> None:
    """Writes `init_from.json`, by process 0."""
    if messages.is_main():
        files.write_json(workdir / FILE, report)


def _check_scales(folder: Path, theirs: ConfigDict, model: ConfigDict) -> None:
    """Checks that a model multiplies embeddings and logits as the run did that a folder is of."""
    if parametrisation.scales(theirs) != parametrisation.scales(model):
        raise UserError(
            f"init_from: {folder} was trained with config.model.parametrisation"
            f" '{theirs.parametrisation}' and config.model.base_width {theirs.base_width} at the"
            f" width {theirs.embed_dim}, and here they are '{model.parametrisation}' and"
            f" {model.base_width}: the logits of the same parameters would be others. Set"
            f" --config.model.parametrisation={theirs.parametrisation}"
            f" --config.model.base_width={theirs.base_width}."
        )


# Arrays


def _flat(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _made(
    items: Sequence[Path],
    table: Sequence[Begun],
    wanted: Mapping[str, Any],
    fresh: Mapping[str, jax.Array],
    config: ConfigDict,
) -> dict[str, jax.Array]:
    """The parameters that are not fresh, in the shardings of `wanted`; all processes call this."""
    rows = [row for row in table if row.sources]
    places = {
        source: _place(row, wanted[row.name].sharding) for row in rows for source in row.sources
    }
    arrays = {name: x for item in items for name, x in _restored(item, places).items()}
    changed = [row for row in rows if row.how != TAKEN]

    def make(arrays: dict[str, jax.Array], fresh: dict[str, jax.Array]) -> dict[str, jax.Array]:
        made = {}
        for row in changed:
            x = arrays[row.sources[0]]
            if row.pick is not None:
                x = x[(slice(None),) * row.stack + (row.pick,)]
            elif len(row.sources) > 1 or row.sources[0] != row.name:
                x = jnp.stack([arrays[source] for source in row.sources], row.stack)
            if row.theirs and row.mine:
                new = fresh[row.name] if config.init_new == "fresh" else None
                x = named_axes.converted(x, row.theirs, row.mine, new)
            made[row.name] = x
        return made

    found = {row.name: arrays[row.sources[0]] for row in rows if row.how == TAKEN}
    if changed:
        shards = {row.name: wanted[row.name].sharding for row in changed}
        given = {source: arrays[source] for row in changed for source in row.sources}
        begins = {row.name: fresh[row.name] for row in changed}
        found |= jax.jit(make, out_shardings=shards)(given, begins)
    return found


def _place(row: Begun, sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """Where a source of a parameter is read to: as the parameter, but for the axis of a stack;
    whole where an axis has other entries.
    """
    if row.how == TAKEN or not isinstance(sharding, NamedSharding):
        return sharding
    spec = list(sharding.spec)
    if row.theirs:
        spec = []
    elif row.pick is not None and len(spec) > row.stack:
        spec[row.stack : row.stack] = [None]
    elif row.sources[0] != row.name and len(spec) > row.stack:
        spec.pop(row.stack)
    return NamedSharding(sharding.mesh, P(*spec))


def _restored(item: Path, places: Mapping[str, jax.sharding.Sharding]) -> dict[str, jax.Array]:
    """The arrays of an item that have a place."""
    stored = _flat(loading.metadata(item))
    shapes = {
        tuple(name.split("/")): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places[name])
        for name, x in stored.items()
        if name in places
    }
    if not shapes:
        return {}
    tree = traverse_util.unflatten_dict(shapes)
    how = ocp.checkpoint_utils.construct_restore_args(tree)
    args = ocp.args.PyTreeRestore(item=tree, restore_args=how, partial_restore=True)
    return _flat(ocp.PyTreeCheckpointer().restore(item, args=args))


# What is said of it


def _report(
    folder: Path,
    item: str,
    theirs: ConfigDict,
    config: ConfigDict,
    table: Sequence[Begun],
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> dict[str, Any]:
    """What `init_from.json` holds."""
    quiet = {"position_grid", "dtype", "attention", "remat", "scan_layers", "eval_mem_len"}
    keys = [key for key in theirs.model if key not in quiet]
    return {
        "from": str(folder),
        "step": int(folder.name),
        "parameters": "moving average" if item == "ema" else "as trained",
        "task": theirs.task,
        "new": config.init_new,
        "positions": _positions(theirs, config),
        "model": {
            key: [plain(theirs.model[key]), plain(config.model[key])]
            for key in others((theirs, config), keys)
        },
        "arrays": [
            {
                "name": row.name,
                "how": row.how,
                "note": row.note,
                "from": list(stored[(row.sources or (row.name,))[0]].shape)
                if row.sources or row.how == LEFT
                else None,
                "to": list(wanted[row.name].shape) if row.how != LEFT else None,
            }
            for row in table
        ],
    }


def _warn_of_channels(theirs: ConfigDict, config: ConfigDict) -> None:
    """Says which channels are new, and how to name one that is there by another name."""
    there, here = (
        list(c.model.channels) if "channels" in c.model else [] for c in (theirs, config)
    )
    known = names_there((theirs, config))
    new = [name for name in here if known.get(name, name) not in there]
    left = [name for name in there if name not in [known.get(n, n) for n in here]]
    if not new:
        return
    low = {name.lower(): name for name in left}
    near = [difflib.get_close_matches(name.lower(), low, 1) for name in new]
    pairs = [f"{name}={low[found[0]]}" for name, found in zip(new, near, strict=True) if found]
    pairs = pairs or [f"{new[0]}={name}" for name in left[:1]]
    log.warning(
        "init_from: the run that this one begins with knows no channels %s%s; they begin %s%s",
        ", ".join(new),
        f" (it has {', '.join(left)}, which are not taken)" if left else "",
        "fresh" if config.init_new == "fresh" else "with the mean of all that it knows",
        '. If one of them is there by another name, say so as in --config.init_names="('
        + "".join(f"'{pair}', " for pair in pairs).rstrip()
        + ')"'
        if left
        else "",
    )


def _positions(theirs: ConfigDict, config: ConfigDict) -> str:
    """Where tokens lie; "" where nothing changes."""
    if any(
        "position_grid" not in c.model or "densenet" in _backbone(c.model) for c in (theirs, config)
    ):
        return ""
    old, new = (c.data.crop_size / c.model.patch_size for c in (theirs, config))
    known, grid = theirs.model.position_grid or old, config.model.position_grid or new
    if (old, known) == (new, grid):
        return ""
    return (
        f"{new:g} x {new:g} tokens lie between the places of {grid:g} x {grid:g}; the run had"
        f" {old:g} x {old:g} between {known:g} x {known:g} (config.model.position_grid)"
    )


def _say(report: Mapping[str, Any]) -> None:
    """Logs the table: a line for all parameters of a part that began alike."""
    arrays = report["arrays"]
    came = [row for row in arrays if row["how"] not in (FRESH, LEFT)]
    size = sum(int(np.prod(row["to"])) for row in came)
    lines: dict[tuple[str, str, str], list[str]] = {}
    for row in arrays:
        which = row["name"].split("/")[0]
        lines.setdefault((row["how"], which, row["note"]), []).append(row["name"])
    order = TAKEN, BY_NAME, RESAMPLED, RESTACKED, FRESH, LEFT
    told = [
        f"  {how:<10} {names[0] if len(names) == 1 else f'{which}: {len(names)} arrays'}"
        + (f" ({note})" if note else "")
        for (how, which, note), names in sorted(
            lines.items(), key=lambda line: order.index(line[0][0])
        )
    ]
    log.info(
        "init_from: %.2f M parameters in %d arrays loaded from %s (step %s, %s); optimiser and step"
        " start anew\n%s",
        size / 1e6,
        len(came),
        report["from"],
        report["step"],
        report["parameters"],
        "\n".join(told),
    )
    if report["positions"]:
        log.info("init_from: positions: %s", report["positions"])
    if report["model"]:
        log.info(
            "init_from: other keys of the model: %s",
            "; ".join(
                f"{key} {str(old)[:80]} there, {str(new)[:80]} here"
                for key, (old, new) in report["model"].items()
            ),
        )
    unfit = {row["note"] for row in arrays if row["how"] == FRESH and "not fit" in row["note"]}
    for note in sorted(unfit):
        names = [row["name"] for row in arrays if row["note"] == note]
        log.warning(
            "init_from: %s: %d arrays begin anew, %s", names[0].split("/")[0], len(names), note
        )
