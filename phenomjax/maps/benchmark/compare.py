"""Which method of alignment suits these plates: each is tried, and what it does to batches and to
biology is measured as Arevalo et al. (2024) did.

  python -m phenomjax.maps compare --profiles P1.csv.gz P2.csv.gz P3.csv.gz --out compare/
  python -m phenomjax.maps compare --profiles wells.parquet --align center_scale harmony sphering \\
      --batch Metadata_Batch --out compare/

Writes compare.json (each method's measures, their means `batch` and `biology`, `overall` = 0.4
batch + 0.6 biology, and seconds) and compare.md, the table that is printed, the best first. The
measures are told in maps/benchmark/integration.py. They are of wells of perturbations with at least
two replicates; of more than 5,000 wells, of so many in whole perturbations, drawn with --seed. A
method that a table does not allow (no controls, harmonypy not installed) is named with the reason.

A batch is what --batch names, by default a plate. What all methods share, as replicates that always
lie in the same position, raises biology for all of them alike: see `position.share_p05` of the
benchmark.
"""

import logging
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro
from jaxtyping import Int, Shaped

from phenomjax.maps.benchmark.integration import MEASURES, measured, summed_up
from phenomjax.maps.build import aggregate
from phenomjax.maps.build.align import AlignmentSettings, Method, align_as_told
from phenomjax.maps.retrieval.options import RetrievalOptions
from phenomjax.maps.retrieval.phenotypes import activity, distinctiveness
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.options import Doses, Folder
from phenomjax.maps.tables.profiles import Profiles, Record
from phenomjax.statistics.cosines import unit_rows
from phenomjax.system import ending
from phenomjax.system.errors import UserError
from phenomjax.system.files import write_json, write_text
from phenomjax.system.help_pages import with_flags
from phenomjax.system.options import recorded
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

MOST_WELLS = 5000
ALL: tuple[Method, ...] = (
    "none",
    "standardize",
    "center_scale",
    "pca",
    "pca_center_scale",
    "sphering",
    "tvn",
    "harmony",
)


@dataclass(frozen=True, kw_only=True)
class Options(RetrievalOptions, AlignmentSettings, Overwrite):
    """Of `python -m phenomjax.maps compare`."""

    MAKES: ClassVar[tuple[str, ...]] = ("compare.json",)

    align: Annotated[tuple[Method, ...], tyro.conf.arg(metavar="METHOD ...")] = ALL
    """methods that are compared (python -m phenomjax.maps align --help says what each does)"""
    doses: Doses = "apart"
    """replicates share the dose too, or not"""
    seed: int = 0
    """of the draws and of k-means"""
    out: Folder
    """of the results"""


def run(options: Options) -> int:
    """Tries each method, measures and writes."""
    if not options.align:
        raise UserError("`align` is empty: name the methods that are to be compared.")
    options.check()
    profiles, columns = load(options)
    profiles = aggregate.wells_of(profiles, columns)
    under_study = np.flatnonzero(columns.treatments(profiles.metadata))
    wells = aggregate.chosen(profiles, columns)
    labels = aggregate.labels_of(wells, columns, options.doses).astype(str)
    batches = columns.batches(wells.metadata).astype(str)
    controls = np.flatnonzero(columns.controls(profiles.metadata))
    rows = drawn(labels, options.seed)
    code = [np.unique(names[rows], return_inverse=True)[1] for names in (labels, batches)]
    if len(set(labels[rows])) < 2 or len(set(batches[rows])) < 2:
        raise UserError(
            f"Methods are compared by at least 2 perturbations with replicates in 2 batches; there"
            f" are {len(set(labels[rows]))} in {len(set(batches[rows]))}. Give several plates"
            " (`profiles` A B …), and look at `perturbation` and `batch`."
        )
    found: dict[str, Record] = {}
    failed: dict[str, str] = {}
    for method in dict.fromkeys(options.align):
        started = time.monotonic()
        try:
            aligned = align_as_told(profiles, columns, options, method)
        except UserError as error:
            failed[method] = with_flags(str(error), [one.name for one in fields(options)])
            continue
        seconds = time.monotonic() - started
        some = aligned.take(under_study[rows])
        units = unit_rows(some.features)
        with_controls = aligned.take(np.union1d(under_study[rows], controls))
        answers = precisions(some, with_controls, columns, labels[rows], options)
        found[method] = summed_up({**measured(units, code[0], code[1], options.seed), **answers})
        found[method]["seconds"] = seconds
        log.info("compare: %s aligned in %.1f s and measured", method, seconds)
    if not found:
        raise UserError(f"No method can align these profiles. {next(iter(failed.values()))}")
    found = dict(sorted(found.items(), key=lambda one: -(one[1]["overall"] or 0)))
    about = {
        "settings": {name: value for name, value in recorded(options).items() if name != "out"},
        "wells": len(rows),
        "of_wells": len(wells),
        "perturbations": len(set(labels[rows])),
        "batches": len(set(batches[rows])),
        "failed": failed,
    }
    out = Path(options.out)
    write_json(out / "compare.json", {"methods": found, "about": about})
    text = as_table(found, about)
    write_text(out / "compare.md", text)
    print(text)
    ending.wrote(out / "compare.json")
    ending.wrote(out / "compare.md", "the table above")
    ending.note(overall={name: one["overall"] for name, one in found.items()})
    ending.then(
        "align by the first",
        "python -m phenomjax.maps align --align {} --profiles"
        + " {}" * len(options.profiles)
        + " --out aligned.parquet",
        next(iter(found)),
        *options.profiles,
    )
    return 0


def drawn(labels: Shaped[np.ndarray, " wells"], seed: int) -> Int[np.ndarray, " some"]:
    """Rows of the perturbations with replicates; of a random choice of these where they are more
    than `MOST_WELLS`.
    """
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(counts > 1))
    if counts[order].sum() > MOST_WELLS:
        order = order[: max(2, int((np.cumsum(counts[order]) <= MOST_WELLS).sum()))]
    return np.flatnonzero(np.isin(codes, order))


def precisions(
    wells: Profiles,
    with_controls: Profiles,
    columns: Columns,
    labels: Shaped[np.ndarray, " wells"],
    options: Options,
) -> dict[str, float | None]:
    """map_controls and map_nonrep of one alignment.

    Args:
      wells: under study; with_controls: the same and the negative controls, in the order of all.
      columns: of their metadata.
      labels: perturbations of the wells under study.
      options: rules of mAP, and the seed.
    """
    found: dict[str, float | None] = {}
    for key, question, table in (
        ("map_controls", activity, with_controls),
        ("map_nonrep", distinctiveness, wells),
    ):
        answer = question(table, columns, options, labels=labels, seed=options.seed)
        found[key] = None if answer.mean is None else float(answer.mean.value.mean())
    return found


def as_table(found: dict[str, Record], about: Record) -> str:
    """The results as a Markdown table, the best method first."""
    keys = ["overall", *(key for name, keys in MEASURES.items() for key in (name, *keys))]
    keys.append("seconds")

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    lines = [
        "| | " + " | ".join(found) + " |",
        "| --- |" + " --- |" * len(found),
        *(
            f"| {key if key in ('overall', *MEASURES) else f'- {key}'} | "
            + " | ".join(cell(one.get(key)) for one in found.values())
            + " |"
            for key in keys
        ),
        "",
        f"{about['wells']} of {about['of_wells']} wells, {about['perturbations']} perturbations,"
        f" {about['batches']} batches; overall = 0.4 batch + 0.6 biology. What is empty cannot"
        " be had of these wells (silhouette_batch: where no perturbation has two wells of a"
        " batch).",
    ]
    lines += [
        f"- left out: {', '.join(name for name, other in about['failed'].items() if other == why)}."
        f" {why}"
        for why in dict.fromkeys(about["failed"].values())
    ]
    return "\n".join(lines) + "\n"
