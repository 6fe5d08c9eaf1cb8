"""ELMo (Peters et al. 2018, https://arxiv.org/abs/1802.05365): a character CNN under two LSTM
language models, one a direction.

SeqVec (Heinzinger et al. 2019, https://doi.org/10.1186/s12859-019-3220-8) is this model on
residues. The directions share the token encoder and the softmax and nothing else. Both are computed
in *reading order*: the backward direction gets its sequence already turned around, so that padding
always comes last, and nothing that is padded can change a result.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Integer, Key, Num
from ml_collections import ConfigDict

from phenomjax.models import draws, layers, lstm

DIRECTIONS = 2  # forward, backward
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PAD_CHARACTER = range(256, 261)
CHARACTERS = 261  # bytes, then the five above
FORGET_BIAS = 1.0  # added at run time, as bilm-tf does; its weights have it not in them

# of the LSTMs, float32: cell (rows, layers, 2, cell_dim), hidden (rows, layers, 2, projection_dim)
State = dict[str, Array]
Layer = Float[Array, "rows 2 time projection"]


def character_table(
    tokens: Sequence[str], vocab_size: int, max_characters: int
) -> Int[np.ndarray, "vocab characters"]:
    """The characters of each token of a vocabulary, as bilm-tf spells words.

    A token is begin-word, its bytes, end-word, then padding: 'A' is (258, 65, 259, 260, …). <bos>
    and <eos> are words of one character of their own (256, 257). Ids beyond the tokens are empty
    words.

    Args:
      tokens: their names; characters up to 255 are bytes.
      vocab_size: rows of the table.
      max_characters: positions; longer tokens are cut. For tokens of one byte 3 + the widest filter
        gives every output that 50 gives: the maximum over positions is then over the same windows.
    """
    table = np.full((vocab_size, max_characters), PAD_CHARACTER, np.int32)
    special = {"<bos>": [BEGIN_SENTENCE], "<eos>": [END_SENTENCE]}
    for row in range(vocab_size):
        name = tokens[row] if row < len(tokens) else ""
        word = special.get(name, list(name.encode("latin-1")))[: max_characters - 2]
        table[row, : len(word) + 2] = [BEGIN_WORD, *word, END_WORD]
    return table


def _normal(stddev: float, axes: Sequence[str | None]) -> Callable:
    return nn.with_logical_partitioning(nn.initializers.normal(stddev), tuple(axes))


def _uniform(scale: float) -> Callable:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -scale, scale)


def _constant(value: float, axes: Sequence[str | None]) -> Callable:
    return nn.with_logical_partitioning(nn.initializers.constant(value), tuple(axes))


class Kernel(nn.Module):
    """An array under a name of its own."""

    initializer: Callable
    shape: Sequence[int]

    @nn.compact
    def __call__(self) -> Float[Array, "..."]:
        return self.param("kernel", self.initializer, tuple(self.shape), jnp.float32)


class Filter(nn.Module):
    """`count` filters over `width` characters, the maximum over positions, ReLU."""

    width: int
    count: int

    @nn.compact
    def __call__(self, x: Float[Array, "words characters n"]) -> Float[Array, "words count"]:
        init, windows = (
            nn.with_logical_partitioning(_uniform(0.05), (None, None, None)),
            x.shape[1] - self.width + 1,
        )
        kernel = self.param("kernel", init, (self.width, x.shape[-1], self.count), jnp.float32)
        # One product a filter, where a convolution or a sum over its places takes seconds more to
        # compile.
        spread = jnp.concatenate([x[:, place : place + windows] for place in range(self.width)], -1)
        convolved = spread @ kernel.reshape(-1, self.count)
        return nn.relu(
            convolved.max(1)
            + self.param("bias", _constant(0.0, (None,)), (self.count,), jnp.float32)
        )


class Linear(nn.Module):
    """x @ kernel + bias with normal weights of variance 1 / inputs, float32."""

    features: int
    axes: Sequence[str | None]
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*axes inputs"]) -> Float[Array, "*axes outputs"]:
        inputs = x.shape[-1]
        kernel = self.param(
            "kernel", _normal(inputs**-0.5, self.axes), (inputs, self.features), jnp.float32
        )
        return x @ kernel + self.param(
            "bias", _constant(self.bias, self.axes[1:]), (self.features,), jnp.float32
        )


def _look_up(
    table: Float[Array, "words width"], rows: Integer[Array, "*axes"], dtype: DTypeLike
) -> Float[Array, "*axes width"]:
    """table[rows] as a product: its gradient is one too, where a scatter's sum would have no fixed
    order on a GPU.
    """
    chosen = jax.nn.one_hot(rows, len(table), dtype=dtype)
    # and so of its gradient
    options = {"precision": lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    return jnp.matmul(chosen, table.astype(dtype), **options).astype(dtype)


class TokenEncoder(nn.Module):
    """The character CNN: from the spelling of words to one vector each, float32.

    Embedding, filters of several widths, the maximum over positions, ReLU, highway layers c *
    relu(W x + b) + (1 - c) * x, projection.

    Attributes:
      char_dim: width of the character embedding.
      filters: (width, number) of each.
      num_highway: highway layers.
      projection_dim: width of the result.
    """

    char_dim: int
    filters: Sequence[Sequence[int]]
    num_highway: int
    projection_dim: int

    @nn.compact
    def __call__(
        self, characters: Int[Array, "words characters"]
    ) -> Float[Array, "words projection"]:
        init = nn.with_logical_partitioning(_uniform(1.0), (None, None))
        x = _look_up(
            self.param("embedding", init, (CHARACTERS, self.char_dim), jnp.float32),
            characters,
            jnp.float32,
        )
        pooled = [
            Filter(*shape, name=f"filter_{number}")(x) for number, shape in enumerate(self.filters)
        ]
        x = jnp.concatenate(pooled, -1)
        for number in range(self.num_highway):
            transform = nn.relu(
                Linear(x.shape[-1], ("embed", "mlp"), name=f"highway_{number}_transform")(x)
            )
            carry = nn.sigmoid(
                Linear(x.shape[-1], ("embed", "mlp"), -2.0, name=f"highway_{number}_carry")(x)
            )
            x = carry * transform + (1.0 - carry) * x
        return Linear(self.projection_dim, ("mlp", "embed"), name="projection")(x)


class BiLSTM(nn.Module):
    """One layer: an LSTM with projection for each direction, their kernels stacked.

    Attributes:
      cell_dim: memory cells a direction.
      cell_clip, projection_clip: bounds of the cells and of the output; 0 = none.
    """

    cell_dim: int
    cell_clip: float
    projection_clip: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Layer,
        cell: Float[Array, "rows 2 cell"],
        hidden: Float[Array, "rows 2 projection"],
    ) -> tuple[Layer, Float[Array, "2 time rows cell"]]:
        """Inputs and states -> (hidden of `dtype`, cell in float32) after each step."""
        width, gates = x.shape[-1], (4, self.cell_dim)
        # of both parts of the published kernel at once
        init = layers.xavier_uniform(2 * width, 4 * self.cell_dim)

        def kernel(name: str, init: Callable, axes: Sequence[str | None], *shape: int) -> Array:
            value = Kernel(
                nn.with_logical_partitioning(init, tuple(axes)), (DIRECTIONS, *shape), name=name
            )()
            # Gathered here, once, and not in every turn of the loop.
            whole = tuple(None if axis == "embed" else axis for axis in axes)
            return nn.with_logical_constraint(value, whole)

        inward = kernel("input", init, (None, "embed", None, "mlp"), width, *gates)
        state = kernel("state", init, (None, "embed", None, "mlp"), width, *gates)
        outward = kernel(
            "projection",
            layers.xavier_uniform(self.cell_dim, width),
            (None, "mlp", "embed"),
            self.cell_dim,
            width,
        )
        bias = self.param(
            "bias", _constant(0.0, (None, None, "mlp")), (DIRECTIONS, *gates), jnp.float32
        )
        bias = bias + jnp.array([0.0, FORGET_BIAS, 0.0, 0.0])[:, None]

        def direction(
            x: Array,
            inward: Array,
            bias: Array,
            state: Array,
            outward: Array,
            cell: Array,
            hidden: Array,
        ) -> tuple[Array, Array]:
            inputs = layers.add(layers.product(x, inward, 1), bias)
            return lstm.recurrence(
                inputs, state, outward, cell, hidden, self.cell_clip, self.projection_clip
            )

        arguments = (
            x.astype(self.dtype).transpose(1, 2, 0, 3),
            inward,
            bias,
            state,
            outward,
            cell.swapaxes(0, 1),
            hidden.swapaxes(0, 1),
        )
        # plain matrix products, one after the other, are faster there
        if jax.default_backend() == "cpu":
            each = [direction(*(a[number] for a in arguments)) for number in range(DIRECTIONS)]
            outputs, cells = (jnp.stack(parts) for parts in zip(*each, strict=True))
        else:
            outputs, cells = jax.vmap(direction)(*arguments)
        return outputs.transpose(2, 0, 1, 3), cells


class ELMo(nn.Module):
    """The two language models.

    The character CNN is computed for the vocabulary, not for the text: once a step, (vocab,
    max_characters) at a cost that does not depend on the batch. Tokens then look their vector up.

    Attributes:
      characters: the spelling of each token, of `character_table`, as nested tuples.
      encoder: attributes of the TokenEncoder.
      num_layers, cell_dim, cell_clip, projection_clip: of the LSTMs.
      skip_connections: layers from the second on add their input to their output.
      dropout: of the inputs of every layer (a skip connection carries what is left of them) and of
        the last output.
    """

    characters: Sequence[Sequence[int]]
    encoder: layers.Options
    num_layers: int
    cell_dim: int
    cell_clip: float
    projection_clip: float
    skip_connections: bool
    dropout: float
    dtype: DTypeLike

    def setup(self) -> None:
        self.token_encoder = TokenEncoder(**self.encoder)
        self.layer = [
            BiLSTM(self.cell_dim, self.cell_clip, self.projection_clip, self.dtype)
            for _ in range(self.num_layers)
        ]
        self.softmax = Linear(len(self.characters), ("embed", "vocab"))

    def __call__(
        self,
        tokens: Integer[Array, "rows 2 time"],
        state: State,
        keys: Key[Array, " rows"] | None = None,
        lengths: Integer[Array, " rows"] | None = None,
    ) -> tuple[Float[Array, "rows 2 time vocab"], State]:
        """Logits of the next token in reading order.

        Args:
          tokens: in reading order: [:, 0] forward, [:, 1] the sequence turned around.
          state: of the LSTMs before the first token.
          keys: one a row, for dropout; None = no dropout.
          lengths: tokens of each row that count for the returned state; None = all.

        Returns:
          (float32 logits, state after the last token).
        """
        outputs, state = self.read(tokens, state, keys, lengths)
        last = draws.dropout(outputs[-1], self.dropout, keys, self.num_layers)
        # Few words: in float32 this costs nothing.
        return self.softmax(last.astype(jnp.float32)), state

    def read(
        self,
        tokens: Integer[Array, "rows 2 time"],
        state: State,
        keys: Key[Array, " rows"] | None = None,
        lengths: Integer[Array, " rows"] | None = None,
    ) -> tuple[list[Layer], State]:
        """Like `__call__`, but the token vectors and the output of every layer."""
        table = self.token_encoder(jnp.asarray(self.characters))
        x = _look_up(table, tokens, self.dtype)
        x = nn.with_logical_constraint(x, ("batch", None, None, None))
        outputs, cells, hiddens = [x], [], []
        for number, layer in enumerate(self.layer):
            x = draws.dropout(x, self.dropout, keys, number)
            y, cell = layer(x, state["cell"][:, number], state["hidden"][:, number])
            cells.append(_at_end(cell.transpose(2, 0, 1, 3), state["cell"][:, number], lengths))
            hiddens.append(_at_end(y, state["hidden"][:, number], lengths))
            x = x + y if self.skip_connections and number else y
            x = nn.with_logical_constraint(x, ("batch", None, None, None))
            outputs.append(x)
        after = {"cell": jnp.stack(cells, 1), "hidden": jnp.stack(hiddens, 1).astype(jnp.float32)}
        return outputs, lax.stop_gradient(after)


def _at_end(
    x: Float[Array, "rows 2 time n"],
    before: Float[Array, "rows 2 n"],
    lengths: Integer[Array, " rows"] | None,
) -> Float[Array, "rows 2 n"]:
    """The last step of each row, `before` where a row has none."""
    if lengths is None:
        return x[:, :, -1]
    place = jnp.maximum(lengths - 1, 0)[:, None, None, None]
    return jnp.where(lengths[:, None, None] > 0, jnp.take_along_axis(x, place, 2)[:, :, 0], before)


def initial_state(rows: int, num_layers: int, cell_dim: int, projection_dim: int) -> State:
    """The state before any text: zeros."""
    shape = (rows, num_layers, DIRECTIONS)
    return {"cell": jnp.zeros((*shape, cell_dim)), "hidden": jnp.zeros((*shape, projection_dim))}


def both_ways(
    tokens: Num[Array, "rows time *axes"], lengths: Integer[Array, " rows"]
) -> Num[Array, "rows 2 time *axes"]:
    """Sequences in both reading orders; its own inverse on the second.

    Padding beyond `lengths` stays at the end in both.
    """
    place = jnp.arange(tokens.shape[1])
    turned = jnp.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
    turned = turned.reshape(*turned.shape, *[1] * (tokens.ndim - 2))
    return jnp.stack([tokens, jnp.take_along_axis(tokens, turned, 1)], 1)


def build(m: ConfigDict, tokens: Sequence[str], dtype: DTypeLike) -> ELMo:
    """The linen module of a model configuration for a vocabulary."""
    characters = character_table(tokens, m.vocab_size or len(tokens), m.max_characters)
    return ELMo(
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
