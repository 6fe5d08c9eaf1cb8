"""Recall of complexes by runs of images, beside their loss and their FLOPs: each run and its
untrained twin embed one screen, and make a map of it.

  python -m phenomjax.scaling recall runs/small runs/large --out recall/

Without --screen eight plates are simulated that no run saw, with 60 complexes of genes; with it the
screen is a bank of yours, and --relationships names the known pairs. Every step is a command that
is printed before it runs; embeddings that are done are kept. Writes into OUT:

  recall.csv   one row a run: params, seen, unique, flops, loss; recall and its 95 % interval (by
               bootstrap over genes), recall_low and recall_high; untrained, untrained_low and
               untrained_high of its twin; and whether it is shown to beat that
  NAME/        the maps of each run and of its twin, and intensity/ of hand-made intensities

These draw it, and say how well the loss foretells recall in this screen (often it does not):

  python -m phenomjax.scaling figure --recall recall/ --out pictures/
  python -m phenomjax.scaling fit runs/ --metrics recall/recall.csv --out forecast/
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import tyro

from phenomjax.maps.demo.command import SCREEN, run_step
from phenomjax.maps.tables.reading import read
from phenomjax.scaling.observations import workdirs
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, UserError
from phenomjax.system.files import read_json, write_text

log = logging.getLogger("phenomjax")

TABLE = "recall.csv"
INTENSITY = "intensity"  # folder of what hand-made features reach
LARGER = {"--num-complexes": 60, "--num-single-genes": 60, "--num-compounds": 0, "--arm-bias": 0}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of `python -m phenomjax.scaling recall`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR …")]
    """workdirs of finished runs of images, in any order"""
    called: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")] = ()
    """what the runs are called, in their order; nothing: their folders' names"""
    screen: Path | None = None
    """image bank that is mapped; nothing: one that is simulated"""
    relationships: Path | None = None
    """known pairs of its genes; nothing: truth/relationships.parquet in a simulated screen"""
    stride: int = 0
    """of the crops that are embedded, in pixels; 0: side by side"""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """of the table and the maps"""


def run(options: Options) -> int:
    """Maps the screen with each run; returns the exit code of the first step that fails.

    Raises:
      UserError: a folder is no finished run of images; names that do not fit; no known pairs.
    """
    names = _names(options)
    measured = [measure(folder) for folder in options.runs]
    screen = options.screen or options.out / "screen.zarr"
    known = options.relationships or screen / "truth/relationships.parquet"
    if options.screen and not known.exists():
        raise UserError(
            f"`screen` {screen} has no truth/relationships.parquet: it is not simulated. Name the"
            " known pairs of its genes with `relationships`."
        )
    if not options.screen:
        settings = chain(*(SCREEN | LARGER).items())
        if code := _do("phenomjax.prepare", "simulate", "--out", screen, *settings):
            return code
    hand_made = options.out / INTENSITY
    profiles = hand_made / "profiles.parquet"
    if not (hand_made / "benchmark.json").exists():
        if code := _do("phenomjax.maps", "intensity", "--bank", screen, "--out", profiles):
            return code
        if code := _map(profiles, known, hand_made):
            return code
    for folder, name in zip(options.runs, names, strict=True):
        place = options.out / name
        place.mkdir(parents=True, exist_ok=True)
        embed: list[object] = ["phenomjax.embed", "--checkpoint", folder, "--bank", screen]
        embed += ["--stride", options.stride] if options.stride else []
        for kind, added in (("untrained", ["--random_weights", 0]), ("trained", [])):
            profiles = place / f"{kind}.zarr"
            against = {"untrained": place / "untrained", INTENSITY: hand_made}
            if code := _do(*embed, *added, "--out", profiles):
                return code
            if code := _map(profiles, known, place / kind, against if kind == "trained" else {}):
                return code
    table = _table(options, names, measured)
    write_text(options.out / TABLE, table.to_csv(index=False))
    log.info("\n%s\n", _told(table))
    ending.wrote(options.out / TABLE)
    command = "python -m phenomjax.scaling figure --recall {} --out pictures/"
    ending.then("draw it", command, options.out)
    return EXIT_DONE


def _names(options: Options) -> Sequence[str]:
    if not options.runs:
        raise UserError("No run was named: python -m phenomjax.scaling recall runs/a runs/b …")
    names = options.called or tuple(folder.resolve().name for folder in options.runs)
    if len(names) != len(options.runs):
        raise UserError(
            f"`called` has {len(names)} names for {len(options.runs)} runs. Give one for each, in"
            " quotes where it has a space."
        )
    twice = [name for name in names if names.count(name) > 1]
    bad = [name for name in names if name in ("", ".", "..", INTENSITY) or "/" in name]
    if twice or bad:
        raise UserError(
            f"'{(twice or bad)[0]}' cannot be what a run is called:"
            f" {'two have this name' if twice else 'a folder gets the name'}. Give each run"
            " another one with `called`."
        )
    return names


def _do(*words: object) -> int:
    return run_step([str(word) for word in words])


def _map(profiles: Path, known: Path, out: Path, against: dict[str, Path] | None = None) -> int:
    """Aligns the wells on their controls and measures recall; three quarters of the dimensions are
    kept, as in the demo of the maps.
    """
    dims = max(1, read(profiles).features.shape[1] * 3 // 4)
    wells = out / "wells.parquet"
    if code := _do(
        *("phenomjax.maps", "align", "--profiles", profiles, "--dims", dims, "--out", wells)
    ):
        return code
    beside = [f"{name}={folder}" for name, folder in (against or {}).items()]
    return _do(
        *("phenomjax.maps", "benchmark", "--profiles", wells, "--align", "none", "--probe", "none"),
        *("--relationships", known, *(["--against", *beside] if beside else []), "--out", out),
    )


def recall_of(folder: Path) -> dict[str, Any]:
    """The recall of a map, as its benchmark.json has it: value, interval, chance, against …"""
    found = read_json(folder / "benchmark.json")
    (key,) = (key for key in found if key.startswith("recall.") and "@" not in key)
    entry: dict[str, Any] = found[key]
    return entry


def measure(folder: Path) -> dict[str, float]:
    """N, D, the units that the training split has, C and the last val/loss of a run of images.

    Raises:
      UserError: it is none, or has not ended.
    """
    found = workdirs.read(folder)
    if isinstance(found, str):
        raise UserError(f"{found} Recall stands beside the loss of runs that have ended.")
    if (unit := found.size["unit"]) != "images":
        raise UserError(
            f"The run {folder} reads {unit}: recall of complexes is of models of images. Name runs"
            " of masked autoencoders, or of the perturbation task."
        )
    return found.numbers


def _table(  # type: ignore[no-untyped-def]  # pandas loads late
    options: Options, names: Sequence[str], measured: Sequence[dict[str, float]]
):
    import pandas as pd

    rows = []
    for folder, name, numbers in zip(options.runs, names, measured, strict=True):
        trained, twin = (recall_of(options.out / name / kind) for kind in ("trained", "untrained"))
        row = {"run": name, "workdir": str(folder), **numbers}
        for field, entry in (("recall", trained), ("untrained", twin)):
            low, high = entry["interval"]
            row |= {field: entry["value"], f"{field}_low": low, f"{field}_high": high}
        row["against_untrained"] = trained["against"]["untrained"]["outcome"]
        rows.append(row)
    return pd.DataFrame(rows).sort_values("flops", kind="stable")


def _told(table) -> str:  # type: ignore[no-untyped-def]
    lines = [f"{'run':24s}{'FLOPs':>10s}{'loss':>8s}{'recall (95 %)':>24s}{'untrained':>11s}"]
    for row in table.itertuples():
        interval = f"{row.recall:.3f} ({row.recall_low:.3f} to {row.recall_high:.3f})"
        lines.append(
            f"{row.run:24s}{row.flops:10.1e}{row.loss:8.4f}{interval:>24s}{row.untrained:11.3f}"
            f"  {row.against_untrained} its untrained twin"
        )
    return "\n".join(lines)
