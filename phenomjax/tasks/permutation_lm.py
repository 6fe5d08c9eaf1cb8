"""Permutation language modelling with XLNet as a pretraining task; the memory of earlier segments
is the task's carry.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Key

from phenomjax.data.sequences.spans import SpanLoader
from phenomjax.data.sequences.vocabulary import CLS, PAD, SEP
from phenomjax.models import flops, parametrisation, xlnet
from phenomjax.system.types import Batch, Params
from phenomjax.tasks.language_model import Features, LanguageModel, cross_entropy, token_sums
from phenomjax.tasks.protocol import Loader, Scalar, Sums

Carry = dict[str, Array] | tuple[()]  # memories {"memory", "valid"}, or () where there are none
DROPOUT_STREAM = 0  # folded into the step's key


class PermutationLM(LanguageModel):
    """The permutation objective: some tokens of a row are predicted in a random order, each from
    those before it and all other tokens.

    Every row has num_predict targets, so the mean over a batch is the same however it is divided.
    """

    scoring = "masked"
    axis_label = "hidden token, in the order of the row"

    @functools.cached_property
    def model(self) -> xlnet.XLNet:
        """The linen module; made on first use, because the automatic compute type asks for the
        backend.
        """
        return xlnet.build(self.config.model, self.dtype)

    @property
    def make_loader(self) -> Callable[..., Loader]:
        """Rows with spans to predict."""
        names = ("reuse_len", "perm_size", "num_predict", "mask_alpha", "mask_beta", "bi_data")
        return functools.partial(SpanLoader, **{name: self.config.model[name] for name in names})

    def init(self, key: Key[Array, ""], batch: Batch | None) -> Params:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        # Parameters do not depend on the batch, and one short row is compiled sooner.
        params = self.model.init(key, jnp.zeros((1, 8), jnp.int32))["params"]
        return parametrisation.initialised(params, self.config.model)

    def carry(self, global_batch_size: int, split: str = "train") -> Carry:
        """Empty memories: `memory` (rows, layers, mem_len, embed) of the compute type, `valid`
        (rows,); () without memory.
        """
        m = self.config.model
        return xlnet.first_memory(m, global_batch_size, self.dtype) if m.mem_len else ()

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], carry: Carry
    ) -> tuple[Scalar, dict[str, Scalar], Carry]:
        """Mean negative log-likelihood of the targets in nats, their accuracy, and the memories for
        the next step.
        """
        logits, carry = self.predict(params, batch, carry, jax.random.fold_in(key, DROPOUT_STREAM))
        nll, right = cross_entropy(logits, target_tokens(batch))
        return nll.mean(), {"accuracy": right.mean()}, carry

    def evaluate(self, params: Params, batch: Batch, carry: Carry) -> tuple[Sums, Carry]:
        """Sums and counts over the targets of a validation batch, the same in every run."""
        logits, carry = self.predict(params, batch, carry, None)
        nll, right = cross_entropy(logits, target_tokens(batch))
        counted = batch.get("weight", jnp.ones(len(nll), bool))[:, None]
        return token_sums(nll, right, jnp.broadcast_to(counted, nll.shape)), carry

    def predict(
        self, params: Params, batch: Batch, carry: Carry, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "rows targets vocab"], Carry]:
        """Logits of the targets (rows, targets, vocab) and the next carry; memories of fresh rows
        are not seen.
        """
        memory = None
        if isinstance(carry, dict):
            memory = {**carry, "valid": jnp.where(batch["fresh"], 0, carry["valid"])}
        sees = xlnet.permutation_mask(batch["rank"], batch["target"])
        reverse = batch["reverse"] if self.config.model.bi_data else None
        logits, following = self.model.apply(
            {"params": params},
            batch["tokens"],
            batch["segment"],
            sees,
            batch["target"],
            memory,
            reverse,
            key,
            batch["row"],
        )
        return logits, following if carry else ()

    # What is done with a trained model

    @property
    def boundary(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens before and after a sequence: those of the text, then <sep> and <cls>, with which
        every row of training ends.
        """
        before, after = super().boundary
        return before, (*after, SEP, CLS)

    def inference_carry(self, rows: int, *, whole: bool) -> Carry:
        """Empty memories, or none if no second segment will read them."""
        return () if whole else self.carry(rows, "val")

    def embed(
        self, params: Params, batch: Batch, carry: Carry = (), layer: int | None = None
    ) -> tuple[Features, Carry]:
        """See `LanguageModel`; every token sees the whole segment and the memory. Layer None is the
        last one.
        """
        real = jnp.arange(batch["tokens"].shape[2]) < batch["lengths"][:, None]
        tokens = jnp.where(real, batch["tokens"][:, 0], PAD)
        features, carry = self.features(params, tokens, carry, layer)
        return features[:, None], carry

    def features(
        self,
        params: Params,
        tokens: Integer[Array, "rows seq"],
        carry: Carry = (),
        layer: int | None = None,
    ) -> tuple[Float[Array, "rows seq embed"], Carry]:
        """Features of every token from all tokens of its row and the memory, and the memory with
        this row.

        Args:
          params: parameters.
          tokens: a sequence or a piece of one, with <pad> on either side; on the left only before
            the first piece, on the right only after the last.
          carry: of the row's earlier piece, or of `carry`, or () for none.
          layer: 0 = the embedding, then the layers; None = the last.

        Returns:
          (hidden float32, carry); what stands at <pad> has no meaning.
        """
        m, seq = self.config.model, tokens.shape[1]
        memory = carry if isinstance(carry, dict) else None
        if layer in (None, m.num_layers):
            features, following = self._see_all(params, tokens, memory)
        else:  # memories that are longer by this row keep the inputs of its layers
            longer = memory or xlnet.first_memory(m, tokens.shape[0], self.dtype)
            room = jnp.pad(longer["memory"], ((0, 0), (0, 0), (seq, 0), (0, 0)))
            _, following = self._see_all(params, tokens, {**longer, "memory": room})
            features = following["memory"][:, layer, -seq:].astype(jnp.float32)
        if memory is None:
            return features, ()
        real = (tokens != PAD).sum(1)
        valid = jnp.minimum(jnp.where(real < seq, real, memory["valid"] + seq), m.mem_len)
        kept = following["memory"][:, :, -m.mem_len :]
        return features, {"memory": kept, "valid": valid.astype(jnp.int32)}

    def _see_all(
        self, params: Params, tokens: Array, memory: dict[str, Array] | None
    ) -> tuple[Float[Array, "rows seq embed"], dict[str, Array]]:
        """The model without targets: every token sees all others. No memory gives none.

        A following piece sees the end of this one, where in training it saw the end of the part
        that is kept.
        """
        sees = jnp.broadcast_to((tokens != PAD)[:, None], (*tokens.shape, tokens.shape[1]))
        features, following = self.model.clone(reuse_len=0).apply(
            {"params": params}, tokens, single_segment(tokens), sees, memory=memory
        )
        return features, following or {}

    def masked_log_probs(
        self,
        params: Params,
        tokens: Integer[Array, "rows seq"],
        positions: Integer[Array, "rows number"],
    ) -> Float[Array, "rows number vocab"]:
        """Log-probabilities of every token at each position, predicted alone from all other tokens
        of the row.

        One forward pass a position: with several targets at once, each would be predicted without
        the others.

        Args:
          params: parameters.
          tokens: (rows, seq), as for `features`.
          positions: (rows, number), places in the row.

        Returns:
          (rows, number, vocab) float32.
        """
        seq = tokens.shape[1]

        def one(place: Array) -> Array:
            hidden = jnp.arange(seq) == place[:, None]
            sees = (
                xlnet.permutation_mask(hidden.astype(jnp.int32), place[:, None])
                & (tokens != PAD)[:, None]
            )
            logits, _ = self.model.apply(
                {"params": params}, tokens, single_segment(tokens), sees, place[:, None]
            )
            return jax.nn.log_softmax(logits[:, 0], -1)

        return lax.map(one, positions.T.astype(jnp.int32)).swapaxes(0, 1)

    def ordered_logits(
        self,
        params: Params,
        tokens: Integer[Array, "rows seq"],
        rank: Integer[Array, "rows seq"],
        targets: Integer[Array, "rows targets"],
    ) -> Float[Array, "rows targets vocab"]:
        """Logits of every token at targets, each predicted from what comes before it in an order:
        the factorisation of the training objective.

        Args:
          params: parameters.
          tokens: (rows, seq), as for `features`; what stands at a target or behind it has no say.
          rank: (rows, seq) place in the order; tokens that are known share 0, and see each other.
          targets: (rows, targets) places in the row.

        Returns:
          (rows, targets, vocab) float32.
        """
        sees = xlnet.permutation_mask(rank, targets) & (tokens != PAD)[:, None]
        targets = targets.astype(jnp.int32)
        logits, _ = self.model.apply(
            {"params": params}, tokens, single_segment(tokens), sees, targets
        )
        return logits

    def next_probabilities(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Of every token at the targets of each row, predicted without memory."""
        logits, _ = self.predict(params, batch, (), None)
        return {"probability": jax.nn.softmax(logits, -1), "target": target_tokens(batch)}

    def flops(self, batch: Batch) -> float:
        """Model FLOPs of one training step: 3 x the forward pass."""
        rows, seq = batch["tokens"].shape
        return 3.0 * rows * flops.xlnet(self.config.model, seq)


def target_tokens(batch: Batch) -> Int[Array, "rows targets"]:
    """The true tokens at the targets (rows, targets) int32."""
    return jnp.take_along_axis(batch["tokens"].astype(jnp.int32), batch["target"], 1)


def single_segment(
    tokens: Integer[Array, "rows seq"],
) -> Int[Array, "rows seq"]:
    """Segments of rows that hold one sequence: 0, and 2 for <cls>, as in training."""
    return jnp.where(tokens == CLS, 2, 0)


Objective = PermutationLM  # what config.task "permutation_lm" means
