"""python -m phenomjax.prepare curate: the images that are worth training on, chosen by their
pixels, their metadata, and by what one model or two see in them (Phenoprints: Phenom-2's data).

python -m phenomjax.prepare curate --bank b.zarr --embeddings mae.zarr wsl.zarr --out s.parquet
python -m phenomjax.prepare curate --bank a.zarr b.zarr --embeddings E --min_wells 8 --out s.parquet
python -m phenomjax.main --config configs/mae_demo.py --config.data.banks="('b.zarr',)"
    --config.data.selection=s.parquet

Gates, one after the other; the name of the one that dropped an image is its reason:

  unreadable, empty, saturated, out_of_focus, dead   by its pixels, beside the controls
  missing_metadata     no experiment, plate, well or perturbation; or no concentration, where the
                       compound has some
  ambiguous_metadata   a well whose images differ in what was done to it; the name of a negative
                       control without its mark; a perturbation of two genes
  duplicate            the same site of the same well a second time
  no_embedding         no model has seen it
  few_experiments, few_wells   of its perturbation
  not_testable         its perturbation has two wells in no experiment
  inconsistent         replicates agree no more than wells of different perturbations (--null
                       position: that lie alike), by every model: mean cosine within each
                       experiment, p-values combined over experiments by the Cauchy test, not below
                       --max_p
  control_share        a control above the share that is kept

A model that was trained to tell these very wells apart finds that their replicates agree, in part
because it was told so: as a witness it does best on experiments that it did not see, those of
data.val_groups in its training.

What is kept is consistent_NAME, by the model that says so (consistent_A+B by both),
negative_control or positive_control. OUT has a row for each image with `kept` and `reason`;
OUT_report a page, figures, and a table of all perturbations.
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Int

from phenomjax import __version__
from phenomjax.data import selections
from phenomjax.data.images.bank import ImageBank
from phenomjax.prepare import next_steps
from phenomjax.prepare.curate import controls, metadata, report
from phenomjax.prepare.curate.agreement import Agreement, agreement, blocks_of, in_one_position
from phenomjax.prepare.curate.options import EXPERIMENTS, REPORT, WELLS, Options
from phenomjax.prepare.curate.pixels import figures, gates, measure
from phenomjax.prepare.curate.verdicts import Verdicts, spread
from phenomjax.prepare.curate.wells import NONE, Wells, read_wells, repeated
from phenomjax.prepare.curate.witnesses import Witness, open_witnesses
from phenomjax.prepare.opening import open_banks, writing
from phenomjax.prepare.subsets import choosing
from phenomjax.prepare.subsets import command as subset
from phenomjax.statistics.consistency import Null
from phenomjax.system import ending
from phenomjax.system import options as system_options
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.processes import stop_on_signals

log = logging.getLogger("phenomjax")
__all__ = ["Options", "run"]
ALIKE = 0.5  # share of perturbations that lie in one position, from which on it is told
MENDS = {  # of gates that may drop all perturbations
    "unreadable": "to prepare the banks again",
    "empty": "a larger --spreads if they show more than noise, or --no_pixels, which looks at none",
    "saturated": "a larger --saturated",
    "out_of_focus": "a larger --focus_spreads",
    "dead": "a larger --spreads",
    "few_experiments": "a smaller --min_experiments",
    "few_wells": "a smaller --min_wells, or --doses together, which counts those of a compound",
    "not_testable": "more replicates of more perturbations, or to leave --embeddings out",
    "inconsistent": "a larger --max_p, or the embeddings of a better model",
    "missing_metadata": "the metadata of the wells",
    "ambiguous_metadata": "to say what the wells are",
    "duplicate": "to name a bank once, or other sites",
    "no_embedding": "embeddings of these banks",
}


class _Drawn(TypedDict):
    """Of a null."""

    null: Null
    draws: int
    seed: int


def run(options: Options) -> int:
    """Curates; returns 1 where nothing but controls is kept, or an image cannot be read."""
    options.check()
    kind, opened = open_banks(options.bank, "bank")
    banks = [bank for bank in opened if isinstance(bank, ImageBank)]
    if kind != "images":
        raise UserError(
            f"`bank` {options.bank[0]} holds sequences, and curate chooses images. Parts of a bank"
            " of sequences are chosen with `python -m phenomjax.prepare subset`."
        )
    wells = read_wells(banks)
    labels = metadata.labels_of(wells, options.doses)
    missing = metadata.missing(wells, labels, options.doses)
    witnesses = open_witnesses(options.embeddings, wells, options.block)
    verdicts = Verdicts(wells, labels)
    told: dict[str, str] = {}
    folder = options.out.with_name(options.out.stem + REPORT)
    with writing(folder):
        folder.mkdir(exist_ok=True)
    if not wells.negative.any():
        told["controls"] = _without_controls(options, wells)
        log.warning("%s", told["controls"])
    looked = None
    if options.pixels:
        with writing(options.out):
            looked = _pixels(options, banks, verdicts, folder)
        if looked is None:
            return EXIT_STOPPED
    ambiguous = metadata.ambiguous(wells)
    for gate, found in (("missing_metadata", missing), ("ambiguous_metadata", ambiguous)):
        verdicts.drop_wells(np.any(list(found.values()), axis=0), gate)
        told[gate] = metadata.told(found, wells)
    verdicts.drop_images(repeated(wells), "duplicate")
    if witnesses:
        seen = np.any([witness.seen(wells) for witness in witnesses], axis=0)
        verdicts.drop_images(~seen, "no_embedding")
    before = spread(verdicts)
    told |= _counts(options, verdicts, *before)
    said = _consistency(options, witnesses, verdicts, told)
    _controls(options, verdicts)
    kept = verdicts.alive
    _reasons_of_kept(options, verdicts, said)
    made = system_options.recorded(options)
    with writing(options.out):  # last: where it is, all is
        report.write(folder, options, verdicts, before, witnesses, said, told, looked)
        _write(options, banks, verdicts, kept, made | {"phenomjax": __version__})
    code = _tell(verdicts, folder, options, banks)
    if looked and looked.counts()["unreadable"]:
        code = EXIT_FAILED
    if options.subset is not None:
        mine = [np.flatnonzero(one.kept) for one in verdicts.judged(kept)]
        code = max(code, subset.copy(options.subset, banks, mine, made, options))
    return code


def _without_controls(options: Options, wells: Wells) -> str:
    """What is done where no image is a negative control, as a sentence."""
    said = ["No image is marked as a negative control (is_control)"]
    if options.pixels:
        said.append("all images of each experiment teach the limits of the pixels")
    if positive := int(wells.positive.sum()):
        said.append(
            f"the {positive} wells of perturbation_type control count as positive ones, of which"
            f" --positive_controls {options.positive_controls:g} are kept"
        )
    mend = "If there are controls, say which with `python -m phenomjax.prepare images --metadata T`"
    return f"{'; '.join(said)}. {mend}."


def _pixels(
    options: Options, banks: Sequence[ImageBank], verdicts: Verdicts, folder: Path
) -> gates.Judged | None:
    """Measures and judges the images, and draws them; None if it was stopped."""
    controls = gates.check(options, banks)
    path = options.out.with_name(f"{options.out.stem}.measures.parquet")
    settings = measure.Settings(options.nuclei, options.min_area)
    with stop_on_signals() as stop:
        measures = measure.run(banks, path, settings, options, stop)
    if measures is None:
        return None
    judged = gates.judge(measures, banks, options)
    figures.write(folder, measures, banks, judged, controls)
    for sentence in judged.told:
        log.warning("%s", sentence)
    for code, reason in enumerate(gates.REASONS):
        if reason:
            verdicts.drop_images(judged.codes == code, reason)
    return judged


def _counts(
    options: Options,
    verdicts: Verdicts,
    experiments: Int[np.ndarray, " labels"],
    wells: Int[np.ndarray, " labels"],
) -> dict[str, str]:
    """Drops perturbations of few experiments or wells; returns how many were asked for."""
    there = wells > 0
    most, middle = (
        float(np.median(n[there])) if there.any() else 0.0 for n in (experiments, wells)
    )
    least = options.min_experiments or max(1, min(EXPERIMENTS, int(most)))
    verdicts.drop_labels(experiments < least, "few_experiments")
    few = options.min_wells or max(1, min(WELLS, int(np.ceil(middle / 2))))
    verdicts.drop_labels(wells < few, "few_wells")
    why = [f"at least {least} experiments are asked for", f"at least {few} wells are asked for"]
    if options.min_experiments is None and least < EXPERIMENTS:
        why[0] += f": {EXPERIMENTS} by default, and the middle perturbation is in {most:g}"
    if options.min_wells is None and few < WELLS:
        why[1] += f": {WELLS} by default, and the middle perturbation has {middle:g}"
    for sentence in why if there.any() else ():
        log.info("of a perturbation %s", sentence)
    return {"few_experiments": why[0], "few_wells": why[1]}


def _consistency(
    options: Options, witnesses: Sequence[Witness], verdicts: Verdicts, told: dict[str, str]
) -> dict[str, Agreement]:
    """Drops what no model finds consistent; returns what each said."""
    if not witnesses:
        log.warning("no `embeddings`: no perturbation is asked whether its replicates agree")
        return {}
    labels = verdicts.labels
    wells, alive = verdicts.wells, verdicts.alive
    blocks = blocks_of(wells, verdicts.alive_wells & ((labels.of_well != NONE) | wells.negative))
    drawn: _Drawn = {"null": options.null, "draws": options.draws, "seed": options.seed}
    said = {one.name: agreement(one, labels, blocks, alive, **drawn) for one in witnesses}
    if options.null == "random" and (share := in_one_position(labels, blocks)) > ALIKE:
        told["consistency"] = (
            f"{share:.0%} of the perturbations lie in the same position of all plates of an"
            " experiment, and what is common to a position looks like agreement: --null position"
            " compares with wells that lie alike"
        )
        log.warning("%s", told["consistency"])
    if (gone := int((~alive).sum())) and not all(one.by_image for one in witnesses):
        told["embeddings"] = (
            f"of wells: images that were dropped ({gone}) took part in them; with"
            " `python -m phenomjax.embed --level site` they do not"
        )
        log.warning("embeddings %s", told["embeddings"])
    asked = np.any([~np.isnan(one.p) for one in said.values()], axis=0)
    verdicts.drop_labels(~asked, "not_testable")
    verdicts.drop_labels(
        ~np.any([one.passes(options.max_p) for one in said.values()], 0), "inconsistent"
    )
    return said


def _controls(options: Options, verdicts: Verdicts) -> None:
    wells, alive = verdicts.wells, verdicts.alive_wells
    kinds = (
        (wells.negative, options.negative_controls),
        (wells.positive, options.positive_controls),
    )
    above = np.zeros(len(wells), bool)
    for mask, share in kinds:
        mine = mask & alive
        above |= mine & ~controls.kept(wells, mine, share, options.seed)
    verdicts.drop_wells(above, "control_share")


def _reasons_of_kept(options: Options, verdicts: Verdicts, said: dict[str, Agreement]) -> None:
    wells, labels = verdicts.wells, verdicts.labels
    verdicts.keep(wells.negative, "negative_control")
    verdicts.keep(wells.positive, "positive_control")
    if not said:
        verdicts.keep(labels.of_well != NONE, "not_tested")
        return
    each = np.stack([one.passes(options.max_p) for one in said.values()])
    for pattern in np.unique(each, axis=1).T:
        same = (each == pattern[:, None]).all(0)
        names = "+".join(name for name, yes in zip(said, pattern, strict=True) if yes)
        if names:
            verdicts.keep(verdicts.of_labels(same), f"consistent_{names}")


def _write(
    options: Options,
    banks: Sequence[ImageBank],
    verdicts: Verdicts,
    kept: Bool[np.ndarray, "rows"],
    made: dict[str, Any],
) -> None:
    rows = [np.arange(len(bank)) for bank in banks]
    names = (
        table
        for bank, mine in zip(banks, rows, strict=True)
        for table in choosing.names_of("images", bank, mine)
    )
    selections.write(
        options.out,
        "images",
        list(zip(banks, rows, strict=True)),
        names,
        made,
        verdicts.judged(kept),
    )


def _tell(verdicts: Verdicts, folder: Path, options: Options, banks: Sequence[ImageBank]) -> int:
    """What is kept, on the screen; 1 where that is no perturbation."""
    print(report.funnel(verdicts))
    ending.wrote(options.out, "what is kept")
    ending.wrote(folder, "a reason for each image, and figures")
    ending.note(gates=[gate._asdict() for gate in verdicts.gates])
    if verdicts.gates[-1].perturbations:
        next_steps.train(banks, options.out)
        return EXIT_DONE
    if not verdicts.gates[0].perturbations:
        log.error(
            "All images of the banks are of controls or have no name: there is no perturbation"
        )
        return EXIT_FAILED
    lost = {
        after.gate: before.perturbations - after.perturbations
        for before, after in itertools.pairwise(verdicts.gates)
    }
    worst = max(lost, key=lambda gate: lost[gate])
    log.error(
        "No perturbation is kept: %d of %d were dropped as %s. Look at %s; what helps is %s.",
        *(lost[worst], verdicts.gates[0].perturbations, worst, folder),
        MENDS[worst],
    )
    return EXIT_FAILED
