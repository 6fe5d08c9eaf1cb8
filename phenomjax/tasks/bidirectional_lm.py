"""ELMo as a pretraining task: the next token and the one before, by two LSTMs whose states are the
task's carry.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from phenomjax.data.sequences.lanes import MirroredLaneLoader
from phenomjax.data.sequences.vocabulary import PAD
from phenomjax.models import draws, elmo, flops
from phenomjax.system.types import Batch, Params
from phenomjax.tasks.language_model import (
    Features,
    LanguageModel,
    Tokens,
    cross_entropy,
    vocabulary_of,
)
from phenomjax.tasks.protocol import Loader, Scalar, Sums

DROPOUT_STREAM = 0  # folded into the step's key
Carry = elmo.State | tuple[()]
PerToken = Float[Array, "rows directions seq"]


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
        words = vocabulary_of(self.config).tokens
        return elmo.build(self.config.model, words, self.dtype)

    @property
    def make_loader(self) -> Callable[..., Loader]:
        """Lanes that are read from both ends."""
        return MirroredLaneLoader

    def init(self, key: Key[Array, ""], batch: Batch | None) -> Params:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        tokens = jnp.zeros((1, elmo.DIRECTIONS, 1), jnp.int32)
        return self.model.init(key, tokens, self.state(1))["params"]

    def carry(self, global_batch_size: int, split: str = "train") -> Carry:
        """Zero states, or () of a stateless model."""
        return self.state(global_batch_size) if self.config.model.stateful else ()

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], carry: Carry
    ) -> tuple[Scalar, dict[str, Scalar], Carry]:
        """Mean negative log-likelihood in nats over both directions; metrics `forward`, `backward`
        (the same, each) and `accuracy`.
        """
        keys = draws.row_keys(jax.random.fold_in(key, DROPOUT_STREAM), batch["row"])
        nll, right, weight, carry = self.token_losses(params, batch, carry, keys)
        each = (nll * weight).sum((0, 2)) / jnp.maximum(weight.sum((0, 2)), 1.0)
        accuracy = (right * weight).sum() / jnp.maximum(weight.sum(), 1.0)
        return each.mean(), {"forward": each[0], "backward": each[1], "accuracy": accuracy}, carry

    def evaluate(self, params: Params, batch: Batch, carry: Carry) -> tuple[Sums, Carry]:
        """Sums and counts over the tokens of a validation batch, of both directions and of each."""
        nll, right, weight, carry = self.token_losses(params, batch, carry, None)
        total, count = (nll * weight).sum((0, 2)), weight.sum((0, 2))
        each = {"forward": (total[0], count[0]), "backward": (total[1], count[1])}
        loss = (total.sum(), count.sum())
        accuracy = ((right * weight).sum(), count.sum())
        return each | {"loss": loss, "perplexity": loss, "accuracy": accuracy}, carry

    def token_losses(
        self,
        params: Params,
        batch: Batch,
        carry: Carry,
        keys: Key[Array, " rows"] | None,
    ) -> tuple[PerToken, PerToken, PerToken, Carry]:
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

    def embed(
        self, params: Params, batch: Batch, carry: Carry = (), layer: int | None = None
    ) -> tuple[Features, Carry]:
        """See `LanguageModel`; layer None is the sum of all, as in SeqVec, 0 the token vectors."""
        tokens = batch["tokens"]
        state = carry or self.state(tokens.shape[0])
        outputs, carry = self.model.apply({"params": params}, tokens, state, method="read")
        features = sum(outputs[1:], outputs[0]) if layer is None else outputs[layer]
        return features.astype(jnp.float32), carry

    def segment_log_probs(
        self, params: Params, tokens: Tokens, targets: Tokens, carry: elmo.State
    ) -> tuple[PerToken, elmo.State]:
        """See `LanguageModel`."""
        logits, carry = self.model.apply({"params": params}, tokens, carry)
        return -cross_entropy(logits, targets)[0], carry

    def layers(
        self,
        params: Params,
        tokens: Integer[Array, "rows seq"],
        lengths: Integer[Array, " rows"],
        state: elmo.State | None = None,
    ) -> tuple[Float[Array, "rows layers seq dim"], elmo.State]:
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

    def log_likelihood(
        self,
        params: Params,
        tokens: Integer[Array, "rows seq"],
        lengths: Integer[Array, " rows"],
    ) -> Float[Array, "rows directions"]:
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

    def frame(
        self, tokens: Integer[Array, "rows seq"], lengths: Integer[Array, " rows"]
    ) -> tuple[Integer[Array, "rows framed"], Integer[Array, " rows"]]:
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

    def next_probabilities(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Of the next token, forward, along the first 96 tokens of a segment without state."""
        tokens = batch["tokens"][:, 1:98]
        both = jnp.stack([tokens, tokens[:, ::-1]], 1)[..., :-1]
        logits, _ = self.model.apply({"params": params}, both, self.state(tokens.shape[0]))
        return {"probability": jax.nn.softmax(logits[:, 0], -1), "target": tokens[:, 1:]}

    def flops(self, batch: Batch) -> float:
        """Model FLOPs of one training step: 3 x the forward pass."""
        rows, seq = batch["tokens"].shape
        return 3.0 * rows * flops.bidirectional_lstm(self.config.model, seq - 2)

    def state(self, rows: int) -> elmo.State:
        """States before any text."""
        m = self.config.model
        return elmo.initial_state(rows, m.num_layers, m.cell_dim, m.projection_dim)


Objective = BidirectionalLM  # what config.task "bidirectional_lm" means
