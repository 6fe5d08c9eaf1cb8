"""The report of an evaluation of perturbations: the table on the screen, report.md, report.html,
report.json and report.png, as pure functions of the scores.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenomjax.figures import style
from phenomjax.figures.pages.report import page as in_browser
from phenomjax.probes.perturbations.published import PUBLISHED, Published
from phenomjax.probes.perturbations.scores import ENOUGH, Difference, Score
from phenomjax.probes.reports.text import table
from phenomjax.probes.reports.write import plain
from phenomjax.statistics.comparison import finite
from phenomjax.system import files
from phenomjax.system.log import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLITS = {
    "val": "validation, unseen experiments",
    "id_test": "in-distribution test, images of seen experiments",
    "test": "out-of-distribution test, unseen experiments",
    "all": "all images of banks that were named as unseen",
    "unseen": "all unseen experiments, those of the validation too",
}
STATISTICS = {
    "running": "running: those of training, nothing is fitted to the images that are judged",
    "experiment": "experiment (AdaBN): moments over all images of each experiment, without labels",
    "controls": (
        "controls (control-stabilised): moments of each experiment's controls and of its other"
        " images, with the weights of training or as --control_weight says"
    ),
}
FEW_SEEDS = 3
FORMAT, VERSION = "phenomjax perturbations", 1


@dataclass(frozen=True)
class EvaluatedRun:
    """A run of the report.

    Attributes:
      name, model: of the run, and of its configuration.
      path, step, fingerprint, seed: of its checkpoint.
      classes: how many perturbations it tells apart.
      protocol: its `data.protocol`.
      group: {column: value} of the rows that it was trained on alone.
    """

    name: str
    model: str
    path: str
    step: int
    fingerprint: str
    seed: int
    classes: int
    protocol: str
    group: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
      command: that makes it again.
      runs: that were evaluated.
      scores: of `scores.score_all`.
      statistics: of `scores.between_statistics`.
      separate: of `scores.separate_models`.
      commonest: {split: share of the images that are of training's commonest class}.
      notes: what a reader must know besides.
    """

    command: str
    runs: list[EvaluatedRun]
    scores: list[Score]
    statistics: list[Difference] = field(default_factory=list)
    separate: list[Difference] = field(default_factory=list)
    commonest: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def splits(self) -> list[str]:
        """That have scores, in the order of `SPLITS`."""
        there = {one.split for one in self.scores}
        return [name for name in SPLITS if name in there]

    @property
    def published(self) -> list[Published]:
        """Rows of others on the official splits of these runs."""
        protocols = dict.fromkeys(run.protocol for run in self.runs)
        return [row for name in protocols for row in PUBLISHED.get(name, ())]


def write(out: Path, report: Report) -> list[Path]:
    """Writes report.json, report.md, report.html (the same for a browser, with its figure inside)
    and report.png below `out`, each whole or not at all; returns their paths.
    """
    text, figure = page(report), files.save_figure(draw(report), out / "report.png")
    models = counted(len({run.model for run in report.runs}), "model")
    summary = f"{models}, {counted(len(report.runs), 'run')}"
    return [
        files.write_json(out / "report.json", as_json(report)),
        files.write_text(out / "report.md", text),
        files.write_text(out / "report.html", in_browser(text, out, summary)),
        figure,
    ]


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON has it; shares are of 1, and what has no number is null."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "command": report.command,
        "runs": [asdict(run) for run in report.runs],
        "chance": {run.model: 1 / run.classes for run in report.runs},
        "commonest_class": report.commonest,
        "scores": [asdict(one) for one in report.scores],
        "statistics_against_running": [asdict(one) for one in report.statistics],
        "separate_against_joint": [asdict(one) for one in report.separate],
        "published": [asdict(row) for row in report.published],
        "notes": report.notes,
    }
    return {key: plain(value) for key, value in content.items()}


# Tables: a header and rows of cells.
Table = tuple[list[str], list[list[str]]]


def accuracies(report: Report, top: int = 1) -> Table:
    """Top-1 (or top-5) accuracies in %, a row a model and kind of statistics, a column a split."""
    splits = report.splits
    header = ["model", "statistics", *splits]
    rows = []
    for model, twin, kind in dict.fromkeys((s.model, s.twin, s.statistics) for s in report.scores):
        of_split = {
            s.split: s
            for s in report.scores
            if (s.model, s.twin, s.statistics, s.cell_type) == (model, twin, kind, "")
        }
        name = f"{model}, untrained twin" if twin else model
        cells = [
            _score_text(of_split[split], top) if split in of_split else "-" for split in splits
        ]
        rows.append([name, kind, *cells])
    for classes in dict.fromkeys(run.classes for run in report.runs):
        rows.append(
            [
                f"chance, {classes} classes",
                "",
                *[f"{100 * min(top / classes, 1):.1f}"] * len(splits),
            ]
        )
    if top == 1:
        if report.commonest:
            shares = [report.commonest.get(split) for split in splits]
            rows.append(["always the commonest class", "", *map(_percent, shares)])
        for row in report.published:
            marks = ["published"] + ["not standard"] * (not row.standard)
            marks += ["unverified"] * (not row.verified)
            cells = [_mean_sd(*row.accuracy.get(split, (None, None))) for split in splits]
            rows.append([f"{row.method} ({row.source})", ", ".join(marks), *cells])
    return header, rows


def by_cell_type(report: Report) -> Table:
    """Top-1 and top-5 accuracies by cell type, a row a model, kind of statistics, split and type;
    no rows where there is one type.
    """
    header = [
        "model",
        "statistics",
        "split",
        "cell type",
        "images",
        "experiments",
        "top 1",
        "top 5",
    ]
    rows = [
        [
            f"{s.model}, untrained twin" if s.twin else s.model,
            s.statistics,
            s.split,
            s.cell_type,
            str(s.images),
            str(s.experiments),
            _score_text(s),
            _score_text(s, 5),
        ]
        for s in report.scores
        if s.cell_type
    ]
    return header, rows


def compared(differences: Sequence[Difference]) -> Table:
    """Differences in points of top-1 accuracy."""
    header = ["split", "of", "model", "top 1", "beside", "top 1", "difference", "images"]
    header.append("experiments")
    rows = []
    for d in differences:
        points = f"{100 * d.difference:+.1f}"
        if d.interval:
            points += f" [{100 * d.interval[0]:+.1f}, {100 * d.interval[1]:+.1f}]"
        points += f", {d.outcome}" if d.outcome else ""
        one, other = _percent(d.one_top1), _percent(d.other_top1)
        of, images = d.cell_type or "all", [str(d.images), str(d.experiments)]
        rows.append([d.split, of, d.one, one, d.other, other, points, *images])
    return header, rows


def remarks(report: Report) -> list[str]:
    """What the numbers are of, and what they are not, in sentences."""
    found = list(report.notes)
    for split in report.splits:
        first = next(s for s in report.scores if s.split == split and not s.cell_type)
        text = f"{split}: {first.images} images of {first.experiments} experiments"
        if first.unknown:
            text += (
                f"; {first.unknown} more are of perturbations that training did not have, and are"
                " not scored"
            )
        if first.experiments < ENOUGH:
            text += "; intervals of so few are too narrow, so nothing is said to beat"
        found.append(f"{text} ({SPLITS[split]}).")
    used = dict.fromkeys(s.statistics for s in report.scores)
    found += [f"Statistics {STATISTICS[kind]}." for kind in used]
    seeds = {s.model: s.runs for s in report.scores if not s.twin}
    if any(count < FEW_SEEDS for count in seeds.values()):
        few = ", ".join(f"{name} ({n})" for name, n in seeds.items() if n < FEW_SEEDS)
        found.append(
            f"Fewer than {FEW_SEEDS} seeds: {few}. What another training would change is not in"
            " the intervals."
        )
    if any(run.protocol == "rxrx1_wilds" for run in report.runs):
        found.append(
            "By the rules of the WILDS leaderboard only running statistics are standard; those of"
            " the test's experiments make a result non-standard."
        )
    if any(s.twin for s in report.scores):
        found.append(
            "The untrained twin is the same network with random parameters; each image gets the"
            " perturbation whose training images have the nearest mean, by cosine."
        )
    return found


def screen(report: Report) -> str:
    """What the command prints."""
    parts = ["top-1 accuracy in %, mean ± sd over seeds [95 % interval over experiments]"]
    parts.append(_aligned(accuracies(report)))
    for title, found in _more(report):
        parts += ["", title, _aligned(found)]
    return "\n".join([*parts, "", *remarks(report)])


def page(report: Report) -> str:
    """report.md."""
    parts = [
        f"# Perturbations told apart by {', '.join(dict.fromkeys(r.model for r in report.runs))}",
        "\n".join(f"- {line}" for line in remarks(report)),
        "Accuracies in %: mean ± standard deviation over seeds [95 % interval, by bootstrap over"
        " experiments].",
        "## Top 1",
        table(*accuracies(report)),
        "## Top 5",
        table(*accuracies(report, 5)),
    ]
    for title, found in _more(report):
        parts += [f"## {title[0].upper()}{title[1:]}", table(*found)]
    parts += ["![accuracy by split and statistics](report.png)", "## Runs"]
    header = ["run", "model", "seed", "step", "classes", "checkpoint"]
    rows = [
        [r.name, r.model, str(r.seed), str(r.step), str(r.classes), r.path] for r in report.runs
    ]
    parts += [table(header, rows), f"Made by\n\n    {report.command}\n"]
    return "\n\n".join(parts)


def _more(report: Report) -> list[tuple[str, Table]]:
    """The tables that not every report has."""
    tables = [
        ("statistics of the judged experiments beside running ones", compared(report.statistics)),
        ("separate models beside one over all", compared(report.separate)),
        ("by cell type", by_cell_type(report)),
    ]
    return [(title, found) for title, found in tables if found[1]]


def draw(report: Report) -> "Figure":
    """Top-1 accuracies as points with their intervals: a panel a split, a row a model, a colour a
    kind of statistics; lines at chance and at the best verified published row.
    """
    from matplotlib.figure import Figure

    whole = [s for s in report.scores if not s.cell_type]
    names = list(dict.fromkeys((s.model, s.twin) for s in whole))
    kinds = list(dict.fromkeys(s.statistics for s in whole))
    splits = report.splits
    figure = Figure(
        (2.2 + 2.9 * len(splits), 1.6 + 0.3 * len(names) * len(kinds)), layout="constrained"
    )
    for axis, split in zip(
        figure.subplots(1, len(splits), sharey=True, squeeze=False)[0], splits, strict=True
    ):
        for s in whole:
            if s.split != split:
                continue
            y = names.index((s.model, s.twin)) + 0.8 * (kinds.index(s.statistics) + 0.5) / len(
                kinds
            )
            colour = style.COLOURS[kinds.index(s.statistics) % len(style.COLOURS)]
            if s.top1_interval:
                ends = [100 * end for end in s.top1_interval]
                axis.plot(ends, [y, y], color=colour, linewidth=1.5)
            by_run = [100 * one for one in s.top1_by_run.values()]
            if len(by_run) > 1:
                axis.plot(by_run, [y] * len(by_run), "|", color=colour, markersize=7)
            axis.plot(100 * s.top1, y, "o", color=colour, markersize=5, label=s.statistics)
        chance = 100 / max(run.classes for run in report.runs)
        axis.axvline(
            chance, color=style.GREY, linewidth=1, linestyle="--", zorder=0, label="chance"
        )
        best = max(
            (
                row.accuracy[split][0]
                for row in report.published
                if split in row.accuracy and row.verified
            ),
            default=None,
        )
        if best is not None:
            axis.axvline(
                100 * best, color=style.DARK, linewidth=1, linestyle=":", label="published"
            )
        axis.set_title(split, **style.HEADING)
        axis.set_xlabel("top-1 accuracy, %")
        axis.set_xlim(left=0)
        style.open_frame(axis)
    first = figure.axes[0]
    labels = [f"{model},\nuntrained twin" if twin else model for model, twin in names]
    first.set_yticks([i + 0.4 for i in range(len(names))], labels)
    first.set_ylim(len(names), 0)
    known = {
        label: mark
        for axis in figure.axes
        for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        known.values(), known.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8
    )
    return figure


def _score_text(score: Score, top: int = 1) -> str:
    """19.4 ± 0.2 [18.1, 20.3]"""
    value, sd, interval = (getattr(score, f"top{top}{part}") for part in ("", "_sd", "_interval"))
    text = _mean_sd(value, sd)
    return f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else text


def _mean_sd(value: float | None, sd: float | None) -> str:
    return _percent(value) + (f" ± {100 * sd:.1f}" if finite(sd) else "")


def _percent(value: float | None) -> str:
    return f"{100 * value:.1f}" if finite(value) else "-"


def _aligned(table: Table) -> str:
    header, rows = table
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    )
