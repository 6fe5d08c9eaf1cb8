"""Next-token prediction with Transformer-XL as a pretraining task; the memory of earlier segments
is the task's carry.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from phenomjax.models.transformer_xl import TransformerXL, remember
from phenomjax.tasks.language_model import LanguageModel, cross_entropy

DROPOUT_STREAM = 0  # folded into the step's key
Carry = Any  # memories {"memory", "valid"}, or () where there are none


class CausalLM(LanguageModel):
    """The causal objective: each token of a lane is predicted from all that came before it in the
    segment and the memory.
    """

    def model(self, split: str = "train") -> TransformerXL:
        """The linen module of a split: `same_length` counts with the length of its memory."""
        return build(self.config.model, self.dtype, self.mem_len(split))

    def mem_len(self, split: str) -> int:
        """Length of the memory in tokens."""
        m = self.config.model
        return m.mem_len if split == "train" else m.eval_mem_len or m.mem_len

    def init(self, key: Array, batch: Mapping[str, Any]) -> Any:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        tokens = batch["tokens"][:, 1:-1]
        memory, valid = self.memory((), tokens.shape[0])
        return self.model().init(key, tokens, memory, valid)["params"]

    def carry(self, global_batch_size: int, split: str = "train") -> Carry:
        """Empty memories: `memory` (rows, layers, mem_len, embed) of the compute type, `valid`
        (rows,) how much of it is filled.
        """
        m, length = self.config.model, self.mem_len(split)
        if not length:
            return ()
        memory = jnp.zeros((global_batch_size, m.num_layers, length, m.embed_dim), self.dtype)
        return {"memory": memory, "valid": jnp.zeros(global_batch_size, jnp.int32)}

    def memory(self, carry: Carry, rows: int) -> tuple[Array, Array]:
        """The memories of a carry and how much of them is filled; memories of no length for ()."""
        m = self.config.model
        if carry:
            return carry["memory"], carry["valid"]
        return jnp.zeros((rows, m.num_layers, 0, m.embed_dim), self.dtype), jnp.zeros(
            rows, jnp.int32
        )

    def read(
        self,
        params: Any,
        tokens: Array,
        carry: Carry,
        split: str = "val",
        key: Array | None = None,
        row: Array | None = None,
    ) -> tuple[Array, Array, Array, Carry]:
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
        self, params: Any, batch: Mapping[str, Array], key: Array, carry: Carry
    ) -> tuple[Array, dict[str, Array], Carry]:
        """Mean negative log-likelihood of the next token in nats, its accuracy, and the memories
        for the next segment.
        """
        key = jax.random.fold_in(key, DROPOUT_STREAM)
        nll, right, carry = self.token_losses(params, batch, carry, "train", key)
        weight = batch["weight"].astype(jnp.float32)
        total = jnp.maximum(weight.sum(), 1.0)
        return (nll * weight).sum() / total, {"accuracy": (right * weight).sum() / total}, carry

    def evaluate(
        self, params: Any, batch: Mapping[str, Array], carry: Carry
    ) -> tuple[dict[str, tuple[Array, Array]], Carry]:
        """Sums and counts over the tokens of a validation batch; the memory may be longer than in
        training.
        """
        nll, right, carry = self.token_losses(params, batch, carry, "val", None)
        weight = batch["weight"].astype(jnp.float32)
        return {
            "loss": ((nll * weight).sum(), weight.sum()),
            "accuracy": ((right * weight).sum(), weight.sum()),
        }, carry

    def token_losses(
        self, params: Any, batch: Mapping[str, Array], carry: Carry, split: str, key: Array | None
    ) -> tuple[Array, Array, Carry]:
        """Negative log-likelihood and correctness of each next token (rows, seq), and the next
        carry.
        """
        if carry:
            carry = {**carry, "valid": jnp.where(batch["fresh"], 0, carry["valid"])}
        tokens = batch["tokens"]
        logits, _, _, carry = self.read(params, tokens[:, 1:-1], carry, split, key, batch["row"])
        return *cross_entropy(logits, tokens[:, 2:]), carry

    def inference_carry(self, rows: int, *, whole: bool) -> Carry:
        """Empty memories; none if no second segment will read them."""
        return () if whole else self.carry(rows, "val")

    def segment_features(
        self, params: Any, tokens: Array, lengths: Array, carry: Carry, layer: int | None = None
    ) -> tuple[Array, Carry]:
        """See `LanguageModel`; layer None is the last one."""
        _, hidden, inputs, carry = self.read(params, tokens[:, 0], carry)
        features = hidden if layer in (None, self.config.model.num_layers) else inputs[:, layer]
        return features[:, None].astype(jnp.float32), carry

    def segment_log_probs(
        self, params: Any, tokens: Array, targets: Array, carry: Carry
    ) -> tuple[Array, Carry]:
        """See `LanguageModel`."""
        logits, carry = self.next_logits(params, tokens[:, 0], carry)
        return -cross_entropy(logits, targets[:, 0])[0][:, None], carry

    def next_logits(self, params: Any, tokens: Array, carry: Carry) -> tuple[Array, Carry]:
        """Logits (rows, seq, vocab) of the token that follows each of `tokens` (rows, seq), and the
        next carry.
        """
        logits, _, _, carry = self.read(params, tokens, carry)
        return logits, carry

    def figure_arrays(self, params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Probabilities of the next token along the first 96 tokens of a segment without memory,
        for `figures`.
        """
        tokens = batch["tokens"][:, 1:98]
        logits, *_ = self.read(params, tokens[:, :-1], ())
        return {"probability": jax.nn.softmax(logits, -1), "target": tokens[:, 1:]}

    def flops(self, batch_spec: Mapping[str, Any]) -> float:
        """Model FLOPs of one training step: 3 x the forward pass, matrix products only, 2 a
        multiply-add.

        Args:
          batch_spec: {name: (global shape, dtype)}, or arrays.
        """
        rows, seq = getattr(batch_spec["tokens"], "shape", None) or batch_spec["tokens"][0]
        return 3.0 * rows * forward_flops(self.config.model, seq - 2, self.config.model.mem_len)


def build(m: ConfigDict, dtype: Any, mem_len: int) -> TransformerXL:
    """The linen module of a model configuration."""
    return TransformerXL(
        vocabulary={
            "size": m.vocab_size,
            "embed_dim": m.embed_dim,
            "cutoffs": tuple(m.cutoffs),
            "div_val": m.div_val,
            "init_std": m.init_std,
        },
        layer={
            "num_heads": m.num_heads,
            "head_dim": m.head_dim,
            "mlp_dim": m.mlp_dim,
            "norm": m.norm,
            "untie_bias": m.untie_bias,
            "dropout": m.dropout,
            "attention_dropout": m.attention_dropout,
            "init_std": m.init_std,
            "attention": m.attention,
        },
        num_layers=m.num_layers,
        clamp_len=m.clamp_len,
        same_length=m.same_length,
        mem_len=mem_len,
        scan_layers=m.scan_layers,
        remat=m.remat,
        dtype=dtype,
    )


def forward_flops(m: ConfigDict, seq: int, mem_len: int) -> float:
    """FLOPs of one row's forward pass: products of a segment with `mem_len` tokens of memory, 2 a
    multiply-add.

    Keys and values of the memory are computed anew, positions are projected once a batch and not
    counted, and the causal half of the scores that is masked is counted, as it is computed.
    """
    span, width = seq + mem_len, m.num_heads * m.head_dim
    products = (
        seq * 2 * width * m.embed_dim
        + span * 2 * width * m.embed_dim
        + seq * 2 * m.embed_dim * m.mlp_dim
    )
    scores = 3 * seq * span * width
    return 2.0 * (m.num_layers * (products + scores) + seq * m.embed_dim * m.vocab_size)
