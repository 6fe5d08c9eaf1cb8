"""Weights of another project's names as a model of ours: arrays, what is known of them, and what
the user says.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from phenomjax.config import keys
from phenomjax.convert import array_files, compare, densenet, fitting, openphenom
from phenomjax.convert.described import about, settings
from phenomjax.convert.described import their_config as theirs
from phenomjax.convert.families import LAYOUTS, MODELS, TASKS, to_theirs, vocabulary_paths
from phenomjax.convert.renumber import renumber
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.models import vit
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

log = logging.getLogger("phenomjax")


@dataclass(frozen=True)
class Given:
    """What the user says of weights.

    Attributes:
      settings: KEY=VALUE, settings of the model.
      channels: names with commas between, or "".
      cutoffs: of an adaptive softmax, with commas between, or "".
      vocabulary: a file with their tokens, or None.
      alphabet: ours, for it.
      their_config: their configuration; None = beside the weights.
    """

    settings: tuple[str, ...] = ()
    channels: str = ""
    cutoffs: str = ""
    vocabulary: Path | None = None
    alphabet: str = ""
    their_config: Path | None = None


@dataclass(frozen=True)
class Converted:
    """A model made of weights.

    Attributes:
      config: its configuration.
      params: its parameters.
      known: what was recorded of the weights.
      same: whether the arrays are those that were recorded.
      proof: how it was compared, in words.
    """

    config: ConfigDict
    params: Params
    known: about.Found
    same: bool
    proof: str


def convert(name: str, path: Path, given: Given, aloud: bool = True) -> Converted:
    """Reads weights, completes their settings, and compares what the model computes with what was
    recorded of it; or, where nothing was, with itself there and back. `aloud`: each setting is
    said.

    Raises:
      UserError: no such weights, settings that nobody says, or arrays that do not fit; or other
        outputs (exit code 1).
    """
    file = array_files.read(path)
    arrays = file.arrays
    fitting.check_finite(arrays)
    known = about.find(path, file.about, arrays, given.their_config)
    config, params, said = _model(name, arrays, known, given)
    for line in said if aloud else ():
        log.info("  %s", line)
    if given.vocabulary:
        params = _renumbered(name, config, params, given)
    same = known.ours is not None and known.ours.get("arrays") == about.digest(arrays)
    found = compare.outputs(config, params)
    recorded = (known.ours or {}).get("outputs")
    if same and not given.vocabulary and isinstance(recorded, dict) and recorded:
        try:
            before = compare.recalled(recorded)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"The outputs that {known.where} records of the weights are damaged ({error})."
                " Copy the file again, or export the run again."
            ) from error
        now = compare.parts({k: x for k, x in found.items() if k in before})
        proof = "against the model that was exported: " + compare.agreement(now, before, f"{path}")
    else:
        layout = _layout(name, arrays)
        again = _again(name, layout, config, params)
        proof = "their program was not run; there and back, " + compare.agreement(
            compare.outputs(config, again), found, f"{path} there and back"
        )
        if known.ours is not None:
            log.warning(
                "the arrays are not those that %s was written with: outputs recorded then are not"
                " compared",
                known.where,
            )
    return Converted(config, params, known, same, proof)


def _layout(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """The layout that arrays have."""
    if name == "openphenom":
        return LAYOUTS[name][0]
    return MODELS[name][1].layout_of(arrays)


def _again(name: str, layout: str, config: ConfigDict, params: Params) -> Params:
    """Parameters after a way to their names and back."""
    arrays = to_theirs(name, layout, config, params)
    return _parameters(name, arrays, config)


def _model(
    name: str, arrays: dict[str, np.ndarray], known: about.Found, given: Given
) -> tuple[ConfigDict, Params, list[str]]:
    """The configuration that arrays and settings say, the parameters, and who says what."""
    config = keys.base(TASKS[name])
    said = _said(name, config, given)
    seen: tuple[str, ...] = ()
    if known.ours is None:
        seen = settings.built(lambda: _infer(name, arrays, config, known, said))
    else:
        task = known.ours.get("task", TASKS[name])
        if task != TASKS[name]:
            raise UserError(
                f"{known.where} says that the weights are of the task {task}, and {name} is of"
                f" {TASKS[name]}. Name the model that they are of."
            )
    lines = settings.complete(name, config, seen, known, said)
    settings.check_sizes(config, len(arrays), sum(x.size for x in arrays.values()))
    if "alphabet" in config.model:
        words = vocabulary(config.model.alphabet or "protein")
        about.check_tokens(known.ours or {}, words.name)
        if not given.vocabulary and config.model.vocab_size < len(words):
            raise UserError(
                f"The weights have {config.model.vocab_size} tokens, and our {words.name}"
                f" vocabulary has {len(words)}: the ids are not ours. Give their tokens with"
                " `vocabulary`, or another `alphabet`."
            )
    return config, settings.built(lambda: _parameters(name, arrays, config)), lines


def _said(name: str, config: ConfigDict, given: Given) -> dict[str, object]:
    """The settings that the user gives, by all flags."""
    said = settings.parse(given.settings, config)
    if given.vocabulary:
        said["alphabet"] = given.alphabet or "protein"
    elif given.alphabet:
        said["alphabet"] = given.alphabet
    if given.channels:
        said["channels"] = tuple(given.channels.split(","))
    if given.cutoffs:
        try:
            said["cutoffs"] = tuple(map(int, filter(None, given.cutoffs.split(","))))
        except ValueError:
            raise UserError(
                f"`cutoffs` {given.cutoffs}: give whole numbers with commas between, such as"
                " 20000,40000."
            ) from None
    return {key: value for key, value in said.items() if key in config.model or key in about.DATA}


def _infer(
    name: str,
    arrays: dict[str, np.ndarray],
    config: ConfigDict,
    known: about.Found,
    said: dict[str, object],
) -> tuple[str, ...]:
    """Fills `config.model` with what arrays show; returns which settings that are."""
    inferred: tuple[str, ...]
    if name in ("openphenom", "densenet"):
        module = openphenom if name == "openphenom" else densenet
        config.model = module.infer_model(arrays)
        inferred = module.INFERRED
        count, names = len(config.model.channels), said.get("channels")
        stretched = name == "densenet" and count == densenet.RGB
        if isinstance(names, tuple) and len(names) != count and not stretched:
            raise UserError(
                f"`channels` gives {len(names)} names, and the model has {count} channels; name"
                " each once, in order."
            )
    else:
        module = MODELS[name][1]
        there = theirs.read(name, known.theirs or {}, known.theirs_where)
        cutoffs = said.get("cutoffs") or there.get("cutoffs") or ()
        more = {"cutoffs": cutoffs} if name == "transformer_xl" else {}
        config.model = module.infer_model(arrays, **more)
        inferred = module.INFERRED
        if left := [n for n in arrays if "scalar_mix" in n]:
            log.warning(
                "left out: %s; that is a mixture of layers, and `embed` sums them or takes one",
                ", ".join(left),
            )
    # in Hugging Face's names shared biases stand in every layer
    unseen = {*theirs.ASKED[name], *(["untie_bias"] if name == "xlnet" else [])}
    return tuple(key for key in inferred if key not in unseen)


def _parameters(name: str, arrays: dict[str, np.ndarray], config: ConfigDict) -> Params:
    """Parameters that fit the configuration."""
    if name == "openphenom":
        params = openphenom.from_state_dict(arrays, config.model)
    else:
        params = MODELS[name][1].from_state_dict(arrays, config.model)
    if name in ("openphenom", "densenet", "xlnet") and config.model.scan_layers:
        params = vit.stack_layers(params)
    return jax.tree.map(np.asarray, params)


def _renumbered(name: str, config: ConfigDict, params: Params, given: Given) -> Params:
    """Parameters with our ids for their tokens."""
    assert given.vocabulary
    words = vocabulary(given.alphabet or "protein")
    paths = vocabulary_paths(name, config.model)
    try:
        listed = given.vocabulary.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"`vocabulary` {given.vocabulary} cannot be read ({error}). Give a text file in UTF-8"
            " with one token a line, in the order of their ids; of a SentencePiece model that is"
            " its .vocab, not its .model."
        ) from error
    params = renumber(params, paths, listed, words)
    config.model.vocab_size = len(words)
    return params
