"""Begins a run with the parameters of another: what is the same is taken, channels, classes and
tokens go by name, patches are resampled, layers are stacked or unstacked, and `init_from.json` in
the workdir says of each parameter what became of it.
"""

import collections
import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from phenomjax.checkpoints.named_axes import Axes, Names, Pixels
from phenomjax.cluster import messages
from phenomjax.config import stored as config_stored
from phenomjax.models import parametrisation
from phenomjax.models.parameter_names import matching
from phenomjax.state import TrainState
from phenomjax.system import files
from phenomjax.system.errors import UserError, first_of

log = logging.getLogger("phenomjax")
FILE = "init_from.json"
SHOWN = 10  # arrays that an error lists
# how a parameter began, in the order of the table
TAKEN, BY_NAME, RESAMPLED, RESTACKED = "taken", "by name", "resampled", "restacked"
FRESH, LEFT = "fresh", "left"
# Keys of a model whose parameters are of other shapes with another value, and why they stay.
_WIDTH = "each weight belongs to a pair of features, and another width has other pairs"
_DEPTH = "a layer is trained for those before and behind it"
_HEADS = "queries and keys were learnt in groups of features, one a head"
_PARTS = "the layers are made of other parts"
SHAPES = {
    "embed_dim": _WIDTH,
    "mlp_ratio": _WIDTH,
    "mlp_dim": _WIDTH,
    "neck_dim": _WIDTH,
    "growth_rate": _WIDTH,
    "stem_features": _WIDTH,
    "projection_dim": _WIDTH,
    "cell_dim": _WIDTH,
    "char_dim": _WIDTH,
    "filters": _WIDTH,
    "max_characters": _WIDTH,
    "depth": _DEPTH,
    "num_layers": _DEPTH,
    "block_config": _DEPTH,
    "num_highway": _DEPTH,
    "num_heads": _HEADS,
    "head_dim": _HEADS,
    "block": _PARTS,
    "qk_norm": _PARTS,
    "layer_scale": _PARTS,
    "class_token": _PARTS,
    "untie_bias": _PARTS,
    "backbone": _PARTS,
    "channel_agnostic": "tokens are of single channels, or of all channels together",
    "cutoffs": "clusters of tokens have softmaxes of their own",
    "div_val": "clusters of tokens have widths of their own",
}
# Likewise keys with which parameters of the same shapes compute something else.
MEANINGS = ("norm", "bias_order", "skip_connections", "standardise")


@dataclass(frozen=True)
class Begun:
    """What became of a parameter, or of one that is not wanted.

    Attributes:
      name: of the parameter, what is shared by the carry among them.
      how: TAKEN, ….
      note: of names and patches, or why.
      sources: arrays of the checkpoint that it is made of.
      pick: which entry of a stack it is; None: all.
      stack: axis on which sources are stacked, or an entry is picked.
      theirs, mine: parts of axes that differ.
    """

    name: str
    how: str
    note: str = ""
    sources: tuple[str, ...] = ()
    pick: int | None = None
    stack: int = 0
    theirs: Axes | None = None
    mine: Axes | None = None


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
    return dataclasses.replace(state, params=params, ema=ema, carry=carry), report


def write(report: Mapping[str, Any], workdir: Path) -> None:
    """Writes `init_from.json`, by process 0."""
    if messages.is_main():
        files.write_json(workdir / FILE, report)


# What becomes of each parameter


def plan(
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    configs: tuple[ConfigDict, ConfigDict],
    begins_with: Sequence[str],
    shared: Sequence[str],
    folder: str,
) -> list[Begun]:
    """Decides of each parameter what it begins with.

    Args:
      stored: {name: metadata} of the checkpoint.
      wanted: {name: abstract array} of this run.
      configs: of both.
      begins_with: see `begun`.
      shared: first parts of names that are shared by the carry.
      folder: of the checkpoint, for errors.

    Raises:
      UserError: another architecture, or a pattern that no parameter has.
    """

    def bare(name: str) -> str:
        """Without what says that it is shared."""
        first, _, rest = name.partition("/")
        return rest if first in shared else name

    part = lambda name: bare(name).split("/")[0]  # noqa: E731
    fresh_patterns, there = configs[1].init_fresh, {part(name) for name in stored}
    anew = matching(fresh_patterns, [bare(name) for name in wanted], "init_fresh")
    no_shared = not any(name.split("/")[0] in shared for name in stored)
    rows, problems = dict[str, Begun](), collections.defaultdict[str, list[str]](list)
    for name in wanted:
        if bare(name) in anew:
            rows[name] = Begun(name, FRESH, "init_fresh")
        elif (begins_with and part(name) not in there) or (no_shared and bare(name) != name):
            rows[name] = Begun(name, FRESH, "the run has none")
        else:
            rows[name], problem = _match(name, stored, wanted, configs)
            problems[part(name)] += [problem] * bool(problem)
    used = {source for row in rows.values() for source in row.sources}
    parts = {part(name) for name in wanted}
    for name, have in stored.items():
        named = any(re.fullmatch(pattern, bare(name)) for pattern in fresh_patterns)
        if name not in used and part(name) in parts and not named and bare(name) == name:
            line = f"{name}: only in the checkpoint, {have.dtype} {tuple(have.shape)}"
            problems[part(name)].append(line)
    # heads and decoders begin anew where they do not fit, and are told
    for which in [p for p, lines in problems.items() if lines and p not in begins_with]:
        if begins_with:
            note = f"it does not fit: {problems.pop(which)[0]}"
            new = {n: Begun(n, FRESH, note) for n in wanted if part(n) == which}
            rows |= {n: row for n, row in new.items() if bare(n) not in anew}
    wrong = [line for lines in problems.values() for line in lines]
    others = _others(configs, MEANINGS)
    if wrong or others or all(row.how == FRESH for row in rows.values()):
        raise UserError(_refusal(folder, configs, wrong, others))
    used = {source for row in rows.values() for source in row.sources}
    return [*rows.values(), *(Begun(name, LEFT) for name in stored if name not in used)]


def _match(
    name: str,
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    configs: tuple[ConfigDict, ConfigDict],
) -> tuple[Begun, str]:
    """What a parameter begins with; and what is wrong with that, or ""."""
    want = wanted[name]
    sources, pick, axis = _sources(name, stored, wanted)
    if not sources:
        return Begun(name, FRESH), f"{name}: only in the model, {want.dtype} {tuple(want.shape)}"
    shape = _shape(stored[sources[0]].shape, len(sources), pick, axis, sources[0] != name)
    dtype = stored[sources[0]].dtype
    have, mine = (
        named_axes.axes_of(name, tuple(size), config)
        for size, config in zip((shape, want.shape), configs, strict=True)
    )
    how = RESTACKED if sources[0] != name else TAKEN
    kinds = lambda axes: {a: [type(part) for part in parts] for a, parts in axes.items()}  # noqa: E731
    if kinds(have) == kinds(mine):
        differ = {a for a in mine if have[a] != mine[a]}
        have, mine = ({a: axes[a] for a in differ} for axes in (have, mine))
        shape = tuple(want.shape[a] if a in differ else size for a, size in enumerate(shape))
        pairs = [pair for a in differ for pair in zip(have[a], mine[a], strict=True)]
        notes = [_note(*pair) for pair in pairs if pair[0] != pair[1]]
        if differ:
            resampled = any(isinstance(old, Pixels) and old != new for old, new in pairs)
            how = RESAMPLED if resampled else BY_NAME
    else:
        have, mine, notes = {}, {}, []
    row = Begun(name, how, "; ".join(notes), sources, pick, axis, have, mine)
    if shape != tuple(want.shape) or str(dtype) != str(want.dtype):
        return row, f"{name}: {dtype} {shape} there, {want.dtype} {tuple(want.shape)} wanted"
    for parts in zip(have.values(), mine.values(), strict=True):
        for old, new in zip(*parts, strict=True):
            if isinstance(new, Names) and isinstance(old, Names) and new.what == "classes":
                unknown = [str(label) for label in new.names if label not in old.names]
                if unknown:
                    return row, f"the run knows no classes {first_of(unknown, 4)}"
    return row, ""


def _note(old: Names | Pixels, new: Names | Pixels) -> str:
    if isinstance(old, Pixels) or isinstance(new, Pixels):
        return f"patches of {getattr(old, 'edge', '?')} px to {getattr(new, 'edge', '?')} px"
    both = [str(name) for name in new.names if name in old.names and not isinstance(name, int)]
    added = [str(name) for name in new.names if name not in old.names]
    gone = [str(name) for name in old.names if name not in new.names]
    told = [f"{new.what} by name: {first_of(both, 8)}" if both else f"none of the {new.what}"]
    told += [f"new: {first_of(added, 8)}"] * bool(added)
    told += [f"not taken: {first_of(gone, 8)}"] * bool(gone)
    return ", ".join(told)


def _sources(
    name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]
) -> tuple[tuple[str, ...], int | None, int]:
    """(arrays that a parameter is made of, which entry of the stack or None, axis of the stack)."""
    axis = int("channel_blocks/" in name)
    if name in stored:
        return (name,), None, axis
    if match := re.fullmatch(r"(.*\b)layers(/.*)", name):
        layer = lambda index: f"{match[1]}layer_{index}{match[2]}"  # noqa: E731
        count = sum(bool(_layer(n, match[1], match[2])) for n in stored)
        if count and all(layer(index) in stored for index in range(count)):
            return tuple(map(layer, range(count))), None, axis
    if match := re.fullmatch(r"(.*\b)layer_(\d+)(/.*)", name):
        stack = f"{match[1]}layers{match[3]}"
        count = sum(bool(_layer(n, match[1], match[3])) for n in wanted)
        if stack in stored and stored[stack].shape[axis] == count:
            return (stack,), int(match[2]), axis
    return (), None, axis


def _layer(name: str, before: str, behind: str) -> object:
    return re.fullmatch(rf"{re.escape(before)}layer_\d+{re.escape(behind)}", name)


def _shape(
    shape: Sequence[int], count: int, pick: int | None, axis: int, restacked: bool
) -> tuple[int, ...]:
    """Of what sources of a shape make together."""
    if not restacked:
        return tuple(shape)
    if pick is None:
        return (*shape[:axis], count, *shape[axis:])
    return (*shape[:axis], *shape[axis + 1 :])


# Errors


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


def _others(configs: tuple[ConfigDict, ConfigDict], keys: Sequence[str]) -> list[str]:
    """Of some keys of a model, those that both have, with other values."""
    theirs, mine = (config.model for config in configs)
    return [
        key
        for key in keys
        if key in theirs and key in mine and _plain(theirs[key]) != _plain(mine[key])
    ]


def _refusal(
    folder: str,
    configs: tuple[ConfigDict, ConfigDict],
    problems: Sequence[str],
    others: Sequence[str],
) -> str:
    theirs, mine = configs
    if theirs.task != mine.task and (problems or not others):
        return (
            f"init_from: the parameters of {folder} do not fit this configuration: it is a run of"
            f" the task '{theirs.task}', this one is of '{mine.task}', and"
            f" {_listed(problems) or 'no part of it is in this model'}. Begin with a run of the"
            " same task (a ViT of task 'perturbation' can begin with a masked autoencoder's"
            " encoder), or leave init_from out."
        )
    keys = [*others, *_others(configs, tuple(SHAPES))]
    said = [f"{len(problems)} arrays differ: {_listed(problems)}"] * bool(problems)
    said += [
        f"config.model.{key} is {_plain(theirs.model[key])} there and {_plain(mine.model[key])}"
        f" here ({SHAPES.get(key, 'the same parameters would compute something else')})"
        for key in keys
    ]
    mend = " ".join(f"--config.model.{key}={_word(theirs.model[key])}" for key in keys)
    mend = f"Set {mend}." if keys else "Use the model.* of the run that wrote it (its config.json)."
    return (
        f"init_from: the parameters of {folder} do not fit this configuration, {'. '.join(said)}."
        f" {mend}"
    )


def _listed(problems: Sequence[str]) -> str:
    more = f" … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _word(value: Any) -> str:
    return f'"{_plain(value)}"' if isinstance(value, list | tuple) else str(value)


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
    quiet = {"dtype", "attention", "remat", "scan_layers", "eval_mem_len", "control_share"}
    keys = [key for key in theirs.model if key not in quiet]
    return {
        "from": str(folder),
        "step": int(folder.name),
        "parameters": "moving average" if item == "ema" else "as trained",
        "task": theirs.task,
        "new": config.init_new,
        "model": {
            key: [_plain(theirs.model[key]), _plain(config.model[key])]
            for key in _others((theirs, config), keys)
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


def _say(report: Mapping[str, Any]) -> None:
    """Logs the table: a line for all parameters of a part that began alike."""
    arrays = report["arrays"]
    came = [row for row in arrays if row["how"] not in (FRESH, LEFT)]
    size = sum(int(np.prod(row["to"])) for row in came)
    lines: dict[tuple[str, str, str], list[str]] = {}
    for row in arrays:
        which = row["name"].split("/")[0]
        lines.setdefault((row["how"], which, row["note"]), []).append(row["name"])
    order = (TAKEN, BY_NAME, RESAMPLED, RESTACKED, FRESH, LEFT)
    told = [
        f"  {how:<10} {names[0] if len(names) == 1 else f'{which}: {len(names)} arrays'}"
        + (f" ({note})" if note else "")
        for (how, which, note), names in sorted(
            lines.items(), key=lambda line: order.index(line[0][0])
        )
    ]
    log.info(
        "init_from: %.2f M parameters in %d arrays loaded from %s (step %s, %s); optimiser and step"
        " start anew; new channels and tokens begin %s\n%s",
        size / 1e6,
        len(came),
        report["from"],
        report["step"],
        report["parameters"],
        "fresh" if report["new"] == "fresh" else "with the mean of the known",
        "\n".join(told),
    )
    if report["model"]:
        log.info(
            "init_from: other keys of the model: %s",
            "; ".join(
                f"{key} {old} there, {new} here" for key, (old, new) in report["model"].items()
            ),
        )
    unfit = {row["note"] for row in arrays if row["how"] == FRESH and "not fit" in row["note"]}
    for note in sorted(unfit):
        names = [row["name"] for row in arrays if row["note"] == note]
        log.warning(
            "init_from: %s: %d arrays begin anew, %s", names[0].split("/")[0], len(names), note
        )
