"""Mutation effects from likelihoods: of whole variants (Transformer-XL, ELMo), or of single
residues from all others (XLNet). Variants of another length: `whole`.
"""

import logging
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from phenomjax.inference.sequences import segments
from phenomjax.inference.sequences.batches import WINDOW, buckets, rows_for, window_width
from phenomjax.inference.sequences.segments import frame
from phenomjax.inference.variants import hidden, whole
from phenomjax.inference.variants.notation import Mutation, Variant
from phenomjax.system import log as system_log
from phenomjax.system.log import counted
from phenomjax.system.types import Carry
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")


def variant_scores(
    trained: SequenceModel,
    wild_type: str,
    variants: Sequence[Variant],
    segment_len: int = 0,
    batch_tokens: int = 0,
) -> np.ndarray:
    """Scores of variants against the wild type, the way the model's task has it; where a variant
    has another length, all as whole sequences, so that they can be compared.

    Args:
      trained: a model whose compute type is float32, for scores are differences of sums.
      wild_type: the sequence.
      variants: mutations of each, or its whole sequence.
      segment_len: tokens of a segment of longer proteins; 0 = as in the run's evaluation.
      batch_tokens: of a batch; 0 = what suits the device.

    Returns:
      [variants, directions] float64, nats; their sum is the score.
    """
    opening.check_predicts(trained)
    substitutions = [variant for variant in variants if not isinstance(variant, str)]
    if len(substitutions) < len(variants):
        return whole.scores(trained, wild_type, variants, segment_len, batch_tokens)[0]
    batch_tokens = batch_tokens or segments.default_batch_tokens()
    with jax.default_matmul_precision("float32"):
        if trained.task.scoring == "masked":
            return masked_scores(trained, wild_type, substitutions, batch_tokens)
        segment_len = segment_len or trained.task.inference_segment_len
        return sequence_scores(trained, wild_type, substitutions, segment_len, batch_tokens)


def sequence_scores(
    trained: SequenceModel,
    wild_type: str,
    variants: Sequence[Sequence[Mutation]],
    segment_len: int,
    batch_tokens: int,
) -> np.ndarray:
    """log p(variant) - log p(wild type), each the sum over residues and the boundary that ends the
    sequence, by reading direction.

    A forward model says the same of variant and wild type up to the first mutation, so variants
    start with the wild type's memory at the segment in which they differ: exact, and half the work
    of a scan.

    Args:
      trained: a model with scoring "sequence".
      wild_type: the sequence.
      variants: mutations of each.
      segment_len: tokens of a segment, for sequences that are longer.
      batch_tokens: of a batch and segment.

    Returns:
      [variants, directions] float64, nats.
    """
    words = trained.task.words
    ids = words.encode(wild_type)
    reader = _SegmentReader(trained, len(ids), len(variants), segment_len, batch_tokens)
    seq, rows = reader.seq, reader.rows
    carries: list[Carry] = []  # of the wild type before each segment
    first_carry = trained.task.inference_carry(1, whole=reader.segments == 1)
    expected = reader([ids], 0, first_carry, carries)()[0]
    scores = np.zeros((len(variants), trained.task.directions))
    # The first predicted token that differs is the mutated residue, step (place + before - 1). A
    # backward model begins elsewhere.
    before, forward = len(trained.task.boundary[0]), trained.task.directions == 1
    firsts = np.array(
        [max(m[0][0] + before - 1, 0) // seq if m and forward else 0 for m in variants], int
    )
    bar, waiting = system_log.Progress("score", len(variants), "variants"), []
    jobs = [
        (int(first), members[a : a + rows])
        for first in np.unique(firsts)
        for members in [np.flatnonzero(firsts == first)]
        for a in range(0, len(members), rows)
    ]
    log.info(
        "%d variants of %d residues: segments of %d, %d rows a batch, %s, 1 compilation",
        len(variants),
        len(ids),
        seq,
        rows,
        counted(len(jobs), "batch"),
    )
    for job in [*jobs, None]:
        if job:
            first, members = job
            sequences = [mutate(ids, variants[i], words.ids) for i in members]
            waiting.append((first, members, reader(sequences, first, carries[first])))
        # the next batch is on its way while this one is fetched
        while len(waiting) > (1 if job else 0):
            first, members, collect = waiting.pop(0)
            scores[members] = (collect() - expected[:, first * seq :]).sum(-1)
            bar.update(len(members))
    return scores


class _SegmentReader:
    """Log-likelihoods of sequences of one length, a batch of one shape at a time.

    Args:
      trained: a model with scoring "sequence".
      length: residues.
      count: sequences that there will be.
      segment_len: tokens of a segment, for sequences that are longer.
      batch_tokens: of a batch and segment.

    Attributes:
      seq, segments, rows: of a batch.
    """

    def __init__(
        self, trained: SequenceModel, length: int, count: int, segment_len: int, batch_tokens: int
    ):
        self._task, self._params = trained.task, trained.params
        self._steps = length + sum(map(len, self._task.boundary)) - 1  # predicted tokens
        self.seq = next((s for s in buckets(segment_len) if s >= self._steps), segment_len)
        self.segments = -(-self._steps // self.seq)
        self.rows = rows_for(max(count, 1), max(batch_tokens // self.seq, 1), 1)
        self._step = jax.jit(self._task.segment_log_probs)

    def __call__(
        self,
        sequences: Sequence[np.ndarray],
        first: int,
        carry: Carry,
        carries: list[Carry] | None = None,
    ) -> Callable[[], Float[np.ndarray, "sequences directions tokens"]]:
        """Starts on segments `first` … from the carry of one row, which is kept in `carries` before
        each; the result waits for the likelihoods.
        """
        seq, stop = self.seq, self.segments * self.seq
        framed = frame(sequences, (self.rows, stop + 1), self._task.boundary, self._task.directions)
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.rows, *x.shape[1:])), carry)
        parts = []
        for a in range(first * seq, stop, seq):
            if carries is not None:
                carries.append(jax.tree.map(lambda x: x[:1], carry))
            tokens, targets = framed[:, :, a : a + seq], framed[:, :, a + 1 : a + seq + 1]
            found, carry = self._step(self._params, tokens, targets, carry)
            parts.append(found)
        size = self._steps - first * seq
        return lambda: np.concatenate([np.asarray(p, np.float64) for p in parts], -1)[
            : len(sequences), :, :size
        ]


def masked_scores(
    trained: SequenceModel,
    wild_type: str,
    variants: Sequence[Sequence[Mutation]],
    batch_tokens: int,
    window: int = WINDOW,
) -> np.ndarray:
    """Sum over the mutations of log p(new) - log p(old), each residue hidden alone in the wild
    type: masked marginals.

    Args:
      trained: a model with scoring "masked".
      wild_type: the sequence.
      variants: mutations of each.
      batch_tokens: of a batch.
      window: tokens that are read around the residue, of a longer sequence.

    Returns:
      [variants, 1] float64, nats.
    """
    task, words = trained.task, trained.task.words
    ids = words.encode(wild_type)
    framed = frame([ids], (1, len(ids) + sum(map(len, task.boundary))), task.boundary, 1)[0, 0]
    before = len(task.boundary[0])
    places = sorted({place for mutations in variants for place, _ in mutations})
    size = window_width(len(framed), window)
    if len(framed) > size:
        log.warning(
            "the protein is longer than %d tokens: each residue is predicted from the %d around it",
            size,
            size,
        )
    bar = system_log.Progress("score", len(places), "positions")
    log.info("%d variants, %d positions, 1 compilation", len(variants), len(places))
    table: dict[int, np.ndarray] = {}
    jobs = [(0, place + before) for place in places]
    for first, found in hidden.log_probs(trained, [framed], jobs, size, batch_tokens):
        table |= dict(zip(places[first : first + len(found)], found, strict=True))
        bar.update(len(found))
    return np.array(
        [[sum(table[p][words.ids[new]] - table[p][ids[p]] for p, new in m)] for m in variants]
    ).reshape(-1, 1)


def mutate(ids: np.ndarray, mutations: Sequence[Mutation], letters: dict[str, int]) -> np.ndarray:
    """Token ids of a variant."""
    changed = ids.copy()
    for place, letter in mutations:
        changed[place] = letters[letter]
    return changed
