"""From images to a map of biology, on a simulated screen whose truth is known. Start after `make
demo`: it takes that run's encoder.

  python -m phenomjax.maps demo --checkpoint runs/mae_demo --out runs/maps_demo
  python -m phenomjax.maps demo --with perturbation

Simulates eight plates that the encoder never saw, embeds them, aligns the wells on their controls,
averages them to a map, finds and removes the proximity bias, and asks whether replicates are found
among the controls, and whether the map knows the complexes and the compounds' targets that were
simulated. All of it likewise from what the encoder must beat: its untrained twin, hand-made
intensities, and cell counts and areas. Every step is a command that is printed before it runs: take
them for your own plates. Steps that are done are skipped. Writes screen.zarr, the profiles of the
four, a folder of results for each, pictures/, map.html, demo.json and demo.png.

--with perturbation sets models beside them that are trained on other plates of the same genes,
without and with the bias in these: a masked autoencoder, and one that is supervised by the names of
the knock-outs. It asks how much of the bias each of them takes up, and writes leak.json. It trains
four times, some minutes each, from configs/mae_demo.py and configs/perturbation_demo.py.
"""

import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro

from phenomjax.maps.demo import results, supervision
from phenomjax.maps.demo.results import Kind
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, UserError
from phenomjax.system.files import save_figure, write_json, write_text

log = logging.getLogger("phenomjax")

# folder of the results: what it is
FEATURES = {
    "embeddings": Kind("learned embeddings", "embeddings.zarr", 96, learned=True),  # of 128
    "untrained": Kind("untrained twin", "untrained.zarr", 96),
    "intensity": Kind("intensities", "intensity.parquet"),
    "structure": Kind("counts and areas", "structure.parquet"),
}
BASELINES = ("untrained", "intensity", "structure")
SCREEN: dict[str, int | float] = {
    "--plates": 8,
    "--wells": 192,
    "--field-px": 256,
    "--cell-radius": 22,
    "--num-complexes": 20,
    "--genes-per-complex": 4,
    "--num-single-genes": 160,
    "--inactive-fraction": 0.9,
    "--num-compounds": 12,
    "--num-doses": 4,
    "--num-arms": 4,
    "--arm-bias": 2,
    "--staining-variation": 0.2,
}
# µM: below it a compound does little
EFFECTIVE = 'perturbation_type == "crispr" or concentration >= 1'
RELATIONSHIPS = Path("screen.zarr/truth/relationships.parquet")
NUM_SHOWN = 4  # complexes in the heat map


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of `python -m phenomjax.maps demo`."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="DIR")] = "runs/mae_demo"
    """workdir of `make demo`"""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/maps_demo")
    """of everything that is made"""
    plates: int = int(SCREEN["--plates"])
    """of the screen: fewer are quicker, and leave fewer replicates"""
    with_: Annotated[Literal["perturbation"] | None, tyro.conf.arg(name="with")] = None
    """trains weakly supervised models and masked autoencoders on screens without and with the
    bias, and sets them beside the others"""


def run(options: Options) -> int:
    """Runs what is not done yet; returns the exit code of the first command that fails."""
    if not Path(options.checkpoint).exists():
        raise UserError(
            f"There is no trained run at {options.checkpoint}. Train the demo's encoder first with"
            " `make demo` (some minutes), or name another run with --checkpoint."
        )
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    screen = out / "screen.zarr"
    for step in steps(options):
        if step[1] == "pictures":
            choose_names(screen / "truth", out / "names.txt")
        code = run_step([str(word) for word in step])
        if code != EXIT_DONE:
            return code
    kinds = FEATURES | (supervision.FEATURES if options.with_ else {})
    result = results.read_results(out, kinds)
    write_json(out / "demo.json", result)
    figure = save_figure(results.draw(result, kinds), out / "demo.png")
    log.info("\n%s\n", results.table(result, kinds))
    for said in results.verdicts(out):
        log.info("%s", said)
    if options.with_:
        leak = supervision.measure(out)
        write_json(out / "leak.json", leak)
        log.info("%s", supervision.sentence(leak))
    for path in (out / "demo.json", figure, out / "pictures"):
        ending.wrote(path)
    ending.wrote(out / "map.html", "open it in a browser")
    return EXIT_DONE


def steps(options: Options) -> list[list[object]]:
    """The words of every command, in the order in which they run."""
    out = options.out
    screen, genes = out / "screen.zarr", out / "screen.zarr/truth/genes.parquet"
    files = {kind: out / one.profiles for kind, one in FEATURES.items()}
    settings = SCREEN | {"--plates": options.plates}
    embed = ["phenomjax.embed", "--checkpoint", options.checkpoint, "--bank", screen]
    embed += ["--stride", 32, "--out"]
    commands: list[list[object]] = [
        ["phenomjax.prepare", "simulate", "--out", screen, *chain(*settings.items())],
        [*embed, files["embeddings"]],
        [*embed, files["untrained"], "--random_weights", 0],
        ["phenomjax.maps", "intensity", "--bank", screen, "--out", files["intensity"]],
        ["phenomjax.maps", "structure", "--bank", screen, "--out", files["structure"]],
    ]
    for kind in BASELINES:  # what the embeddings are set beside comes first
        commands += _map_steps(out, kind, FEATURES[kind])
    commands += _map_steps(out, "embeddings", FEATURES["embeddings"], BASELINES)
    pair = [
        "--profiles",
        out / "embeddings/map.parquet",
        "--corrected",
        out / "embeddings/proximity/corrected.parquet",
    ]
    names = ["--names", f"@{out / 'names.txt'}"]
    known = ["--relationships", out / RELATIONSHIPS]
    pictures = [*pair, *names, *known, "--genes", genes, "--out", out / "pictures"]
    active = ["--profiles", out / "embeddings/wells.parquet", "--treatments", EFFECTIVE]
    active += ["--out", out / "embeddings/active"]
    page = [*pair, *names, *known, "--activity", out / "embeddings/active"]
    page += ["--wells", files["structure"], "--bank", screen, "--genes", genes]
    page += ["--out", out / "map.html"]
    commands += [
        ["phenomjax.maps", "filter", *active],
        ["phenomjax.maps", "pictures", *pictures],
        ["phenomjax.maps", "explore", *page],
    ]
    if options.with_:
        commands += supervision.steps(out, settings, int(SCREEN["--plates"]))
        twin = supervision.FEATURES[supervision.UNTRAINED]
        commands += _map_steps(out, supervision.UNTRAINED, twin)
        for kind, one in supervision.FEATURES.items():
            if one.learned:
                of = "untrained" if kind.startswith("mae") else supervision.UNTRAINED
                commands += _map_steps(out, kind, one, (of, *BASELINES[1:]))
    return commands


def _map_steps(
    out: Path, kind: str, features: Kind, baselines: Sequence[str] = ()
) -> list[list[object]]:
    """From profiles to a map, without and with the correction, and how good both are, beside
    baselines.
    """
    folder, profiles, dims = out / kind, out / features.profiles, features.dims
    wells, map_file, bias = folder / "wells.parquet", folder / "map.parquet", folder / "proximity"
    effective, unchanged = ["--treatments", EFFECTIVE], ["--align", "none"]
    genes = ["--genes", out / "screen.zarr/truth/genes.parquet"]
    known = ["--relationships", out / RELATIONSHIPS]
    known += ["--targets", out / "screen.zarr/truth/compounds.parquet", *genes]
    commands: dict[str, list[object]] = {
        "align": ["--profiles", profiles, *(["--dims", dims] if dims else []), "--out", wells],
        "benchmark": ["--profiles", wells, *effective, *unchanged, "--probe", "none", *known],
        "aggregate": ["--profiles", wells, *effective, "--doses", "together", "--out", map_file],
        "proximity": ["--profiles", map_file, *genes, "--min_unexpressed", 5, "--out", bias],
    }
    corrected = ["--profiles", bias / "corrected.parquet", "--map", *unchanged, *known]
    for state, words in (("raw", commands["benchmark"]), ("corrected", corrected)):
        if baselines:
            words += ["--against", *(f"{name}={out / name / state}" for name in baselines)]
        words += ["--out", folder / state]
    return [
        *(["phenomjax.maps", name, *words] for name, words in commands.items()),
        ["phenomjax.maps", "benchmark", *corrected],
    ]


def choose_names(truth: Path, path: Path) -> None:
    """Lists the genes of four complexes, those that compounds target first, and the compounds on
    them.
    """
    import pandas as pd

    genes = pd.read_parquet(truth / "genes.parquet").dropna(subset="complex")
    compounds = pd.read_parquet(truth / "compounds.parquet")
    targeted = genes["gene"].isin(compounds["target_gene"])
    complexes = (
        genes.assign(targeted=targeted)
        .groupby("complex", sort=False)["targeted"]
        .sum()
        .sort_values(ascending=False, kind="stable")
    )
    members = genes["gene"][genes["complex"].isin(complexes.index[:NUM_SHOWN])].tolist()
    write_text(
        path,
        "\n".join([*members, *compounds["compound"][compounds["target_gene"].isin(members)]])
        + "\n",
    )


def run_step(words: list[str]) -> int:
    """Runs one command as `python -m` would, after printing it: in this process, unless it
    trains.
    """
    from phenomjax import embed
    from phenomjax.maps.__main__ import main as maps
    from phenomjax.prepare.__main__ import main as prepare

    if words[0] == "phenomjax.maps":
        words = [*words, "--overwrite"]  # what an earlier start made
    log.info("")
    log.info("$ python -m %s", shlex.join(words))
    if words[0] == "phenomjax.main":
        return subprocess.run([sys.executable, "-m", *words]).returncode
    commands = {"phenomjax.prepare": prepare, "phenomjax.embed": embed.main, "phenomjax.maps": maps}
    return commands[words[0]](words[1:]) or EXIT_DONE
