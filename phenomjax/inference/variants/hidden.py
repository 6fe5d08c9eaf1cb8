"""Residues that are hidden one at a time and predicted from all others (XLNet)."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from phenomjax.inference.sequences.batches import rows_for
from phenomjax.trained.model import SequenceModel


def log_probs(
    trained: SequenceModel,
    framed: Sequence[np.ndarray],
    jobs: Sequence[tuple[int, int]],
    size: int,
    batch_tokens: int,
) -> Iterator[tuple[int, Float[np.ndarray, "places vocab"]]]:
    """Log-probabilities of every token at places that are hidden alone.

    Args:
      trained: a model with scoring "masked".
      framed: sequences between their boundary tokens.
      jobs: (number of a sequence, place in it).
      size: tokens of a row, by `window_width`; of a longer sequence it is those around the place.
      batch_tokens: of a batch.

    Yields:
      (number of the first job, float64 [jobs of a batch, vocab]).
    """
    rows = rows_for(max(len(jobs), 1), max(batch_tokens // size, 1), 1)
    step = jax.jit(trained.task.masked_log_probs)
    for first in range(0, len(jobs), rows):
        part = jobs[first : first + rows]
        tokens, positions = np.zeros((rows, size), np.uint8), np.zeros((rows, 1), np.int32)
        for row, (number, place) in enumerate(part):
            whole = framed[number]
            start = int(np.clip(place - size // 2, 0, max(len(whole) - size, 0)))
            seen = whole[start : start + size]
            tokens[row, : len(seen)] = seen
            positions[row] = place - start
        found = step(trained.params, jnp.asarray(tokens), jnp.asarray(positions))
        yield first, np.asarray(found, np.float64)[: len(part), 0]
