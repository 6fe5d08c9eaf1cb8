"""How the models of a configuration grow: the keys of another width and depth, all else in
proportion.

A ladder's models are one family. The configuration's own model stands for it: heads keep their
width, so their number grows; what else has a width (MLP, decoder, cells, filters) keeps its ratio
to it, but for the neck of a classifier, whose embedding is one; and the depth follows the width
(one aspect ratio) or stays.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ml_collections import ConfigDict

from phenomjax.config.checks import flatten
from phenomjax.models.parametrisation import kind_of
from phenomjax.sweep.space import Value
from phenomjax.system.errors import UserError

Settings = dict[str, Value]

WIDEST, DEEPEST = 2**16, 2**10


@dataclass(frozen=True)
class Family:
    """The models that a configuration stands for.

    Attributes:
      width, depth: of the configuration's own model.
      steps: how many of the smallest widths its own is: the grid of widths is width * k / steps.
      width_key: for messages, the key whose value the width is.
      resized: (width, depth) -> {key: value}.
    """

    width: int
    depth: int
    steps: int
    width_key: str
    resized: Callable[[int, int], Settings]

    def width_at(self, k: int) -> int:
        """The k-th width of the grid, from 1."""
        return _whole(self.width * k / self.steps, 4)

    def depth_at(self, width: int, rule: str) -> int:
        """The depth of a width by a rule, "aspect" or "fixed"."""
        ratio = width / self.width if rule == "aspect" else 1.0
        return max(1, round(self.depth * ratio))


def family(config: ConfigDict) -> Family:
    """The family of a configuration's model.

    Raises:
      UserError: a model whose widths are not known here.
    """
    m = config.model
    if "backbone" in m and m.backbone == "densenet":
        return _densenet(m)
    if "cell_dim" in m:
        return _lstm(m)
    if "embed_dim" in m and "num_heads" in m and ("depth" in m or "num_layers" in m):
        return _vit(m) if "depth" in m else _transformer(m)
    raise UserError(
        f"How models of config.task '{config.task}' grow is not known: config.model has neither"
        " embed_dim, num_heads and depth nor num_layers. Say what each size is with `sizes`, one"
        " word of KEY=VALUE,KEY=VALUE each: `sizes` model.width=64,model.layers=2"
        " model.width=128,model.layers=4."
    )


def _vit(m: ConfigDict) -> Family:
    head_dim = m.embed_dim // m.num_heads

    def resized(width: int, depth: int) -> Settings:
        if width % head_dim:
            near = max(width // head_dim, 1) * head_dim
            raise UserError(
                f"`sizes` has a width of {width}, but heads of this family are {head_dim} wide"
                f" (config.model.embed_dim {m.embed_dim} / config.model.num_heads {m.num_heads})."
                f" Take {near} or {near + head_dim}."
            )
        ratio = width / m.embed_dim
        settings = {
            "model.embed_dim": width,
            "model.num_heads": width // head_dim,
            "model.depth": depth,
        }
        if "decoder_dim" in m:
            heads = max(1, round(m.decoder_num_heads * ratio))
            settings["model.decoder_num_heads"] = heads
            settings["model.decoder_dim"] = heads * (m.decoder_dim // m.decoder_num_heads)
            settings["model.decoder_depth"] = max(1, round(m.decoder_depth * depth / m.depth))
        return {**settings, **_base(m, m.depth)}

    return Family(m.embed_dim, m.depth, m.num_heads, "model.embed_dim", resized)


def _transformer(m: ConfigDict) -> Family:
    grain = math.lcm(2, m.div_val ** len(m.cutoffs) if "cutoffs" in m else 1)

    def resized(width: int, depth: int) -> Settings:
        if width % grain:
            near = max(width // grain, 1) * grain
            raise UserError(
                f"`sizes` has a width of {width}; config.model.embed_dim must be a multiple of"
                f" {grain} here. Take {near} or {near + grain}."
            )
        ratio = width / m.embed_dim
        return {
            "model.embed_dim": width,
            "model.num_heads": max(1, round(m.num_heads * ratio)),
            "model.mlp_dim": max(1, round(m.mlp_dim * ratio)),
            "model.num_layers": depth,
            **_base(m, m.num_layers),
        }

    return Family(m.embed_dim, m.num_layers, m.num_heads, "model.embed_dim", resized)


def _lstm(m: ConfigDict) -> Family:
    def resized(width: int, depth: int) -> Settings:
        ratio = width / m.projection_dim
        filters = tuple((each, max(1, round(count * ratio))) for each, count in m.filters)
        return {
            "model.projection_dim": width,
            "model.cell_dim": max(1, round(m.cell_dim * ratio)),
            "model.filters": str(filters),
            "model.num_layers": depth,
        }

    return Family(m.projection_dim, m.num_layers, 16, "model.projection_dim", resized)


def _densenet(m: ConfigDict) -> Family:
    layers = sum(m.block_config)

    def resized(width: int, depth: int) -> Settings:
        ratio = width / m.growth_rate
        blocks = tuple(max(1, round(count * depth / layers)) for count in m.block_config)
        return {
            "model.growth_rate": width,
            "model.stem_features": max(2, round(m.stem_features * ratio)),
            "model.block_config": str(blocks),
        }

    return Family(m.growth_rate, layers, max(m.growth_rate // 4, 1), "model.growth_rate", resized)


def _base(m: ConfigDict, depth: int) -> Settings:
    """Where rates and first values follow the width (and the depth), those of all sizes are told
    from one model: the configuration's own, or the one that it names.
    """
    own = {"base_width": m.embed_dim, "base_depth": depth}
    if "decoder_dim" in m:
        # 0: in proportion to the base that is named
        own["decoder_base_width"] = 0 if m.base_width else m.decoder_dim
        own["decoder_base_depth"] = 0 if m.base_depth else m.decoder_depth
    read = {"mup": "width", "complete_p": "width depth"}.get(kind_of(m), "")
    return {
        f"model.{key}": m[key] or value
        for key, value in own.items()
        if key.rpartition("_")[2] in read.split()
    }


def _whole(value: float, multiple: int) -> int:
    return max(1, round(value / multiple)) * multiple


@dataclass(frozen=True)
class Size:
    """A model of a ladder.

    Attributes:
      name: in tables, WIDTHxDEPTH, or what the user said.
      settings: {key: value}.
      ratio: its width to that of the configuration's model; 1.0 where it is not known.
    """

    name: str
    settings: Settings
    ratio: float = 1.0


def sized(grown: Family, width: int, depth: int) -> Size:
    """A model of a family."""
    return Size(f"{width}x{depth}", grown.resized(width, depth), width / grown.width)


def named(words: list[str], config: ConfigDict, rule: str) -> list[Size]:
    """The sizes that a user names: WIDTH, WIDTHxDEPTH, or KEY=VALUE,KEY=VALUE.

    Raises:
      UserError: a word of another form, a width that cannot be, a size twice.
    """
    found = []
    for word in words:
        if "=" in word:
            found.append(Size(word, _settings(word, config)))
            continue
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", word)
        if not match or not int(match[1]) or match[2] == "0":
            raise UserError(
                f"`sizes` has '{word}'. A size is WIDTH, WIDTHxDEPTH, such as 64x2, or settings,"
                " such as model.embed_dim=64,model.depth=2."
            )
        if int(match[1]) > WIDEST or int(match[2] or 1) > DEEPEST:
            raise UserError(
                f"`sizes` has '{word}', and no model beyond {WIDEST} x {DEEPEST} is planned: a"
                " size is WIDTH or WIDTHxDEPTH, such as 1024x24, and no number of parameters."
            )
        grown, width = family(config), int(match[1])
        depth = int(match[2]) if match[2] else grown.depth_at(width, rule)
        found.append(sized(grown, width, depth))
    names = [size.name for size in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"`sizes` has {', '.join(twice)} twice. Name each size once.")
    return found


def _settings(word: str, config: ConfigDict) -> Settings:
    """The settings of "KEY=VALUE,KEY=VALUE"."""
    known, settings = flatten(config), Settings()
    for part in re.split(r",(?=[\w.]+=)", word):
        key, _, value = part.partition("=")
        if key not in known:
            raise UserError(
                f"`sizes` has '{word}', but config.{key} is not a key. Keys of a model begin with"
                " model., such as model.embed_dim=64."
            )
        kind = type(known[key])
        try:
            settings[key] = kind(value) if kind in (int, float) else value
        except ValueError:
            raise UserError(
                f"`sizes` has '{word}': config.{key} is of type {kind.__name__} ({known[key]!r})."
            ) from None
    return settings
