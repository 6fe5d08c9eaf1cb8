"""Images to an embedding and the logits of classes: a backbone, a neck with batch norms, a head."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, Num
from ml_collections import ConfigDict

from phenomjax.models import densenet, draws, layers, vit
from phenomjax.models import patches as models_patches
from phenomjax.models.batch_norm import STORED, BatchNorm, Statistics

Images = Float[Array, "batch height width channel"]
DROPOUT_SITE = 0
LEAST_NORM = 1e-12  # of a vector that is divided by its length


class Logits(NamedTuple):
    """What a head says of each class.

    Attributes:
      softmax: None where ArcFace is alone.
      cosine: of the embedding and each class's vector, without scale and margin; None without
        ArcFace.
    """

    softmax: Float[Array, "batch class"] | None
    cosine: Float[Array, "batch class"] | None

    @property
    def best(self) -> Float[Array, "batch class"]:
        """Those that predict."""
        found = self.cosine if self.softmax is None else self.softmax
        assert found is not None
        return found


class Neck(nn.Module):
    """norm, dense, ReLU, norm, dense, norm: pooled features to the embedding.

    What the last norm takes away again, a bias of the norm or the dense layer before it, is left
    out: its gradient would be rounding alone, which Adam makes steps of.

    Attributes:
      dim: of the embedding.
      norm: attributes of `BatchNorm` but its type.
    """

    dim: int
    norm: layers.Options
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch feature"], statistics: Statistics
    ) -> Float[Array, "batch dim"]:
        options = {**self.norm, "dtype": self.dtype}
        # the width of the features, with a cell type beside them, is a multiple of nothing
        dense = {"features": (self.dim,), "kernel_axes": (None, "embed"), "dtype": self.dtype}
        x = BatchNorm(**options, name="norm_0")(x, statistics)
        x = nn.relu(layers.Dense(**dense, name="dense_0")(x))
        x = BatchNorm(**options, use_bias=False, name="norm_1")(x, statistics)
        x = layers.Dense(**dense, use_bias=False, name="dense_1")(x)
        return BatchNorm(**options, name="norm_2")(x, statistics).astype(jnp.float32)


class Head(nn.Module):
    """Classes by a dense layer, by the cosine to a vector of each class, or by both; float32.

    Attributes:
      classes: their number.
      softmax, arcface: which of both there are.
    """

    classes: int
    softmax: bool
    arcface: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch dim"]) -> Logits:
        softmax = cosine = None
        if self.softmax:
            softmax = layers.Dense((self.classes,), ("embed", None), name="classifier")(x)
        if self.arcface:
            init = nn.with_logical_partitioning(
                layers.xavier_uniform(x.shape[-1], self.classes), ("embed", None)
            )
            kernel = self.param("arcface_kernel", init, (x.shape[-1], self.classes), jnp.float32)
            cosine = _unit(x, 1) @ _unit(kernel, 0)
        return Logits(softmax, cosine)


def _unit(x: Array, axis: int) -> Array:
    square = jnp.square(x).sum(axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, LEAST_NORM**2))


class Classifier(nn.Module):
    """The network of a weakly supervised model.

    Parameters are "backbone" (a DenseNet), or "encoder" and "norm" (of a masked autoencoder, from
    which they can be taken); "neck", if there is one; and "head".

    Attributes:
      densenet: attributes of `DenseNet` but its type; None: a ViT.
      encoder: attributes of `vit.Encoder` but its type; None: a DenseNet.
      patch_size, position_grid, channel_agnostic, layer_norm_eps: of the ViT; see `models.mae.MAE`.
      neck: attributes of `Neck` but its type; None: the pooled features are the embedding.
      head: attributes of `Head`.
      dropout: share of the pooled features that are left out where there are keys.
    """

    densenet: layers.Options | None
    encoder: layers.Options | None
    patch_size: int
    position_grid: float
    channel_agnostic: bool
    layer_norm_eps: float
    neck: layers.Options | None
    head: layers.Options
    dropout: float
    dtype: DTypeLike

    def setup(self) -> None:
        if self.densenet is not None:
            self.backbone = densenet.DenseNet(**self.densenet, dtype=self.dtype)
        if self.encoder is not None:
            self.encode = vit.Encoder(**self.encoder, dtype=self.dtype, name="encoder")
            self.norm = layers.LayerNorm(self.layer_norm_eps)
        if self.neck is not None:
            self.to_embedding = Neck(**self.neck, dtype=self.dtype, name="neck")
        self.to_logits = Head(**self.head, name="head")

    def __call__(self, *seen: Any) -> tuple[Float[Array, "batch dim"], Logits]:
        """(embedding, logits) of the arguments of `embedding`."""
        x = self.embedding(*seen)
        return x, self.to_logits(x)

    def embedding(
        self,
        images: Images,
        cells: Float[Array, "batch cell"] | None = None,
        statistics: Statistics = STORED,
        drop: Float[Array, "depth batch branch"] | None = None,
        keys: Key[Array, " batch"] | None = None,
    ) -> Float[Array, "batch dim"]:
        """What classes are told apart by, float32.

        Args:
          images: standardised.
          cells: what stands beside the pooled features, such as cell types, one-hot.
          statistics: of the batch norms.
          drop: drop-path scales of a ViT, or None.
          keys: of the rows, for dropout, or None.
        """
        x = (
            self.tokens_mean(images, drop)
            if self.densenet is None
            else self.backbone(images, statistics)
        )
        x = draws.dropout(x, self.dropout, keys, DROPOUT_SITE)
        if cells is not None:
            x = jnp.concatenate([x, cells], axis=-1)
        return x if self.neck is None else self.to_embedding(x, statistics)

    def tokens_mean(
        self, images: Images, drop: Float[Array, "depth batch branch"] | None
    ) -> Float[Array, "batch feature"]:
        """Of a ViT the mean of its patch tokens, after or (channel-agnostic) before the norm."""
        assert self.encoder is not None
        rows, columns = (size // self.patch_size for size in images.shape[1:3])
        table = models_patches.sincos_positions(
            rows, columns, self.encoder["embed_dim"], self.position_grid
        )
        if self.channel_agnostic:
            table = jnp.tile(table, (images.shape[3], 1))
        patches = models_patches.patchify(images, self.patch_size, self.channel_agnostic)
        tokens = self.encode(patches, table[None], drop)[:, int(self.encoder["class_token"]) :]
        if self.channel_agnostic:
            return self.norm(tokens.astype(jnp.float32).mean(1))
        return self.norm(tokens).mean(1)


def build(model: ConfigDict, dtype: DTypeLike) -> Classifier:
    """The linen module of a model configuration."""
    norm = {"momentum": model.norm_momentum, "epsilon": model.batch_norm_eps}
    is_densenet = model.backbone == "densenet"
    return Classifier(
        densenet={
            "block_config": tuple(model.block_config),
            "growth_rate": model.growth_rate,
            "stem_features": model.stem_features,
            "norm": norm,
            "remat": model.remat == "full",
        }
        if is_densenet
        else None,
        encoder=None if is_densenet else vit.encoder_options(model, dtype),
        patch_size=model.patch_size,
        position_grid=model.position_grid,
        channel_agnostic=model.channel_agnostic,
        layer_norm_eps=model.norm_eps,
        neck={"dim": model.neck_dim, "norm": norm} if model.neck_dim else None,
        head={
            "classes": len(model.classes),
            "softmax": model.arcface_weight < 1.0,
            "arcface": model.arcface_weight > 0.0,
        },
        dropout=model.dropout,
        dtype=dtype,
    )


def pooled_dim(model: ConfigDict) -> int:
    """What the neck, or without one the head, is given: pooled features and the cell type."""
    cells = len(model.cell_types) if model.cell_type else 0
    if model.backbone == "vit":
        return model.embed_dim + cells
    shape = model.block_config, model.growth_rate, model.stem_features
    return densenet.num_features(*shape) + cells


def embedding_dim(model: ConfigDict) -> int:
    """Length of the embedding of a model configuration."""
    return model.neck_dim or pooled_dim(model)


def standardised(pixels: Num[Array, "batch height width channel"], how: str) -> Images:
    """Pixels as the network wants them, float32: "image", or "none", by the range of their type."""
    if how == "image":
        return models_patches.self_standardise(pixels)
    # 16-bit pixels can come in a wider type, where a runtime has none for them
    return pixels.astype(jnp.float32) / (255.0 if pixels.dtype == jnp.uint8 else 65535.0)


# Losses


def cross_entropy(
    logits: Float[Array, "batch class"], label: Int[Array, " batch"], smoothing: float
) -> Float[Array, " batch"]:
    """Of each row; the target is 1 - e + e / K at the label and e / K elsewhere, with e =
    `smoothing` of K classes (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567). A label below
    0 gives 0.
    """
    told = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(told, jnp.maximum(label, 0)[:, None], 1)[:, 0]
    loss = -(1.0 - smoothing) * own - smoothing * told.mean(1)
    return jnp.where(label < 0, 0.0, loss)


def with_margin(
    cosine: Float[Array, "batch class"], label: Int[Array, " batch"], scale: float, margin: float
) -> Float[Array, "batch class"]:
    """ArcFace (Deng et al. 2019, https://arxiv.org/abs/1801.07698, equation 3): s cos(angle + m) at
    the label, s cos(angle) elsewhere.

    Where angle + m is more than a half turn, at which the cosine would rise again, it is
    s (cos(angle) - m sin(m)): still lower the larger the angle.
    """
    clipped = jnp.clip(cosine, -1.0 + 1e-7, 1.0 - 1e-7)  # the root has no slope at 0
    sine = jnp.sqrt(1.0 - jnp.square(clipped))
    turned = clipped * math.cos(margin) - sine * math.sin(margin)
    turned = jnp.where(
        cosine > math.cos(math.pi - margin), turned, cosine - margin * math.sin(margin)
    )
    own = jax.nn.one_hot(label, cosine.shape[1], dtype=bool)
    return scale * jnp.where(own, turned, cosine)


# CutMix


class Mix(NamedTuple):
    """Images with a box of their partner's, and what is left of themselves."""

    images: Images
    share: Float[Array, " batch"]


def partners(x: Array, parts: int) -> Array:
    """Of every row the next of its part, in pairs: rows r and r + parts change places."""
    return x.reshape(-1, 2, parts, *x.shape[1:])[:, ::-1].reshape(x.shape)


def cutmix(
    images: Images,
    keys: Key[Array, " batch"],
    alpha: float,
    parts: int,
    whole: Bool[Array, " batch"] | None = None,
) -> Mix:
    """CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899): a box of the partner's image,
    which covers 1 - share with share ~ Beta(alpha, alpha), at a uniform place; what of it would be
    outside is cut off, and the share is that of the pixels that remain.

    Args:
      images: rows r and r + parts are each other's partners.
      keys: of the rows; each draws its own box.
      alpha: of the Beta distribution.
      parts: of the batch.
      whole: rows that stay as they are; None: none.
    """
    height, width = images.shape[1:3]

    def box(key: Array) -> tuple[Array, Array]:
        of_share, of_place = jax.random.split(key)
        edge = jnp.sqrt(1.0 - jax.random.beta(of_share, alpha, alpha))
        inside = []
        for size, place in zip((height, width), jax.random.uniform(of_place, (2,)), strict=True):
            centre = jnp.floor(place * size).astype(jnp.int32)
            half = jnp.round(edge * size).astype(jnp.int32)
            start = centre - half // 2
            at = jnp.arange(size)
            inside.append((at >= start) & (at < start + half))
        mask = inside[0][:, None] & inside[1][None, :]
        return mask, 1.0 - mask.mean(dtype=jnp.float32)

    masks, share = jax.vmap(box)(keys)
    if whole is not None:
        masks, share = masks & ~whole[:, None, None], jnp.where(whole, 1.0, share)
    return Mix(jnp.where(masks[..., None], partners(images, parts), images), share)
