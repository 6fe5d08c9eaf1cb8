"""Writes a trained model of images for other programs, or to publish it.

python -m phenomjax.export --checkpoint runs/mae --format onnx --out mae.onnx
python -m phenomjax.export --checkpoint runs/mae --format release --licence CC-BY-4.0 --out mae

The formats:

  onnx         NAME.onnx: raw pixels in, embeddings out, any batch size; compared with JAX in ONNX
               Runtime before it gets its name
  stablehlo    NAME.stablehlo: the same for any JAX (jax.export), without this package
  safetensors  a folder: weights under the names of OpenPhenom, timm or torchvision, config.json, a
               model card
  release      a folder to publish: weights, config, card, licence, loaders for JAX and PyTorch,
               checksums; loaded back
  tensorrt     NAME.plan: a TensorRT engine for this GPU, float16 or int8, and how much faster it is

Exit codes: 0 done; 1 the export disagrees with JAX, or the upload failed; 2 a mistake in the
arguments or the input.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from phenomjax.export import card, engine, hub, release, stablehlo, weights
from phenomjax.system import ending, files, outputs
from phenomjax.system.errors import EXIT_DONE, UserError, check_folder_of, exit_on_user_error
from phenomjax.system.options import run_command
from phenomjax.trained import opening
from phenomjax.trained.graphs import graph, onnx_file
from phenomjax.trained.model import ImageModel
from phenomjax.trained.release import LAYOUTS, WEIGHTS

log = logging.getLogger("phenomjax")
Count = Annotated[int, arg(metavar="N")]
# of `python -m phenomjax.embed images`, which run such a graph
RUNTIMES = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}


@dataclass(frozen=True, kw_only=True)
class Options(outputs.Overwrite):
    """Of `python -m phenomjax.export`; behind a flag the formats that read it."""

    GROUPS: ClassVar[dict[str, str]] = {
        "block": "graph",
        "licence": "release",
        "precision": "TensorRT",
    }

    checkpoint: Annotated[str, arg(metavar="DIR")]
    """workdir of a run (its newest checkpoint), or one of its checkpoints/STEP folders"""
    format: Literal["onnx", "stablehlo", "safetensors", "release", "tensorrt"]
    """what to write"""
    out: Path
    """its name"""
    block: Annotated[tuple[int, ...], arg(metavar="N …")] = ()
    """onnx, stablehlo, tensorrt: encoder blocks, from 1; none: the last one"""
    channelwise: bool = False
    """onnx, stablehlo, tensorrt, of a CA-MAE: one embedding a channel, side by side"""
    image_size: Annotated[int, arg(metavar="PX")] = 0
    """onnx, stablehlo, tensorrt: of a crop; 0: as in training"""
    channels: Count = 0
    """onnx, stablehlo, tensorrt, of a CA-MAE: of a crop; 0: as in training"""
    pixels: Literal["uint8", "uint16"] = "uint8"
    """onnx, stablehlo, tensorrt: type of the pixels"""
    bank: str = ""
    """onnx, stablehlo, tensorrt: whose crops are compared and calibrated with; nothing: the bank of
    the run, or drawn cells"""
    opset: int = onnx_file.OPSET
    """onnx: 18 to 23"""
    platforms: str = "cpu,cuda"
    """stablehlo: cpu, cuda, rocm, tpu; several with commas between"""
    layout: Literal["", "openphenom", "timm"] = ""
    """safetensors: nothing: the whole model; timm: the encoder of a masked autoencoder alone"""
    licence: Annotated[str, arg(aliases=("--license",))] = ""
    """safetensors, release: SPDX name, for instance CC-BY-4.0; a release needs one"""
    name: str = ""
    """safetensors, release: of the model, for its card; nothing: that of the folder"""
    push: Annotated[str, arg(metavar="OWNER/NAME")] = ""
    """also upload to the Hugging Face hub, into a private repository"""
    public: bool = False
    """make a new repository public"""
    precision: Literal["float16", "int8"] = "float16"
    """tensorrt: of the products"""
    batch_size: Count = 64
    """tensorrt: that the engine is built for"""
    calibration: Count = 128
    """tensorrt: crops for int8"""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and exports; returns the exit code."""
    return run_command(Options, run, "python -m phenomjax.export", __doc__ or "", argv) or EXIT_DONE


def run(options: Options) -> int:
    """Exports; returns the exit code.

    Raises:
      UserError: a mistake in the options, or what the format says.
    """
    check(options)
    model = opening.load_images(options.checkpoint)
    FORMATS[options.format][1](options, model)
    if options.push:
        log.info("it is at %s", hub.push(options.out, options.push, options.public))
    tell_next(options, model)
    return EXIT_DONE


def tell_next(options: Options, model: ImageModel) -> None:
    """What can be done with it; a graph is for programs of others, as its page tells."""
    if options.format == "release":
        ending.then(
            "embed with it",
            "python -m phenomjax.embed images --checkpoint {} --bank plates.zarr"
            " --out embeddings.zarr",
            options.out,
        )
    elif options.format == "safetensors" and (name := _converts(options, model)):
        ending.then(
            "as a workdir again",
            "python -m phenomjax.convert {} {} {}",
            name,
            options.out,
            f"{options.out}_run",
        )
    elif options.format in RUNTIMES:
        ending.then(
            "embed by the same runtime",
            "python -m phenomjax.embed images --checkpoint {} --bank plates.zarr --runtime {}"
            " --out embeddings.zarr",
            options.checkpoint,
            RUNTIMES[options.format],
        )


def _converts(options: Options, model: ImageModel) -> str:
    """The name under which `convert` reads the weights; "" if it does not."""
    if model.config.task == "mae":
        return "" if options.layout == "timm" else "openphenom"
    return "densenet" if model.config.model.backbone == "densenet" else ""


def check(options: Options) -> None:
    """Raises UserError for options that cannot be honoured, before anything is loaded."""
    if options.format in ("release", "safetensors"):
        outputs.check_kind(options.out, WEIGHTS)
    check_folder_of(options.out)
    suffix = FORMATS[options.format][0]
    if suffix and options.out.suffix != suffix:
        raise UserError(
            f"`out` {options.out}: `format` {options.format} writes a file NAME{suffix}, for"
            f" instance {options.out.with_suffix(suffix)}."
        )
    if options.format == "release" and not options.licence.strip():
        raise UserError(
            "`format` release needs `licence`: without one nobody may use the model. Give its SPDX"
            " name, such as CC-BY-4.0 or MIT."
        )
    if options.public and not options.push:
        raise UserError(
            "`public` says how a repository is made, and there is none: add `push` OWNER/NAME, or"
            " leave `public` out."
        )


def graph_settings(options: Options, model: ImageModel) -> graph.GraphSettings:
    """What the options say about the graph."""
    return graph.settings(
        model,
        options.block,
        options.channelwise,
        options.image_size,
        options.channels,
        options.pixels,
    )


def write_onnx(options: Options, model: ImageModel) -> None:
    """An ONNX file."""
    chosen = graph_settings(options, model)
    agreement = onnx_file.write(options.out, model, chosen, options.opset, options.bank)
    shape = ", ".join(map(str, chosen.image_shape))
    ending.wrote(
        options.out,
        f"opset {options.opset}, {onnx_file.PIXELS} [batch, {shape}] {chosen.pixels} -> embeddings"
        f" [batch, {len(chosen.blocks)}, dim]; in ONNX Runtime against JAX: {agreement}",
    )


def write_stablehlo(options: Options, model: ImageModel) -> None:
    """A function for any JAX."""
    platforms = tuple(options.platforms.split(","))
    said = stablehlo.write(
        options.out, model, graph_settings(options, model), platforms, options.bank
    )
    ending.wrote(options.out, f"for {options.platforms}; against JAX: {said}")
    ending.wrote(f"{options.out}.json", "its shapes")


def write_folder(options: Options, model: ImageModel) -> None:
    """A folder of weights, or a release; it gets its name when it is whole."""
    name = options.name or options.out.absolute().name
    if model.config.task not in LAYOUTS:
        raise UserError(
            f"`format` {options.format} has names for the weights of {' and '.join(LAYOUTS)}, and"
            f" this is a run of task '{model.config.task}'. Give `format` onnx or stablehlo."
        )
    if options.layout and model.config.task != "mae":
        raise UserError(
            f"`layout` {options.layout} has names for masked autoencoders, and this is a run of"
            f" task '{model.config.task}'. Leave it out: all of its weights are written, those of a"
            " DenseNet under torchvision's names."
        )
    layout = options.layout.replace("openphenom", "")
    with files.replacing(options.out) as partial:
        partial.mkdir()
        if options.format == "release":
            said = release.write(partial, model, name, options.licence)
        else:
            said = weights.write(partial, model, layout)
            card.write(partial / "README.md", model, name, options.licence, layout)
        files.remove(options.out)  # which is to be overwritten
    ending.wrote(
        options.out,
        f"{', '.join(files.names(options.out))}; read back, bit for bit, and run: {said}",
    )


def write_engine(options: Options, model: ImageModel) -> None:
    """An engine of TensorRT."""
    engine.write(
        options.out,
        model,
        graph_settings(options, model),
        options.precision,
        options.batch_size,
        options.calibration,
        options.bank,
    )


# name: (extension, what writes it)
FORMATS: dict[str, tuple[str, Callable[[Options, ImageModel], None]]] = {
    "onnx": (".onnx", write_onnx),
    "stablehlo": (".stablehlo", write_stablehlo),
    "safetensors": ("", write_folder),
    "release": ("", write_folder),
    "tensorrt": (".plan", write_engine),
}

if __name__ == "__main__":
    exit_on_user_error(main)
