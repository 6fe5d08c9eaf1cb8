"""A plain PyTorch masked autoencoder of the same architecture, as most people would write it; only
benchmarks use it.
"""

import torch
from torch import nn
from torch.nn import functional as F


class ParallelBlock(nn.Module):
    """Attention and MLP side by side (ViT-22B), one input projection, qk-norm, layer scale."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.hidden = heads, 4 * dim
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.in_proj = nn.Linear(dim, self.hidden + 3 * dim, bias=False)
        self.mlp_bias = nn.Parameter(torch.zeros(self.hidden))
        self.q_norm, self.k_norm = (
            nn.LayerNorm(dim // heads, eps=1e-6),
            nn.LayerNorm(dim // heads, eps=1e-6),
        )
        self.attn_out, self.mlp_out = nn.Linear(dim, dim), nn.Linear(self.hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1e-4))

    def forward(self, x):
        batch, seq, dim = x.shape
        hidden, q, k, v = self.in_proj(self.norm(x)).split([self.hidden, dim, dim, dim], dim=-1)
        q, k, v = (y.reshape(batch, seq, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        y = self.attn_out(y.transpose(1, 2).reshape(batch, seq, dim)) + self.mlp_out(
            F.gelu(hidden + self.mlp_bias)
        )
        return x + self.scale * y


class PreNormBlock(nn.Module):
    """The plain block of ViT."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        batch, seq, dim = x.shape
        q, k, v = (
            self.qkv(self.norm1(x)).reshape(batch, seq, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, seq, dim))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class PlainMAE(nn.Module):
    """Masked autoencoder over (batch, channel, height, width) uint8 images."""

    def __init__(
        self,
        channels,
        patch,
        dim,
        depth,
        heads,
        block,
        mask_ratio=0.75,
        decoder=(512, 8, 16),
        tokens=256,
    ):
        super().__init__()
        self.patch, self.mask_ratio, self.channels = patch, mask_ratio, channels
        kind = {"parallel": ParallelBlock, "prenorm": PreNormBlock}[block]
        width, layers, decoder_heads = decoder
        self.embed = nn.Conv2d(channels, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", 0.02 * torch.randn(1, tokens, dim))
        self.blocks = nn.ModuleList(kind(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("decoder_positions", 0.02 * torch.randn(1, tokens + 1, width))
        self.decoder_blocks = nn.ModuleList(
            PreNormBlock(width, decoder_heads) for _ in range(layers)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, patch * patch * channels)

    def standardise(self, pixels):
        return F.instance_norm(pixels.float() / 255.0, eps=1e-5)

    def encode(self, x, keep=None):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        if keep is not None:
            x = torch.gather(x, 1, keep[..., None].expand(-1, -1, x.shape[-1]))
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def features(self, pixels):
        """Mean patch token without a mask."""
        return self.encode(self.standardise(pixels))[:, 1:].mean(1)

    def forward(self, pixels):
        """The masked squared error."""
        x = self.standardise(pixels)
        batch, channels, height, width = x.shape
        patch, tokens = self.patch, (height // self.patch) * (width // self.patch)
        target = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
        target = target.permute(0, 2, 4, 3, 5, 1).reshape(batch, tokens, -1)
        visible = int(tokens * (1 - self.mask_ratio))
        order = torch.rand(batch, tokens, device=x.device).argsort(1)
        restore = order.argsort(1)
        latent = self.decoder_embed(self.encode(x, order[:, :visible]))
        masked = self.mask_token.expand(batch, tokens - visible, -1).to(latent.dtype)
        y = torch.cat([latent[:, 1:], masked], dim=1)
        y = torch.gather(y, 1, restore[..., None].expand(-1, -1, y.shape[-1]))
        y = torch.cat([latent[:, :1], y], dim=1) + self.decoder_positions
        for block in self.decoder_blocks:
            y = block(y)
        prediction = self.predict(self.decoder_norm(y))[:, 1:]
        error = (prediction.float() - target).square().mean(-1)
        mask = (restore >= visible).float()
        return (error * mask).sum() / mask.sum()
