"""python -m phenomjax.convert MODEL IN OUT

IN is weights of another project (.safetensors, .npz, .hdf5, or a torch file of tensors) and OUT a
new workdir, for `--config.init_from`, figures and embeddings; or IN is a workdir or checkpoint of
phenomjax and OUT a file to write (.safetensors, .npz or .hdf5). MODEL is openphenom (masked
autoencoders), transformer_xl, xlnet or elmo. The tokens of language models keep their ids, unless
--vocabulary gives them ours.
"""

import logging
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
from ml_collections import ConfigDict
from tyro.conf import Positional, arg

from phenomjax.checkpoints import loading
from phenomjax.config import keys
from phenomjax.convert import array_files, elmo, openphenom, transformer_xl, xlnet
from phenomjax.convert.renumber import renumber
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.system.errors import EXIT_DONE, UserError, did_you_mean, exit_on_user_error
from phenomjax.system.options import run_command
from phenomjax.system.types import Params

log = logging.getLogger("phenomjax")
LANGUAGE_MODELS: dict[str, tuple[str, types.ModuleType]] = {
    "transformer_xl": ("causal_lm", transformer_xl),
    "xlnet": ("permutation_lm", xlnet),
    "elmo": ("bidirectional_lm", elmo),
}
LAYOUTS = {"openphenom": ("openphenom",)} | {
    name: tuple(m.LAYOUTS) for name, (_, m) in LANGUAGE_MODELS.items()
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of `python -m phenomjax.convert`; behind a flag the models that read it."""

    model: Positional[Literal["openphenom", "transformer_xl", "xlnet", "elmo"]]
    """which model the weights are of"""
    source: Positional[Annotated[Path, arg(metavar="IN")]]
    """weights of another project, or a workdir or checkpoint"""
    target: Positional[Annotated[Path, arg(metavar="OUT")]]
    """a new workdir, or a file to write"""
    layout: str = ""
    """names to write (openphenom: openphenom; transformer_xl: huggingface, kimiyoung; xlnet:
    huggingface, tensorflow; elmo: bilm, allennlp; nothing: the first); read ones tell by
    themselves"""
    channels: str = ""
    """openphenom: names of the channels, in order: DNA,ER,…; nothing: c0,c1,…"""
    decoder_heads: int = 16
    """openphenom: the shapes do not tell"""
    bias_order: Literal["timm_legacy", "mlp"] = "timm_legacy"
    """openphenom: mlp: trained with timm 1.0.25 or later"""
    crop_size: int = 256
    """openphenom: pixels along an edge of the images it was trained on"""
    cutoffs: str = ""
    """transformer_xl: first tokens of the clusters of an adaptive softmax: 20000,40000"""
    vocabulary: Annotated[Path | None, arg(metavar="PATH")] = None
    """transformer_xl, xlnet: a file with their tokens, one a line in the order of their ids: gives
    them our ids"""
    alphabet: Literal["protein", "smiles", "bytes"] = "protein"
    """transformer_xl, xlnet: ours, for the vocabulary"""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and converts; returns the exit code."""
    prog = "python -m phenomjax.convert"
    return run_command(Options, run, prog, __doc__ or "", argv) or EXIT_DONE


def run(options: Options) -> None:
    """Converts, in the direction that the source says.

    Raises:
      UserError: a mistake in the options, or weights that do not fit.
    """
    layouts = LAYOUTS[options.model]
    if options.layout and options.layout not in layouts:
        raise UserError(
            f"{options.model} has no layout '{options.layout}'."
            f"{did_you_mean(options.layout, layouts)} There are: {', '.join(layouts)}."
        )
    (write_theirs if options.source.is_dir() else write_ours)(options)


def write_theirs(options: Options) -> None:
    """A workdir to a file of theirs."""
    config, params, step = loading.load(options.source)
    task = LANGUAGE_MODELS[options.model][0] if options.model in LANGUAGE_MODELS else "mae"
    if config.task != task:
        raise UserError(
            f"{options.source} is a run of the task {config.task}, and {options.model} weights are"
            f" of {task}. Name the model that it was trained as, or another workdir."
        )
    if options.model == "openphenom":
        arrays = openphenom.to_state_dict(
            params, config.model, config.data.crop_size // config.model.patch_size
        )
    else:
        module = LANGUAGE_MODELS[options.model][1]
        arrays = module.to_state_dict(
            params, config.model, options.layout or LAYOUTS[options.model][0]
        )
    array_files.write_arrays(options.target, arrays)
    numbers = sum(x.size for x in arrays.values()) / 1e6
    log.info(
        "wrote %s: %d arrays, %.1f M numbers, of step %d",
        options.target,
        len(arrays),
        numbers,
        step,
    )


def write_ours(options: Options) -> None:
    """A file of theirs to a workdir."""
    arrays = array_files.read_arrays(options.source)
    params: Params
    if options.model == "openphenom":
        config, inferred = image_config(options, arrays), openphenom.INFERRED
        params = openphenom.from_state_dict(arrays, config.model)
    else:
        inferred = LANGUAGE_MODELS[options.model][1].INFERRED
        config, params = _language_model(options, arrays)
    folder = loading.write(options.target, config, params)
    log.info(
        "the weights fit: %s",
        " ".join(f"--config.model.{key}={config.model[key]}" for key in inferred),
    )
    log.info(
        "wrote %s: %.2f M parameters; begin a run from it with --config.init_from=%s",
        folder,
        sum(x.size for x in jax.tree.leaves(params)) / 1e6,
        options.target,
    )


def _language_model(
    options: Options, arrays: Mapping[str, np.ndarray]
) -> tuple[ConfigDict, Params]:
    """The configuration of a language model that fits the arrays, and its parameters."""
    task, module = LANGUAGE_MODELS[options.model]
    config = keys.base(task)
    more: dict[str, tuple[int, ...]] = {}
    if options.cutoffs:
        more["cutoffs"] = tuple(map(int, filter(None, options.cutoffs.split(","))))
    config.model = module.infer_model(arrays, **more)
    params = module.from_state_dict(arrays, config.model)
    if options.vocabulary:
        words = vocabulary(options.alphabet)
        paths = vocabulary_paths(options.model, config.model)
        theirs = options.vocabulary.read_text().splitlines()
        params = renumber(params, paths, theirs, words)
        config.model.vocab_size, config.model.alphabet = len(words), options.alphabet
    return config, params


def vocabulary_paths(name: str, model: ConfigDict) -> tuple[str, ...]:
    """Parameters whose first axis is the vocabulary."""
    if name == "transformer_xl" and not model.cutoffs:
        return "vocabulary/bin_0_embedding", "vocabulary/bin_0_bias"
    if name == "xlnet":
        return "word_embedding/embedding", "output_bias"
    raise UserError(
        "`vocabulary` renumbers a Transformer-XL without adaptive softmax, or an XLNet; clusters"
        " keep their order, and ELMo reads letters."
    )


def image_config(options: Options, arrays: Mapping[str, np.ndarray]) -> ConfigDict:
    """The configuration of a masked autoencoder that fits the arrays."""
    config = keys.base()
    config.model = openphenom.infer_model(arrays, options.decoder_heads)
    config.model.bias_order, config.data.crop_size = options.bias_order, options.crop_size
    if options.channels:
        names = tuple(options.channels.split(","))
        if len(names) != len(config.model.channels):
            raise UserError(
                f"`channels` gives {len(names)} names, and the model has"
                f" {len(config.model.channels)} channels; name each once, in order."
            )
        config.model.channels = names
    return config


if __name__ == "__main__":
    exit_on_user_error(main)
