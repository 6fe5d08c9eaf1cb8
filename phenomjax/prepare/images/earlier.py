"""Banks of --not-in: their images are left out, and their percentiles used again."""

import collections
import dataclasses
import logging
from pathlib import Path

import pyarrow.parquet as pq

from phenomjax.data.images import bank, opening
from phenomjax.data.images.wells import normalise_number
from phenomjax.prepare.images import staleness
from phenomjax.prepare.images.pixels import eight_bit
from phenomjax.prepare.images.pixels.percentiles import Known
from phenomjax.prepare.images.plan import ImagePlan, write_plates
from phenomjax.prepare.images.records import ImageKey
from phenomjax.system.errors import EXIT_CONFIG, EXIT_FAILED, UserError

log = logging.getLogger("phenomjax")


class NothingNew(UserError):
    """Every image of the source is in the bank of --not-in."""


def chain(path: Path | None) -> list[bank.ImageBank]:
    """The bank of --not-in, and those whose images it left out itself, the nearest first."""
    found: list[bank.ImageBank] = []
    while path is not None and path.resolve() not in {one.path.resolve() for one in found}:
        if found and not path.exists():
            log.warning(
                "%s was made without the images of %s, which is not there any more: they are not"
                " left out here",
                found[-1].path,
                path,
            )
            break
        found.append(opening.open_bank(path))
        earlier = (found[-1].attributes.get("prepare") or {}).get("not_in")
        path = Path(earlier) if earlier else None
    return found


def without(plan: ImagePlan, other: bank.ImageBank) -> tuple[ImagePlan, Known]:
    """Takes the images of another bank out of a plan; returns also that bank's percentiles by plate
    and channel.
    """
    if plan.channels and plan.channels != other.channels:
        log.warning(
            "channels are %s here and %s in %s: --channels gives both the same names and order",
            ", ".join(plan.channels),
            ", ".join(other.channels),
            other.path,
        )
    keys = zip(*(other.metadata[name].to_pylist() for name in ImageKey._fields), strict=True)
    there = {ImageKey(*key) for key in keys}
    recorded = (other.attributes.get("intensity") or {}).get("numbers") or {}
    for plate, before in _plates_spelt_before(plan, other).items():
        log.info(
            "plate %s is called %s in %s, as older versions spelt it", plate, before, other.path
        )
        there |= {key._replace(plate=plate) for key in there if key.plate == before}
        for label, numbers in list(recorded.items()):
            *experiment, name = label.rsplit("/", 1)
            if name == before:
                recorded["/".join([*experiment, plate])] = numbers
    new = dataclasses.replace(
        plan,
        plates=tuple(write_plates(plan.folder, (e for e in plan.images() if e.key not in there))),
        rejected=plan.rejected.without(there),
    )
    log.info("%d of %d images are in %s already", plan.count - new.count, plan.count, other.path)
    now = staleness.digest(e.stamp for e in plan.images() if e.key in there)
    if not staleness.looks_same(other, now):
        log.warning(
            "files of images that are in %s already have other names, sizes or dates than when it"
            " was made, and edited ones are not taken here: the command that made it compares them"
            " with --verify_sources",
            other.path,
        )
    if not new.plates:
        still = f" What is rejected still is: {new.rejected.first()[0]}." if new.rejected else ""
        raise NothingNew(
            f"Every image of the source is in {other.path} (`not_in`) already: there is nothing to"
            f" prepare.{still}",
            EXIT_FAILED if still else EXIT_CONFIG,
        )
    # A number is worth what it was counted from: older banks recorded plates without an image.
    shown = {"/".join(part for part in key[:2] if part) for key in there}
    known = {
        plate: channels
        for plate, channels in recorded.items()
        if plate in shown and eight_bit.NO_RANGE not in [tuple(pair) for pair in channels.values()]
    }
    return new, known


def of_rule(known: Known, rule: eight_bit.Rule, other: bank.ImageBank) -> Known:
    """The percentiles of an earlier bank where it was made by the same rule."""
    before = (other.attributes.get("intensity") or {}).get("rule")
    if rule.kind != "percentile" or before == eight_bit.text(rule):
        return known
    log.warning(
        "the percentiles of %s are counted anew: %s was made with --intensity %s",
        ", ".join(list(known)[:3]) + (", ..." if len(known) > 3 else ""),
        other.path,
        before,
    )
    return {}


def _plates_spelt_before(plan: ImagePlan, other: bank.ImageBank) -> dict[str, str]:
    """{plate: what it is called in a bank of a version that took leading zeros off plates}."""
    file = other.path / "metadata.parquet"
    if not file.is_file() or "time" in pq.read_schema(file).names:
        return {}
    plates = {plate.place[1] or "" for plate in plan.plates}
    spelt = collections.Counter(map(normalise_number, plates))
    before = {plate: normalise_number(plate) for plate in plates}
    return {new: old for new, old in before.items() if new != old and spelt[old] == 1}
