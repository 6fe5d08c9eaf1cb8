"""python -m phenomjax.export --checkpoint DIR --format FORMAT --out OUT

onnx         NAME.onnx: raw pixels in, embeddings out, any batch size; compared with JAX in ONNX Runtime before it gets its name
stablehlo    NAME.stablehlo: the same for any JAX (jax.export), without this package
safetensors  a folder: weights under the names of OpenPhenom or timm, config.json, a model card
release      a folder to publish: weights, config, card, licence, loaders for JAX and PyTorch, checksums; loaded back
tensorrt     NAME.plan: a TensorRT engine for this GPU, float16 or int8, and how much faster it is

Exit codes: 0 done; 1 the export disagrees with JAX, or the upload failed; 2 a mistake in the
arguments or the input.
"""

import argparse
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from phenomjax.export import card, engine, hub, release, stablehlo, weights
from phenomjax.system import log as system_log
from phenomjax.system.errors import EXIT_DONE, UserError, check_folder_of, exit_on_user_error
from phenomjax.trained import opening
from phenomjax.trained.graphs import graph, onnx_file
from phenomjax.trained.model import ImageModel

log = logging.getLogger("phenomjax")
FORMATS = {
    "onnx": ".onnx",
    "stablehlo": ".stablehlo",
    "safetensors": "",
    "release": "",
    "tensorrt": ".plan",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(
        "python -m phenomjax.export",
        description=__doc__,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    add = p.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="workdir of a run (its newest checkpoint), or one of its checkpoints/STEP folders",
    )
    add("--format", required=True, choices=FORMATS)
    add("--out", required=True, type=Path, help="what to write; it must not be there yet")
    g = p.add_argument_group("onnx, stablehlo, tensorrt")
    g.add_argument(
        "--block",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="encoder blocks, from 1 (default the last one)",
    )
    g.add_argument(
        "--channelwise", action="store_true", help="CA-MAE: one embedding a channel, side by side"
    )
    g.add_argument(
        "--image_size", type=int, default=0, metavar="PX", help="of a crop (default as in training)"
    )
    g.add_argument(
        "--channels",
        type=int,
        default=0,
        metavar="N",
        help="CA-MAE: of a crop (default as in training)",
    )
    g.add_argument(
        "--pixels",
        choices=("uint8", "uint16"),
        default="uint8",
        help="type of the pixels (default uint8)",
    )
    g.add_argument(
        "--bank",
        default="",
        help=(
            "whose crops are compared and calibrated with (default: the bank of the run, or drawn"
            " cells)"
        ),
    )
    g = p.add_argument_group("onnx")
    g.add_argument(
        "--opset",
        type=int,
        default=onnx_file.OPSET,
        help=f"{onnx_file.OPSETS[0]} to {onnx_file.OPSETS[-1]} (default {onnx_file.OPSET})",
    )
    g = p.add_argument_group("stablehlo")
    g.add_argument(
        "--platforms",
        default="cpu,cuda",
        help="cpu, cuda, rocm, tpu; several with commas between (default cpu,cuda)",
    )
    g = p.add_argument_group("safetensors, release")
    g.add_argument(
        "--layout",
        choices=weights.LAYOUTS,
        default="openphenom",
        help="of safetensors: the whole model, or timm: the encoder alone",
    )
    g.add_argument(
        "--licence",
        "--license",
        default="",
        help="SPDX name, for instance CC-BY-4.0; a release needs one",
    )
    g.add_argument("--name", default="", help="of the model, for its card (default the folder)")
    g.add_argument(
        "--push",
        default="",
        metavar="OWNER/NAME",
        help="also upload to the Hugging Face hub, into a private repository",
    )
    g.add_argument("--public", action="store_true", help="make a new repository public")
    g = p.add_argument_group("tensorrt")
    g.add_argument(
        "--precision", choices=("float16", "int8"), default="float16", help="(default float16)"
    )
    g.add_argument(
        "--batch_size", type=int, default=64, help="that the engine is built for (default 64)"
    )
    g.add_argument(
        "--calibration", type=int, default=128, metavar="N", help="crops for int8 (default 128)"
    )
    return p


def main(arguments: list[str] | None = None) -> int:
    """Reads the arguments and exports.

    Raises:
      UserError: a mistake in them, or what the format says.
    """
    args = parser().parse_args(arguments)
    system_log.log_to_stderr()
    check(args)
    model = opening.load_images(args.checkpoint)
    run: dict[str, Callable[[argparse.Namespace, ImageModel], None]]
    run = {
        "onnx": write_onnx,
        "stablehlo": write_stablehlo,
        "safetensors": write_folder,
        "release": write_folder,
        "tensorrt": write_engine,
    }
    run[args.format](args, model)
    if args.push:
        log.info("it is at %s", hub.push(args.out, args.push, args.public))
    return EXIT_DONE


def check(args: argparse.Namespace) -> None:
    """Raises UserError for arguments that cannot be honoured, before anything is loaded."""
    if args.out.exists():
        raise UserError(
            f"--out {args.out} is there already. Give another name, or remove it first."
        )
    check_folder_of(args.out)
    suffix = FORMATS[args.format]
    if suffix and args.out.suffix != suffix:
        raise UserError(
            f"--out {args.out}: --format {args.format} writes a file NAME{suffix}, for instance"
            f" {args.out.with_suffix(suffix)}."
        )
    if args.format == "release" and not args.licence.strip():
        raise UserError(
            "--format release needs --licence: without one nobody may use the model. Give its SPDX"
            " name, such as CC-BY-4.0 or MIT."
        )
    if args.public and not args.push:
        raise UserError(
            "--public says how a repository is made, and there is none: add --push OWNER/NAME, or"
            " leave --public out."
        )


def chosen_settings(args: argparse.Namespace, model: ImageModel) -> graph.Settings:
    """What the flags say about the graph."""
    return graph.settings(
        model, args.block, args.channelwise, args.image_size, args.channels, args.pixels
    )


def write_onnx(args: argparse.Namespace, model: ImageModel) -> None:
    """--format onnx."""
    chosen = chosen_settings(args, model)
    agreement = onnx_file.write(args.out, model, chosen, args.opset, args.bank)
    log.info(
        "wrote %s (opset %d): %s [batch, %s] %s -> embeddings [batch, %d, dim]; in ONNX Runtime"
        " against JAX: %s",
        args.out,
        args.opset,
        onnx_file.PIXELS,
        ", ".join(map(str, chosen.image_shape)),
        chosen.pixels,
        len(chosen.blocks),
        agreement,
    )


def write_stablehlo(args: argparse.Namespace, model: ImageModel) -> None:
    """--format stablehlo."""
    chosen = chosen_settings(args, model)
    said = stablehlo.write(args.out, model, chosen, tuple(args.platforms.split(",")), args.bank)
    log.info(
        "wrote %s and %s.json (%s): against JAX: %s", args.out, args.out.name, args.platforms, said
    )


def write_folder(args: argparse.Namespace, model: ImageModel) -> None:
    """--format safetensors or release: the folder is filled under another name first."""
    partial = args.out.with_name(f"partial-{os.getpid()}-{args.out.name}")
    name = args.name or args.out.absolute().name
    try:
        partial.mkdir()
        if args.format == "release":
            release.write(partial, model, name, args.licence)
        else:
            weights.write(partial, model, args.layout)
            card.write(partial / "README.md", model, name, args.licence, args.layout)
        os.replace(partial, args.out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info(
        "wrote %s: %s; read back, bit for bit",
        args.out,
        ", ".join(sorted(path.name for path in args.out.iterdir())),
    )


def write_engine(args: argparse.Namespace, model: ImageModel) -> None:
    """--format tensorrt."""
    chosen = chosen_settings(args, model)
    engine.write(
        args.out, model, chosen, args.precision, args.batch_size, args.calibration, args.bank
    )


if __name__ == "__main__":
    exit_on_user_error(main)
