"""The settings of a model that is made of weights: each is seen in the arrays, or recorded beside
them, or given; none is guessed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import flax.errors
from ml_collections import ConfigDict

from phenomjax.config import keys
from phenomjax.config.checks import flatten
from phenomjax.convert.described import about as travels
from phenomjax.convert.described import their_config
from phenomjax.system.errors import UserError, did_you_mean

Made = TypeVar("Made")
# Sizes and counts: no more than the arrays have numbers.
COUNTS = (
    *("num_layers", "depth", "decoder_depth", "num_highway", "embed_dim", "decoder_dim"),
    *("num_heads", "head_dim", "mlp_dim", "decoder_num_heads", "patch_size", "char_dim"),
    *("projection_dim", "cell_dim", "vocab_size", "max_characters"),
    *("growth_rate", "stem_features", "neck_dim"),
)
LAYERS = ("num_layers", "depth", "decoder_depth", "num_highway")  # each has an array at least
NAMES = ("channels", "classes", "cell_types")  # tuples of words
LONGEST = 2**20  # tokens of a memory, pixels of a crop


def parse(words: Sequence[str], config: ConfigDict) -> dict[str, object]:
    """{setting: value} of KEY=VALUE on a command line, each of the kind that it has in `config`.

    Raises:
      UserError: no such setting, or a value of another kind.
    """
    given: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not (
            name in config.model or (name in travels.DATA and name in config.data)
        ):
            known = [*config.model, *(key for key in travels.DATA if key in config.data)]
            raise UserError(
                f"`settings` {word}: write NAME=VALUE with the name of a setting of the model, such"
                f" as {next(iter(known))}.{did_you_mean(name, known)}"
            )
        given[name] = _typed(name, text, _section(config, name)[name])
    return given


def _typed(name: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            parts = filter(None, text.split(","))
            return tuple(parts) if name in NAMES else tuple(map(int, parts))
        kinds: dict[type, Callable[[str], object]] = {int: int, float: float, str: str}
        return kinds[type(default)](text)
    except (KeyError, ValueError):
        raise UserError(
            f"`settings` {name}={text}: that is no {type(default).__name__} (it is"
            f" {default!r} by default)."
        ) from None


def _section(config: ConfigDict, name: str) -> ConfigDict:
    return config.model if name in config.model else config.data


def recall(config: ConfigDict, known: travels.Found) -> dict[str, object]:
    """Fills a configuration with what we recorded of weights; returns it.

    Args:
      config: with all defaults.
      known: of `about.find`, with `ours`.

    Raises:
      UserError: a setting that this version does not know, or a value of another kind.
    """
    parts = [cast(dict, (known.ours or {}).get(part, {})) for part in ("model", "data")]
    recorded = flatten(parts[0]) | flatten(parts[1])
    if unknown := [k for k in recorded if k not in config.model and k not in travels.DATA]:
        raise UserError(
            f"{known.where} says {unknown[0]} {recorded[unknown[0]]!r} of the weights, which this"
            " phenomjax does not know. Install the phenomjax that wrote it"
            f" ({(known.ours or {}).get('phenomjax')!r})."
        )
    for key, value in recorded.items():
        section = _section(config, key)
        section[key] = recorded[key] = _of_kind(key, value, section, known.where)
    _check(config)
    return recorded


def complete(
    name: str,
    config: ConfigDict,
    seen: Sequence[str],
    known: travels.Found,
    given: Mapping[str, object],
) -> list[str]:
    """Fills a configuration with what is recorded of weights or given.

    Args:
      name: of the model, as in `their_config.ASKED`.
      config: with what can be seen in the arrays.
      seen: names of these settings; what is recorded must be the same.
      known: of `about.find`.
      given: by the user.

    Returns:
      Each setting that no shape shows, with who says it.

    Raises:
      UserError: what is recorded or given contradicts the arrays, or each other; or nobody says a
        setting that changes what the model computes.
    """
    sources = {key: "given" for key in given}
    values = dict(given)
    where = known.where or known.theirs_where
    if known.ours is not None:
        recorded = recall(config, known)
    else:
        recorded = their_config.read(name, known.theirs or {}, known.theirs_where)
    for key, value in recorded.items():
        value = _of_kind(key, value, _section(config, key), where)
        if key in seen and value != _section(config, key)[key]:
            raise UserError(
                f"{where} says {key} {value}, and the arrays have"
                f" {_section(config, key)[key]}: it is of other weights. Give the configuration of"
                " these with `their_config`, or move that one away."
            )
        if key in given and given[key] != value:
            raise UserError(
                f"`settings` says {key}={given[key]}, and {where} says {key} {value} of these"
                " weights. Leave it out."
            )
        values[key], sources[key] = value, where
    asked = their_config.ASKED[name]
    if missing := [key for key in asked if key not in values and known.ours is None]:
        usual = {key: asked[key] for key in missing}
        if "gelu" in usual and name == "xlnet":  # each project has its own
            usual["gelu"] = config.model.gelu
        _ask(name, usual, where)
    for key, value in values.items():
        _section(config, key)[key] = value
    _check(config)
    return [
        f"{key}={_shown(_section(config, key)[key])} ({sources.get(key, 'default')})"
        for key in asked
    ]


def _ask(name: str, missing: Mapping[str, object], where: str) -> None:
    """Raises UserError for settings that nobody says; `missing` has a usual value of each."""
    words = " ".join(f"{key}={_shown(value)}" for key, value in missing.items())
    beside = f"{where} does not say them" if where else "no configuration lies beside them"
    published = "as OpenPhenom was published" if name == "openphenom" else "the usual values are"
    vocabulary = (
        " `alphabet` says whose ids the tokens have: ours, or give `vocabulary`, a list of their"
        " own."
        if "alphabet" in missing
        else ""
    )
    raise UserError(
        f"The arrays do not show {', '.join(missing)}, and {beside}: with a wrong one the model"
        " would load and compute something else. Give their configuration with `their_config`, or"
        f" say each as the weights were trained ({published}): --settings {words}.{vocabulary}"
    )


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _of_kind(key: str, value: object, section: ConfigDict, where: str) -> object:
    """A recorded value, if it is of the kind of the default.

    Raises:
      UserError: it is not.
    """
    default = section[key]
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = type(value) is type(default) or (isinstance(default, float) and whole)
    if isinstance(value, float) and not math.isfinite(value):
        fits = False
    if isinstance(value, tuple) and isinstance(default, tuple):
        kind = str if key in NAMES else type(default[0]) if default else object
        fits = all(type(each) is kind or kind is object for each in value)
    if not fits:
        raise UserError(
            f"{where} says {key} {value!r} of the weights, and that is no"
            f" {type(default).__name__}. The file is damaged: copy it again, or export again."
        )
    return float(cast(float, value)) if isinstance(default, float) else value


def check_sizes(config: ConfigDict, arrays: int, numbers: int) -> None:
    """Raises UserError for sizes that the arrays cannot have, before a model is made of them.

    Args:
      config: its `model`.
      arrays: how many there are.
      numbers: in all of them.
    """
    for key in set(COUNTS) & set(config.model):
        value, most = config.model[key], arrays if key in LAYERS else max(numbers, 1024)
        if not 0 <= value <= most:
            raise UserError(
                f"The settings say {key} {value}, and the file has {arrays} arrays of {numbers}"
                " numbers. It is damaged, or these are the settings of other weights."
            )
    layers = sum(config.model.get("block_config", ()))
    if layers > arrays:
        raise UserError(
            f"The settings say block_config {config.model.block_config}, and the file has {arrays}"
            " arrays. It is damaged, or these are the settings of other weights."
        )
    lengths = {"mem_len", "eval_mem_len", "clamp_len", "crop_size"}
    for key in lengths & (set(config.model) | set(config.data)):
        if not 0 <= _section(config, key)[key] <= LONGEST:
            raise UserError(
                f"The settings say {key} {_section(config, key)[key]}; it can be 0 to {LONGEST}."
            )


def _check(config: ConfigDict) -> None:
    """The checks of every run, but for the banks that it would read."""
    probe = ConfigDict(config.to_dict())
    for key in ("families", "plates"):
        if key in probe.data.simulate:
            probe.data.simulate[key] = 1
    keys.finalize(probe)


def built(make: Callable[[], Made]) -> Made:
    """What `make` gives; settings that no model can be made of as a UserError."""
    try:
        return make()
    except (ArithmeticError, LookupError, TypeError, ValueError, flax.errors.FlaxError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"No model can be made of these settings and arrays ({first}). The file is damaged, or"
            " the settings are of other weights."
        ) from error
