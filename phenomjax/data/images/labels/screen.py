"""The images that a run on labels reads: their classes, cell types, controls and groups
(experiments, say, whose images share the statistics of a batch norm), and what is left out.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool

from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.labels.coded import CONTROL, Coded, Numbering, read
from phenomjax.data.images.loading.labelled import Labels
from phenomjax.data.images.loading.split import path_of
from phenomjax.data.images.metadata import METADATA_SCHEMA, UNIQUE
from phenomjax.data.images.rows import Rows
from phenomjax.data.images.wells import natural
from phenomjax.data.selections import Chosen
from phenomjax.system.errors import UserError, did_you_mean, first_of

COLUMNS = tuple(
    field.name
    for field in METADATA_SCHEMA
    if field.type == "string" and field.name not in (*UNIQUE, "time")
)
TREATMENT = ("perturbation", "perturbation_type", "gene")  # what a well was given
PREPARE = "`python -m phenomjax.prepare images --metadata TABLE`"


class Wanted(Protocol):
    """The settings `data.*` of a run that say what is read and how it is labelled; see
    `config.perturbation`.
    """

    label: str
    groups: int
    group_by: str
    controls: str
    control_share: float
    cell_type: str
    perturbation_type: str
    on_rare_class: str
    protocol: str
    split_by: str
    val_groups: Sequence[str]
    val_fraction: float


class Screen:
    """What the metadata of banks say of all their images.

    Args:
      banks: of the run.
      wanted: its settings.
      chosen: the part of each bank that is read; () = all.

    Attributes:
      banks, wanted: as given.
      numbering: of all images.
      label, cell_type, group: of each image.
      control: whether it is a control: `is_control`, or of the perturbation type "control", which
        positive controls have.
      kept: whether it is read.
      controls_left_out: whether it is not, because it is a control.
      told: what was left out and why, sentences.

    Raises:
      UserError: settings that the metadata of the banks do not allow.
    """

    def __init__(self, banks: Sequence[ImageBank], wanted: Wanted, chosen: Sequence[Chosen] = ()):
        self.banks, self.wanted, self.numbering = list(banks), wanted, Numbering(banks)
        self.told: list[str] = []
        for key, name in (("label", wanted.label), ("group_by", wanted.group_by)):
            if name not in COLUMNS:
                raise UserError(
                    f"config.data.{key} is '{name}', which is no column of texts of the"
                    f" metadata.{did_you_mean(name, COLUMNS)} There are: {', '.join(COLUMNS)}."
                )
        if wanted.groups and wanted.group_by in (wanted.label, *TREATMENT):
            other = "--config.data.group_by=experiment" * (wanted.label != "experiment")
            raise UserError(
                f"config.data.group_by is '{wanted.group_by}', and a part of a batch (data.groups"
                f" is {wanted.groups}) is normalised by its own statistics: those of each"
                f" {wanted.group_by} by itself take away what tells {wanted.label}s apart."
                f" Set {other + ', or ' if other else ''}--config.data.groups=0."
            )
        label, kind = read(banks, (wanted.label,)), read(banks, ("perturbation_type",))
        self.cell_type = read(banks, ("cell_type",))
        self.group = read(banks, path_of(wanted.group_by))
        negative = read(banks, ("is_control",)).equal("true")
        self.control = negative | kind.equal(CONTROL)
        self.kept = np.ones(len(self.numbering), bool)
        if chosen:
            self.kept[:] = False
            self.kept[self.numbering.of([Rows.of(one.rows) for one in chosen])] = True
        if wanted.cell_type:
            self._only("cell_type", wanted.cell_type, self.cell_type, np.zeros_like(self.kept))
        if wanted.perturbation_type:
            # a control whose row names a type is one of that library alone
            anyones = self.control & ((kind.codes < 0) | kind.equal(CONTROL))
            self._only("perturbation_type", wanted.perturbation_type, kind, anyones)
        self.controls_left_out = self.kept & self.control & (wanted.controls == "drop")
        self._drop(self.controls_left_out, "are controls")
        if not self.kept.any():
            raise UserError(
                f"All images of {self.named} that are read are controls, and data.controls is"
                " 'drop'. Set --config.data.controls=keep, or give banks with more."
            )
        self.label = self._labelled(label, negative)

    @property
    def named(self) -> str:
        """The banks, for messages."""
        return first_of([bank.path for bank in self.banks], 2)

    def labels(self, classes: Sequence[str], cell_types: Sequence[str]) -> Labels:
        """Every image by a model's names of classes and cell types."""
        labels = self.label.places(classes)
        return Labels(
            np.where(self.no_class, np.int32(-1), labels),
            self.cell_type.places(cell_types),
            self.group.codes,
            self.control,
            self.group.names,
        )

    @property
    def no_class(self) -> Bool[np.ndarray, "images"]:
        """Controls, where statistics are all that they are for."""
        return self.control & (self.wanted.controls == "statistics")

    def unseen(self, rows: Sequence[Rows], classes: Sequence[str]) -> str:
        """Which rows are of none of the classes, in words; "" where there are none."""
        images = self.numbering.of(rows)
        there = self.label.there(images[~self.no_class[images]])
        without = sorted(there.keys() - set(classes), key=natural)
        if not without:
            return ""
        return (
            f"{sum(there[name] for name in without):,} of {sum(there.values()):,} images are of"
            f" none of the {len(classes):,} classes, but of {len(without):,} other"
            f" {self.wanted.label}s ({first_of(without)})"
        )

    def of_other_cell_types(self, rows: Sequence[Rows], cell_types: Sequence[str]) -> str:
        """Likewise of cell types, of which an image may have none."""
        images = self.numbering.of(rows)
        count = int((self.cell_type.places(cell_types)[images] < 0).sum())
        others = sorted(self.cell_type.there(images).keys() - set(cell_types), key=natural)
        if not count:
            return ""
        return (
            f"{count:,} of {len(images):,} images are of none of the cell types"
            f" {', '.join(cell_types)}, but of {first_of(others) or 'none that is named'}"
        )

    def other_label(self) -> str:
        """Another column that could name the classes, one with values if there is one."""
        columns = ("perturbation", "gene", "perturbation_type", "cell_type")
        others = [name for name in columns if name != self.wanted.label]
        several = (name for name in others if len(read(self.banks, (name,)).names) > 1)
        return next(several, others[0])

    def _only(
        self, column: str, value: str, coded: Coded, also: Bool[np.ndarray, "images"]
    ) -> None:
        """Keeps the images that have a value in a column, and some more."""
        mine = coded.equal(value)
        if not (mine & self.kept).any():
            there = sorted(coded.there(self.kept), key=natural)
            listed = f"There are: {first_of(there)}."
            if not there:
                listed = (
                    f"The column is empty: prepare the banks with a table that has it ({PREPARE}),"
                    " or, if all images have it, `python -m phenomjax.prepare images --set"
                    f" {column}={value}`."
                )
            raise UserError(
                f"config.data.{column} is '{value}', but no image of {self.named} has that"
                f" {column}.{did_you_mean(value, there)} {listed} To read all images, set"
                f" --config.data.{column}=''."
            )
        self._drop(~(mine | also), f"have another {column} than {value}")

    def _drop(self, mask: Bool[np.ndarray, "images"], why: str) -> None:
        count = int((mask & self.kept).sum())
        self.kept &= ~mask
        if count:
            self.told.append(f"{count:,} images are left out: they {why}.")

    def _labelled(self, label: Coded, negative: Bool[np.ndarray, "images"]) -> Coded:
        """Gives negative controls without a name one, and leaves out what has none."""
        column, nameless = self.wanted.label, label.codes < 0
        if not (self.kept & ~nameless).any():
            raise UserError(
                f"No image of {self.named} has a {column}, so there are no classes: the column is"
                f" empty. Prepare the banks with a table that has it: {PREPARE}, or train on"
                f" another column: --config.data.label={self.other_label()}."
            )
        unnamed = self.kept & nameless & negative
        if unnamed.any():
            names = label.names if CONTROL in label.names else (*label.names, CONTROL)
            label = Coded(names, np.where(unnamed, np.int32(names.index(CONTROL)), label.codes))
            if self.wanted.controls != "statistics":
                self.told.append(
                    f"{int(unnamed.sum()):,} negative controls have no {column}: they are the class"
                    f" '{CONTROL}'."
                )
        self._drop(label.codes < 0, f"have no {column}")
        return label
