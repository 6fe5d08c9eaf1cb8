"""ELMo as a pretraining task: the next token and the one before, by two LSTMs whose states are the
task's carry.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from phenomjax.data.sequences.bank import TokenBank
from phenomjax.data.sequences.lanes import MirroredLaneLoader
from phenomjax.data.sequences.vocabulary import PAD, vocabulary
from phenomjax.models import draws, elmo
from phenomjax.tasks.language_model import LanguageModel, cross_entropy

DROPOUT_STREAM = 0  # folded into the step's key


class BidirectionalLM(LanguageModel):
    """The bidirectional objective: the mean of the forward and the backward model's negative
    log-likelihood, full softmax.

    With `model.stateful` each direction goes on with the state of its last segment, as bilm-tf
    does, and gradients stop there. The backward model reads each lane from its end, so what its
    state has seen never holds what it is to predict. bilm-tf reads sequences, each turned around,
    in the order of the forward model; here their order is turned around too, which only matters to
    a state that outlives a sequence.

    bilm-tf differentiates loss * unroll_steps. With s steps, and Adagrad, that equals clip_norm / s
    and initial_accumulator / s**2 here (configs/seqvec.py has the numbers).
    """

    directions = elmo.DIRECTIONS

    @property
    def model(self) -> elmo.ELMo:
        """The linen module."""
        return build(self.config.model, self.dtype)

    def make_loader(self, banks: Sequence[TokenBank], **options: Any) -> MirroredLaneLoader:
        """Lanes that are read from both ends."""
        return MirroredLaneLoader(banks, **options)

    def init(self, key: Array, batch: Mapping[str, Any]) -> Any:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        return self.model.init(key, jnp.zeros((1, elmo.DIRECTIONS, 1), jnp.int32), self.state(1))[
            "params"
        ]

    def carry(self, global_batch_size: int, split: str = "train") -> elmo.State | tuple[()]:
        """Zero states, or () of a stateless model."""
        return self.state(global_batch_size) if self.config.model.stateful else ()

    def loss(
        self, params: Any, batch: Mapping[str, Array], key: Array, carry: elmo.State | tuple[()]
    ) -> tuple[Array, dict[str, Array], elmo.State | tuple[()]]:
        """Mean negative log-likelihood in nats over both directions; metrics `forward`, `backward`
        (the same, each) and `accuracy`.
        """
        keys = draws.row_keys(jax.random.fold_in(key, DROPOUT_STREAM), batch["row"])
        nll, right, weight, carry = self.token_losses(params, batch, carry, keys)
        each = (nll * weight).sum((0, 2)) / jnp.maximum(weight.sum((0, 2)), 1.0)
        accuracy = (right * weight).sum() / jnp.maximum(weight.sum(), 1.0)
        return each.mean(), {"forward": each[0], "backward": each[1], "accuracy": accuracy}, carry

    def evaluate(
        self, params: Any, batch: Mapping[str, Array], carry: elmo.State | tuple[()]
    ) -> tuple[dict[str, tuple[Array, Array]], elmo.State | tuple[()]]:
        """Sums and counts over the tokens of a validation batch."""
        nll, right, weight, carry = self.token_losses(params, batch, carry, None)
        total, count = (nll * weight).sum((0, 2)), weight.sum((0, 2))
        sums = {"forward": (total[0], count[0]), "backward": (total[1], count[1])}
        return (
            sums
            | {
                "loss": (total.sum(), count.sum()),
                "accuracy": ((right * weight).sum(), count.sum()),
            },
            carry,
        )

    def token_losses(
        self,
        params: Any,
        batch: Mapping[str, Array],
        carry: elmo.State | tuple[()],
        keys: Array | None,
    ) -> tuple[Array, Array, Array, elmo.State | tuple[()]]:
        """Negative log-likelihood, correctness and weight (rows, 2, seq) in reading order, and the
        next carry.
        """
        forward, backward = batch["tokens"], batch["backward_tokens"][:, ::-1]
        tokens = jnp.stack([forward, backward], 1)[..., 1:]
        weight = jnp.stack([batch["weight"], batch["backward_weight"][:, ::-1]], 1).astype(
            jnp.float32
        )
        state = self.state(tokens.shape[0])
        if self.config.model.stateful:
            state = jax.tree.map(
                lambda x: jnp.where(batch["fresh"].reshape(-1, *[1] * (x.ndim - 1)), 0.0, x), carry
            )
        logits, state = self.model.apply({"params": params}, tokens[..., :-1], state, keys)
        nll, right = cross_entropy(logits, tokens[..., 1:])
        return nll, right, weight, state if self.config.model.stateful else ()

    # What is done with a trained model

    directions = 2
    inference_segment_len = 512  # any gives the same

    def inference_carry(self, rows: int, *, whole: bool) -> elmo.State:
        """States before any text."""
        return self.state(rows)

    def segment_features(
        self,
        params: Any,
        tokens: Array,
        lengths: Array,
        carry: elmo.State,
        layer: int | None = None,
    ) -> tuple[Array, elmo.State]:
        """See `LanguageModel`; layer None is the sum of all, as SeqVec has it, 0 the token vectors."""
        outputs, carry = self.model.apply({"params": params}, tokens, carry, method="read")
        features = sum(outputs[1:], outputs[0]) if layer is None else outputs[layer]
        return features.astype(jnp.float32), carry

    def segment_log_probs(
        self, params: Any, tokens: Array, targets: Array, carry: elmo.State
    ) -> tuple[Array, elmo.State]:
        """See `LanguageModel`."""
        logits, carry = self.model.apply({"params": params}, tokens, carry)
        return -cross_entropy(logits, targets)[0], carry

    def layers(
        self, params: Any, tokens: Array, lengths: Array, state: elmo.State | None = None
    ) -> tuple[Array, elmo.State]:
        """Every layer's features of each token: ELMo's output.

        Args:
          tokens: (rows, seq) whole sequences without boundary tokens, padded with anything at the
            end.
          lengths: (rows,) tokens of each.
          state: None = zeros, so that a sequence always has the same features; or what an earlier
            call returned, as the published programs do: rows then depend on the rows of earlier
            batches.

        Returns:
          ((rows, num_layers + 1, seq, 2 * projection_dim) float32, the token vectors first and
          twice, forward beside backward; state).
        """
        framed, framed_lengths = self.frame(tokens, lengths)
        state = self.state(tokens.shape[0]) if state is None else state
        both = elmo.both_ways(framed, framed_lengths)
        outputs, state = self.model.apply(
            {"params": params}, both, state, None, framed_lengths, method="read"
        )
        sides = [
            jnp.concatenate([x[:, 0], elmo.both_ways(x[:, 1], framed_lengths)[:, 1]], -1)
            for x in outputs
        ]
        return jnp.stack(sides, 1)[:, :, 1:-1].astype(jnp.float32), state

    def log_likelihood(self, params: Any, tokens: Array, lengths: Array) -> Array:
        """The log-likelihood of whole sequences in nats, by the forward and by the backward model,
        without state.

        Each is the sum over all tokens and the boundary that ends the sequence in its direction.

        Args:
          tokens, lengths: as in `layers`.

        Returns:
          (rows, 2) float32: forward, backward.
        """
        framed, framed_lengths = self.frame(tokens, lengths)
        both = elmo.both_ways(framed, framed_lengths)
        logits, _ = self.model.apply(
            {"params": params}, both[..., :-1], self.state(tokens.shape[0])
        )
        nll, _ = cross_entropy(logits, both[..., 1:])
        counts = jnp.arange(1, framed.shape[1]) < framed_lengths[:, None]
        return -(nll * counts[:, None]).sum(-1)

    def frame(self, tokens: Array, lengths: Array) -> tuple[Array, Array]:
        """Sequences between the boundaries that the lanes have there: ((rows, seq + 2), lengths +
        2).
        """
        (first,), (last,) = self.boundary
        place, end = jnp.arange(tokens.shape[1] + 2), lengths[:, None] + 1
        inner = jnp.pad(tokens.astype(jnp.int32), ((0, 0), (1, 1)))
        framed = jnp.where(
            place == 0, first, jnp.where(place < end, inner, jnp.where(place == end, last, PAD))
        )
        return framed, lengths + 2

    def figure_arrays(self, params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Probabilities of the next token, forward, along the first 96 tokens of a segment without
        state, for `figures`.
        """
        tokens = batch["tokens"][:, 1:98]
        both = jnp.stack([tokens, tokens[:, ::-1]], 1)[..., :-1]
        logits, _ = self.model.apply({"params": params}, both, self.state(tokens.shape[0]))
        return {"probability": jax.nn.softmax(logits[:, 0], -1), "target": tokens[:, 1:]}

    def flops(self, batch_spec: Mapping[str, Any]) -> float:
        """Model FLOPs of one training step: 3 x the forward pass, matrix products only, 2 a
        multiply-add.

        The character CNN runs over the vocabulary, once a step for any batch, and is not counted.

        Args:
          batch_spec: {name: (global shape, dtype)}, or arrays.
        """
        rows, seq = getattr(batch_spec["tokens"], "shape", None) or batch_spec["tokens"][0]
        m = self.config.model
        layer = 8 * m.projection_dim * m.cell_dim + m.cell_dim * m.projection_dim
        return (
            3.0
            * 2.0
            * elmo.DIRECTIONS
            * rows
            * (seq - 2)
            * (m.num_layers * layer + m.projection_dim * m.vocab_size)
        )

    def state(self, rows: int) -> elmo.State:
        """States before any text."""
        m = self.config.model
        return elmo.initial_state(rows, m.num_layers, m.cell_dim, m.projection_dim)


def build(m: ConfigDict, dtype: Any) -> elmo.ELMo:
    """The linen module of a model configuration."""
    tokens = vocabulary(m.alphabet or "protein").tokens
    characters = elmo.character_table(tokens, m.vocab_size or len(tokens), m.max_characters)
    return elmo.ELMo(
        characters=tuple(map(tuple, characters.tolist())),
        encoder={
            "char_dim": m.char_dim,
            "filters": tuple(map(tuple, m.filters)),
            "num_highway": m.num_highway,
            "projection_dim": m.projection_dim,
        },
        num_layers=m.num_layers,
        cell_dim=m.cell_dim,
        cell_clip=m.cell_clip,
        projection_clip=m.projection_clip,
        skip_connections=m.skip_connections,
        dropout=m.dropout,
        dtype=dtype,
    )
