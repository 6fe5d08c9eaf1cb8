"""Flax heads on frozen features, and the losses of several labels on one trunk.

A head sees rows: proteins, or residues of chains that lie one after the other with GAP rows of
zeros between them (`mask` is 0 there), so that one shape serves chains of all lengths and a
convolution sees zeros beyond the ends of a chain, as it does at the ends of an array.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from phenomjax.probes.suites.suite import CLASS, MULTILABEL, RESIDUE, VALUE, Training

KERNEL = 7
GAP = KERNEL // 2


@dataclass(frozen=True)
class Target:
    """One label of a head.

    Attributes:
      kind: a name in suite.KINDS.
      outputs: numbers that predict it: classes, or 1.
    """

    kind: str
    outputs: int


class Linear(nn.Module):
    """Logistic or linear regression, from zero: its loss is convex."""

    outputs: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "rows dim"], mask: Bool[Array, " rows"], train: bool
    ) -> Float[Array, "rows outputs"]:
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(x)


class Fnn(nn.Module):
    """Dense - dropout - ReLU (- batch norm) - outputs.

    Per protein with batch norm: the network of SeqVec (Heinzinger et al. 2019) for localization and
    membrane; per residue without.
    """

    outputs: int
    hidden: int
    dropout: float
    batch_norm: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "rows dim"], mask: Bool[Array, " rows"], train: bool
    ) -> Float[Array, "rows outputs"]:
        x = nn.Dense(self.hidden)(x)
        x = nn.relu(nn.Dropout(self.dropout, deterministic=not train)(x))
        if self.batch_norm:
            x = nn.BatchNorm(not train, momentum=0.9)(x, mask=mask[:, None])
        return nn.Dense(self.outputs)(x)


class Convolution(nn.Module):
    """Convolution of KERNEL rows as one matrix product.

    The same as nn.Conv; that one turns into a grouped convolution when seeds are trained together
    (vmap), which took 5 times as long on a CPU.

    Attributes:
      channels: outputs.
      few: they are fewer than the inputs: the outputs of each of the KERNEL rows are shifted and
        added up, rather than the inputs windowed.
    """

    channels: int
    few: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "rows dim"]) -> Float[Array, "rows channels"]:
        rows, dim = x.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (KERNEL * dim, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))

        def shifted(values: Array) -> list[Array]:  # at distance -GAP, ..., GAP
            padded = jnp.pad(values, ((GAP, GAP), (0, 0)))
            return [padded[k : k + rows] for k in range(KERNEL)]

        if not self.few:
            return jnp.concatenate(shifted(x), -1) @ kernel + bias
        parts = x @ kernel.reshape(KERNEL, dim, self.channels).swapaxes(0, 1).reshape(dim, -1)
        width = self.channels
        return (
            sum(part[:, k * width : (k + 1) * width] for k, part in enumerate(shifted(parts)))
            + bias
        )


class Cnn(nn.Module):
    """Convolution - ReLU - dropout - a convolution for each label: the network of SeqVec and
    ProtTrans for secondary structure.
    """

    outputs: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "rows dim"], mask: Bool[Array, " rows"], train: bool
    ) -> Float[Array, "rows outputs"]:
        x = nn.relu(Convolution(self.hidden)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x) * mask[:, None]
        return Convolution(self.outputs, few=True)(x)


def make(head: str, targets: tuple[Target, ...], training: Training) -> nn.Module:
    """The module of a name in suite.HEADS; its outputs are those of all targets side by side (as
    one layer for each would give).
    """
    outputs = sum(target.outputs for target in targets)
    if head == "linear":
        return Linear(outputs)
    if head == "cnn":
        return Cnn(outputs, training.hidden, training.dropout)
    return Fnn(outputs, training.hidden, training.dropout, batch_norm=targets[0].kind != RESIDUE)


def split(
    outputs: Float[Array, "rows outputs"], targets: tuple[Target, ...]
) -> list[Float[Array, "rows part"]]:
    """The outputs of each target."""
    ends = np.cumsum([target.outputs for target in targets])
    return jnp.split(outputs, ends[:-1], axis=-1)


def losses(
    outputs: Float[Array, "rows outputs"], targets: tuple[Target, ...], truths: tuple[Array, ...]
) -> tuple[Float[Array, " targets"], Float[Array, " targets"]]:
    """Sum of the losses of the rows with a known label, and their number, of each target.

    Args:
      outputs: of the head.
      targets: what they are.
      truths: RESIDUE and CLASS: int [rows], -1 = unknown: cross entropy. MULTILABEL: bool [rows,
        classes], no True = unknown: sigmoid cross entropy, mean over classes. VALUE: float [rows],
        NaN = unknown: squared error.
    """
    sums, counts = [], []
    for target, part, truth in zip(targets, split(outputs, targets), truths, strict=True):
        if target.kind in (RESIDUE, CLASS):
            known = truth >= 0
            loss = optax.softmax_cross_entropy_with_integer_labels(part, jnp.maximum(truth, 0))
        elif target.kind == MULTILABEL:
            known = truth.any(-1)
            loss = optax.sigmoid_binary_cross_entropy(part, truth.astype(part.dtype)).mean(-1)
        else:
            known = ~jnp.isnan(truth)
            loss = (part[:, 0] - jnp.where(known, truth, 0)) ** 2
        sums.append(jnp.where(known, loss, 0).sum())
        counts.append(known.sum().astype(part.dtype))
    return jnp.stack(sums), jnp.stack(counts)


def predictions(outputs: Float[Array, "rows outputs"], targets: tuple[Target, ...]) -> list[Array]:
    """Probabilities [rows, classes] of each target, or values [rows]."""
    return [
        (
            part[:, 0]
            if target.kind == VALUE
            else jax.nn.sigmoid(part)
            if target.kind == MULTILABEL
            else jax.nn.softmax(part)
        )
        for target, part in zip(targets, split(outputs, targets), strict=True)
    ]
