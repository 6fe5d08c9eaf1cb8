"""Block search: which encoder block separates perturbations best, by a linear probe on batches held
out.

  python -m phenomjax.maps blocks --checkpoint runs/phenom --bank plates.zarr --out blocks/
  python -m phenomjax.maps blocks --profiles E.zarr --out blocks/

The first embeds all blocks before, into blocks/embeddings.zarr. E.zarr of the second has several:
`python -m phenomjax.embed images --block 3 6 9 12`.

Each block's embeddings are aligned in the same way and probed (linear_probe.py: balanced accuracy
over perturbations, batches held out). Writes blocks.json ({"best", "blocks": {"3": {"value",
"interval", "count", …}}}), blocks.png (the curve with its 95 % intervals; bootstrap over
perturbations). Probe and map recall rank blocks alike (Spearman .97 in ViTally Consistent), and the
best block is seldom the last.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from phenomjax.data.embeddings import stored_blocks
from phenomjax.figures.style import COLOURS, chance_line, open_frame
from phenomjax.maps.benchmark.entries import probe_entry
from phenomjax.maps.benchmark.measures import Entry
from phenomjax.maps.build import aggregate
from phenomjax.maps.build.align import AlignmentOptions, Method, align_as_told
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.options import Folder, Tables
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import save_figure, write_json
from phenomjax.system.log import Progress
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Options(AlignmentOptions, Overwrite):
    """Of `python -m phenomjax.maps blocks`."""

    MAKES: ClassVar[tuple[str, ...]] = ("blocks.json",)

    profiles: Tables = ()
    """an E.zarr with several blocks"""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """instead of --profiles: the run whose blocks are searched, and"""
    bank: Annotated[str | None, tyro.conf.arg(metavar="BANK")] = None
    """the images that are embedded with each of them"""
    align: Method = "center_scale"
    """how batches are aligned"""
    probe: Literal["auto", "logistic", "ridge"] = "auto"
    """classifier"""
    out: Folder
    """of the results"""


def run(options: Options) -> int:
    """Probes each block, writes the curve."""
    if bool(options.profiles) == bool(options.checkpoint and options.bank):
        raise UserError(
            "Give either `profiles` E.zarr, which holds several blocks, or `checkpoint` DIR and"
            " `bank` B.zarr to embed them here."
        )
    if options.checkpoint and options.bank:
        embedded = embed_all(options.checkpoint, options.bank, Path(options.out))
        options = replace(options, profiles=(str(embedded),))
    path = Path(options.profiles[0])
    there = [block for block in (stored_blocks(path) if path.is_dir() else []) if block is not None]
    if len(options.profiles) > 1 or len(there) < 2 or options.block is not None:
        raise UserError(
            f"A block search compares the blocks of one embeddings folder, and {path} holds"
            f" {there or 'one, or none'}. Embed several at once: python -m phenomjax.embed"
            " --checkpoint DIR --bank B.zarr --block 3 6 9 12 --out E.zarr; and leave `block` out"
            " here."
        )
    results: dict[str, Entry] = {}
    progress = Progress("blocks", len(there), "blocks")
    for block in there:
        profiles, columns = load(replace(options, block=block))
        profiles = aggregate.wells_of(profiles, columns)
        wells = aggregate.chosen(align_as_told(profiles, columns, options, options.align), columns)
        found = probe_entry(wells, aggregate.labels_of(wells, columns), columns, options.probe)
        if found is None:
            raise UserError(
                "Fewer than 2 perturbations are in at least 2 batches, so that none can be held"
                " out. Embed more plates, or name finer batches with `batch` (now"
                f" {','.join(columns.batch)})."
            )
        results[str(block)] = found
        progress.update()
    best = max(results, key=lambda name: results[name]["value"])
    out = Path(options.out)
    write_json(out / "blocks.json", {"best": int(best), "blocks": results, "align": options.align})
    save_figure(draw(results), out / "blocks.png")
    print("balanced accuracy over perturbations, of batches held out (95 % interval)")
    for name, one in results.items():
        low, high = one["interval"]
        print(
            f"block {name:>3}  {one['value']:.3f}  ({low:.3f} to"
            f" {high:.3f}){'  best' if name == best else ''}"
        )
    log.info("blocks: block %s separates %d perturbations best", best, results[best]["count"])
    ending.wrote(out / "blocks.json")
    ending.wrote(out / "blocks.png")
    ending.note(best=int(best))
    if options.checkpoint and options.bank:
        ending.then(
            "embed with it",
            "python -m phenomjax.embed images --checkpoint {} --bank {} --block {}"
            " --out embeddings.zarr",
            options.checkpoint,
            options.bank,
            best,
        )
    return 0


def embed_all(checkpoint: str, bank: str, out: Path) -> Path:
    """Embeds the wells of a bank with every block of a run; what is there already is kept."""
    from phenomjax import embed
    from phenomjax.trained import opening

    blocks = [str(block) for block in range(1, opening.load_images(checkpoint).task.num_blocks + 1)]
    path = out / "embeddings.zarr"
    out.mkdir(parents=True, exist_ok=True)
    code = embed.main(
        ["--checkpoint", checkpoint, "--bank", bank, "--block", *blocks, "--out", str(path)]
    )
    if not path.is_dir():  # stopped, which the log says
        raise SystemExit(code)
    return path


def draw(results: dict[str, Entry]) -> "Figure":
    """The curve over blocks, with intervals and chance."""
    from matplotlib.figure import Figure

    blocks = [int(block) for block in results]
    values = [one["value"] for one in results.values()]
    low, high = zip(*(one["interval"] for one in results.values()), strict=True)
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(blocks, values, marker="o", color=COLOURS[0])
    axis.fill_between(blocks, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
    chance_line(axis, next(iter(results.values()))["chance"])
    axis.set_xlabel("encoder block")
    axis.set_ylabel("balanced accuracy, held-out batches")
    axis.set_xticks(blocks)
    axis.set_ylim(0, None)
    open_frame(axis)
    return figure
