"""What objectives on labelled images share: which class an image is of, and batches in parts of one
experiment each.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from phenomjax.data.images.labels import training
from phenomjax.data.images.labels.screen import Screen
from phenomjax.data.images.labels.splits import ALL, official_share, rows_of
from phenomjax.data.selections import choose
from phenomjax.system.errors import UserError
from phenomjax.tasks.image_objective import ImageObjective, banks_and_weights

if TYPE_CHECKING:
    from phenomjax.data.images.loading.labelled import LabelledLoader

log = logging.getLogger("phenomjax")


class LabelledImages(ImageObjective):
    """Base of the objectives on labelled images.

    Args:
      config: reads what `ImageObjective` reads, `model.classes`, `model.cell_types`,
        `model.cell_type` and the keys of `data.*` that `labels.screen.Wanted` names.
    """

    @staticmethod
    def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
        """Also fills `model.classes`, `model.cell_types` and `model.control_share` from what there
        is to train on, and `model.norm_rows`.

        Raises:
          UserError: labels or groups that nothing can be learnt from; see `labels.training`.
        """
        with ImageObjective.resolve(config, workdir).unlocked() as config:
            banks, _ = banks_and_weights(config)
            screen = Screen(banks, config.data, choose(config.data.selection, banks))
            model, images = config.model, screen.numbering.of(rows_of(screen, "train") or [])
            model.classes = training.classes(screen, images, model.classes)
            model.cell_types = training.cell_types(
                screen, images, model.cell_types, model.cell_type
            )
            shared = config.data.control_share or float(screen.control[images].mean())
            model.control_share = model.control_share or shared
            rows = config.global_batch_size // max(config.data.groups, 1)
            model.norm_rows = model.norm_rows or rows
        return config.lock()

    def loader(self, split: str, process_index: int, process_count: int) -> "LabelledLoader | None":
        """The loader of a split; None where it has no image.

        Args:
          split: "train", "val", another one of `data.protocol`, or `splits.ALL`: all images of the
            banks. All but "train" have each image once, as it is, neither flipped nor turned.
          process_index, process_count: see `ImageLoader`.
        """
        from phenomjax.data.images.loading.labelled import LabelledLoader

        data, model = self.config.data, self.config.model
        banks, weights, chosen = self.data()
        screen = Screen(banks, data, chosen)
        rows = rows_of(screen, split)
        if rows is None:
            return None
        labels = screen.labels(model.classes, model.cell_types)
        told = list(screen.told)
        if unseen := screen.unseen(rows, model.classes):
            trained = "are left out" if split == "train" else "count neither as right nor as wrong"
            told.append(f"{unseen}: they {trained}.")
            known = labels.label[screen.numbering.of(rows)] >= 0
            if split not in ("train", ALL) and not known.any():
                raise UserError(
                    f"There is nothing to measure on the {split} split: {unseen}. Hold out others"
                    " with --config.data.val_groups, or nothing: "
                    '--config.data.val_groups="()" --config.data.val_fraction=0.0.'
                )
        if model.cell_type and (strange := screen.of_other_cell_types(rows, model.cell_types)):
            told.append(f"{strange}: the network is told none.")
        without = int((labels.group[screen.numbering.of(rows)] < 0).sum())
        if without and (data.groups or split != "train"):
            told.append(
                f"{without:,} images have no {data.group_by}: they make parts of their own."
            )
        settings = self.loader_settings(split, process_index, process_count)
        del settings["once"]  # always
        if split == "train":
            known = screen.kept & False
            known[screen.numbering.of(rows)] = True
            rows = screen.numbering.rows(known & ((labels.label >= 0) | screen.no_class))
            settings |= {"weights": weights, "chosen": chosen}
        if data.protocol:
            told.append(official_share(screen, split))
        return LabelledLoader(
            banks,
            labels=labels,
            rows=rows,
            parts=data.groups if split == "train" else max(data.groups, 1),
            control_share=data.control_share if split == "train" or model.control_weight else 0.0,
            told=told,
            **settings,
        )
