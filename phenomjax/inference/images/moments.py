"""Takes the statistics of domains: a pass over their images before they are embedded, in units that
any process can do.

OUT.statistics/job.json       what is taken, and of each domain its images and its units
OUT.statistics/units/U.json   unit U is done
OUT.statistics/moments/U      its moments, float64
"""

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from phenomjax.data.images.labels import coded
from phenomjax.engine import units, work_folder
from phenomjax.inference.images import domains, plan
from phenomjax.inference.images.blocks import Block, Numbers, block_images, commit, deal, measure
from phenomjax.inference.images.domains import StatisticsSettings
from phenomjax.inference.images.job import BankEmbedding
from phenomjax.inference.images.options import Share
from phenomjax.inference.runtimes.choose import JaxRuntime
from phenomjax.system import files
from phenomjax.system.errors import UserError, first_of
from phenomjax.system.log import Progress

log = logging.getLogger("phenomjax")
UNIT_BATCHES = 64  # about a minute of work, which is what a kill costs


class Part(NamedTuple):
    """A unit: some blocks of a domain.

    Attributes:
      name: of the unit.
      bank: place of the bank among those of the command.
      blocks: whose moments are summed.
    """

    name: str
    bank: int
    blocks: Sequence[Block]

    @property
    def images(self) -> int:
        """How many are read."""
        return sum(len(block.images) for block in self.blocks)


class DomainStatistics:
    """The statistics of all domains of some banks. A domain may be spread over banks.

    Args:
      settings: what is taken.
      jobs: the embeddings of the banks; they are told where their statistics will be.
      work: folder in which the moments are kept.
      rows: of each bank, which of its images count; () = all.

    Attributes:
      work: the folder.

    Raises:
      UserError: domains without a name, or with too few images or controls.
    """

    def __init__(
        self,
        settings: StatisticsSettings,
        jobs: Sequence[BankEmbedding],
        work: Path,
        rows: Sequence[Numbers] = (),
    ):
        self.settings, self._jobs, self.work = settings, jobs, work
        # {domain: {bank: (its controls, its others)}}, of "experiment" all are others
        self._images: dict[str, dict[int, tuple[Numbers, Numbers]]] = {}
        self._controls: dict[str, int] = {}
        self._sizes: dict[str, int] = {}  # images, of which these are some
        for number, job in enumerate(jobs):
            self._sort(number, job, rows[number] if len(rows) else np.arange(len(job.bank)))
        self._check()
        for number, job in enumerate(jobs):
            mine = [banks for banks in self._images.values() if number in banks]
            there = set().union(*mine) if mine else set()
            fingerprints = sorted(jobs[bank].bank.fingerprint for bank in there)
            job.use_statistics(work, settings.record(fingerprints))
        self._notes = units.Notes(work)
        self._shared = False  # whether a share of all banks is done
        self._begun = False

    def begin(self) -> None:
        """Makes the work folder, or goes on with the work there; once.

        Raises:
          UserError: it was begun otherwise.
        """
        if self._begun:
            return
        self._begun = True
        told = {
            name: {
                "images": images,
                "controls": self._controls[name],
                "units": [part.name for part in self._parts(name)],
            }
            for name, images in self._sizes.items()
        }
        model, grids = self._jobs[0].model, [len(job.grid) for job in self._jobs]
        entry = {
            **self.settings.record([job.bank.fingerprint for job in self._jobs]),
            "checkpoint_fingerprint": model.fingerprint,
            "crops": grids,
            "domains": told,
        }
        words = plan.WORDS | {
            "domains": "the images of the domains",
            "statistics_banks": "the banks",
        }
        work_folder.begin(self.work, entry, words=words)
        log.info("%s", self.describe())

    def describe(self) -> str:
        """What is taken, in a line."""
        sizes, controls = self._sizes.values(), self._controls.values()
        told = f"statistics of {len(sizes)} groups by {self.settings.by}: {min(sizes)} to"
        told += f" {max(sizes)} images each"
        if (weight := self.settings.control_weight) is not None:
            told += f", of them {min(controls)} to {max(controls)} controls, which weigh"
            told += f" {weight:.3g} of 1{self._hint(weight)}"
        return f"{told}; {self.settings.batch} crops at a time"

    def _hint(self, weight: float) -> str:
        """What is to be known of a weight that leaves some to other images."""
        config = self._jobs[0].model.config
        if weight == 1 or config.model.get("control_weight", 0.0) == weight:
            return ""
        return (
            " (where experiments have few perturbations, or others than training had,"
            " --control_weight 1 keeps these out of the statistics)"
        )

    def left(self, jobs: Sequence[BankEmbedding]) -> Iterator[Part]:
        """The units that are to be done before these banks are embedded."""
        places = {self._jobs.index(job) for job in jobs}
        for name, banks in self._images.items():
            if places & banks.keys():
                for part in self._parts(name):
                    if not self._notes.is_committed(part.name):
                        yield part

    def take(
        self, job: BankEmbedding, runtime: JaxRuntime, mine: Share, stop: threading.Event
    ) -> None:
        """Does in this process what is to be done before a bank is embedded, until `stop` is set.

        Of the shares of tasks that know nothing of each other each does its own, and then what is
        still missing: so none waits, and side by side hardly a unit is done twice.
        """
        label = f"statistics{f' {mine}' if mine.number > 1 else ''}"
        todo = [lambda: list(self.left([job]))]
        if mine.number > 1 and not self._shared:
            others = [one for one in self._jobs if not one.out.exists()]
            todo = [lambda: list(self.left(others))[mine.index :: mine.number], *todo]
            self._shared = True
        for parts in (find() for find in todo):
            total = sum(part.images for part in parts)
            progress = Progress(label, total, "images", 0, every_seconds=10.0)
            for part in parts:
                if self._notes.is_committed(part.name):
                    continue
                moments = measure(
                    self._jobs[part.bank], runtime, part.blocks, self.settings.batch, stop
                )
                if moments is None:
                    return
                commit(self.work, part.name, moments, runtime.features)
                progress.update(part.images)

    def end(self) -> None:
        """Deletes the moments once all banks are embedded."""
        if all(job.out.exists() for job in self._jobs):
            files.remove(self.work)

    def table(self, job: BankEmbedding) -> pa.Table:
        """The domains of a bank, for its result: name, images and controls."""
        number = self._jobs.index(job)
        names = [name for name, banks in self._images.items() if number in banks]
        told = files.read_json(self.work / work_folder.DESCRIPTION)["domains"]
        return pa.table(
            {
                self.settings.by: names,
                **{key: [told[name][key] for name in names] for key in ("images", "controls")},
            }
        )

    def _sort(self, number: int, job: BankEmbedding, rows: Numbers) -> None:
        names, codes = domains.names_of(job.bank, self.settings.by)
        marked = coded.controls([job.bank])
        rows = rows[np.argsort(codes[rows], kind="stable")]
        places, starts = np.unique(codes[rows], return_index=True)
        for place, images in zip(places, np.split(rows, starts[1:]), strict=True):
            controls, name = marked[images], names[place]
            self._controls[name] = self._controls.get(name, 0) + int(controls.sum())
            self._sizes[name] = self._sizes.get(name, 0) + len(images)
            if self.settings.kind == "experiment":
                controls = np.zeros(len(images), bool)
            self._images.setdefault(name, {})[number] = (images[controls], images[~controls])

    def _check(self) -> None:
        kind, by, least = self.settings.kind, self.settings.by, self.settings.least
        what = "controls" if kind == "controls" else "images"
        counts = self._controls if what == "controls" else self._sizes
        few = {name: count for name, count in counts.items() if count < max(least, 1)}
        if not few:
            return
        listed = first_of((f"{name} ({count})" for name, count in few.items()), 8)
        if what == "controls" and not any(counts.values()):
            banks = ", ".join(str(job.bank.path) for job in self._jobs)
            raise UserError(
                f"`statistics` controls: no image of {banks} is marked as a control"
                " (is_control, or perturbation_type control, in its metadata). Give `statistics`"
                " experiment, or prepare the bank again with a table that marks them (`python -m"
                " phenomjax.prepare images --metadata TABLE`)."
            )
        mend = "`statistics` experiment" if what == "controls" else "`statistics` running"
        least_of_all = min(few.values())
        lower = f", or `statistics_least` {least_of_all} to take them nevertheless"
        raise UserError(
            f"`statistics` {kind}: {len(few)} of the {len(counts)} groups by {by} have fewer than"
            f" {least} {what}, too few for statistics of their own: {listed}. Give"
            f" {mend}{lower if least_of_all else ''}."
        )

    def _parts(self, name: str) -> Iterator[Part]:
        """The units of a domain."""
        totals = np.sum(
            [[len(one) for one in parts] for parts in self._images[name].values()], axis=0
        )
        weight = self.settings.control_weight
        shares = np.array([0.0, 1.0] if weight is None else [weight, 1.0 - weight]) * (totals > 0)
        shares = shares / max(shares.sum(), 1e-30)
        key = domains.key_of(name)
        for number, strata in self._images[name].items():
            job = self._jobs[number]
            seed = hashlib.sha256(f"{name}/{job.bank.fingerprint}".encode()).digest()[:8]
            found = deal(
                strata,
                [share / max(total, 1) for share, total in zip(shares, totals, strict=True)],
                shares[0],
                block_images(job, self.settings.batch),
                np.random.default_rng(int.from_bytes(seed)),
            )
            images = max((len(block.images) for block in found), default=1)
            size = max(UNIT_BATCHES * self.settings.batch // (images * len(job.grid)), 1)
            for first in range(0, len(found), size):
                yield Part(f"{key}-{number}-{first // size}", number, found[first : first + size])


def of_jobs(jobs: Sequence[BankEmbedding], out: Path) -> DomainStatistics | None:
    """The statistics of a command that embeds into `out`; None where they are running ones."""
    wanted = jobs[0].statistics
    if wanted is None:
        return None
    return DomainStatistics(wanted, jobs, out.with_name(out.name + ".statistics"))
