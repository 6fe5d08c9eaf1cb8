"""Scores of variants as whole sequences, so that those with insertions and deletions can be
compared with substitutions and with each other.

Transformer-XL and ELMo: the log-likelihood of the sequence, sum over residues and the boundary that
ends it, minus that of the wild type; by residue, its mean, minus that of the wild type. So
ProteinGym scores insertions and deletions with autoregressive models (Notin et al. 2023,
https://doi.org/10.1101/2023.12.07.570727: the mean, which does not count what is longer as less
likely). XLNet: the pseudo-log-likelihood, each residue from all others (Salazar et al. 2020,
https://arxiv.org/abs/1910.14659), minus that of the wild type, as Brandes et al. 2023
(https://doi.org/10.1038/s41588-023-01465-0) score insertions and deletions with a masked model.
"""

import logging
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from phenomjax.inference.sequences import batches, segments
from phenomjax.inference.sequences.segments import frame
from phenomjax.inference.variants import hidden
from phenomjax.inference.variants.notation import Variant
from phenomjax.system import log as system_log
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
Scores = Float[np.ndarray, "variants directions"]


def scores(
    trained: SequenceModel,
    wild_type: str,
    variants: Sequence[Variant],
    segment_len: int = 0,
    batch_tokens: int = 0,
) -> tuple[Scores, Scores]:
    """Scores of variants, whatever their lengths.

    Args:
      trained: a model whose compute type is float32.
      wild_type: the sequence.
      variants: mutations of each, or its whole sequence.
      segment_len, batch_tokens: as of `likelihood.variant_scores`.

    Returns:
      Differences to the wild type, nats: of the sums, and of the means by residue (the end of a
      sequence counts as one where it is predicted).
    """
    texts = [wild_type, *(sequence_of(wild_type, variant) for variant in variants)]
    different = sorted(set(texts), key=lambda text: (-len(text), text))
    number = {text: i for i, text in enumerate(different)}
    found = log_likelihoods(trained, different, segment_len, batch_tokens)
    ends = trained.task.scoring != "masked"
    means = found / np.array([[len(text) + ends] for text in different])
    places = [number[text] for text in texts]
    return tuple(x[places[1:]] - x[places[0]] for x in (found, means))  # type: ignore[return-value]


def sequence_of(wild_type: str, variant: Variant) -> str:
    """The whole sequence of a variant."""
    if isinstance(variant, str):
        return variant
    letters = list(wild_type)
    for place, letter in variant:
        letters[place] = letter
    return "".join(letters)


def log_likelihoods(
    trained: SequenceModel, sequences: Sequence[str], segment_len: int = 0, batch_tokens: int = 0
) -> Scores:
    """Log-likelihoods of sequences, or pseudo-log-likelihoods of a model with scoring "masked".

    Args:
      trained: the model.
      sequences: longest first.
      segment_len, batch_tokens: as of `likelihood.variant_scores`.

    Returns:
      [sequences, directions] float64, nats.
    """
    batch_tokens = batch_tokens or segments.default_batch_tokens()
    ids = [trained.task.words.encode(text) for text in sequences]
    with jax.default_matmul_precision("float32"):
        if trained.task.scoring == "masked":
            return _hidden(trained, ids, batch_tokens)
        segment_len = segment_len or trained.task.inference_segment_len
        return _whole(trained, ids, segment_len, batch_tokens)


def _whole(
    trained: SequenceModel, ids: Sequence[np.ndarray], segment_len: int, batch_tokens: int
) -> Scores:
    task = trained.task
    ends = sum(map(len, task.boundary)) - 1
    steps = np.array([len(one) + ends for one in ids])  # predicted tokens
    step, found = jax.jit(task.segment_log_probs), np.zeros((len(ids), task.directions))
    bar = system_log.Progress("score", len(ids), "sequences")
    for batch in batches.plan(steps, segment_len, batch_tokens):
        seq, members = batch.seq, ids[batch.start : batch.stop]
        shape = (batch.rows, batch.segments * seq + 1)
        framed = frame(members, shape, task.boundary, task.directions)
        carry = task.inference_carry(batch.rows, whole=batch.segments == 1)
        for a in range(0, batch.segments * seq, seq):
            tokens, targets = framed[:, :, a : a + seq], framed[:, :, a + 1 : a + seq + 1]
            here, carry = step(trained.params, tokens, targets, carry)
            inside = a + np.arange(seq) < steps[batch.start : batch.stop, None, None]
            known = np.asarray(here, np.float64)[: len(members)]
            found[batch.start : batch.stop] += np.where(inside, known, 0.0).sum(-1)
        bar.update(len(members))
    return found


def _hidden(trained: SequenceModel, ids: Sequence[np.ndarray], batch_tokens: int) -> Scores:
    before, after = trained.task.boundary
    framed = [np.concatenate([before, one, after]).astype(np.uint8) for one in ids]
    total = sum(len(one) for one in ids)
    log.info("%d different sequences, each residue hidden in turn: %d predictions", len(ids), total)
    bar, found = system_log.Progress("score", total, "residues"), np.zeros((len(ids), 1))
    sizes = np.array([batches.window_width(len(one)) for one in framed])
    for size in np.unique(sizes)[::-1]:
        jobs = [
            (number, len(before) + place)
            for number in np.flatnonzero(sizes == size).tolist()
            for place in range(len(ids[number]))
        ]
        for first, table in hidden.log_probs(trained, framed, jobs, int(size), batch_tokens):
            for (number, place), row in zip(jobs[first : first + len(table)], table, strict=True):
                found[number] += row[framed[number][place]]
            bar.update(len(table))
    return found
