"""Permutation language modelling with XLNet as a pretraining task; the memory of earlier segments
is the task's carry.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from ml_collections import ConfigDict

from phenomjax.data.sequences.bank import TokenBank
from phenomjax.data.sequences.spans import SpanLoader
from phenomjax.data.sequences.vocabulary import CLS, PAD, SEP, SPECIALS
from phenomjax.models import xlnet
from phenomjax.tasks.language_model import LanguageModel, cross_entropy, vocabulary_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DROPOUT_STREAM = 0  # folded into the step's key


class PermutationLM(LanguageModel):
    """The permutation objective: some tokens of a row are predicted in a random order, each from
    those before it and all other tokens.

    Every row has num_predict targets, so the mean over a batch is the same however it is divided.
    """

    scoring = "masked"

    @functools.cached_property
    def model(self) -> xlnet.XLNet:
        """The linen module; made on first use, because the automatic compute type asks for the
        backend.
        """
        return xlnet.build(self.config.model, self.dtype)

    def make_loader(self, banks: Sequence[TokenBank], **options: Any) -> SpanLoader:
        """Rows with spans to predict."""
        m = self.config.model
        names = ("reuse_len", "perm_size", "num_predict", "mask_alpha", "mask_beta", "bi_data")
        return SpanLoader(banks, **{name: m[name] for name in names}, **options)

    def init(self, key: Array, batch: Mapping[str, Any]) -> Any:
        """Fresh parameters, float32, in their boxes of logical axis names; works under
        `jax.eval_shape`.
        """
        # Parameters do not depend on the batch, and one short row is compiled sooner.
        return self.model.init(key, jnp.zeros((1, 8), jnp.int32))["params"]

    def carry(self, global_batch_size: int, split: str = "train") -> Any:
        """Empty memories: `memory` (rows, layers, mem_len, embed) of the compute type, `valid`
        (rows,); () without memory.
        """
        m = self.config.model
        return xlnet.first_memory(m, global_batch_size, self.dtype) if m.mem_len else ()

    def loss(
        self, params: Any, batch: Mapping[str, Array], key: Array, carry: Any
    ) -> tuple[Array, dict[str, Array], Any]:
        """Mean negative log-likelihood of the targets in nats, their accuracy, and the memories for
        the next step.
        """
        logits, carry = self.predict(params, batch, carry, jax.random.fold_in(key, DROPOUT_STREAM))
        nll, right = cross_entropy(logits, target_tokens(batch))
        return nll.mean(), {"accuracy": right.mean()}, carry

    def evaluate(
        self, params: Any, batch: Mapping[str, Array], carry: Any
    ) -> tuple[dict[str, tuple[Array, Array]], Any]:
        """Sums and counts over the targets of a validation batch, which are the same in every run."""
        logits, carry = self.predict(params, batch, carry, None)
        nll, right = cross_entropy(logits, target_tokens(batch))
        count = jnp.float32(nll.size)
        return {"loss": (nll.sum(), count), "accuracy": (right.sum(), count)}, carry

    def predict(
        self, params: Any, batch: Mapping[str, Array], carry: Any, key: Array | None
    ) -> tuple[Array, Any]:
        """Logits of the targets (rows, targets, vocab) and the next carry; memories of fresh rows
        are not seen.
        """
        memory = {**carry, "valid": jnp.where(batch["fresh"], 0, carry["valid"])} if carry else None
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

    def inference_carry(self, rows: int, *, whole: bool) -> Any:
        """Empty memories, or none if no second segment will read them."""
        return () if whole else self.carry(rows, "val")

    def segment_features(
        self, params: Any, tokens: Array, lengths: Array, carry: Any, layer: int | None = None
    ) -> tuple[Array, Any]:
        """See `LanguageModel`; every token sees the whole segment and the memory. Layer None is the
        last one.
        """
        real = jnp.arange(tokens.shape[2]) < lengths[:, None]
        features, carry = self.features(
            params, {"tokens": jnp.where(real, tokens[:, 0], PAD)}, carry, layer
        )
        return features[:, None], carry

    def features(
        self, params: Any, batch: Mapping[str, Array], carry: Any = (), layer: int | None = None
    ) -> tuple[Array, Any]:
        """Features of every token from all tokens of its row and the memory, and the memory with
        this row.

        Args:
          batch: tokens (rows, seq): a sequence or a piece of one, with <pad> on either side; on the
            left only before the first piece, on the right only after the last.
          carry: of the row's earlier piece, or of `carry`, or () for none.
          layer: 0 = the embedding, then the layers; None = the last.

        Returns:
          (hidden (rows, seq, embed) float32, carry); what stands at <pad> has no meaning.
        """
        tokens, memory, m = batch["tokens"], carry or None, self.config.model
        seq, inner = tokens.shape[1], layer not in (None, m.num_layers)
        if inner:  # memories that are longer by this row keep the inputs of its layers
            longer = self.carry(tokens.shape[0]) if memory is None else memory
            longer = {
                **longer,
                "memory": jnp.pad(longer["memory"], ((0, 0), (0, 0), (seq, 0), (0, 0))),
            }
        sees = jnp.broadcast_to((tokens != PAD)[:, None], (*tokens.shape, seq))
        # A following piece sees the end of this one, where in training it saw the end of the part
        # that is kept.
        features, following = self.model.clone(reuse_len=0).apply(
            {"params": params},
            tokens,
            single_segment(tokens),
            sees,
            memory=longer if inner else memory,
        )
        if inner:
            features = following["memory"][:, layer, -seq:].astype(jnp.float32)
        if not carry:
            return features, ()
        real, last = (tokens != PAD).sum(1), m.mem_len
        valid = jnp.minimum(jnp.where(real < seq, real, carry["valid"] + seq), last)
        return features, {
            "memory": following["memory"][:, :, -last:],
            "valid": valid.astype(jnp.int32),
        }

    def masked_log_probs(self, params: Any, tokens: Array, positions: Array) -> Array:
        """Log-probabilities of every token at each position, predicted alone from all other tokens
        of the row.

        One forward pass a position: with several targets at once, each would be predicted without
        the others.

        Args:
          tokens: (rows, seq), as for `embed`.
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

    def figure_arrays(self, params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Probabilities of every token at the targets of each row, predicted without memory, for
        `figures`.
        """
        logits, _ = self.predict(params, batch, (), None)
        return {"probability": jax.nn.softmax(logits, -1), "target": target_tokens(batch)}

    def figures(
        self, arrays: Mapping[str, np.ndarray], names: Sequence[str] = ()
    ) -> dict[str, "Figure"]:
        """Draws what `figure_arrays` computed."""
        from phenomjax.figures.sequences import predictions  # here, because it imports matplotlib

        words, label = vocabulary_of(self.config), "hidden token, in the order of the row"
        drawn = predictions(
            arrays["probability"], arrays["target"], words.tokens, len(SPECIALS), names, label
        )
        return {"predictions": drawn}

    def flops(self, batch_spec: Mapping[str, Any]) -> float:
        """Model FLOPs of one training step: 3 x the forward pass, matrix products only, 2 a
        multiply-add.

        Args:
          batch_spec: {name: (global shape, dtype)}, or arrays.
        """
        rows, seq = getattr(batch_spec["tokens"], "shape", None) or batch_spec["tokens"][0]
        return 3.0 * rows * forward_flops(self.config.model, seq)


def target_tokens(batch: Mapping[str, Array]) -> Array:
    """The true tokens at the targets (rows, targets) int32."""
    return jnp.take_along_axis(batch["tokens"].astype(jnp.int32), batch["target"], 1)


def single_segment(tokens: Array) -> Array:
    """Segments of rows that hold one sequence: 0, and 2 for <cls>, as in training."""
    return jnp.where(tokens == CLS, 2, 0)


def forward_flops(m: ConfigDict, seq: int) -> float:
    """FLOPs of one row's forward pass, 2 a multiply-add.

    Keys and values of the memory are computed anew; positions are projected once a batch and not
    counted. Nothing needs the content stream of the last layer beyond its keys and values.
    """
    span, width = seq + m.mem_len, m.num_heads * m.head_dim
    queries = m.num_layers * m.num_predict + (m.num_layers - 1) * seq
    products = queries * (2 * width * m.embed_dim + 2 * m.embed_dim * m.mlp_dim)
    products += m.num_layers * span * 2 * width * m.embed_dim
    scores = queries * (2 * span + span + seq - 1) * width
    return 2.0 * (products + scores + m.num_predict * m.embed_dim * m.vocab_size)
