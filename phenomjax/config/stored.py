"""The resolved configuration on disk, and which of its keys a continued run may change."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from phenomjax.config import ranges
from phenomjax.config.checks import flatten
from phenomjax.config.keys import base, declare
from phenomjax.system import files
from phenomjax.system.errors import UserError, first_of
from phenomjax.system.user_files import same_path

log = logging.getLogger("phenomjax")
# the mend where the file of a run is lost or damaged
AGAIN = (
    "have it written anew: the command of that run for a workdir of its own, with"
    " --config.stop_at_step=1, makes the same config.json there, to be copied"
)
LISTED = 8  # entries of a value that are told one by one
# Keys that may differ when a run is continued in its workdir: they change speed, logging or the
# length, not the mathematics.
CHANGEABLE = (
    "num_steps",
    "stop_at_step",
    "mesh",
    "log",
    "profile",
    "stragglers",
    "eval",
    "figures",
    "probes",
    "scaling",
    "stop_early",
    "checkpoint",
    "divergence",
    "watchdog",
    "data.banks",
    "data.selection",
    "data.threads",
    "data.prefetch_batches",
    "data.staging",
    "data.staging_share",
    "data.cache",
    "data.cache_gb",
    "data.eval_segment_len",
    "data.on_bad_image",
    "data.max_bad_images",
    "model.eval_mem_len",
    "model.remat",
    "model.attention",
)
# of these, on what a run is judged: they may change in a run, and yet not between runs that are
# compared
JUDGED = ("eval.num_batches", "eval.batch_size", "eval.seed", "data.eval_segment_len")
PATHS = ("init_from",)  # in any spelling they are the same run

# Keys whose default came later than runs that go on, and changes them.
KEPT = ("optimizer.ema_warmup",)


def rank(scores: Mapping[str, float | None], metric: str) -> float | None:
    """What is smallest for the best checkpoint: a loss or an error as it is, any other metric with
    its sign turned; None where it is unknown.
    """
    value = scores.get(metric)
    smaller_is_better = metric.startswith("val/loss") or "rmse" in metric.split("/")
    return value if value is None or smaller_is_better else -value


def save(config: ConfigDict, path: Path) -> None:
    """Writes the resolved config as JSON."""
    files.write_json(path, config.to_dict())


def load(path: Path) -> ConfigDict:
    """Reads a config that `save` wrote; keys that are newer than the file take their defaults.

    Raises:
      UserError: the file is missing or is not JSON.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where an object should be")
        stored = flatten(content)
        if "num_steps" not in stored:
            raise UserError(f"{path} is no configuration of a run: it has no num_steps.")
    except FileNotFoundError:
        raise UserError(
            f"There is no {path}: {path.parent} is not the folder of a run, or lost its"
            f" configuration. Give the workdir of a run; or, if it was one, {AGAIN}."
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}). Allow it to be read, or copy it"
            " again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): it was edited, or is damaged. Correct it, or"
            f" {AGAIN}."
        ) from None
    task = str(stored.get("task", "mae"))
    config, allowed = base(task), ranges.declared(declare(task))
    if stored.get("optimizer.ema_decay"):
        stored.setdefault("optimizer.ema_warmup", False)  # it came later
    for key, value in stored.items():
        try:
            if key in allowed and not allowed[key].is_like(value):
                raise TypeError(f"it must be {allowed[key].kind_in_words()}")
            _set(config, key, value)
        except (TypeError, AttributeError, KeyError, ValueError, OverflowError) as error:
            raise UserError(
                f"{path} says {key} {value!r}, which cannot be ({error}): it was edited, or is"
                f" damaged. Correct it, or {AGAIN}."
            ) from error
    return config


def _set(config: ConfigDict, key: str, value: object) -> None:
    """Sets a dotted key.

    Raises:
      TypeError: a value of another kind than the default.
    """
    parent = config
    *parents, leaf = key.split(".")
    for name in parents:
        # a section that this version no longer has: `check_same_run` names it
        if name not in parent:
            parent[name] = ConfigDict()
        parent = parent[name]
    if isinstance(parent.get(leaf), ConfigDict):
        raise TypeError("a section is wanted, with keys of its own")
    if value is None and parent.get(leaf) is not None:
        raise TypeError("a value is wanted")
    parent[leaf] = value


def changed(
    old: Mapping[str, object], new: Mapping[str, object], also: Sequence[str] = ()
) -> list[str]:
    """Keys of two flat configurations whose values differ, without those that neither run reads,
    and those of `CHANGEABLE` that are not in `also`.
    """
    allowed = ranges.declared(declare(str(new.get("task", "mae"))))

    def read(key: str) -> bool:
        return key not in allowed or any(ranges.reads(allowed[key], key, c) for c in (old, new))

    return [
        key
        for key in sorted(old.keys() | new.keys())
        if not _same(key, old.get(key), new.get(key))
        and (key in also or not key.startswith(CHANGEABLE))
        and read(key)
    ]


def _same(key: str, old: object, new: object) -> bool:
    """Whether two values are the same; of a path, whether they are spellings of it."""
    if key in PATHS and isinstance(old, str) and isinstance(new, str):
        return same_path(old, new)
    return old == new


def as_begun(config: ConfigDict, stored: ConfigDict) -> ConfigDict:
    """A run's configuration with what it keeps as it began with (`KEPT`), which is said."""
    new, old = flatten(config), flatten(stored)
    kept = {key: old[key] for key in KEPT if new[key] != old[key]}
    if not kept or new["optimizer.ema_decay"] != old["optimizer.ema_decay"]:
        return config
    with config.copy_and_resolve_references().unlocked() as config:
        for key, value in kept.items():
            log.info("config.%s stays %s, as this run began", key, value)
            config.update_from_flattened_dict({key: value})
    return config.lock()


def check_same_run(config: ConfigDict, stored: ConfigDict, workdir: Path) -> None:
    """Raises UserError when a workdir belongs to a run with another configuration, listing the keys
    that differ.
    """
    new, old = flatten(config), flatten(stored)
    if differ := changed(old, new):
        allowed = ranges.declared(declare(str(new["task"])))
        refused = [k for k in differ if k in old and k in allowed and not allowed[k].holds(old[k])]
        rows = "; ".join(
            f"{k}: {_difference(old.get(k), new.get(k))}"
            + f" ({old[k]} is refused since this run began)" * (k in refused)
            for k in differ[:8]
        )
        more = f" (and {len(differ) - 8} more)" if len(differ) > 8 else ""
        raise UserError(
            f"{workdir} holds a run with another configuration: {rows}{more}. Give another"
            " --workdir to start a new run, or the same configuration to continue that one (its"
            f" resolved config is {workdir / 'config.json'}). To go on from its newest checkpoint"
            f" with other settings: another --workdir and --config.continue_from={workdir}."
        )


def _difference(old: object, new: object) -> str:
    """What two values of a key are; of long lists, what one of them has alone."""
    if not (isinstance(old, tuple) and isinstance(new, tuple)) or max(len(old), len(new)) <= LISTED:
        return " there, ".join("''" if value == "" else str(value) for value in (old, new)) + " now"
    told = [f"{len(old):,} names there, {len(new):,} now"]
    for side, mine, other in (("there", old, set(new)), ("now", new, set(old))):
        if only := [name for name in mine if name not in other]:
            told.append(f"{first_of(only, 4)} only {side}")
    return ", ".join(told) + (" in another order" if len(told) == 1 else "")
