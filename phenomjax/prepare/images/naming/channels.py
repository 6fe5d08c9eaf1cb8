"""Which channels go into the bank, how they are called there, and in which order."""

import collections
import glob
import logging
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from phenomjax.data.images import wells
from phenomjax.prepare.images.naming.listing import quoted
from phenomjax.prepare.images.records import ImageKey, Plane
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")
Place = tuple[str | None, str | None]  # experiment, plate


class Chosen(NamedTuple):
    """The channels of the bank.

    Attributes:
      by_label: a channel is known by its label; else by the number that the source gives it.
      names: {label or number: name in the bank}, in the order of the bank.
      sets: the labels or numbers that each plate has, without those that a layout does not name.
      set: those of the plates that the bank is made of; None where --channels says.
    """

    by_label: bool
    names: dict[str, str]
    sets: dict[Place, tuple[str, ...]]
    set: tuple[str, ...] | None

    def of(self, plane: Plane) -> str:
        """The label or number of a plane."""
        return plane.label if self.by_label and plane.label is not None else plane.channel


class Facts(NamedTuple):
    """What planes say of channels, however many they are.

    Attributes:
      kinds: {(plate, channel, label): the first such plane, and how many there are}, in the order
        in which they are found.
      images: how many each plate has.
      unclear: what is wrong with labels that are empty or repeated in an image, "" when nothing is.
    """

    kinds: dict[tuple[Place, str, str | None], tuple[Plane, int]]
    images: collections.Counter[Place]
    unclear: str

    @classmethod
    def of(cls, planes: Iterable[Plane]) -> "Facts":
        """Those of some planes."""
        planes = list(planes)
        kinds: dict[tuple[Place, str, str | None], tuple[Plane, int]] = {}
        keys: dict[Place, set] = collections.defaultdict(set)
        for plane in planes:
            kind = (plane.key[:2], plane.channel, plane.label)
            first, count = kinds.get(kind, (plane, 0))
            kinds[kind] = first, count + 1
            keys[plane.key[:2]].add(plane.key)
        images = collections.Counter({place: len(found) for place, found in keys.items()})
        return cls(kinds, images, _unclear(planes))

    @classmethod
    def merged(cls, parts: Iterable["Facts"]) -> "Facts":
        """Those of the parts of a source, none of which has images of a plate of another."""
        found = cls({}, collections.Counter(), "")
        for part in parts:
            found.kinds.update(part.kinds)
            found.images.update(part.images)
            found = found._replace(unclear=found.unclear or part.unclear)
        return found

    def to_json(self) -> list:
        """For a note."""
        return [[*self.kinds.values()], [*self.images.items()], self.unclear]

    @classmethod
    def from_json(cls, fields: list) -> "Facts":
        """Of what `to_json` became in a note."""
        kinds, images, unclear = fields
        planes = [(plane_of(fields), count) for fields, count in kinds]
        return cls(
            {(one.key[:2], one.channel, one.label): (one, count) for one, count in planes},
            collections.Counter({(place[0], place[1]): count for place, count in images}),
            unclear,
        )


def plane_of(fields: list) -> Plane:
    """The plane that became a list in JSON."""
    file, page, key, *others = fields
    return Plane(file, page, ImageKey(*key), *others)


def choose(facts: Facts, items: Sequence[str], names: Mapping[str, str]) -> Chosen:
    """Chooses the channels of the bank.

    A channel is known by its label where all planes have one, so channels in another order on
    another plate are the same. Without --channels the set that most images have makes the bank.

    Args:
      facts: of all planes of the source.
      items: of --channels.
      names: the layout's names by number, where the source has no labels.

    Raises:
      UserError: an unknown channel, or labels that do not tell channels apart.
    """
    planes = [first for first, _ in facts.kinds.values()]
    labels = _labels(planes)
    ids = sorted({plane.channel for plane in planes}, key=wells.natural)
    lefts = [_left(item, ids) for item in items]
    by_label = all(plane.label is not None for plane in planes)
    unclear = facts.unclear
    if unclear and not (items and set(lefts) <= set(ids)):
        raise UserError(f"{unclear} Name all by their numbers: {_by_number(labels, ids)}.")
    by_label = by_label and not unclear
    if by_label:
        items = [_as_label(item, left, labels) for item, left in zip(items, lefts, strict=True)]
        names = {}
    else:
        for number in set(ids) if not items else set(lefts) & set(ids):
            named = {name: plane for name, plane in labels.get(number, {}).items() if name.strip()}
            if len(named) > 1:
                raise UserError(_differ(number, named, _without_label(planes)))
        names = {} if labels else names
        if labels and not items and (without := _without_label(planes)):
            log.warning(
                "channels are called by their numbers, for some have no name, for instance in %s:"
                " leave these out with --exclude, or name all by number with %s",
                _where(without),
                _by_number(labels, ids),
            )
    chosen = Chosen(by_label, {}, {}, None)
    sets: dict[Place, dict[str, str]] = {}
    for plane in planes:
        place = plane.key[:2]
        sets.setdefault(place, {}).setdefault(chosen.of(plane), plane.channel)
    ordered = {
        place: tuple(sorted(one, key=lambda name: wells.natural(one[name])))
        for place, one in sets.items()
    }
    if items:
        there = list(dict.fromkeys(name for one in ordered.values() for name in one))
        there = there if by_label else ids
        return chosen._replace(names=choose_channels(items, there, names), sets=ordered)
    # an unnamed channel of a layout with names is left out, so it makes no difference
    wanted = {
        place: tuple(name for name in one if name in names) or one for place, one in ordered.items()
    }
    images: collections.Counter[frozenset[str]] = collections.Counter()
    for place, one in wanted.items():
        images[frozenset(one)] += facts.images[place]
    most = images.most_common(1)[0][0]
    main = next(one for one in wanted.values() if frozenset(one) == most)
    names_of_most = choose_channels((), main, names)
    return chosen._replace(names=names_of_most, sets=wanted, set=tuple(main))


def choose_channels(
    items: Sequence[str], ids: Sequence[str], names: Mapping[str, str]
) -> dict[str, str]:
    """{id in the source: name in the bank}, in the order of the bank.

    Args:
      items: of --channels: "ID=NAME", an ID, or a NAME of the layout; () = those of the layout that
        are there.
      ids: channels that the source has.
      names: the layout's names by id.
    """
    if not items:
        chosen = {i: name for i, name in names.items() if i in ids} or {i: i for i in ids}
        absent = [f"{i} ({name})" for i, name in names.items() if i not in ids]
        if names and absent:
            log.warning("channels that no file has, left out of the bank: %s", ", ".join(absent))
        return chosen
    by_name = {name: i for i, name in names.items()}
    chosen = {}
    for item in items:
        left, _, right = item.partition("=")
        given = wells.normalise_number(left)
        channel = given if given in ids else by_name.get(left, left)
        if channel not in ids:
            there = ", ".join(f"{i} ({names[i]})" if i in names else i for i in ids)
            raise UserError(
                f"--channels {item!r}: no file has channel"
                f" {left!r}.{did_you_mean(left, [*ids, *by_name])} The source has channels {there}."
                " Write ID=NAME, separated by commas, in the order that the bank shall have."
            )
        chosen[channel] = right or names.get(channel, channel)
    if len(chosen) != len(items) or len(set(chosen.values())) != len(items):
        raise UserError(
            f"--channels {','.join(items)}: a channel or a name is there twice. Name each once."
        )
    return chosen


def items_of(names: Sequence[str], chosen: Chosen) -> str:
    """A value of --channels, with the names that the bank gives them."""
    titles = {name: chosen.names.get(name, name) for name in names}
    return quoted(",".join(n if n == title else f"{n}={title}" for n, title in titles.items()))


def _labels(planes: Iterable[Plane]) -> dict[str, dict[str, Plane]]:
    """The labels of each number, with a plane that has it."""
    found: dict[str, dict[str, Plane]] = {}
    for plane in planes:
        if plane.label is not None:
            found.setdefault(plane.channel, {}).setdefault(plane.label, plane)
    return found


def _left(item: str, ids: Sequence[str]) -> str:
    left = item.partition("=")[0]
    number = wells.normalise_number(left)
    return number if number in ids else left


def _as_label(item: str, left: str, labels: dict[str, dict[str, Plane]]) -> str:
    """An item by number as one by label."""
    if any(left in one for one in labels.values()) or left not in labels:
        return item
    if len(labels[left]) > 1:
        raise UserError(_differ(left, labels[left]))
    (label,) = labels[left]
    return f"{label}={item.partition('=')[2] or label}"


def _without_label(planes: Sequence[Plane]) -> Plane | None:
    """The first plane whose channel has no name."""
    return next((plane for plane in planes if not (plane.label or "").strip()), None)


def _differ(number: str, labels: Mapping[str, Plane], without: Plane | None = None) -> str:
    which = " and ".join(
        f"{label!r} in {_where(plane)}" for label, plane in list(labels.items())[:2]
    )
    if without is not None:  # names cannot choose it, then
        folder = posixpath.dirname(without.file)
        pattern = glob.escape(folder) + "/*" if folder else glob.escape(without.file)
        return (
            f"Channel {number} is called {which}, and others have no name, such as"
            f" {_where(without)}: its number does not say which it is. Leave out what has no names,"
            f" with --exclude {quoted(pattern)}, and prepare it into a bank of its own."
        )
    return (
        f"Channel {number} is called {which}: its number does not say which it is. Name the"
        " channels by their labels in --channels, or prepare the plates into banks of their own."
    )


def _where(plane: Plane) -> str:
    return "/".join(part for part in plane.key if part) + f" ({plane.file})"


def _unclear(planes: Sequence[Plane]) -> str:
    """What is wrong with labels that are empty or repeated in an image; "" when nothing is."""
    seen: dict[tuple, str] = {}
    for plane in planes:
        if plane.label is None:
            continue
        if not plane.label.strip():
            return f"Channel {plane.channel} has an empty label in {_where(plane)}."
        other = seen.setdefault((plane.key, plane.label), plane.channel)
        if other != plane.channel:
            return (
                f"Channels {other} and {plane.channel} are both called {plane.label!r} in"
                f" {_where(plane)}."
            )
    return ""


def _by_number(labels: Mapping[str, Mapping[str, Plane]], ids: Sequence[str]) -> str:
    """A --channels that names every channel by its number."""
    taken, parts = set(), []
    for number in ids:
        label = next((name.strip() for name in labels.get(number, {}) if name.strip()), "")
        name = label if label and label not in taken else f"channel{number}"
        taken.add(name)
        parts.append(f"{number}={name}")
    return f'--channels "{",".join(parts)}"'
