"""A plain PyTorch Transformer-XL and ELMo of the same architecture, as most people would write
them; only benchmarks use them.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):
    """Post-norm layer with relative attention: explicit scores, shift by padding and reshaping."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.position = nn.Linear(dim, heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x, memory, positions, u, v, mask):
        batch, queries, _ = x.shape
        both = torch.cat([memory, x], 1)
        q, k, value = (
            self.qkv(both).view(batch, both.shape[1], 3, self.heads, self.head_dim).unbind(2)
        )
        q = q[:, -queries:]
        r = self.position(positions).view(-1, self.heads, self.head_dim)
        content = torch.einsum("bqhd,bkhd->bhqk", q + u, k)
        place = torch.einsum("bqhd,khd->bhqk", q + v, r)
        keys = place.shape[-1]
        place = (
            F.pad(place, (1, 0))
            .view(batch, self.heads, keys + 1, queries)[:, :, 1:]
            .reshape(content.shape)
        )
        scores = (content + place) * self.head_dim**-0.5
        weights = scores.masked_fill(mask, float("-inf")).softmax(-1)
        y = torch.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, queries, -1)
        x = self.norm1(x + self.out(y))
        return self.norm2(x + self.mlp(x))


class PlainTransformerXL(nn.Module):
    """Returns (loss, memories) for tokens (batch, queries + 1)."""

    def __init__(
        self, vocab: int, dim: int, depth: int, heads: int, head_dim: int, hidden: int, mem_len: int
    ):
        super().__init__()
        self.embedding, self.bias = nn.Embedding(vocab, dim), nn.Parameter(torch.zeros(vocab))
        self.layers = nn.ModuleList(Layer(dim, heads, head_dim, hidden) for _ in range(depth))
        self.u, self.v = (nn.Parameter(0.02 * torch.randn(heads, head_dim)) for _ in range(2))
        self.dim, self.mem_len = dim, mem_len
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens, memories):
        x = self.embedding(tokens[:, :-1]) * self.dim**0.5
        queries, keys = x.shape[1], x.shape[1] + self.mem_len
        distance = torch.arange(keys - 1, -1, -1, device=x.device, dtype=torch.float32)
        angles = distance[:, None] / 10000 ** (
            torch.arange(0, self.dim, 2, device=x.device) / self.dim
        )
        positions = torch.cat([angles.sin(), angles.cos()], -1).to(x.dtype)
        mask = torch.ones(queries, keys, dtype=torch.bool, device=x.device).triu(1 + self.mem_len)
        kept = []
        for layer, memory in zip(self.layers, memories, strict=True):
            kept.append(torch.cat([memory, x], 1)[:, -self.mem_len :].detach())
            x = layer(x, memory, positions, self.u, self.v, mask)
        logits = F.linear(x, self.embedding.weight, self.bias)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()), kept


class PlainELMo(nn.Module):
    """Two directions of nn.LSTM with projection over a token embedding (nn.LSTM cannot clip);
    returns (loss, states).
    """

    def __init__(self, vocab: int, projection: int, cell: int, depth: int):
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocab, projection), nn.Linear(projection, vocab)
        lstm = lambda: nn.LSTM(projection, cell, 1, batch_first=True, proj_size=projection)  # noqa: E731
        self.directions = nn.ModuleList(
            nn.ModuleList(lstm() for _ in range(depth)) for _ in range(2)
        )

    def forward(self, tokens, states):
        inner, loss, kept = tokens[:, 1:-1], 0.0, []
        for direction, layers in enumerate(self.directions):
            x = self.embedding(inner.flip(1) if direction else inner)
            for number, layer in enumerate(layers):
                y, state = layer(x, states[2 * number + direction] if states else None)
                kept.append(tuple(part.detach() for part in state))
                x = y + x if number else y
            target = tokens[:, :-2].flip(1) if direction else tokens[:, 2:]
            loss = loss + F.cross_entropy(self.head(x).flatten(0, 1).float(), target.flatten())
        kept = [
            kept[direction * len(layers) + number]
            for number in range(len(layers))
            for direction in range(2)
        ]
        return loss / 2, kept
