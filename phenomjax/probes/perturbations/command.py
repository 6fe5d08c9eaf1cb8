"""How well trained networks tell the perturbations of unseen batches apart: accuracies with
intervals over experiments and the spread over seeds, for each kind of batch norm statistics, beside
chance, the untrained network and what others report.

python -m phenomjax.evaluate perturbations --checkpoint runs/a_0 runs/a_1 runs/a_2 --out runs/a

Runs that differ in the seed alone are averaged; a run that was trained on one cell type (or one
type of perturbation) is set beside those that were trained on all. Prints a table and writes
report.html, report.md, report.json and report.png. All images are embedded once for each kind of
statistics, in OUT/embeddings; the command can be killed at any time and run again, and goes on
where it was.

Exit codes: 0 done; 2 a mistake in the options or the input; 75 stopped by a signal.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from phenomjax.data import store
from phenomjax.data.images import archive
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.labels.protocols import PROTOCOLS
from phenomjax.data.images.labels.screen import Screen
from phenomjax.data.images.labels.splits import ALL
from phenomjax.data.images.opening import open_banks
from phenomjax.data.selections import choose
from phenomjax.inference.images import command as embed
from phenomjax.inference.images import domains
from phenomjax.inference.images.options import Options as EmbedOptions
from phenomjax.inference.images.options import StatisticsOptions
from phenomjax.inference.options import check_least, check_one_process
from phenomjax.probes.perturbations import families, images, report, scores
from phenomjax.probes.perturbations.options import Options
from phenomjax.probes.perturbations.scores import Predictions
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, EXIT_STOPPED, UserError, did_you_mean, first_of
from phenomjax.system.help_pages import with_flags
from phenomjax.tasks.image_objective import banks_and_weights
from phenomjax.tasks.perturbation import Perturbation
from phenomjax.trained import opening
from phenomjax.trained.model import Trained

log = logging.getLogger("phenomjax")
KINDS = tuple(report.STATISTICS)


@dataclass(frozen=True)
class Asked:
    """A run, and the images that it is asked about.

    Attributes:
      name, path: of the run.
      model: that it trained.
      banks: where the images are.
      splits: rows of `images.of_split` by the split's name.
      train: likewise, what it was trained on; None where those images are not at hand.
      told: what was left out of the images, and what the numbers are not, in sentences.
    """

    name: str
    path: str
    model: Trained[Perturbation]
    banks: list[ImageBank]
    splits: dict[str, pd.DataFrame]
    train: pd.DataFrame | None
    told: list[str]


class Stopped(Exception):
    """A signal came."""


def run(options: Options, command: str) -> int:
    """Evaluates; returns the exit code.

    Args:
      options: of the command.
      command: to make the report again.

    Raises:
      UserError: a mistake in the options or the input.
    """
    if not options.checkpoint:
        raise UserError("`checkpoint` names no folder: give the workdir of a run.")
    if options.out.is_file():
        raise UserError(
            f"`out` {options.out} is a file; it must be a folder, which is made where there is"
            " none."
        )
    check_least(options, random_weights=-1, crop_size=0, batch_size=0, devices=0, threads=0)
    check_least(options, statistics_batch=0, statistics_least=1)
    domains.check_by(options.statistics_by)
    if (weight := options.control_weight) is not None:
        domains.check_weight(weight)
        if "controls" not in (options.statistics or KINDS):
            raise UserError(
                f"`control_weight` {weight:g} is for statistics of controls, which `statistics`"
                f" {' '.join(options.statistics)} leaves out. Leave one of them out."
            )
    check_one_process(options)
    _check_splits(options.split, report.SPLITS, "There are")
    names = families.run_names(options.checkpoint, options.names)
    asked = [ask(*one, options) for one in zip(names, options.checkpoint, strict=True)]
    models = families.families(
        {one.name: one.model.config for one in asked},
        {one.name: one.model.step for one in asked},
    )
    found: list[Predictions] = []
    notes = dict.fromkeys(f"{models[one.name]}: {text}" for one in asked for text in one.told)
    twins = set[str]()
    try:
        for one in asked:
            model = models[one.name]
            norms = domains.has_norms(one.model)
            kinds = options.statistics or (KINDS if norms else KINDS[:1])
            jobs = [(kind, False) for kind in kinds]
            if options.random_weights >= 0 and one.train is not None and model not in twins:
                twins.add(model)
                jobs.append(("experiment" if norms else "running", True))
            for kind, twin in jobs:
                try:
                    found += predict(one, model, kind, options, notes, twin)
                except UserError as error:
                    if kind == "running" or (options.statistics and not twin):
                        raise
                    what = f"{one.name}{', untrained' if twin else ''}"
                    told = with_flags(str(error), [field.name for field in fields(Options)])
                    notes[f"{what}: not judged by statistics '{kind}'. {told}"] = None
    except Stopped:
        log.info("stopped; the same command goes on from here")
        return EXIT_STOPPED
    made = report.Report(
        command,
        [_described(one, models[one.name]) for one in asked],
        scores.score_all(found),
        scores.between_statistics(found),
        scores.separate_models(found),
        commonest(asked[0]),
        list(notes),
    )
    paths = report.write(options.out, made)
    print(report.screen(made), flush=True)
    for path in paths:
        ending.wrote(path)
    banks = [bank.path for bank in asked[0].banks]
    places = " {}" * len(banks)
    ending.then(
        "embed with it",
        f"python -m phenomjax.embed images --checkpoint {{}} --bank{places} --out {{}}",
        asked[0].path,
        *banks,
        "embeddings.zarr" if len(banks) == 1 else "embeddings",
    )
    return EXIT_DONE


def ask(name: str, path: str, options: Options) -> Asked:
    """Opens a run and finds the images that it is asked about.

    Raises:
      UserError: it is of another task, has no head, or there is nothing to ask about.
    """
    model = opening.load_images(path, options.compute_dtype)
    if not isinstance(model.task, Perturbation):
        raise UserError(
            f"`checkpoint` {path} holds a model of task '{model.config.task}', which tells no"
            " perturbations apart. Give a run of task 'perturbation'; proteins go to `python -m"
            " phenomjax.evaluate` without a word behind it, maps of embeddings to `python -m"
            " phenomjax.maps benchmark`."
        )
    if "head" not in model.params:
        raise UserError(
            f"`checkpoint` {path} has no head, so it knows no perturbations: its weights came from"
            " elsewhere, and only embed. Train it on a screen first: `python -m phenomjax.main`"
            f" with --config.init_from={path}."
        )
    config = model.config.copy_and_resolve_references().unlock()
    own = tuple(map(str, config.data.banks))
    moved = not any(map(store.is_dir, own)) and (
        {Path(one).name for one in own} == {one.name for one in options.bank}
    )
    if options.bank:
        config.data.banks = tuple(map(str, options.bank))
    if not config.data.banks:
        raise UserError(f"{path} names no bank. Say with `bank` which images are to be judged.")
    for bank in () if options.bank else config.data.banks:
        if not (store.is_dir(bank) or archive.is_index(Path(bank))):
            raise UserError(
                f"`checkpoint` {path} was trained on {bank}, which is not there (any more, or"
                " seen from this folder). Say with `bank` where it is now, or name a bank that"
                " training never saw."
            )
    banks, _ = banks_and_weights(config)
    strange = bool(options.bank) and not moved
    if strange:
        _check_unseen(path, own, banks)
    chosen = [] if strange else choose(config.data.selection, banks)
    screen = Screen(banks, config.data, chosen)
    classes, cell_types = config.model.classes, config.model.cell_types
    of_split = partial(images.of_split, screen, classes=classes, cell_types=cell_types)
    wanted = [ALL] if strange else [split for split in report.SPLITS if split != ALL]
    splits = {split: found for split in wanted if (found := of_split(split)) is not None}
    if not splits:
        raise UserError(
            f"{path} held nothing out of its banks, so there is no image that it never saw. Name a"
            " bank that it was not trained on with `bank`; or train again with experiments held"
            " out: --config.data.val_fraction=0.1."
        )
    _check_splits(options.split, splits, f"{path} has")
    splits = {split: splits[split] for split in options.split or splits}
    for split, rows in splits.items():
        if (rows.label < 0).all():
            raise UserError(
                f"None of the {len(rows)} images of the split '{split}' is of a perturbation that"
                f" {path} was trained on ({first_of(classes)}). Give a screen of the same"
                f" perturbations, named alike in the column {config.data.label}."
            )
    train = None if strange else of_split("train")
    told = list(screen.told)
    if config.data.protocol and not strange and not families.group_of(config):
        told += _official(config.data.protocol, splits)
    return Asked(name, path, cast(Trained[Perturbation], model), banks, splits, train, told)


def _official(protocol: str, splits: Mapping[str, pd.DataFrame]) -> list[str]:
    """What is to be said of splits that are not the whole official ones."""
    whole = PROTOCOLS[protocol].images
    fewer = [
        f"{split} has {whole[split]:,} images, and these banks have {len(rows):,}"
        for split, rows in splits.items()
        if len(rows) != whole.get(split, len(rows))
    ]
    if not fewer:
        return []
    return [
        f"Of {protocol}, {'; '.join(fewer)}: what is measured on them cannot be set beside"
        " published numbers."
    ]


def _check_splits(asked: Sequence[str], known: Collection[str], have: str) -> None:
    for split in asked:
        if split not in known:
            raise UserError(
                f"`split` {split}:{did_you_mean(split, known)} {have} {', '.join(known)}."
            )


def _check_unseen(path: str, own: Sequence[str], banks: Sequence[ImageBank]) -> None:
    """Raises UserError where a bank that is named is one that the run was trained on."""
    there = [bank for banks in open_banks(filter(store.is_dir, own)) for bank in banks]
    trained = {bank.fingerprint for bank in there}
    for bank in banks:
        if bank.fingerprint in trained:
            raise UserError(
                f"`bank` {bank.path} is one that {path} was trained on. Leave `bank` out, and what"
                " the run held out of it is judged; or name a bank that it never saw."
            )


def predict(
    one: Asked,
    model: str,
    kind: str,
    options: Options,
    notes: dict[str, None],
    twin: bool,
) -> list[Predictions]:
    """What a run, or its untrained twin, says of all images that it is asked about.

    Raises:
      Stopped: a signal came.
    """
    seed = options.random_weights if twin else None
    embedded = images.Embedded(_embed(one, kind, options, seed))
    found = []
    for split, rows in one.splits.items():
        there = embedded.there(rows)
        if len(there) < len(rows):
            notes[f"{split}: {len(rows) - len(there)} images could not be read."] = None
        if twin:
            assert one.train is not None
            train = embedded.there(one.train)
            judged = images.judged_by_means(
                embedded, there, train, len(one.model.config.model.classes)
            )
        else:
            judged = images.judged_by_head(one.model, embedded, there)
        group = families.group_of(one.model.config)
        found.append(Predictions(model, one.name, kind, split, judged, group, twin))
    return found


def _embed(one: Asked, kind: str, options: Options, seed: int | None) -> list[Path]:
    """Embeds the banks of a run, if that is not done; the results."""
    twin = "" if seed is None else f"-random_weights_{seed}"
    folder = options.out / "embeddings" / f"{one.model.fingerprint[:16]}{twin}" / kind
    statistics: dict[str, Any] = {}
    if kind != KINDS[0]:
        statistics = {f.name: getattr(options, f.name) for f in fields(StatisticsOptions)}
        statistics["statistics"] = kind
    if kind != "controls":
        statistics.pop("control_weight", None)
    words = EmbedOptions(
        checkpoint=str(one.model.path),
        bank=tuple(bank.path for bank in one.banks),
        out=folder,
        level="site",
        dtype="float32",
        random_weights=seed,
        **statistics,
        crop_size=options.crop_size,
        batch_size=options.batch_size,
        compute_dtype=options.compute_dtype,
        devices=options.devices,
        threads=options.threads,
        engine=options.engine,
        engine_option=options.engine_option,
    )
    log.info("%s%s, statistics %s", one.name, " untrained" if twin else "", kind)
    if embed.run(words) == EXIT_STOPPED:
        raise Stopped
    return embed.outputs(words.bank, folder)


def commonest(one: Asked) -> dict[str, float]:
    """{split: share of its scored images that are of training's commonest class}."""
    if one.train is None:
        return {}
    counts = np.bincount(one.train.label[one.train.label >= 0])
    return {
        split: float((rows.label[rows.label >= 0] == counts.argmax()).mean())
        for split, rows in one.splits.items()
    }


def _described(one: Asked, model: str) -> report.EvaluatedRun:
    config = one.model.config
    return report.EvaluatedRun(
        one.name,
        model,
        str(one.model.path),
        one.model.step,
        one.model.fingerprint,
        config.seed,
        len(config.model.classes),
        config.data.protocol,
        families.group_of(config),
    )
