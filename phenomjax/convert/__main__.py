"""python -m phenomjax.convert MODEL IN OUT

IN is weights of another project (.safetensors, .npz, .hdf5, or a torch file of tensors) and OUT a
new workdir, for `--config.init_from`, figures and embeddings; or IN is a workdir or checkpoint of
phenomjax and OUT a file to write (.safetensors, .npz or .hdf5). MODEL is openphenom (masked
autoencoders), transformer_xl, xlnet or elmo. The tokens of language models keep their ids, unless
--vocabulary gives them ours.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from phenomjax.checkpoints import loading
from phenomjax.config import keys
from phenomjax.convert import elmo, files, openphenom, transformer_xl, xlnet
from phenomjax.convert.renumber import renumber
from phenomjax.data.sequences.vocabulary import ALPHABETS, vocabulary
from phenomjax.system import log as system_log
from phenomjax.system.errors import UserError, did_you_mean, exit_on_user_error

log = logging.getLogger("phenomjax")
LANGUAGE_MODELS: dict[str, tuple[str, Any]] = {
    "transformer_xl": ("causal_lm", transformer_xl),
    "xlnet": ("permutation_lm", xlnet),
    "elmo": ("bidirectional_lm", elmo),
}
LAYOUTS = {"openphenom": ("openphenom",)} | {
    name: tuple(m.LAYOUTS) for name, (_, m) in LANGUAGE_MODELS.items()
}


def main(arguments: list[str] | None = None) -> int:
    known = "; ".join(f"{name}: {', '.join(layouts)}" for name, layouts in LAYOUTS.items())
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m phenomjax.convert", description=__doc__, formatter_class=formatter
    )
    parser.add_argument("model", choices=LAYOUTS, help="which model the weights are of")
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT", type=Path)
    parser.add_argument(
        "--layout",
        default="",
        help=f"names to write ({known}; default the first); read ones tell by themselves",
    )
    image = parser.add_argument_group("openphenom")
    image.add_argument(
        "--channels", help="names of the channels, in order: DNA,ER,… (default c0,c1,…)"
    )
    image.add_argument(
        "--decoder-heads", type=int, default=16, help="the shapes do not tell (default 16)"
    )
    image.add_argument(
        "--bias-order",
        default="timm_legacy",
        choices=["timm_legacy", "mlp"],
        help="mlp: trained with timm 1.0.25 or later",
    )
    image.add_argument(
        "--crop-size",
        type=int,
        default=256,
        help="pixels along an edge of the images it was trained on (default 256)",
    )
    language = parser.add_argument_group("transformer_xl")
    language.add_argument(
        "--cutoffs",
        default="",
        help="first tokens of the clusters of an adaptive softmax: 20000,40000",
    )
    language = parser.add_argument_group("transformer_xl, xlnet")
    language.add_argument(
        "--vocabulary",
        type=Path,
        help="a file with their tokens, one a line in the order of their ids: gives them our ids",
    )
    language.add_argument(
        "--alphabet",
        default="protein",
        choices=ALPHABETS,
        help="ours, for --vocabulary (default protein)",
    )
    options = parser.parse_args(arguments)
    system_log.log_to_stderr()
    if options.layout and options.layout not in LAYOUTS[options.model]:
        raise UserError(
            f"{options.model} has no layout"
            f" '{options.layout}'.{did_you_mean(options.layout, LAYOUTS[options.model])} There are:"
            f" {', '.join(LAYOUTS[options.model])}."
        )
    return (write_theirs if options.source.is_dir() else write_ours)(options)


def write_theirs(options: argparse.Namespace) -> int:
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
    files.write_arrays(options.target, arrays)
    numbers = sum(x.size for x in arrays.values()) / 1e6
    log.info(
        "wrote %s: %d arrays, %.1f M numbers, of step %d",
        options.target,
        len(arrays),
        numbers,
        step,
    )
    return 0


def write_ours(options: argparse.Namespace) -> int:
    """A file of theirs to a workdir."""
    arrays = files.read_arrays(options.source)
    if options.model == "openphenom":
        config, inferred = image_config(options, arrays), openphenom.INFERRED
        params = openphenom.from_state_dict(arrays, config.model)
    else:
        task, module = LANGUAGE_MODELS[options.model]
        cutoffs = (
            {"cutoffs": tuple(map(int, filter(None, options.cutoffs.split(","))))}
            if options.cutoffs
            else {}
        )
        config, inferred = keys.base(task), module.INFERRED
        config.model = module.infer_model(arrays, **cutoffs)
        params = module.from_state_dict(arrays, config.model)
        if options.vocabulary:
            words = vocabulary(options.alphabet)
            params = renumber(
                params,
                vocabulary_paths(options.model, config.model),
                options.vocabulary.read_text().splitlines(),
                words,
            )
            config.model.vocab_size, config.model.alphabet = len(words), options.alphabet
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
    return 0


def vocabulary_paths(name: str, model: ConfigDict) -> tuple[str, ...]:
    """Parameters whose first axis is the vocabulary."""
    if name == "transformer_xl" and not model.cutoffs:
        return "vocabulary/bin_0_embedding", "vocabulary/bin_0_bias"
    if name == "xlnet":
        return "word_embedding/embedding", "output_bias"
    raise UserError(
        "--vocabulary renumbers a Transformer-XL without adaptive softmax, or an XLNet; clusters"
        " keep their order, and ELMo reads letters."
    )


def image_config(options: argparse.Namespace, arrays: dict) -> ConfigDict:
    """The configuration of a masked autoencoder that fits the arrays."""
    config = keys.base()
    config.model = openphenom.infer_model(arrays, options.decoder_heads)
    config.model.bias_order, config.data.crop_size = options.bias_order, options.crop_size
    if options.channels:
        names = tuple(options.channels.split(","))
        if len(names) != len(config.model.channels):
            raise UserError(
                f"--channels gives {len(names)} names, and the model has"
                f" {len(config.model.channels)} channels; name each once, in order."
            )
        config.model.channels = names
    return config


if __name__ == "__main__":
    exit_on_user_error(main)
