"""Gates: which images show nothing worth training on, by measures of their pixels and limits that
the controls of each experiment teach.

An image is dropped, for the first reason that holds, as

  unreadable    it cannot be decoded
  empty         half of its channels show nothing but noise
  saturated     more of a channel is saturated than its limit
  out_of_focus  half of the channels that show something are less sharp than their limit
  dead          it has fewer nuclei than the limit, or they cover less
  empty         a channel shows nothing but noise that shows more in the controls; or half of the
                channels have less contrast than their limit

Half is at least half of them, and two unless there is one; channels in which the controls show
nothing, such as a reporter that is off, do not count.

`limits` says where the limits are. What cannot be known is told: of one experiment alone, all of it
may be out of focus.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from phenomjax.data.images.bank import ImageBank
from phenomjax.prepare.curate.pixels.limits import (
    CELLS,
    CONTRAST,
    COVERED,
    LEAST_BATCHES,
    NOISE_CONTRAST,
    SATURATED,
    SHARPNESS,
    GateOptions,
    Measured,
    controls_of,
    groups_of,
    learn,
)
from phenomjax.prepare.curate.pixels.measure import OF_CHANNELS, OF_IMAGES, Measures
from phenomjax.system.errors import UserError, first_of

log = logging.getLogger("phenomjax")
REASONS = ("", "unreadable", "empty", "saturated", "out_of_focus", "dead")
WHOLE = 0.9  # share of a plate that is told as the whole plate
KEPT_BY = {  # reason: the option of which a larger value drops less
    "empty": "spreads",
    "saturated": "saturated",
    "out_of_focus": "focus_spreads",
    "dead": "spreads",
}
LEAST_LOST = 3  # images of a perturbation that are told to be lost


class Limit(NamedTuple):
    """A limit, as it is reported.

    Attributes:
      experiment, cell_type: whose images it is for.
      measure, channel, unit: of what; channel None: of the image.
      median: of the controls of this experiment.
      limit: the worst value that passes; NaN: none could be learnt.
      controls: of this experiment, with this measure.
      learnt_from: "experiment"; "others" where its own controls are too few or odd; "all"; "none".
      beyond: images of it that do not pass.
    """

    experiment: str | None
    cell_type: str | None
    measure: str
    channel: str | None
    unit: str
    median: float
    limit: float
    controls: int
    learnt_from: str
    beyond: int


@dataclass
class Judged:
    """What the gates say.

    Attributes:
      codes: of each image, a place in REASONS; 0: it passes.
      limits: all that were used.
      told: what is to be known of them, a sentence each.
    """

    codes: UInt8[np.ndarray, " images"]
    limits: list[Limit] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Images of each reason."""
        found = np.bincount(self.codes, minlength=len(REASONS))
        return {reason: int(found[i]) for i, reason in enumerate(REASONS) if reason}

    def table(self) -> list[str]:
        """The limits over all experiments, as lines of a page."""
        lines = [
            "| measure | channel | unit | median of the controls | limit | images beyond |",
            "| --- | --- | --- | ---: | ---: | ---: |",
        ]
        kinds = dict.fromkeys((one.measure, one.channel or "", one.unit) for one in self.limits)
        for kind in kinds:
            mine = [o for o in self.limits if (o.measure, o.channel or "", o.unit) == kind]
            medians, limits = (
                _range([getattr(one, name) for one in mine]) for name in ("median", "limit")
            )
            beyond = sum(one.beyond for one in mine)
            lines.append(f"| {' | '.join(kind)} | {medians} | {limits} | {beyond:,} |")
        return lines


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    texts = [f"{value + 0.0:.3g}" for value in (min(known), max(known))] if known else ["none"]
    return " to ".join(dict.fromkeys(texts))


def judge(
    measures: Measures,
    banks: Sequence[ImageBank],
    options: GateOptions,
) -> Judged:
    """Judges all images: some bytes of memory for each.

    Args:
      measures: of the images of these banks.
      banks: in the same order.
      options: where the limits are.

    Raises:
      UserError: of `check`.
    """
    return _Judge(measures, banks, check(options, banks), options).judged


def check(
    options: GateOptions,
    banks: Sequence[ImageBank],
) -> Bool[np.ndarray, " images"]:
    """The images that teach the limits, all where none is a control; to be asked for before hours
    of measuring.

    Raises:
      UserError: an option that does not fit.
    """
    for name, least in (
        ("spreads", 1),
        ("focus_spreads", 1),
        ("min_controls", 3),
        ("min_area", 1),
        ("saturated", 0),
    ):
        if not getattr(options, name) >= least:
            raise UserError(
                f"`{name}` must be {least} or more, not {getattr(options, name)}: leave it at its"
                f" default of {getattr(GateOptions(), name):g}."
            )
    controls = controls_of(banks)
    if options.limits == "images" or not controls.any():
        return np.ones(len(controls), bool)
    return controls


class _Judge:
    """Goes through the measures one by one."""

    def __init__(
        self,
        measures: Measures,
        banks: Sequence[ImageBank],
        teachers: Bool[np.ndarray, " images"],
        options: GateOptions,
    ):
        self.measures, self.teachers, self.options = measures, teachers, options
        self.banks = banks
        self.batches = groups_of(banks, "experiment", "cell_type")
        self.plates = groups_of(banks, "experiment", "plate")
        images = len(self.batches.of)
        self.judged = Judged(np.zeros(images, np.uint8))
        measured, noisy, there, silent, dim, blurred = np.zeros((6, images), np.uint8)  # channels
        burnt, countable = np.zeros(images, bool), np.ones(images, bool)
        for channel in measures.channels:
            contrast = measures.column(f"contrast/{channel}")
            noise = contrast < NOISE_CONTRAST
            measured += np.isfinite(contrast)
            noisy += noise
            counts = self._shows(channel, contrast)
            there += counts & np.isfinite(contrast)
            silent += counts & noise
            self._tell_plates(counts & noise, f"channel {channel} shows nothing but noise")
            dim += counts & (self._beyond(CONTRAST, channel, contrast) | noise)
            countable &= ~(noise & self._nuclear(channel))
            sharp = np.where(noise, np.nan, measures.column(f"sharpness/{channel}"))
            blurred += self._beyond(SHARPNESS, channel, sharp)
            burnt |= self._beyond(SATURATED, channel, measures.column(f"saturated/{channel}"))
        unit, factor = density(measures)
        few = self._beyond(CELLS, None, measures.column("cells") * factor, unit)
        few |= self._beyond(COVERED, None, measures.column("covered"))
        for reason, mask in (  # the first reason last
            ("empty", (silent > 0) | _half(dim, there)),
            ("dead", few & countable),
            ("out_of_focus", _half(blurred, measured - noisy)),
            ("saturated", burnt),
            ("empty", _half(silent, there) | (noisy == measured)),
            ("unreadable", measured == 0),
        ):
            self.judged.codes[mask] = REASONS.index(reason)
        self._tell()

    def _nuclear(self, channel: str) -> Bool[np.ndarray, " images"]:
        """Images whose nuclei are counted in a channel."""
        banks = self.measures.described["banks"]
        return np.repeat(
            [bank["nuclei"] == channel for bank in banks], [b["images"] for b in banks]
        )

    def _beyond(
        self,
        measured: Measured,
        channel: str | None,
        values: Float[np.ndarray, " images"],
        unit: str = "",
    ) -> Bool[np.ndarray, " images"]:
        """Which images do not pass the limits of a measure; records them."""
        learnt = learn(measured, values, self.teachers, self.batches, self.options)
        limits = learnt.limits
        bounds = limits[self.batches.of]
        beyond = values < bounds if measured.sign > 0 else values > bounds
        counts = np.bincount(self.batches.of[beyond], minlength=len(limits))
        for batch, (experiment, cell_type) in enumerate(self.batches.names):
            self.judged.limits.append(
                Limit(
                    experiment,
                    cell_type,
                    measured.name,
                    channel,
                    unit or (OF_CHANNELS | OF_IMAGES)[measured.name],
                    float(learnt.medians[batch]),
                    float(limits[batch]),
                    int(learnt.counts[batch]),
                    learnt.origin[batch],
                    int(counts[batch]),
                )
            )
        return beyond

    def _shows(
        self, channel: str, contrast: Float[np.ndarray, " images"]
    ) -> Bool[np.ndarray, " images"]:
        """Images of cell types whose controls show something in a channel, or have it not."""
        kinds = self.batches.second()
        shows = np.ones(len(kinds), bool)
        for kind in np.unique(kinds):
            seen = contrast[self.teachers & (kinds == kind)[self.batches.of]]
            seen = seen[np.isfinite(seen)]
            if len(seen) and np.median(seen) < NOISE_CONTRAST:
                shows[kinds == kind] = False
        if not shows.all():
            self.judged.told.append(
                f"Channel {channel} shows nothing but noise in the controls: no image is dropped"
                " because this channel is empty."
            )
        return shows[self.batches.of]

    def _tell_plates(self, mask: Bool[np.ndarray, " images"], what: str) -> None:
        """Tells of plates nearly all images of which are in a mask."""
        sizes = np.bincount(self.plates.of)
        found = np.bincount(self.plates.of[mask], minlength=len(sizes))
        whole = np.flatnonzero((found >= WHOLE * sizes) & (found > 1))
        if len(whole):
            names = (
                f"{plate} of {experiment} ({found[i]} of {sizes[i]} images)"
                for i in whole
                for experiment, plate in [self.plates.names[i]]
            )
            self.judged.told.append(f"Whole plates: {what} in plate {first_of(names)}.")

    def _tell_phenotypes(self) -> None:
        """Tells of perturbations that lose most of their images, but for plates that do: what they
        do to cells may look like a defect.
        """
        codes = self.judged.codes
        lost = np.isin(codes, [REASONS.index(reason) for reason in KEPT_BY])
        plates = np.bincount(self.plates.of[lost], minlength=len(self.plates.names))
        lost &= (2 * plates <= np.bincount(self.plates.of))[self.plates.of]
        if not lost.any():
            return
        given = groups_of(self.banks, "perturbation", "perturbation_type")
        known = np.array([name is not None for name, _ in given.names])
        known[given.of[controls_of(self.banks)]] = False
        sizes = np.bincount(given.of)
        cells = given.of[lost].astype(np.int64) * len(REASONS) + codes[lost]
        counts = np.bincount(cells, minlength=len(known) * len(REASONS))
        counts = counts.reshape(len(known), len(REASONS))
        all_lost, worst = counts.sum(1), counts.argmax(1)
        most = known & (all_lost >= LEAST_LOST) & (2 * all_lost > sizes)
        for reason in KEPT_BY:
            mine = np.flatnonzero(most & (worst == REASONS.index(reason)))
            if len(mine):
                names = (f"{given.names[i][0]} ({all_lost[i]} of {sizes[i]} images)" for i in mine)
                why = [one for one in KEPT_BY if counts[mine, REASONS.index(one)].any()]
                ways = " and ".join(dict.fromkeys(f"--{KEPT_BY[one]}" for one in why))
                self.judged.told.append(
                    f"Perturbations that lose most of their images as {' or '.join(why)}:"
                    f" {first_of(names)}. That may be what they do, and no defect: a larger {ways}"
                    " keeps them."
                )

    def _tell(self) -> None:
        """Says what is odd about limits and what they drop."""
        told, limits = self.judged.told, self.judged.limits
        for code, reason in enumerate(REASONS):
            if reason in ("saturated", "out_of_focus", "dead"):
                self._tell_plates(self.judged.codes == code, f"nearly all are {reason}")
        self._tell_phenotypes()
        for measured in (SHARPNESS, SATURATED, CELLS, COVERED):
            odd = [
                one
                for one in limits
                if (one.measure, one.learnt_from) == (measured.name, "others")
                and one.controls >= self.options.min_controls
                and one.beyond
            ]
            if odd:
                names = first_of(dict.fromkeys(str(one.experiment) for one in odd))
                told.append(
                    f"The controls of {names} are {measured.worse} themselves, compared with those"
                    f" of the other experiments of the cell type ({_example(odd[0])}): the others"
                    " give the limits there. Where these experiments only differ, raise"
                    f" --{'focus_spreads' if measured is SHARPNESS else 'spreads'}."
                )
        few = {one.experiment: one for one in limits if one.measure == "contrast"}
        few = {name: one for name, one in few.items() if one.learnt_from != "experiment"}
        if few and self.options.limits == "experiment":
            names = first_of(f"{name} ({one.controls})" for name, one in few.items())
            whose = {
                "others": "the other experiments of the cell type gave them",
                "all": "all experiments of the cell type gave them together",
                "none": "there are none, and only images of nothing but noise are dropped;"
                " --limits images lets all images teach them",
            }
            ways = "; or ".join(
                text for way, text in whose.items() if way in {o.learnt_from for o in few.values()}
            )
            told.append(
                "Too few images of controls for limits of their own, less than --min_controls"
                f" {self.options.min_controls}: {names}: {ways}."
            )
        kinds = np.bincount(self.batches.second())
        if kinds.min() < LEAST_BATCHES and self.options.limits == "experiment":
            told.append(
                f"Of fewer than {LEAST_BATCHES} experiments of a cell type none can be told to be"
                " odd: if all images of one are out of focus, they pass."
            )
        if any(o.measure == "cells" and o.limit == 0 for o in limits):
            told.append(
                "So few nuclei are in a field of the controls that a field without any is not"
                " unusual: no image is dropped there as dead."
            )
        if not any(bank["nuclei"] for bank in self.measures.described["banks"]):
            told.append(
                "No channel is known to show nuclei, so none were counted and no image is dropped"
                " as dead: name it with --nuclei."
            )


def _half(
    some: UInt8[np.ndarray, " images"], of: UInt8[np.ndarray, " images"]
) -> Bool[np.ndarray, " images"]:
    """Where some are at least half of all, and two unless there is one."""
    return (some > 0) & (some >= np.maximum((of + 1) // 2, np.minimum(of, 2)))


def _example(limit: Limit) -> str:
    channel = f" of {limit.channel}" if limit.channel else ""
    return (
        f"{limit.measure}{channel}: median {limit.median:.3g}, limit of the others"
        f" {limit.limit:.3g}, {limit.unit}"
    )


def density(measures: Measures) -> tuple[str, Float[np.ndarray, " images"]]:
    """The unit in which nuclei of fields are compared, and what makes it of their number: an area
    in mm² where all banks know the size of their pixels; else a field where all are of one size,
    or a million pixels.
    """
    banks = measures.described["banks"]
    pixels = np.array([bank["height"] * bank["width"] for bank in banks], float)
    sizes = [bank["pixel_size_um"] for bank in banks]
    if all(sizes):
        unit, area = "nuclei / mm²", pixels * np.square(np.array(sizes, float)) / 1e6
    elif len(set(pixels)) == 1:
        unit, area = "nuclei / field", np.ones(len(banks))
    else:
        unit, area = "nuclei / million pixels", pixels / 1e6
    return unit, np.repeat(1 / area, [bank["images"] for bank in banks]).astype(np.float32)
