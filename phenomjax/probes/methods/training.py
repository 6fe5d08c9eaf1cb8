"""Training of heads on frozen features: all seeds at once, early stopping on the validation loss.

Seeds are one more axis of the parameters (vmap): a batch is read once for all of them. So they see
the same rows in the same order, and differ in their initialisation and dropout. Each keeps the
parameters of its best epoch and has its own patience.
"""

import functools
import logging
import threading
import time
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from phenomjax.probes.features.embeddings import Stopped
from phenomjax.probes.features.table import FeatureTable
from phenomjax.probes.methods import heads
from phenomjax.probes.methods.packing import PackedRows, Packing, as_scores
from phenomjax.probes.metrics import Scores
from phenomjax.probes.suites.dataset import VALIDATION, Dataset
from phenomjax.probes.suites.suite import Training
from phenomjax.system import log as system_log
from phenomjax.system.types import Params

log = logging.getLogger("phenomjax")
# of an epoch: a small training set is gone through several times, so that patience means something
MIN_STEPS = 16


def fit_predict(
    features: FeatureTable,
    dataset: Dataset,
    head: str,
    training: Training,
    stop: threading.Event | None = None,
) -> list[Scores]:
    """Trains a head on the training rows and predicts the test rows.

    Args:
      features: of all of the dataset's sequences, in its order; per residue if the labels are those
        of residues.
      dataset: what is learned.
      head: "linear", "fnn" or "cnn".
      training: how.
      stop: an event that ends the work.

    Returns:
      Predictions of dataset.test_rows for each seed, as metrics.evaluate takes them. One for
      "linear", whose loss is convex and which starts from zero: all seeds would be the same.

    Raises:
      UserError: labels of residues and of proteins in one task, or no training row with a known
        label.
      Stopped: `stop` was set.
    """
    rows = Packing(features, dataset, training.batch_size)
    seeds = 1 if head == "linear" else training.seeds
    model = _Model(
        heads.make(head, rows.targets, training),
        rows.targets,
        training.learning_rate,
        training.weight_decay,
    )
    variables = _fit(model, rows, dataset, f"{dataset.name}, {head}", seeds, training, stop)
    found: list[dict[str, list[np.ndarray]]] = [
        {label: [] for label in dataset.labels} for _ in range(seeds)
    ]
    for group in rows.groups(dataset.test_rows):
        _check(stop)
        batch = rows.read(group)
        for number, (label, values) in enumerate(
            zip(dataset.labels, _predict(model, variables, batch), strict=True)
        ):
            for seed, of_seed in enumerate(np.asarray(values)):
                found[seed][label] += rows.unpack(number, group, of_seed)
    return [
        {label: as_scores(parts, dataset.labels[label].kind) for label, parts in seed.items()}
        for seed in found
    ]


class _Model(NamedTuple):
    """What compiled functions are made for."""

    head: nn.Module
    targets: tuple[heads.Target, ...]
    learning_rate: float
    weight_decay: float

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adamw(self.learning_rate, weight_decay=self.weight_decay)


class _State(NamedTuple):
    """Of all seeds: every array has one more axis.

    Attributes:
      variables: parameters, and the running statistics of batch norm.
      moments: of AdamW.
      best: variables of the epoch with the lowest validation loss.
    """

    variables: Params
    moments: optax.OptState
    best: Params


def _fit(
    model: _Model,
    rows: Packing,
    dataset: Dataset,
    name: str,
    seeds: int,
    training: Training,
    stop: threading.Event | None,
) -> Params:
    """Variables of each seed's best epoch."""
    begin = time.monotonic()
    validation = dataset.rows(VALIDATION)
    checks = rows.groups(validation)
    repeats = -(-MIN_STEPS // len(rows.groups(rows.train)))
    random = np.random.default_rng(0)
    state = _start(model, seeds, rows.read(rows.train[:1]))
    best, waited = np.full(seeds, np.inf), np.zeros(seeds, int)
    bar: system_log.Progress | None = None
    epoch = 0
    for epoch in range(1, training.max_epochs + 1):
        groups = [
            group for _ in range(repeats) for group in rows.groups(random.permutation(rows.train))
        ]
        bar = bar or system_log.Progress(
            f"{name}: training", training.max_epochs * len(groups), "steps"
        )
        for number, group in enumerate(groups):
            _check(stop)
            batch = rows.read(group)
            jax.block_until_ready(state)  # the step before: no more than one batch waits in memory
            state = _step(model, state, batch, epoch * 2**16 + number)
            bar.update()
        losses = [_losses(model, state.variables, rows.read(group)) for group in checks]
        if not losses or not (counts := np.sum([count for _, count in losses], 0)).any():
            state = state._replace(best=state.variables)  # nothing to stop by
            continue
        loss = (np.sum([total for total, _ in losses], 0) / np.maximum(counts, 1)).sum(1)
        better = (loss < best) & (waited < training.patience)
        state = state._replace(best=_keep(state.best, state.variables, better))
        best, waited = np.where(better, loss, best), np.where(better, 0, waited + 1)
        if (waited >= training.patience).all():
            break
    found = (
        ", ".join(f"{value:.4f}" for value in best)
        if np.isfinite(best).any()
        else "none: no validation rows"
    )
    log.info(
        "%s: %d epochs of %d rows, validation loss %s, %s",
        name,
        epoch,
        len(rows.train),
        found,
        system_log.duration(time.monotonic() - begin),
    )
    return state.best


def _check(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped


@functools.partial(jax.jit, static_argnames=("model", "seeds"))
def _start(model: _Model, seeds: int, batch: PackedRows) -> _State:
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    variables = jax.vmap(lambda key: model.head.init(key, batch.x, batch.mask, False))(keys)
    return _State(variables, jax.vmap(model.optimizer.init)(variables["params"]), variables)


@functools.partial(jax.jit, static_argnames="model")
def _step(model: _Model, state: _State, batch: PackedRows, step: int | Int[Array, ""]) -> _State:
    """One step of AdamW of all seeds: the sum over labels of the mean loss of their known rows."""

    def loss(
        params: Params, others: Params, seed: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Params]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        outputs, changed = model.head.apply(
            {"params": params, **others},
            batch.x,
            batch.mask,
            True,
            mutable=list(others),
            rngs={"dropout": key},
        )
        sums, counts = heads.losses(outputs, model.targets, batch.truths)
        return (sums / jnp.maximum(counts, 1)).sum(), changed

    def update(
        variables: Params, moments: optax.OptState, seed: Int[Array, ""]
    ) -> tuple[Params, optax.OptState]:
        params = variables["params"]
        others = {name: part for name, part in variables.items() if name != "params"}
        gradient, changed = jax.grad(loss, has_aux=True)(params, others, seed)
        updates, moments = model.optimizer.update(gradient, moments, params)
        return {"params": optax.apply_updates(params, updates), **changed}, moments

    seeds = jnp.arange(len(jax.tree.leaves(state.variables)[0]))
    variables, moments = jax.vmap(update)(state.variables, state.moments, seeds)
    return _State(variables, moments, state.best)


@functools.partial(jax.jit, static_argnames="model")
def _losses(
    model: _Model, variables: Params, batch: PackedRows
) -> tuple[Float[Array, "seeds targets"], Float[Array, "seeds targets"]]:
    """Sums of the losses, and numbers of known rows."""
    return jax.vmap(
        lambda of: heads.losses(
            model.head.apply(of, batch.x, batch.mask, False), model.targets, batch.truths
        )
    )(variables)


@functools.partial(jax.jit, static_argnames="model")
def _predict(
    model: _Model, variables: Params, batch: PackedRows
) -> list[Float[Array, "seeds rows *classes"]]:
    """Of each target."""
    return jax.vmap(
        lambda of: heads.predictions(
            model.head.apply(of, batch.x, batch.mask, False), model.targets
        )
    )(variables)


@jax.jit
def _keep(best: Params, variables: Params, better: Bool[Array | np.ndarray, " seeds"]) -> Params:
    """`variables` of the seeds that are better, `best` of the others."""
    return jax.tree.map(
        lambda old, new: jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old),
        best,
        variables,
    )
