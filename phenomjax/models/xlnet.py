"""XLNet: two streams of relative attention over permuted orders, with memory of earlier segments
(Yang et al. 2019).

https://arxiv.org/abs/1906.08237. The content stream h sees a token itself; the query stream g,
which predicts, sees only its place.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Integer, Key
from ml_collections import ConfigDict

from phenomjax.models import draws, layers, parametrisation
from phenomjax.models.two_stream import (
    Context,
    RelativeAttention,
    Streams,
    Table,
    distance_codes,
    head_biases,
)

NORM_EPSILON = 1e-12
INPUT_SITE, QUERY_SITE, POSITION_SITE, OUTPUT_SITE, FIRST_LAYER_SITE = range(5)
SITES_PER_LAYER = 8


class Block(nn.Module):
    """Attention and MLP, each followed by its residual sum and LayerNorm; the form that a scan over
    layers wants.

    Attributes:
      kept: places of this segment that enter the memory.
    """

    num_heads: int
    head_dim: int
    mlp_dim: int
    gelu: str
    dropout: float
    attention_dropout: float
    init_std: float
    kept: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        streams: Streams,
        memory: Float[Array, "batch memory embed"] | None,
        layer: Int[Array, ""],
        context: Context,
    ) -> tuple[Streams, Float[Array, "batch memory embed"] | None]:
        """(streams, memory of this layer, its number) -> (streams, next memory)."""
        site, width = FIRST_LAYER_SITE + SITES_PER_LAYER * layer, streams.content.shape[-1]
        remembered = None
        if memory is not None:
            # What is remembered is the layer's input.
            joined = jnp.concatenate(
                [memory, streams.content[:, : self.kept].astype(memory.dtype)], 1
            )
            remembered = lax.stop_gradient(joined[:, -memory.shape[1] :])
        attention = RelativeAttention(
            self.num_heads,
            self.head_dim,
            self.attention_dropout,
            self.init_std,
            self.dtype,
            name="attention",
        )
        attended = attention(streams, memory, context, site)
        attention_norm = layers.LayerNorm(NORM_EPSILON, self.dtype, name="attention_norm")
        dense = {"init_std": self.init_std, "dtype": self.dtype}
        hidden = layers.Dense((self.mlp_dim,), ("embed", "mlp"), name="mlp_in", **dense)
        out = layers.Dense((width,), ("mlp", "embed"), name="mlp_out", **dense)
        mlp_norm = layers.LayerNorm(NORM_EPSILON, self.dtype, name="mlp_norm")

        def finish(x: Array, y: Array, site: Array) -> Array:
            drop = lambda y, place: draws.dropout(y, self.dropout, context.keys, site + 2 * place)  # noqa: E731
            x = attention_norm(x + drop(y, 1))
            y = drop(layers.gelu(hidden(x), self.gelu), 2)
            return nn.with_logical_constraint(mlp_norm(x + drop(out(y), 3)), ("batch", None, None))

        content = finish(streams.content, attended.content, site)
        query = None if streams.query is None else finish(streams.query, attended.query, site + 1)
        return Streams(content, query), remembered


class Stack(nn.Module):
    """`depth` blocks, unrolled (layer_0, layer_1, …) or scanned (one stacked `layers`)."""

    options: layers.Options
    depth: int
    scan_layers: bool
    remat: str

    @nn.compact
    def __call__(
        self,
        streams: Streams,
        memory: Float[Array, "batch layers memory embed"] | None,
        context: Context,
    ) -> tuple[Streams, Float[Array, "batch layers memory embed"] | None]:
        """All layers; memories go in and come out."""
        block: Callable[..., nn.Module] = Block
        if self.remat != "none":
            policy = (
                jax.checkpoint_policies.dots_with_no_batch_dims_saveable
                if self.remat == "dots"
                else None
            )
            block = nn.remat(block, policy=policy, prevent_cse=not self.scan_layers)
        by_layer = None if memory is None else memory.swapaxes(0, 1)
        if self.scan_layers:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
                in_axes=(0, 0, nn.broadcast),
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            streams, remembered = stack(**self.options, name="layers")(
                streams, by_layer, jnp.arange(self.depth), context
            )
            return streams, None if remembered is None else remembered.swapaxes(0, 1)
        kept = []
        for layer in range(self.depth):
            part = None if by_layer is None else by_layer[layer]
            streams, remembered = block(**self.options, name=f"layer_{layer}")(
                streams, part, jnp.int32(layer), context
            )
            kept.append(remembered)
        return streams, None if memory is None else jnp.stack(kept, 1)


class XLNet(nn.Module):
    """XLNet with its softmax tied to the embedding; a memory makes one long text of the segments of
    a row.

    Attributes:
      mem_len: places of earlier segments that attention sees.
      reuse_len: first places of a segment that the memory keeps; 0 = all.
      attention_type: "bi", or "uni": no key after the query is seen.
      clamp_len: distances beyond this count as this; 0 = no limit.
      same_length: of "uni", every query sees mem_len + 1 keys.
      untie_bias: each layer has its own biases of the score.
      attention_dropout: of attention weights; `dropout` is of everything else.
      logit_scale: what the hidden state is multiplied with before the softmax.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    mem_len: int
    reuse_len: int
    attention_type: str
    clamp_len: int
    same_length: bool
    untie_bias: bool
    gelu: str
    dropout: float
    attention_dropout: float
    init_std: float
    scan_layers: bool
    remat: str
    logit_scale: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        tokens: Integer[Array, "batch seq"],
        segment: Integer[Array, "batch seq"] | None = None,
        sees: Bool[Array, "batch seq seq"] | None = None,
        targets: Int[Array, "batch targets"] | None = None,
        memory: Mapping[str, Array] | None = None,
        reverse: Bool[Array, " batch"] | None = None,
        key: Key[Array, ""] | None = None,
        row: draws.Rows | None = None,
    ) -> tuple[Float[Array, "batch places feature"], dict[str, Array] | None]:
        """Predicts the tokens at `targets`, or, without targets, gives features of all places.

        Args:
          tokens: ids.
          segment: ids, equal for tokens of one segment; the memory counts as segment 0. None: no
            segment term.
          sees: sees[b, i, j]: may i see j? A token sees itself in the content stream whatever this
            says. None: everything.
          targets: places to predict.
          memory: `memory` (batch, layers, mem_len, embed) and `valid` (batch,), how many of its
            last places hold something.
          reverse: rows that run backwards, so that their distances do. None: no row does, and the
            program is cheaper.
          key, row: of dropout; None = none.

        Returns:
          Logits (batch, targets, vocab), float32, or features (batch, seq, embed); and the next
          memory.
        """
        seq = tokens.shape[1]
        keys = None if key is None or row is None else draws.row_keys(key, row)
        words, mask_token, output_bias = self.vectors()
        streams = self.first_streams(tokens, targets, words, mask_token, keys)
        context = self.context(tokens, segment, sees, targets, memory, reverse, key, keys)
        options = self.block_options(self.reuse_len or seq)
        stack = Stack(options, self.num_layers, self.scan_layers, self.remat, name="blocks")
        hidden = None if memory is None else memory["memory"]
        streams, remembered = stack(streams, hidden, context)
        following = None
        if memory is not None:
            held = memory["valid"] + min(self.reuse_len or seq, seq)
            count = jnp.minimum(held, memory["memory"].shape[2])
            following = {"memory": remembered, "valid": count}
        output = streams.content if streams.query is None else streams.query
        output = draws.dropout(output, self.dropout, keys, OUTPUT_SITE)
        if targets is None:
            return output.astype(jnp.float32), following
        if self.logit_scale != 1.0:
            output = output * self.logit_scale
        logits = jnp.einsum(
            "bpe,ve->bpv", output, words.astype(self.dtype), preferred_element_type=jnp.float32
        )
        return logits + output_bias, following

    def vectors(
        self,
    ) -> tuple[Float[Array, "vocab embed"], Float[Array, " embed"], Float[Array, " vocab"]]:
        """Parameters: the words, what stands for a word that is to be predicted, and the bias of
        the softmax.
        """
        shape = (self.vocab_size, self.embed_dim)
        words = Table(shape, ("vocab", "embed"), self.init_std, name="word_embedding")()
        init = nn.with_logical_partitioning(nn.initializers.normal(self.init_std), (None,))
        mask_token = self.param("mask_token", init, shape[1:], jnp.float32)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        return words, mask_token, self.param("output_bias", zeros, shape[:1])

    def first_streams(
        self,
        tokens: Integer[Array, "batch seq"],
        targets: Int[Array, "batch targets"] | None,
        words: Float[Array, "vocab embed"],
        mask_token: Float[Array, " embed"],
        keys: Key[Array, " batch"] | None,
    ) -> Streams:
        """What goes into the first layer."""
        # A product, because the gradient of a look-up in few rows is a slow sum, and in no fixed
        # order on a GPU.
        one_hot = jax.nn.one_hot(tokens, self.vocab_size, dtype=self.dtype)
        content = layers.product(one_hot, words, 1)
        content = draws.dropout(content, self.dropout, keys, INPUT_SITE)
        if targets is None:
            return Streams(content, None)
        query = jnp.broadcast_to(mask_token, (*targets.shape, self.embed_dim)).astype(self.dtype)
        return Streams(content, draws.dropout(query, self.dropout, keys, QUERY_SITE))

    def context(
        self,
        tokens: Integer[Array, "batch seq"],
        segment: Integer[Array, "batch seq"] | None,
        sees: Bool[Array, "#batch seq seq"] | None,
        targets: Int[Array, "batch targets"] | None,
        memory: Mapping[str, Array] | None,
        reverse: Bool[Array, " batch"] | None,
        key: Key[Array, ""] | None,
        keys: Key[Array, " batch"] | None,
    ) -> Context:
        """What is the same for all layers; arguments as of `__call__`."""
        batch, seq = tokens.shape
        mem_len = 0 if memory is None else memory["memory"].shape[2]
        visible = self.visible(sees, memory, seq)
        other = None
        if segment is not None:
            of_keys = jnp.concatenate([jnp.zeros((batch, mem_len), segment.dtype), segment], 1)
            other = segment[:, :, None] != of_keys[:, None, :]
        positions = distance_codes(
            mem_len + seq, seq, self.embed_dim, self.clamp_len, reverse is not None
        )
        if key is not None:
            # One mask for all rows, as in Transformer-XL: a mask a row would cost a product of all
            # positions a row.
            positions = draws.dropout(positions[None], self.dropout, key[None], POSITION_SITE)[0]
        heads, itself = (self.num_heads, self.head_dim), jnp.eye(seq, mem_len + seq, mem_len, bool)
        return Context(
            # as in Transformer-XL
            positions=nn.with_logical_constraint(positions.astype(self.dtype), (None, None, None)),
            reverse=reverse,
            targets=targets,
            sees=None if visible is None else visible | itself,
            query_sees=_at_targets(visible, targets),
            other=other,
            query_other=_at_targets(other, targets),
            biases=None if self.untie_bias else head_biases(self, heads, self.init_std),
            keys=keys,
        )

    def block_options(self, kept: int) -> layers.Options:
        """Attributes of the blocks."""
        names = ("num_heads", "head_dim", "mlp_dim", "gelu", "dropout", "attention_dropout")
        own = {name: getattr(self, name) for name in (*names, "init_std", "dtype")}
        return {**own, "kept": kept}

    def visible(
        self,
        sees: Bool[Array, "#batch seq seq"] | None,
        memory: Mapping[str, Array] | None,
        seq: int,
    ) -> Bool[Array, "rows seq K"] | None:
        """Which keys (memory first) each place may see, the content stream's own place apart; None:
        all.
        """
        mem_len = 0 if memory is None else memory["memory"].shape[2]
        if memory is not None:
            batch = memory["valid"].shape[0]
            held = jnp.arange(mem_len) >= mem_len - memory["valid"][:, None]
            held = jnp.broadcast_to(held[:, None], (batch, seq, mem_len))
            sees = jnp.concatenate(
                [held, jnp.ones((batch, seq, seq), bool) if sees is None else sees], 2
            )
        if self.attention_type == "uni":
            distance = mem_len + jnp.arange(seq)[:, None] - jnp.arange(mem_len + seq)
            past = (distance >= 0) & (distance <= self.mem_len if self.same_length else True)
            sees = past[None] if sees is None else sees & past
        return sees


def build(model: ConfigDict, dtype: DTypeLike) -> XLNet:
    """The linen module of a configuration's `model` part."""
    others = "parent", "name", "dtype", "logit_scale"
    names = [name for name in XLNet.__dataclass_fields__ if name not in others]
    scale = parametrisation.logit_scale(model)
    return XLNet(**{name: model[name] for name in names}, logit_scale=scale, dtype=dtype)


def first_memory(model: ConfigDict, rows: int, dtype: DTypeLike) -> dict[str, Array]:
    """An empty memory: `memory` (rows, layers, mem_len, embed) and `valid` (rows,), how many places
    what it holds.
    """
    shape = (rows, model.num_layers, model.mem_len, model.embed_dim)
    return {"memory": jnp.zeros(shape, dtype), "valid": jnp.zeros(rows, jnp.int32)}


def permutation_mask(
    rank: Integer[Array, "batch seq"], targets: Integer[Array, "batch targets"]
) -> Bool[Array, "batch seq seq"]:
    """Who sees whom in a factorisation order: sees[b, i, j] where j comes before i; equals see each
    other if i is no target.

    Args:
      rank: place in the order; tokens that are not predicted share one.
      targets: places that are predicted, which do not see themselves.
    """
    seq = rank.shape[1]
    is_target = (targets[:, :, None] == jnp.arange(seq)).any(1)
    limit = rank.astype(jnp.int32) + jnp.where(is_target, 0, 1)
    return rank[:, None, :].astype(jnp.int32) < limit[:, :, None]


def _at_targets(
    x: Bool[Array, "#batch seq K"] | None, targets: Int[Array, "batch targets"] | None
) -> Bool[Array, "batch targets K"] | None:
    """What a mask says at the targets."""
    if x is None or targets is None:
        return None
    x = jnp.broadcast_to(x, (targets.shape[0], *x.shape[1:]))
    return jnp.take_along_axis(x, targets[:, :, None], 1, mode="clip")
