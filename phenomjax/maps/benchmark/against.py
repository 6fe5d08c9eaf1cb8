"""A map beside its baselines: its untrained twin, hand-made intensities and structures, or any
other map, measured in the same way.

A map beats a baseline in a measure when their 95 % intervals do not overlap; overlapping intervals
are no proof of equality, so it then "is not shown to beat" it. Published encoders of microscopy
have been found on a par with untrained networks where nobody had looked: a network of random
weights measures brightness and texture, and replicates agree in these.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phenomjax.data import store
from phenomjax.maps.benchmark.measures import Entry
from phenomjax.maps.tables.profiles import Record
from phenomjax.statistics.comparison import BEATS, BELOW, NOT_SHOWN, listed, outcome
from phenomjax.system.errors import UserError

RESULTS = "benchmark.json"
# What says nothing of which map is better: what position does; pairs within a chromosome arm, which
# the proximity bias raises; the size of cosines, which falls with the number of dimensions; what is
# measured on those active, who are others in each map.
NO_MERIT = re.compile(
    r"position\..*|.*\.within_arm(@.*)?|consistency\.mean_cosine|map\.consistency_of_active\..*"
)
CELLS = {BEATS: "(beaten)", NOT_SHOWN: "(overlaps)", BELOW: "(above)"}


@dataclass(frozen=True)
class Baseline:
    """What a map is set beside.

    Attributes:
      name: that the user gave it.
      paths: of its profiles, or of a benchmark.json (or its folder) that was measured before.
      entries: by key, once they are measured.
      provenance: of its profiles.
    """

    name: str
    paths: tuple[str, ...]
    entries: Mapping[str, Entry] = field(default_factory=dict)
    provenance: Record = field(default_factory=dict)

    @property
    def what(self) -> str:
        """What its provenance says it is."""
        seeds = seeds_of(self.provenance)
        if seeds:
            return f"an untrained network, random weights of seed {listed(seeds)}"
        commands = [str(step.get("command")) for step in self.provenance.get("steps", [])]
        if "intensity" in commands:
            return "hand-made intensities"
        return "cell counts and areas" if "structure" in commands else ""


def seeds_of(provenance: Record) -> list[str]:
    """Seeds of the random weights that profiles are of; none of a trained network, or of no
    network.
    """
    seeds = [source.get("random_weights") for source in provenance.get("sources", [])]
    return [str(seed) for seed in dict.fromkeys(seeds) if seed is not None]


def offer(provenance: Record) -> str:
    """How a baseline of these profiles is made, where they are of a trained encoder; "" else."""
    sources = provenance.get("sources", [])
    of_encoder = [one for one in sources if one.get("checkpoint") and one.get("bank")]
    if not of_encoder or seeds_of(provenance):
        return ""
    first = of_encoder[0]
    return (
        "benchmark: what has its encoder learnt? Its untrained twin shows it: python -m"
        f" phenomjax.embed --checkpoint {first['checkpoint']} --bank {first['bank']}"
        " --random_weights 0 --out twin.zarr, with the other options of that embedding; then here"
        " --against untrained=twin.zarr (python -m phenomjax.maps intensity and structure make"
        " hand-made ones)"
    )


def named(words: Sequence[str]) -> list[Baseline]:
    """--against as baselines: NAME=PATH each; words of one name are tables to be joined.

    Raises:
      UserError: a word that is not NAME=PATH, or a path that does not exist.
    """
    paths: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise UserError(
                f"`against` {word}: give NAME=PATH, for instance `against` untrained=twin.zarr"
                " intensity=intensity.parquet. PATH is a table of profiles, or a benchmark.json"
                " that was made of one."
            )
        if not Path(path).exists():
            raise UserError(
                f"`against` {word}: there is no {path}.{store.beside(path)} A twin is made by"
                " python -m"
                " phenomjax.embed --checkpoint DIR --bank B.zarr --random_weights 0 --out"
                " twin.zarr; hand-made features by python -m phenomjax.maps intensity --bank B.zarr"
                " --out intensity.parquet, and structure likewise."
            )
        paths[name] = (*paths.get(name, ()), path)
    return [Baseline(name, path) for name, path in paths.items()]


def measured_before(baseline: Baseline) -> Baseline | None:
    """The baseline with the entries of its benchmark.json; None where its paths are profiles.

    Raises:
      UserError: the file is of no benchmark.
    """
    path = Path(baseline.paths[0])
    path = path / RESULTS if (path / RESULTS).is_file() else path
    if path.suffix != ".json" or len(baseline.paths) > 1:
        return None
    try:
        found = json.loads(path.read_text())
        about = found.pop("about")
        assert all("value" in one and "interval" in one for one in found.values())
        provenance = about.get("provenance", {})
        return Baseline(baseline.name, baseline.paths, found, provenance)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise UserError(
            f"`against` {baseline.name}={path} is no benchmark.json of python -m phenomjax.maps"
            " benchmark. Give that file, or profiles."
        ) from None


def judged(key: str, own: Entry, other: Entry | None) -> str | None:
    """BEATS, NOT_SHOWN or BELOW; None where one has no interval, or more is not better."""
    if other is None or not own.get("interval") or not other.get("interval"):
        return None
    if NO_MERIT.fullmatch(key):
        return None
    return outcome(own["interval"], other["interval"])


def beside(entries: Mapping[str, Entry], baselines: Sequence[Baseline]) -> dict[str, Entry]:
    """The entries of a map, each with "against": {name: {"value", "interval", "count",
    "outcome"}} of every baseline that has the key.
    """
    found = {}
    for key, own in entries.items():
        against = {}
        for one in baselines:
            if (other := one.entries.get(key)) is not None and other.get("value") is not None:
                against[one.name] = {
                    "value": other["value"],
                    "interval": other.get("interval"),
                    "count": other.get("count"),
                    "outcome": judged(key, own, other),
                }
        found[key] = {**own, "against": against} if against else own
    return found


def cell(entry: Entry, name: str) -> str:
    """A baseline's value beside an entry of `beside`, and what the map does to it."""
    other = entry.get("against", {}).get(name)
    if other is None:
        return ""
    word = CELLS.get(other["outcome"])
    return f"{other['value']:.3f}{f' {word}' if word else ''}"


def as_table(results: dict[str, Entry], baselines: Sequence[str] = ()) -> str:
    """The results as a Markdown table, beside those of baselines, and why what is missing is
    missing.
    """
    names = ["value", "95 % interval", "of", "chance", *baselines]
    lines = [f"| | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    reasons = []
    for key, one in results.items():
        if one["value"] is None:
            reasons.append(f"- {key}: {one.get('reason', 'undefined')}")
            continue
        ends = " to ".join(f"{end:.3f}" for end in one["interval"]) if one["interval"] else ""
        chance = f"{one['chance']:.3g}" if one.get("chance") is not None else ""
        cells = [f"{one['value']:.3f}", ends, str(one["count"]), chance]
        cells += [cell(one, name) for name in baselines]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines + (["", *reasons] if reasons else [])) + "\n"


def sentence(entries: Mapping[str, Entry], baseline: Baseline) -> str:
    """In which measures a map beats a baseline, in words.

    Args:
      entries: of the map.
      baseline: measured.
    """
    outcomes = {
        key: found
        for key, own in entries.items()
        if (found := judged(key, own, baseline.entries.get(key))) is not None
    }
    what = f" ({baseline.what})" if baseline.what else ""
    start = f"**{baseline.name}**{what}: "
    if not outcomes:
        return f"{start}no measure has an interval in both, so nothing can be said."
    keys = {
        kind: [key for key, found in outcomes.items() if found == kind]
        for kind in (BEATS, NOT_SHOWN, BELOW)
    }
    higher = sum(entries[key]["value"] > baseline.entries[key]["value"] for key in keys[NOT_SHOWN])
    parts = []
    if keys[BEATS]:
        parts.append(f"the map beats it in {_share(keys[BEATS], outcomes)}")
    if keys[NOT_SHOWN]:
        parts.append(
            f"{'' if parts else 'the map '}is not shown to beat it in"
            f" {_share(keys[NOT_SHOWN], outcomes)}, for the 95 % intervals overlap (it has the"
            f" higher value in {higher} of these)"
        )
    if keys[BELOW]:
        parts.append(f"{'' if parts else 'the map '}is below it in {_share(keys[BELOW], outcomes)}")
    text = start + "; ".join(parts) + "."
    if seeds_of(baseline.provenance) and not keys[BEATS]:
        text += (
            " **The map is on a par with an untrained network**: nothing here shows that training"
            " has taught its encoder any biology."
            if not keys[BELOW]
            else " **The map is no better than an untrained network.**"
        )
    others = [
        f"{key} ({entries[key]['count']} and {baseline.entries[key]['count']})"
        for key in outcomes
        if entries[key].get("count") != baseline.entries[key].get("count")
    ]
    if others:
        text += (
            f" They are not of the same perturbations or pairs in {listed(others)}; give both the"
            " same wells."
        )
    alike = "consistency.mean_cosine"
    own, other = (of.get(alike, {}).get("replicates") for of in (entries, baseline.entries))
    if not others and own and other and own != other:
        text += (
            f" Its perturbations have {other} replicates, those of the map {own}; give both the"
            " same wells."
        )
    return text


def about(entries: Mapping[str, Entry], baseline: Baseline) -> Record:
    """What benchmark.json says of a baseline."""
    return {
        "paths": [Path(path).name for path in baseline.paths],
        "what": baseline.what,
        "said": sentence(entries, baseline),
        "provenance": baseline.provenance,
    }


def _share(keys: Sequence[str], outcomes: Mapping[str, str]) -> str:
    return f"{len(keys)} of {len(outcomes)} measures ({', '.join(keys)})"
