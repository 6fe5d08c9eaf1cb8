"""Block search: which encoder block separates perturbations best, by a linear probe on batches held
out.

  python -m phenomjax.maps blocks --checkpoint DIR --bank B.zarr --out blocks/    embeds all blocks first, into blocks/embeddings.zarr
  python -m phenomjax.maps blocks --profiles E.zarr --out blocks/                 E.zarr has several blocks: phenomjax.embed --block 3 6 9 12

Each block's embeddings are aligned in the same way and probed (probe.py: balanced accuracy over
perturbations, batches held out). Writes blocks.json ({"best", "blocks": {"3": {"value", "interval",
"count", …}}}), blocks.png (the curve with its 95 % intervals; bootstrap over perturbations). Probe
and map recall rank blocks alike (Spearman .97 in ViTally Consistent), and the best block is seldom
the last.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from phenomjax.maps.benchmark import measures
from phenomjax.maps.benchmark.linear_probe import probe
from phenomjax.maps.build import aggregate
from phenomjax.maps.build.align import align_as_told, define_alignment
from phenomjax.maps.tables.input import define_input, load
from phenomjax.maps.tables.profiles import stored_blocks
from phenomjax.statistics import bootstrap
from phenomjax.system.errors import UserError
from phenomjax.system.files import save_figure, write_json
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    define_input(parser, required=False)
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="instead of --profiles: the run whose blocks are searched, and",
    )
    parser.add_argument(
        "--bank", metavar="BANK", help="the images that are embedded with each of them"
    )
    define_alignment(parser, "center_scale")
    parser.add_argument(
        "--probe",
        choices=("auto", "logistic", "ridge"),
        default="auto",
        help="classifier (%(default)s)",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Probes each block, writes the curve."""
    if bool(args.profiles) == bool(args.checkpoint and args.bank):
        raise UserError(
            "Give either --profiles E.zarr, which holds several blocks, or --checkpoint DIR and"
            " --bank B.zarr to embed them here."
        )
    if args.checkpoint:
        args.profiles = [embed_all(args.checkpoint, args.bank, Path(args.out))]
    path = Path(args.profiles[0])
    there = [block for block in (stored_blocks(path) if path.is_dir() else []) if block is not None]
    if len(args.profiles) > 1 or len(there) < 2 or args.block is not None:
        raise UserError(
            f"A block search compares the blocks of one embeddings folder, and {path} holds"
            f" {there or 'one, or none'}. Embed several at once: python -m phenomjax.embed"
            " --checkpoint DIR --bank B.zarr --block 3 6 9 12 --out E.zarr; and leave --block out"
            " here."
        )
    results: dict[str, Any] = {}
    progress = Progress("blocks", len(there), "blocks")
    for block in there:
        args.block = block
        profiles, columns = load(args)
        if columns.well in profiles.metadata.columns:
            profiles = aggregate.to_wells(profiles, columns)
        wells = aggregate.chosen(align_as_told(profiles, columns, args), columns)
        found = probe(
            wells.features,
            aggregate.labels_of(wells, columns),
            columns.batches(wells.metadata),
            args.probe,
        )
        if found is None:
            raise UserError(
                "Fewer than 2 perturbations are in at least 2 batches, so that none can be held"
                " out. Embed more plates, or name finer batches with --batch (now"
                f" {','.join(columns.batch)})."
            )
        results[str(block)] = measures.entry(
            found.balanced_accuracy,
            bootstrap.interval_of_mean(found.recall),
            len(found.classes),
            "perturbations",
            wells=found.wells,
            folds=found.folds,
            classifier=found.classifier,
            chance=1 / len(found.classes),
        )
        progress.update()
    best = max(results, key=lambda name: results[name]["value"])
    out = Path(args.out)
    write_json(out / "blocks.json", {"best": int(best), "blocks": results, "align": args.align})
    save_figure(draw(results), out / "blocks.png")
    for name, one in results.items():
        low, high = one["interval"]
        print(
            f"block {name:>3}  {one['value']:.3f}  ({low:.3f} to"
            f" {high:.3f}){'  best' if name == best else ''}"
        )
    log.info(
        "blocks: block %s separates %d perturbations best; wrote %s",
        best,
        results[best]["count"],
        out,
    )
    return 0


def embed_all(checkpoint: str, bank: str, out: Path) -> Path:
    """Embeds the wells of a bank with every block of a run; what is there already is kept."""
    from phenomjax import embed
    from phenomjax.trained import opening

    blocks = [
        str(block) for block in range(1, opening.load_images(checkpoint).config.model.depth + 1)
    ]
    path = out / "embeddings.zarr"
    out.mkdir(parents=True, exist_ok=True)
    code = embed.main(
        ["--checkpoint", checkpoint, "--bank", bank, "--block", *blocks, "--out", str(path)]
    )
    if not path.is_dir():  # stopped, which the log says
        raise SystemExit(code)
    return path


def draw(results: dict[str, Any]):  # -> matplotlib.figure.Figure
    """The curve over blocks, with intervals and chance."""
    from matplotlib.figure import Figure

    blocks = [int(block) for block in results]
    values = [one["value"] for one in results.values()]
    low, high = zip(*(one["interval"] for one in results.values()), strict=True)
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(blocks, values, marker="o", color="#1f5fa8")
    axis.fill_between(blocks, low, high, color="#1f5fa8", alpha=0.18, linewidth=0)
    axis.axhline(next(iter(results.values()))["chance"], color="0.5", linestyle="--", linewidth=1)
    axis.set_xlabel("encoder block")
    axis.set_ylabel("balanced accuracy, held-out batches")
    axis.set_xticks(blocks)
    axis.set_ylim(0, None)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
