"""Next-token prediction with Transformer-XL as a pretraining task; the memory of earlier segments
is the task's carry.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Key

from phenomjax.models import flops, parametrisation, transformer_xl
from phenomjax.models.transformer_xl import TransformerXL, remember
from phenomjax.system.types import Batch, Params
from phenomjax.tasks.language_model import (
    Features,
    LanguageModel,
    Tokens,
    cross_entropy,
    token_sums,
)
from phenomjax.tasks.protocol import Scalar, Sums

DROPOUT_STREAM = 0  # folded into the step's key
Carry = dict[str, Array] | tuple[()]  # memories {"memory", "valid"}, or () where there are none
Logits = Float[Array, "rows seq vocab"]


class CausalLM(LanguageModel):
    """The causal objective: each token of a lane is predicted from all that came before it in the
    segment and the memory.
    """

    def model(self, split: str = "train") -> TransformerXL:
        """The linen module of a split: `same_length` counts with the length of its memory."""
        return transformer_xl.build(self.config.model, self.dtype, self.mem_len(split))

    def mem_len(self, split: str) -> int:
        """Length of the memory in tokens."""
        m = self.config.model
        return m.mem_len if split == "train" else m.eval_mem_len or m.mem_len

    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        tokens = batch["tokens"][:, 1:-1]
        memory, valid = self.memory((), tokens.shape[0])
        params = self.model().init(key, tokens, memory, valid)["params"]
        return parametrisation.initialised(params, self.config.model)

    def carry(self, global_batch_size: int, split: str = "train") -> Carry:
        """Empty memories: `memory` (rows, layers, mem_len, embed) of the compute type, `valid`
        (rows,) how much of it is filled.
        """
        m, length = self.config.model, self.mem_len(split)
        if not length:
            return ()
        memory = jnp.zeros((global_batch_size, m.num_layers, length, m.embed_dim), self.dtype)
        return {"memory": memory, "valid": jnp.zeros(global_batch_size, jnp.int32)}

    def memory(
        self, carry: Carry, rows: int
    ) -> tuple[Float[Array, "rows layers mem embed"], Int[Array, " rows"]]:
        """The memories of a carry and how much of them is filled; memories of no length for ()."""
        m = self.config.model
        if isinstance(carry, dict):
            return carry["memory"], carry["valid"]
        none = jnp.zeros((rows, m.num_layers, 0, m.embed_dim), self.dtype)
        return none, jnp.zeros(rows, jnp.int32)

    def read(
        self,
        params: Params,
        tokens: Integer[Array, "rows seq"],
        carry: Carry,
        split: str = "val",
        key: Key[Array, ""] | None = None,
        row: Int[Array, " rows"] | None = None,
    ) -> tuple[Logits, Array, Array, Carry]:
        """Reads a segment (rows, seq): what `TransformerXL` returns, and the memories for the next
        one.
        """
        memory, valid = self.memory(carry, tokens.shape[0])
        logits, hidden, inputs = self.model(split).apply(
            {"params": params}, tokens, memory, valid, key, row
        )
        if carry:
            carry = dict(zip(("memory", "valid"), remember(memory, valid, inputs), strict=True))
        return logits, hidden, inputs, carry

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], carry: Carry
    ) -> tuple[Scalar, dict[str, Scalar], Carry]:
        """Mean negative log-likelihood of the next token in nats, its accuracy, and the memories
        for the next segment.
        """
        key = jax.random.fold_in(key, DROPOUT_STREAM)
        nll, right, carry = self.token_losses(params, batch, carry, "train", key)
        weight = batch["weight"].astype(jnp.float32)
        total = jnp.maximum(weight.sum(), 1.0)
        return (nll * weight).sum() / total, {"accuracy": (right * weight).sum() / total}, carry

    def evaluate(self, params: Params, batch: Batch, carry: Carry) -> tuple[Sums, Carry]:
        """Sums and counts over the tokens of a validation batch; the memory may be longer than in
        training.
        """
        nll, right, carry = self.token_losses(params, batch, carry, "val", None)
        return token_sums(nll, right, batch["weight"]), carry

    def token_losses(
        self, params: Params, batch: Batch, carry: Carry, split: str, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "rows seq"], Float[Array, "rows seq"], Carry]:
        """Negative log-likelihood and correctness of each next token (rows, seq), and the next
        carry.
        """
        if isinstance(carry, dict):
            carry = {**carry, "valid": jnp.where(batch["fresh"], 0, carry["valid"])}
        tokens = batch["tokens"]
        logits, _, _, carry = self.read(params, tokens[:, 1:-1], carry, split, key, batch["row"])
        return *cross_entropy(logits, tokens[:, 2:]), carry

    def inference_carry(self, rows: int, *, whole: bool) -> Carry:
        """Empty memories; none if no second segment will read them."""
        return () if whole else self.carry(rows, "val")

    def embed(
        self, params: Params, batch: Batch, carry: Carry = (), layer: int | None = None
    ) -> tuple[Features, Carry]:
        """See `LanguageModel`; layer None is the last one."""
        _, hidden, inputs, carry = self.read(params, batch["tokens"][:, 0], carry)
        features = hidden if layer in (None, self.config.model.num_layers) else inputs[:, layer]
        return features[:, None].astype(jnp.float32), carry

    def segment_log_probs(
        self, params: Params, tokens: Tokens, targets: Tokens, carry: Carry
    ) -> tuple[Float[Array, "rows directions seq"], Carry]:
        """See `LanguageModel`."""
        logits, carry = self.next_logits(params, tokens[:, 0], carry)
        return -cross_entropy(logits, targets[:, 0])[0][:, None], carry

    def next_logits(
        self, params: Params, tokens: Integer[Array, "rows seq"], carry: Carry
    ) -> tuple[Logits, Carry]:
        """Logits (rows, seq, vocab) of the token that follows each of `tokens` (rows, seq), and the
        next carry.
        """
        logits, _, _, carry = self.read(params, tokens, carry)
        return logits, carry

    def next_probabilities(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Of the next token along the first 96 tokens of a segment without memory."""
        tokens = batch["tokens"][:, 1:98]
        logits, *_ = self.read(params, tokens[:, :-1], ())
        return {"probability": jax.nn.softmax(logits, -1), "target": tokens[:, 1:]}

    def flops(self, batch: Batch) -> float:
        """Model FLOPs of one training step: 3 x the forward pass."""
        (rows, seq), m = batch["tokens"].shape, self.config.model
        return 3.0 * rows * flops.transformer_xl(m, seq - 2, m.mem_len)


Objective = CausalLM  # what config.task "causal_lm" means
