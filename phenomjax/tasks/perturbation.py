"""Weak supervision: to tell from an image which perturbation its well was given, as a pretraining
task of pure functions; batch norms take their statistics experiment by experiment.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from phenomjax import sharding
from phenomjax.cluster import messages
from phenomjax.models import classifier, draws, flops, parametrisation, vit
from phenomjax.models.batch_norm import MOMENTS, RUNNING, STORED, Statistics
from phenomjax.models.classifier import Classifier, Logits
from phenomjax.system.errors import UserError
from phenomjax.system.types import Batch, Figure, Params, Shared
from phenomjax.tasks import pictures
from phenomjax.tasks.labelled_images import LabelledImages
from phenomjax.tasks.protocol import Scalar, Sums

# folded into the step's key before the row
CUTMIX_STREAM, DROP_PATH_STREAM, DROPOUT_STREAM = 0, 1, 2


class Perturbation(LabelledImages):
    """The weakly supervised objective, made from a finalized and resolved config.

    Batches have, beside what a masked autoencoder's have, `label` (batch,) int32, the place in
    `model.classes` (-1: none of them, as a class can be that only validation has), and `cell_type`
    (batch,) int32, the place in `model.cell_types`, and `control` (batch,) bool. Row r belongs to
    part r % max(data.groups, 1).

    Args:
      config: reads `model.*`, `data.*`, `optimizer.accumulate_steps`, `seed` and
        `global_batch_size`.
    """

    training_only = ("head",)
    # what a run of another task, or of other classes, can begin this one with
    begins_with = ("backbone", "encoder", "norm", "neck")

    @property
    def next_command(self) -> str:
        """Judges it on what was held out, or embeds where nothing was."""
        data = self.config.data
        if not (data.protocol or data.val_groups or data.val_fraction):
            return super().next_command
        return (
            "python -m phenomjax.evaluate perturbations --checkpoint {workdir} --out"
            " {workdir}/report"
        )

    @functools.cached_property
    def model(self) -> Classifier:
        """The linen module; made on first use, because the automatic compute type asks for the
        backend.
        """
        return classifier.build(self.config.model, self.dtype)

    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        params = self._variables(key, batch["pixels"].shape)["params"]
        return parametrisation.initialised(params, self.config.model)

    def carry(self, global_batch_size: int, split: str = "train") -> Shared | tuple[()]:
        """The running statistics of the batch norms, mean 0 and variance 1 at first; nothing where
        they are read with the parameters.
        """
        if split != "train":
            return ()
        crop, channels = self.config.data.crop_size, len(self.config.model.channels)
        shapes = jax.eval_shape(
            lambda: self._variables(jax.random.key(0), (2, crop, crop, channels))
        )

        def first(path: tuple, leaf: jax.ShapeDtypeStruct) -> Array:
            return jnp.full(leaf.shape, float(path[-1].key == "var"), leaf.dtype)

        return Shared({RUNNING: jax.tree.map_with_path(first, shapes.get(RUNNING, {}))})

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], carry: Shared
    ) -> tuple[Scalar, dict[str, Scalar], Shared]:
        """The training loss of a batch: mean over its rows, each with its own box of CutMix,
        dropout and drop path.

        Args:
          params: unboxed parameters.
          batch: `pixels`, `label`, `cell_type`, `control` and `row`. Rows of label -1, controls
            that are no class, count in statistics only.
          key: key of the step; draws come from (key, row) alone.
          carry: running statistics.

        Returns:
          (loss, metrics, carry): float32 scalars; metrics are `accuracy` (of rows mixed by CutMix
          the share of the label that was said) and, where there is ArcFace, `softmax` and
          `arcface`.
        """
        model, row = self.config.model, batch["row"]
        micro = self.config.optimizer.accumulate_steps
        parts = max(self.config.data.groups, 1) // micro
        if micro > 1:
            self._check_rows(row.shape[0])
        images, cells = self._images(batch), self._cells(batch)
        labels = [(batch["label"], jnp.ones(row.shape[0]))]
        if model.cutmix:
            keys = draws.row_keys(jax.random.fold_in(key, CUTMIX_STREAM), row)
            whole = None
            if self._controlled:  # what statistics are of stays as it is
                whole = batch["control"] | classifier.partners(batch["control"], parts)
            images, share = classifier.cutmix(images, keys, model.cutmix, parts, whole)
            other = classifier.partners(batch["label"], parts)
            labels = [(batch["label"], share), (other, 1.0 - share)]
            if cells is not None:
                theirs = classifier.partners(cells, parts)
                cells = share[:, None] * cells + (1.0 - share[:, None]) * theirs
        drop = keys = None
        if model.backbone == "vit" and model.drop_path:
            drop = draws.drop_path_scales(
                jax.random.fold_in(key, DROP_PATH_STREAM),
                row,
                model.drop_path,
                model.depth,
                vit.BRANCHES[model.block],
            )
        if model.dropout:
            keys = draws.row_keys(jax.random.fold_in(key, DROPOUT_STREAM), row)
        # Under accumulation a step is mapped over shards, and a part is in all of them.
        axis = sharding.SHARDS if micro > 1 else None
        statistics = Statistics(parts=parts, weight=self._weight(batch), axis=axis)
        (_, logits), moved = self.model.apply(
            {"params": params, RUNNING: carry.value[RUNNING]},
            images,
            cells,
            statistics,
            drop,
            keys,
            mutable=[RUNNING],
        )
        sums: dict[str, Array] = {}
        for label, weight in labels:
            for name, value in self.row_losses(logits, label).items():
                sums[name] = sums.get(name, 0.0) + weight * value
        # the same share in every part, or shards would differ in what a row weighs
        told = 1.0 - self._control_share if self.config.data.controls == "statistics" else 1.0
        means = {name: value.mean() / told for name, value in sums.items()}
        next_carry = Shared({RUNNING: moved.get(RUNNING, {})})
        return means.pop("loss"), means, next_carry

    def evaluate(
        self, params: Params, batch: Batch, carry: tuple[()] = ()
    ) -> tuple[Sums, tuple[()]]:
        """Sums and counts over the rows of a validation batch whose label is one of the classes:
        `loss` and `accuracy` by running statistics, and, where a part of the batch is of one
        experiment and there are batch norms, `accuracy_adabn` by those of each part as in training.

        Args:
          params: with the running statistics beside them.
          batch: as in `loss`; rows of label -1 count in statistics only.
          carry: `()`.
        """
        known = batch["label"] >= 0
        count = known.sum(dtype=jnp.float32)
        sums: Sums = {}
        ways = {"": STORED}
        if self.config.data.groups and params[RUNNING]:
            own = Statistics(parts=self.config.data.groups, weight=self._weight(batch))
            ways["_adabn"] = own
        for suffix, statistics in ways.items():
            values = self.row_losses(self._apply(params, batch, statistics)[1], batch["label"])
            for name in ("loss", "accuracy") if not suffix else ("accuracy",):
                sums[name + suffix] = (jnp.where(known, values[name], 0.0).sum(), count)
        return sums, carry

    def embed(
        self,
        params: Params,
        batch: Batch,
        carry: tuple[()] = (),
        *,
        blocks: Sequence[int] = (),
        channelwise: bool = False,
    ) -> tuple[Float[Array, "batch 1 dim"], tuple[()]]:
        """The neck's output, or without a neck the pooled features.

        Args:
          params: with statistics beside them, without the head if that is wanted.
          batch: `pixels`; `cell_type`, if the model is told it; `domain` (batch,) int32, if the
            statistics have an axis of domains in front: whose normalise each row.
          carry: `()`.
          blocks: there is one.
          channelwise: an error.

        Raises:
          UserError: channelwise.
        """
        if channelwise:
            raise UserError(
                "Channelwise embeddings need a masked autoencoder with"
                " model.channel_agnostic=True; a model of perturbations makes one embedding of all"
                " channels. Leave channelwise out."
            )
        statistics = Statistics(domain=batch["domain"]) if "domain" in batch else STORED
        return self._apply(params, batch, statistics, method="embedding")[:, None], carry

    def moments(self, params: Params, batch: Batch, parts: int = 1) -> Params:
        """See `ImageObjective.moments`."""
        statistics = Statistics(parts=parts, weight=batch["weight"])
        how = {"method": "embedding", "mutable": [MOMENTS]}
        return self._apply(params, batch, statistics, **how)[1][MOMENTS]

    def logits(
        self, params: Params, batch: Batch, statistics: Statistics = STORED
    ) -> Float[Array, "batch class"]:
        """Those that predict one of `model.classes`, of batches as in `embed`."""
        return self._apply(params, batch, statistics)[1].best

    def figure(self, params: Params, batch: Batch, names: Sequence[str]) -> dict[str, Figure]:
        """The classes that the first images are most likely of; `names` are theirs."""
        arrays = pictures.computed(self.shown, params, batch, len(names))
        if not messages.is_main():
            return {}
        from phenomjax.figures.predictions import predictions

        return {
            "predictions": predictions(
                arrays["images"],
                arrays["probabilities"],
                arrays["label"],
                self.config.model.classes,
                self.config.model.channels,
                image_names=names,
            )
        }

    def shown(self, params: Params, batch: Batch) -> dict[str, Array]:
        """What a picture shows: images as the network sees them, probabilities and label."""
        scale = self.config.model.arcface_scale if self.config.model.arcface_weight == 1 else 1.0
        return {
            "images": self._images(batch),
            "probabilities": jax.nn.softmax(scale * self.logits(params, batch)),
            "label": batch["label"],
        }

    def flops(self, batch: Batch) -> float:
        """Model FLOPs of one training step: 3 x the forward pass."""
        return 3.0 * flops.classifier(self.config.model, batch["pixels"].shape)

    @property
    def embedding_dim(self) -> int:
        return classifier.embedding_dim(self.config.model)

    @property
    def pixels_multiple(self) -> int:
        return self.config.model.patch_size if self.config.model.backbone == "vit" else 1

    @property
    def least_pixels(self) -> int:
        model = self.config.model
        if model.backbone == "vit":
            return model.patch_size
        return 2 ** (len(model.block_config) + 1)

    @property
    def reads_cell_type(self) -> bool:
        return self.config.model.cell_type

    # Shared by the above

    def row_losses(
        self, logits: Logits, label: Int[Array, " batch"]
    ) -> dict[str, Float[Array, " batch"]]:
        """`loss` and its parts, and `accuracy`, of each row."""
        model = self.config.model
        weight, smoothing = model.arcface_weight, model.label_smoothing
        parts = {}
        if logits.softmax is not None:
            parts["softmax"] = classifier.cross_entropy(logits.softmax, label, smoothing)
        if logits.cosine is not None:
            turned = classifier.with_margin(
                logits.cosine, label, model.arcface_scale, model.arcface_margin
            )
            parts["arcface"] = classifier.cross_entropy(turned, label, smoothing)
        if len(parts) == 1:
            parts = {"loss": next(iter(parts.values()))}
        else:
            parts["loss"] = (1.0 - weight) * parts["softmax"] + weight * parts["arcface"]
        return parts | {"accuracy": (logits.best.argmax(-1) == label).astype(jnp.float32)}

    @property
    def _controlled(self) -> bool:
        """Whether controls are there for statistics more than for themselves."""
        return self.config.model.control_weight > 0 or self.config.data.controls == "statistics"

    @property
    def _control_share(self) -> float:
        """Of controls in a part: exactly, or as they come on average."""
        data = self.config.data
        if not data.control_share:
            return self.config.model.control_share
        images = self.config.global_batch_size // max(data.groups, 1) // data.crops_per_image
        return round(data.control_share * images) / images

    def _weight(self, batch: Batch) -> Float[Array, " batch"] | None:
        """Of the rows in the statistics of their part, 1 on average; None: all alike."""
        weight = self.config.model.control_weight
        if not weight:
            return None
        share = self._control_share
        return jnp.where(batch["control"], weight / share, (1.0 - weight) / (1.0 - share))

    def _apply(self, params: Params, batch: Batch, statistics: Statistics, **how: Any) -> Any:
        """The network on a batch, by parameters with statistics beside them; `how` is of Flax."""
        rest = {name: tree for name, tree in params.items() if name != RUNNING}
        variables = {"params": rest, RUNNING: params.get(RUNNING, {})}
        seen = self._images(batch), self._cells(batch), statistics
        return self.model.apply(variables, *seen, **how)

    def _images(self, batch: Batch) -> Float[Array, "batch height width channel"]:
        return classifier.standardised(batch["pixels"], self.config.model.standardise)

    def _cells(self, batch: Batch) -> Float[Array, "batch cell"] | None:
        """One-hot; all 0 for a type that the model was not trained with."""
        model = self.config.model
        if not model.cell_type:
            return None
        if "cell_type" not in batch:
            raise UserError(
                "This model is told the cell type of each image (model.cell_type=True), and nothing"
                " says what it is. Give a bank whose metadata have cell_type, or train a model with"
                " --config.model.cell_type=False."
            )
        return jax.nn.one_hot(batch["cell_type"], len(model.cell_types))

    def _check_rows(self, rows: int) -> None:
        """Checks that under accumulation each shard of a micro-batch has rows of whole parts."""
        c = self.config
        parts = max(c.data.groups, 1) // c.optimizer.accumulate_steps
        multiple = parts * (2 if c.model.cutmix else 1)
        if rows % multiple:
            shards = c.global_batch_size // (rows * c.optimizer.accumulate_steps)
            least = shards * multiple * c.optimizer.accumulate_steps
            raise UserError(
                f"config.global_batch_size {c.global_batch_size} gives each of {shards} devices"
                f" {rows} rows of a micro-batch, which are not a multiple of the {multiple} that"
                f" config.data.groups={c.data.groups}"
                + (" and CutMix" if c.model.cutmix else "")
                + " need. Set --config.global_batch_size="
                f"{-(-c.global_batch_size // least) * least}."
            )

    def _variables(self, key: Key[Array, ""], shape: tuple[int, ...]) -> dict[str, Params]:
        """Everything that the network is made of, for images of a shape."""
        model = self.config.model
        cells = jnp.zeros((shape[0], len(model.cell_types))) if model.cell_type else None
        return self.model.init(key, jnp.zeros(shape), cells)


Objective = Perturbation  # what config.task "perturbation" means
