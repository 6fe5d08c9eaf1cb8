"""Turns the weights of another project into a run of ours, and a run into their weights.

python -m phenomjax.convert openphenom model.safetensors runs/openphenom
python -m phenomjax.convert transformer_xl runs/txl txl.safetensors

MODEL is openphenom (masked autoencoders), densenet, transformer_xl, xlnet or elmo. IN is weights of
another project (.safetensors, .npz, .hdf5, or a torch file of tensors) and OUT a new workdir, for
`--config.init_from`, figures and embeddings; or IN is a workdir or checkpoint of phenomjax and OUT
a file to write (.safetensors, .npz or .hdf5).

What changes an output and is in no shape (the place of norms, memory, boundary tokens, …) travels
in the file and in a config.json beside it. Of other weights it is read from their own
configuration, or asked for. Both ways the models are run and compared on a few drawn sequences or
images, and the largest difference is printed.

Exit codes: 0 done; 1 the models differ, nothing was written; 2 a mistake in the arguments or the
input.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import jax
import numpy as np
from tyro.conf import Positional, arg

from phenomjax.checkpoints import loading
from phenomjax.convert import array_files, back, compare, families
from phenomjax.convert.described import about, their_config
from phenomjax.models import parametrisation
from phenomjax.models.batch_norm import RUNNING
from phenomjax.system import ending, files
from phenomjax.system.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    UserError,
    did_you_mean,
    exit_on_user_error,
)
from phenomjax.system.options import run_command
from phenomjax.system.outputs import Overwrite, refuse

log = logging.getLogger("phenomjax")
NO_SOFTMAX = "the model has all features, and predicts nothing until it is trained"
LANGUAGE_MODELS, LAYOUTS = families.LANGUAGE_MODELS, families.LAYOUTS
# of a folder that another project publishes
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "weights.hdf5")


@dataclass(frozen=True, kw_only=True)
class Options(Overwrite):
    """Of `python -m phenomjax.convert`; behind a flag the models that read it."""

    GROUPS: ClassVar[dict[str, str]] = {"layout": "model"}
    RESULT: ClassVar[str] = ""  # a file alone is overwritten, never the workdir of a run

    model: Positional[Literal["openphenom", "densenet", "transformer_xl", "xlnet", "elmo"]]
    """which model the weights are of"""
    source: Positional[Annotated[Path, arg(metavar="IN")]]
    """weights of another project, or a folder with them; or a workdir or checkpoint"""
    target: Positional[Annotated[Path, arg(metavar="OUT")]]
    """a new workdir, or a file to write"""
    layout: str = ""
    """names to write (openphenom: openphenom; densenet: torchvision; transformer_xl: huggingface,
    kimiyoung; xlnet: huggingface, tensorflow; elmo: bilm, allennlp; nothing: the first); read ones
    tell by themselves"""
    settings: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE …")] = ()
    """what neither the arrays nor a configuration beside them says, such as norm=pre mem_len=64
    boundary=eos; the error that asks for them lists which"""
    their_config: Annotated[Path | None, arg(metavar="JSON")] = None
    """configuration of the weights; nothing: config.json, options.json or xlnet_config.json beside
    them"""
    channels: str = ""
    """openphenom, densenet: names of the channels, in order: DNA,ER,…; nothing: as recorded, or
    c0,c1,…; a DenseNet of three channels is stretched to any number"""
    decoder_heads: Annotated[int, arg(metavar="N")] = 0
    """openphenom: the shapes do not tell; 0: as recorded"""
    bias_order: Literal["", "timm_legacy", "mlp"] = ""
    """openphenom: mlp: trained with timm 1.0.25 or later; nothing: as recorded"""
    crop_size: Annotated[int, arg(metavar="PX")] = 0
    """openphenom, densenet: pixels along an edge of the images it was trained on; 0: as recorded"""
    cutoffs: str = ""
    """transformer_xl: first tokens of the clusters of an adaptive softmax: 20000,40000"""
    vocabulary: Annotated[Path | None, arg(metavar="PATH")] = None
    """transformer_xl, xlnet: a file with their tokens, one a line in the order of their ids: gives
    them our ids"""
    alphabet: Literal["", "protein", "smiles", "bytes"] = ""
    """of our tokens; nothing: as recorded, and protein for the vocabulary"""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and converts; returns the exit code."""
    prog = "python -m phenomjax.convert"
    return run_command(Options, run, prog, __doc__ or "", argv) or EXIT_DONE


def run(options: Options) -> None:
    """Converts, in the direction that the source says.

    Raises:
      UserError: a mistake in the options, or weights that do not fit; exit code 1: the models
        compute something else.
    """
    layouts = LAYOUTS[options.model]
    if options.layout and options.layout not in layouts:
        raise UserError(
            f"{options.model} has no layout '{options.layout}'."
            f"{did_you_mean(options.layout, layouts)} There are: {', '.join(layouts)}."
        )
    source = options.source
    ours = any((source / name).is_dir() for name in ("checkpoints", "params"))
    # a folder as it was downloaded, or of `export --format safetensors`
    found = [source / name for name in WEIGHTS if (source / name).is_file()]
    if source.is_dir() and not ours and not found:
        found = sorted(path for path in source.iterdir() if path.suffix in array_files.WRITERS)
        if len(found) > 1:
            raise UserError(
                f"{source} holds several files of weights: {', '.join(f.name for f in found)}. Name"
                f" one, such as {found[0]}."
            )
    source = found[0] if found and not ours else source
    (write_theirs if source.is_dir() else write_ours)(options, source)


def write_theirs(options: Options, source: Path) -> None:
    """A workdir to a file of theirs, which gets its name when the model read back from it computes
    the same.
    """
    name, target = options.model, options.target
    array_files.check_name(target)
    refuse(target, options.overwrite, name="OUT")
    if not target.absolute().parent.is_dir():
        raise UserError(f"The folder {target.absolute().parent} does not exist. Make it first.")
    config, params, step = loading.load(source)
    if config.task != families.TASKS[name]:
        raise UserError(
            f"{source} is a run of the task {config.task}, and {name} weights are of"
            f" {families.TASKS[name]}. Name the model that it was trained as, or another workdir."
        )
    # other programs know one parametrisation
    params = parametrisation.folded(params, config.model)
    config.model.update(parametrisation.plain(config.model))
    layout = options.layout or LAYOUTS[name][0]
    arrays = families.to_theirs(name, layout, config, params)
    outputs = compare.outputs(config, params)
    if name == "elmo" and layout == "allennlp":
        log.warning(
            "left out: the softmax, for which allennlp's names have no place; %s", NO_SOFTMAX
        )
        outputs.pop("log-likelihoods")
    said = about.describe(config, step, layout, arrays, outputs)
    with files.replacing(target) as partial:
        array_files.write_as(target.suffix, partial, arrays, said)
        back_again = back.convert(name, partial, back.Given(), aloud=False)
        if wrong := compare.differing(config, back_again.config):
            raise UserError(
                f"{target} would not come back as the same model: {'; '.join(wrong)}. Nothing was"
                " written; please report this.",
                EXIT_FAILED,
            )
    beside = about.write_beside(target, said, their_config.write(name, layout, config.model))
    millions = sum(x.size for x in arrays.values()) / 1e6
    ending.wrote(
        target,
        f"{len(arrays)} arrays, {millions:.1f} M numbers, of step {step}, and its settings in the"
        f" file and in {beside.name}",
    )
    if unsaid := their_config.unsaid(name, config.model):
        log.info("their programs do not know, and %s says: %s", beside.name, "; ".join(unsaid))
    log.info("read back, %s", back_again.proof)
    ending.then(
        "as a workdir again",
        "python -m phenomjax.convert {} {} {}",
        name,
        target,
        target.with_suffix(""),
    )


def write_ours(options: Options, source: Path) -> None:
    """A file of theirs to a workdir."""
    target = options.target
    if target.is_file() or target.suffix in array_files.WRITERS:
        raise UserError(
            f"{source} is a file of weights, and they become a workdir, a new folder: {target}"
            " is, or is called like, a file. Give the name of a folder."
        )
    words = [
        f"{key}={value}"
        for key, value in (
            ("decoder_num_heads", options.decoder_heads),
            ("bias_order", options.bias_order),
            ("crop_size", options.crop_size),
        )
        if value
        and (options.model == "openphenom" or (options.model == "densenet" and key == "crop_size"))
    ]
    given = back.Given(
        (*options.settings, *words),
        options.channels,
        options.cutoffs,
        options.vocabulary,
        options.alphabet,
        options.their_config,
    )
    made = back.convert(options.model, source, given)
    params, shared = dict(made.params), {}
    if RUNNING in params:
        shared[RUNNING] = params.pop(RUNNING)
    folder = loading.write(target, made.config, params, shared)
    _, stored, _ = loading.load(target)
    jax.tree.map(_same, stored, made.params)
    millions = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    ending.wrote(
        folder,
        f"{millions:.2f} M parameters; begin a run from it with --config.init_from={target}",
    )
    if options.model == "elmo" and not made.params["softmax"]["kernel"].any():
        log.warning("the file has no softmax: %s", NO_SOFTMAX)
    log.info("%s", made.proof)
    images = options.model in ("openphenom", "densenet")
    ending.then(
        "embed with it",
        "python -m phenomjax.embed images --checkpoint {} --bank plates.zarr --out embeddings.zarr"
        if images
        else "python -m phenomjax.embed sequences --checkpoint {} --source p.fasta --out p.zarr",
        target,
    )


def _same(stored: np.ndarray, made: np.ndarray) -> None:
    if not np.array_equal(stored, made):
        raise UserError(
            "The checkpoint does not hold what was written to it. Is the disk full, or failing?",
            EXIT_FAILED,
        )


if __name__ == "__main__":
    exit_on_user_error(main)
