"""What curation did, as a page, tables and figures: how many at each gate, and what only one model
kept.

OUT_report/
  report.html, report.md    for readers: one page for a browser, with its figures inside; Markdown
  report.json               the same numbers, for programs
  perturbations.parquet     a row each: experiments, wells, p of each model, kept, reason
  gates.png                 images left behind each gate
  consistency.png           p by each model
  limits.png, sheet.png     what was measured beside its limits; images that passed and that did not
  limits.parquet            of each measure of the pixels, for each experiment and channel
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from phenomjax import __version__
from phenomjax.data import store
from phenomjax.figures.pages.report import page as in_browser
from phenomjax.figures.style import COLOURS, DARK, GREY, LIGHT, open_frame
from phenomjax.prepare.curate.agreement import Agreement
from phenomjax.prepare.curate.options import Options
from phenomjax.prepare.curate.pixels.figures import LIMITS, SHEET
from phenomjax.prepare.curate.pixels.gates import Judged as Looked
from phenomjax.prepare.curate.verdicts import Verdicts
from phenomjax.prepare.curate.wells import NONE
from phenomjax.prepare.curate.witnesses import Witness
from phenomjax.system import files
from phenomjax.system.errors import first_of
from phenomjax.system.options import recorded

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SMALLEST = 1e-6  # p that a figure shows
NAMED = 20  # perturbations that the page names


def write(
    folder: Path,
    options: Options,
    verdicts: Verdicts,
    before: tuple[Int[np.ndarray, " labels"], Int[np.ndarray, " labels"]],
    witnesses: Sequence[Witness],
    said: Mapping[str, Agreement],
    told: Mapping[str, str],
    looked: Looked | None,
) -> None:
    """Writes all of it.

    Args:
      folder: of the report.
      options: of the command.
      verdicts: of all images, with the reasons of what is kept.
      before: experiments and wells of each perturbation, when they were counted.
      witnesses: the models.
      said: by model, what it says of each perturbation.
      told: by gate, what is to be known of it.
      looked: what was found in the pixels.
    """
    import pandas as pd

    table = perturbations(verdicts, before, said)
    files.write_table(folder / "perturbations.parquet", table)
    only = {
        name: table.loc[table["reason"] == f"consistent_{name}", "perturbation"].tolist()
        for name in (said if len(said) > 1 else ())
    }
    if looked:
        limits = pd.DataFrame(looked.limits)
        files.write_table(folder / "limits.parquet", limits)
        told = {**told, "pixels": " ".join(looked.told)}
    record: dict[str, Any] = {
        "options": recorded(options),
        "phenomjax": __version__,
        "gates": [gate._asdict() for gate in verdicts.gates],
        "images": verdicts.counted(),
        "told": {gate: text for gate, text in told.items() if text},
        "models": {one.name: one.described for one in witnesses},
        "kept_by_one_model_only": only,
    }
    files.write_json(folder / "report.json", record)
    files.save_figure(gates_figure(verdicts), folder / "gates.png")
    if said:
        figure = consistency_figure(said, table, options.max_p)
        files.save_figure(figure, folder / "consistency.png")
    text = page(folder, options, verdicts, table, only, told, witnesses, looked)
    files.write_text(folder / "report.md", text)
    left = f"{verdicts.gates[-1].images:,} of {verdicts.gates[0].images:,} images are left"
    files.write_text(folder / "report.html", in_browser(text, folder, left))


def perturbations(
    verdicts: Verdicts,
    before: tuple[Int[np.ndarray, " labels"], Int[np.ndarray, " labels"]],
    said: Mapping[str, Agreement],
) -> "pd.DataFrame":
    """A row for each perturbation, by name; its reason is that of most of its images."""
    import pandas as pd

    labels, wells = verdicts.labels, verdicts.wells
    count, reasons = len(labels), len(verdicts.reasons)
    votes = np.zeros((count, reasons), np.int64)
    for start in range(0, len(wells.of_row), 2**20):
        some = slice(start, start + 2**20)
        label = labels.of_well[wells.of_row[some]]
        there = label != NONE
        cells = label[there].astype(np.int64) * reasons + verdicts.reason[some][there]
        votes += np.bincount(cells, minlength=count * reasons).reshape(count, reasons)
    # a gate that drops all that is left of a perturbation decides, whatever went before
    decisive = [
        code
        for code, name in enumerate(verdicts.reasons)
        if name.startswith("consistent_")
        or name in ("not_tested", "few_experiments", "few_wells", "not_testable", "inconsistent")
    ]
    chosen = votes.argmax(1)
    if decisive:
        among = votes[:, decisive]
        chosen = np.where(among.any(1), np.array(decisive)[among.argmax(1)], chosen)
    names = np.array(verdicts.reasons, object)[chosen]
    table = pd.DataFrame(
        {
            "perturbation": labels.perturbations,
            "perturbation_type": labels.types,
            "concentration": labels.concentrations,
            "images": votes.sum(1),
            "experiments": before[0],
            "wells": before[1],
        }
    )
    for name, one in said.items():
        table[f"p_{name}"], table[f"cosine_{name}"] = one.p, one.cosine
        table[f"experiments_{name}"] = one.experiments
    table["kept"] = [name.startswith(("consistent_", "not_tested")) for name in names]
    table["reason"] = names
    return table.sort_values(["perturbation", "perturbation_type", "concentration"]).reset_index(
        drop=True
    )


def funnel(verdicts: Verdicts) -> str:
    """How many are left behind each gate, as a table for the screen."""
    head = f"{'gate':<20}{'dropped':>12}{'images':>12}{'wells':>11}{'perturb.':>10}{'controls':>10}"
    lines = [head]
    for gate in verdicts.gates:
        if gate.dropped or gate.gate == "all":
            lines.append(
                f"{gate.gate:<20}{gate.dropped:>12,}{gate.images:>12,}{gate.wells:>11,}"
                f"{gate.perturbations:>10,}{gate.controls:>10,}"
            )
    idle = [gate.gate for gate in verdicts.gates if not gate.dropped and gate.gate != "all"]
    if idle:
        lines.append(f"nothing was dropped as {', '.join(idle)}")
    return "\n".join(lines)


def page(
    folder: Path,
    options: Options,
    verdicts: Verdicts,
    table: "pd.DataFrame",
    only: Mapping[str, Sequence[str]],
    told: Mapping[str, str],
    witnesses: Sequence[Witness],
    looked: Looked | None,
) -> str:
    """The page."""
    lines = [f"# {options.out.name}", "", f"Of {', '.join(map(store.url, options.bank))}.", ""]
    lines += ["| gate | images dropped | images left | wells | perturbations | controls (wells) |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {gate.gate} | {gate.dropped:,} | {gate.images:,} | {gate.wells:,} |"
        f" {gate.perturbations:,} | {gate.controls:,} |"
        for gate in verdicts.gates
    ]
    lines += ["", "![images left behind each gate](gates.png)", ""]
    lines += [f"- {gate}: {text}" for gate, text in told.items() if text]
    if looked:
        lines += ["", "## Pixels: limits of all experiments", "", *looked.table()]
    for picture, what in (
        (LIMITS, "measures of the pixels and their limits"),
        (SHEET, "images that passed, and some of each reason"),
    ):
        if (folder / picture).is_file():
            lines += ["", f"![{what}]({picture})"]
    if not witnesses:
        return "\n".join([*lines, "", "No model was asked whether replicates agree.", ""])
    lines += ["", f"## Do replicates agree (p below {options.max_p:g})?", ""]
    lines += ["| kept by | perturbations | images |", "| --- | ---: | ---: |"]
    counts = verdicts.counted()
    for reason in [name for name in counts if name.startswith("consistent_")]:
        number = int((table["reason"] == reason).sum())
        lines.append(f"| {reason.removeprefix('consistent_')} | {number:,} | {counts[reason]:,} |")
    lines += ["", "![p by each model](consistency.png)", ""]
    for witness in witnesses:
        made = ", ".join(f"{key} {value}" for key, value in witness.described.items())
        lines.append(f"- {witness.name}: {made}")
    for name, kept in only.items():
        if kept:
            lines.append(f"- only {name} kept {first_of(sorted(set(kept)), NAMED)}")
    lines += [
        "",
        "What a model does not see it cannot keep: a selection leans towards what these models"
        " saw. All perturbations with their p are in perturbations.parquet.",
        "",
    ]
    return "\n".join(lines)


def gates_figure(verdicts: Verdicts) -> "Figure":
    """Bars of the images that are left behind each gate."""
    from matplotlib.figure import Figure

    gates = [gate for gate in verdicts.gates if gate.dropped or gate.gate == "all"]
    figure = Figure(figsize=(7, 0.9 + 0.32 * len(gates)), layout="constrained")
    axis = figure.subplots()
    total = max(gates[0].images, 1)
    places = np.arange(len(gates))
    left = [gate.images / total for gate in gates]
    gone = [gate.dropped / total for gate in gates]
    axis.barh(places, left, color=COLOURS[0], label="left")
    axis.barh(places, gone, left=left, color=LIGHT, label="dropped here")
    for place, gate in enumerate(gates):
        text = f"{gate.images:,}" + (f"  (-{gate.dropped:,})" if gate.dropped else "")
        axis.text(1.01, place, text, va="center", fontsize=8, color=DARK)
    axis.set(xlim=(0, 1.28), xlabel="share of the images", yticks=places)
    axis.set_yticklabels([gate.gate for gate in gates])
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.invert_yaxis()
    axis.legend(loc="lower left", fontsize=8, bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    open_frame(axis)
    return figure


def consistency_figure(
    said: Mapping[str, Agreement], table: "pd.DataFrame", max_p: float
) -> "Figure":
    """p of each perturbation by both models, or its histogram by one."""
    from matplotlib.figure import Figure

    names = list(said)
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axis = figure.subplots()
    p = [np.maximum(table[f"p_{name}"].to_numpy(np.float64), SMALLEST) for name in names]
    if len(names) == 1:
        known = p[0][~np.isnan(p[0])]
        axis.hist(known, list(np.geomspace(SMALLEST, 1, 31)), color=COLOURS[0])
        axis.axvline(max_p, color=DARK, linestyle="--", linewidth=1)
        axis.set(xscale="log", xlabel=f"p by {names[0]}", ylabel="perturbations")
    else:
        known = ~np.isnan(p[0]) & ~np.isnan(p[1])
        low = [one[known] < max_p for one in p[:2]]
        kinds: list[tuple[Bool[np.ndarray, " some"], str, str]] = [
            (low[0] & low[1], COLOURS[0], "both"),
            (low[0] & ~low[1], COLOURS[1], f"only {names[0]}"),
            (~low[0] & low[1], COLOURS[2], f"only {names[1]}"),
            (~low[0] & ~low[1], GREY, "none"),
        ]
        for mask, colour, word in kinds:
            x, y = p[0][known][mask], p[1][known][mask]
            label = f"{word} ({int(mask.sum()):,})"
            axis.scatter(x, y, s=9, color=colour, label=label, rasterized=True, linewidths=0)
        axis.axvline(max_p, color=DARK, linestyle="--", linewidth=1)
        axis.axhline(max_p, color=DARK, linestyle="--", linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel=f"p by {names[0]}", ylabel=f"p by {names[1]}")
        axis.legend(fontsize=8, title="kept by", frameon=False)
    open_frame(axis)
    return figure
