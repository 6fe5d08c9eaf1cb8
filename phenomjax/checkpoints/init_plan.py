"""What each parameter of a run that begins with another's becomes: taken, by name, resampled,
restacked or fresh; or why none of it fits.
"""

import collections
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from phenomjax.checkpoints import named_axes
from phenomjax.checkpoints.named_axes import Axes, Names, Pixels
from phenomjax.models.parameter_names import matching
from phenomjax.system.errors import UserError, first_of

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
    "cell_type": "the cell type stands beside the features, which have another number then",
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
      begins_with: see `init_from.begun`.
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
    differ = others(configs, MEANINGS)
    if anew and not (wrong or differ) and all(row.how == FRESH for row in rows.values()):
        raise UserError(
            f"config.init_fresh {tuple(fresh_patterns)} leaves nothing that is taken from {folder}:"
            " all parameters would begin anew. Leave a part out, such as the encoder, or set"
            " --config.init_from='' --config.init_fresh=\"()\"."
        )
    if wrong or differ or all(row.how == FRESH for row in rows.values()):
        raise UserError(_refusal(folder, configs, wrong, differ))
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
    mine = named_axes.renamed(mine, names_there(configs))
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


def names_there(configs: tuple[ConfigDict, ConfigDict]) -> dict[Hashable, Hashable]:
    """{name of this run: what the other calls it}, of `init_names`.

    Raises:
      UserError: no such pair, or a name that is not there.
    """
    kinds = "channels", "classes", "cell_types"
    theirs, mine = (
        [name for key in kinds if key in config.model for name in config.model[key]]
        for config in configs
    )
    found: dict[Hashable, Hashable] = {}
    for pair in configs[1].init_names:
        name, equals, other = (part.strip() for part in pair.partition("="))
        if not equals or name not in mine or other not in theirs:
            example = f"{(mine or ['DNA'])[0]}={(theirs or ['Hoechst'])[0]}"
            raise UserError(
                f"config.init_names has '{pair}': each must be a name of this run, =, and one of"
                f" the run that it begins with, as in --config.init_names=\"('{example}',)\". Here"
                f" there are {first_of(mine, 12)}; there {first_of(theirs, 12)}."
            )
        if found.setdefault(name, other) != other:
            raise UserError(
                f"config.init_names says that {name} is {found[name]} there, and that it is"
                f" {other}: it begins as one of them. Leave one of these pairs out."
            )
    return found


def _note(old: Names | Pixels, new: Names | Pixels) -> str:
    if isinstance(old, Pixels) or isinstance(new, Pixels):
        return f"patches of {getattr(old, 'edge', '?')} px to {getattr(new, 'edge', '?')} px"
    named = lambda names: [str(name) for name in names if not isinstance(name, int)]  # noqa: E731
    both = named(name for name in new.names if name in old.names)
    added = named(name for name in new.names if name not in old.names)
    gone = named(name for name in old.names if name not in new.names)
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


def others(configs: tuple[ConfigDict, ConfigDict], keys: Sequence[str]) -> list[str]:
    """Of some keys of a model, those that both have, with other values."""
    theirs, mine = (config.model for config in configs)
    return [
        key
        for key in keys
        if key in theirs and key in mine and plain(theirs[key]) != plain(mine[key])
    ]


def _refusal(
    folder: str,
    configs: tuple[ConfigDict, ConfigDict],
    problems: Sequence[str],
    meanings: Sequence[str],
) -> str:
    theirs, mine = configs
    if theirs.task != mine.task and (problems or not meanings):
        return (
            f"init_from: the parameters of {folder} do not fit this configuration: it is a run of"
            f" the task '{theirs.task}', this one is of '{mine.task}', and"
            f" {_listed(problems) or 'no part of it is in this model'}. Begin with a run of the"
            " same task (a ViT of task 'perturbation' can begin with a masked autoencoder's"
            " encoder), or leave init_from out."
        )
    keys = [*meanings, *others(configs, tuple(SHAPES))]
    what = f"init_from: the parameters of {folder} do not fit this configuration"
    if not keys:
        return (
            f"{what}, {len(problems)} arrays differ: {_listed(problems)}. Use the model.* of the"
            " run that wrote it (its config.json)."
        )
    said = [
        f"config.model.{key} is {plain(theirs.model[key])} there and {plain(mine.model[key])} here:"
        f" {SHAPES.get(key, 'the same parameters would compute something else')}"
        for key in keys
    ]
    mend = " ".join(f"--config.model.{key}={_word(theirs.model[key])}" for key in keys)
    arrays = f" ({len(problems)} arrays differ, such as {problems[0]}.)" if problems else ""
    return f"{what}. {'. '.join(said)}. Set {mend}, or leave init_from out.{arrays}"


def _listed(problems: Sequence[str]) -> str:
    more = f" … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def plain(value: Any) -> Any:
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def _word(value: Any) -> str:
    return f'"{plain(value)}"' if isinstance(value, list | tuple) else str(value)
