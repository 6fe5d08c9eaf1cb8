"""Next-token prediction with Transformer-XL as a pretraining task; the memory of earlier segments is the task's carry."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from phenomjax.models.transformer_xl import TransformerXL, remember
from phenomjax.tasks.language_model import LanguageModel, cross_entropy

DROPOUT_STREAM = 0  # folded into the step's key


class CausalLM(LanguageModel):
    """The causal objective: each token of a lane is predicted from all that came before it in the segment and the memory."""

    def model(self, split: str = "train") -> TransformerXL:
        """The linen module of a split: `same_length` counts with the length of its memory."""
        return build(self.config.model, self.dtype, self.mem_len(split))

    def mem_len(self, split: str) -> int:
        """Length of the memory in tokens."""
        m = self.config.model
        return m.mem_len if split == "train" else m.eval_mem_len or m.mem_len

    def init(self, key: Array, batch: Mapping[str, Any]) -> Any:
        """Fresh parameters, float32, in their boxes of logical axis names; works under `jax.eval_shape`."""
        carry = self.carry(batch["tokens"].shape[0])
        return self.model().init(key, batch["tokens"][:, 1:-1], carry["memory"], carry["valid"])["params"]

    def carry(self, global_batch_size: int, split: str = "train") -> dict[str, Array]:
        """Empty memories: `memory` (rows, layers, mem_len, embed) of the compute type, `valid` (rows,) how much of it is filled."""
        m = self.config.model
        shape = (global_batch_size, m.num_layers, self.mem_len(split), m.embed_dim)
        return {"memory": jnp.zeros(shape, self.dtype), "valid": jnp.zeros(global_batch_size, jnp.int32)}

    def loss(
        self, params: Any, batch: Mapping[str, Array], key: Array, carry: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        """Mean negative log-likelihood of the next token in nats, its accuracy, and the memories for the next segment."""
        key = jax.random.fold_in(key, DROPOUT_STREAM)
        nll, right, carry = self.token_losses(params, batch, carry, "train", key)
        weight = batch["weight"].astype(jnp.float32)
        total = jnp.maximum(weight.sum(), 1.0)
        return (nll * weight).sum() / total, {"accuracy": (right * weight).sum() / total}, carry

    def evaluate(
        self, params: Any, batch: Mapping[str, Array], carry: Mapping[str, Array]
    ) -> tuple[dict[str, tuple[Array, Array]], dict[str, Array]]:
        """Sums and counts over the tokens of a validation batch; the memory may be longer than in training."""
        nll, right, carry = self.token_losses(params, batch, carry, "val", None)
        weight = batch["weight"].astype(jnp.float32)
        return {"loss": ((nll * weight).sum(), weight.sum()), "accuracy": ((right * weight).sum(), weight.sum())}, carry

    def token_losses(
        self, params: Any, batch: Mapping[str, Array], carry: Mapping[str, Array], split: str, key: Array | None
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Negative log-likelihood and correctness of each next token (rows, seq), and the next carry."""
        valid = jnp.where(batch["fresh"], 0, carry["valid"])
        tokens, row = batch["tokens"], batch["row"]
        logits, _, inputs = self.model(split).apply(
            {"params": params}, tokens[:, 1:-1], carry["memory"], valid, key, row
        )
        nll, right = cross_entropy(logits, tokens[:, 2:])
        memory, valid = remember(carry["memory"], valid, inputs)
        return nll, right, {"memory": memory, "valid": valid}

    def inference_carry(self, rows: int, *, whole: bool) -> dict[str, Array]:
        """Empty memories; of no length if no second segment will read them."""
        carry = self.carry(rows, "val")
        return carry | {"memory": carry["memory"][:, :, :0]} if whole else carry

    def segment_features(
        self, params: Any, tokens: Array, lengths: Array, carry: Mapping[str, Array], layer: int | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """See `LanguageModel`; layer None is the last one."""
        _, hidden, inputs = self.model("val").apply({"params": params}, tokens[:, 0], carry["memory"], carry["valid"])
        features = hidden if layer in (None, self.config.model.num_layers) else inputs[:, layer]
        memory, valid = remember(carry["memory"], carry["valid"], inputs)
        return features[:, None].astype(jnp.float32), {"memory": memory, "valid": valid}

    def segment_log_probs(
        self, params: Any, tokens: Array, targets: Array, carry: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """See `LanguageModel`."""
        logits, carry = self.next_logits(params, tokens[:, 0], carry)
        return -cross_entropy(logits, targets[:, 0])[0][:, None], carry

    def next_logits(self, params: Any, tokens: Array, carry: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Logits (rows, seq, vocab) of the token that follows each of `tokens` (rows, seq), and the next carry."""
        logits, _, inputs = self.model("val").apply({"params": params}, tokens, carry["memory"], carry["valid"])
        memory, valid = remember(carry["memory"], carry["valid"], inputs)
        return logits, {"memory": memory, "valid": valid}

    def figure_arrays(self, params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Probabilities of the next token along the first 96 tokens of a segment without memory, for `figures`."""
        tokens = batch["tokens"][:, 1:98]
        carry = self.carry(tokens.shape[0], "val")
        logits, *_ = self.model("val").apply(
            {"params": params}, tokens[:, :-1], carry["memory"][:, :, :0], carry["valid"]
        )
        return {"probability": jax.nn.softmax(logits, -1), "target": tokens[:, 1:]}

    def flops(self, batch_spec: Mapping[str, Any]) -> float:
        """Model FLOPs of one training step: 3 x the forward pass, matrix products only, 2 a multiply-add.

        Args:
          batch_spec: {name: (global shape, dtype)}, or arrays.
        """
        rows, seq = getattr(batch_spec["tokens"], "shape", None) or batch_spec["tokens"][0]
        return 3.0 * rows * forward_flops(self.config.model, seq - 2, self.config.model.mem_len)


def build(m: ConfigDict, dtype: Any, mem_len: int) -> TransformerXL:
    """The linen module of a model configuration."""
    return TransformerXL(
        vocabulary={
            "size": m.vocab_size, "embed_dim": m.embed_dim, "cutoffs": tuple(m.cutoffs), "div_val": m.div_val, "init_std": m.init_std,
        },
        layer={
            "num_heads": m.num_heads, "head_dim": m.head_dim, "mlp_dim": m.mlp_dim, "norm": m.norm, "untie_bias": m.untie_bias,
            "dropout": m.dropout, "attention_dropout": m.attention_dropout, "init_std": m.init_std, "attention": m.attention,
        },
        num_layers=m.num_layers, clamp_len=m.clamp_len, same_length=m.same_length, mem_len=mem_len,
        scan_layers=m.scan_layers, remat=m.remat, dtype=dtype,
    )  # fmt: skip


def forward_flops(m: ConfigDict, seq: int, mem_len: int) -> float:
    """FLOPs of one row's forward pass: products of a segment with `mem_len` tokens of memory, 2 a multiply-add.

    Keys and values of the memory are computed anew, positions are projected once a batch and not counted, and the causal half of the
    scores that is masked is counted, as it is computed.
    """
    span, width = seq + mem_len, m.num_heads * m.head_dim
    products = seq * 2 * width * m.embed_dim + span * 2 * width * m.embed_dim + seq * 2 * m.embed_dim * m.mlp_dim
    scores = 3 * seq * span * width
    return 2.0 * (m.num_layers * (products + scores) + seq * m.embed_dim * m.vocab_size)
