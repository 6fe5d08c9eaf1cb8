"""The model of a phenomjax release in plain PyTorch: needs torch and safetensors, nothing else.

from encoder import load
model = load("FOLDER")
embeddings = model(pixels)  # uint8 [batch, channel, height, width] -> float32 [batch, dim]
logits = model.logits(pixels)  # of a model of classes, in the order of config.json's model.classes
"""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

BACKBONE = "encoder.vit_backbone."


class ParallelBlock(nn.Module):
    """Attention and MLP side by side on one norm and one input projection (timm's
    ParallelScalingBlock).
    """

    def __init__(self, dim: int, c: dict):
        super().__init__()
        self.heads, self.hidden, self.legacy, self.gelu = (
            c["num_heads"],
            round(dim * c["mlp_ratio"]),
            c["bias_order"] == "timm_legacy",
            _gelu(c),
        )
        self.in_norm = nn.LayerNorm(dim, eps=c["norm_eps"])
        self.in_proj = nn.Linear(dim, self.hidden + 3 * dim, bias=False)
        self.mlp_bias = nn.Parameter(torch.zeros(self.hidden))
        self.q_norm, self.k_norm = _head_norms(dim, c)
        self.attn_out_proj, self.mlp_out_proj, self.ls = (
            nn.Linear(dim, dim),
            nn.Linear(self.hidden, dim),
            _scale(dim, c),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dim = x.shape[-1]
        zeros = x.new_zeros(3 * dim)  # timm up to 1.0.24 put the bias of the MLP behind them
        bias = torch.cat([zeros, self.mlp_bias] if self.legacy else [self.mlp_bias, zeros])
        hidden, q, k, v = F.linear(self.in_norm(x), self.in_proj.weight, bias).split(
            [self.hidden, dim, dim, dim], -1
        )
        y = _attend(q, k, v, self.heads, self.q_norm, self.k_norm)
        return x + self.ls(self.attn_out_proj(y) + self.mlp_out_proj(self.gelu(hidden)))


class Attention(nn.Module):
    """timm's Attention."""

    def __init__(self, dim: int, c: dict):
        super().__init__()
        self.heads, self.qkv, self.proj = (
            c["num_heads"],
            nn.Linear(dim, 3 * dim),
            nn.Linear(dim, dim),
        )
        self.q_norm, self.k_norm = _head_norms(dim, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(_attend(q, k, v, self.heads, self.q_norm, self.k_norm))


class PreNormBlock(nn.Module):
    """timm's Block."""

    def __init__(self, dim: int, c: dict):
        super().__init__()
        hidden = round(dim * c["mlp_ratio"])
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=c["norm_eps"]) for _ in range(2))
        self.attn, self.ls1, self.ls2 = Attention(dim, c), _scale(dim, c), _scale(dim, c)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(dim, hidden), "act": _gelu(c), "fc2": nn.Linear(hidden, dim)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp["fc2"](self.mlp["act"](self.mlp["fc1"](self.norm2(x)))))


class Scale(nn.Module):
    """Layer scale."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma

    def _load_from_state_dict(self, state: dict, prefix: str, *others: Any) -> None:
        if f"{prefix}weight" in state:  # transformers 4 calls every gamma so as it reads
            state[f"{prefix}gamma"] = state.pop(f"{prefix}weight")
        super()._load_from_state_dict(state, prefix, *others)


class Encoder(nn.Module):
    """Raw pixels -> the mean patch token of the last block, or of the blocks that are named.

    Args:
      config: `model` of the release's config.json.
    """

    def __init__(self, config: dict):
        super().__init__()
        self.config, dim, patch = config, config["embed_dim"], config["patch_size"]
        # a masked autoencoder does not say how it standardises, and releases of before no grid
        self.agnostic, self.grid = config["channel_agnostic"], config.get("position_grid", 0)
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(1 if self.agnostic else len(config["channels"]), dim, patch, patch)}
        )
        if config["class_token"]:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        block = {"parallel": ParallelBlock, "prenorm": PreNormBlock}[config["block"]]
        self.blocks = nn.ModuleList(block(dim, config) for _ in range(config["depth"]))
        norm = nn.LayerNorm(dim, eps=config["norm_eps"])
        self.norm: nn.Module = nn.Identity() if self.agnostic else norm
        self.fc_norm: nn.Module = norm if self.agnostic else nn.Identity()

    def forward(
        self, pixels: torch.Tensor, blocks: tuple[int, ...] = (), channelwise: bool = False
    ) -> torch.Tensor:
        """Pixels [batch, channel, height, width], as they are stored (8 or 16 bit) -> float32
        [batch, dim].

        With `blocks` (from 1) [batch, len(blocks), dim]; `channelwise` puts one embedding a channel
        side by side (CA-MAE).
        """
        groups = pixels.shape[1] if channelwise else 1
        outputs = self.tokens(pixels, blocks)
        means = [x.reshape(len(x), groups, -1, x.shape[-1]).mean(2).flatten(1) for x in outputs]
        return torch.stack(means, 1) if blocks else means[0]

    def tokens(self, pixels: torch.Tensor, blocks: tuple[int, ...] = ()) -> list[torch.Tensor]:
        """The patch tokens [batch, patches, dim] of each of the blocks, or of the last one; of a
        CA-MAE those of the first channel come first, then those of the second.
        """
        x = standardise(pixels, self.config.get("standardise", "image"))
        if self.agnostic:
            x = x.reshape(-1, 1, *x.shape[2:])
        x = self.patch_embed["proj"](x)
        table = positions(x.shape[2], x.shape[3], x.shape[1], self.grid).to(x)
        x = (x.flatten(2).transpose(1, 2) + table).reshape(len(pixels), -1, x.shape[1])
        first = int(self.config["class_token"])
        if first:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        wanted, outputs = blocks or (len(self.blocks),), {}
        for number, block in enumerate(self.blocks[: max(wanted)], 1):
            x = block(x)
            if number in wanted:
                outputs[number] = (self.norm(x) if number == len(self.blocks) else x)[:, first:]
        return [outputs[number] for number in wanted]


class DenseLayer(nn.Module):
    """New channels beside those that it is given, as torchvision's."""

    def __init__(self, inputs: int, c: dict):
        super().__init__()
        growth, eps = c["growth_rate"], c["batch_norm_eps"]
        self.norm1 = nn.BatchNorm2d(inputs, eps)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth, eps)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet(c: dict) -> tuple[nn.Sequential, int]:
    """The features of torchvision's DenseNet, and how many they are."""
    eps, width = c["batch_norm_eps"], c["stem_features"]
    parts: list[tuple[str, nn.Module]] = [
        ("conv0", nn.Conv2d(len(c["channels"]), width, 7, 2, 3, bias=False)),
        ("norm0", nn.BatchNorm2d(width, eps)),
        ("relu0", nn.ReLU()),
        ("pool0", nn.MaxPool2d(3, 2, 1)),
    ]
    for block, count in enumerate(c["block_config"], 1):
        layers = [
            (f"denselayer{i + 1}", DenseLayer(width + i * c["growth_rate"], c))
            for i in range(count)
        ]
        parts.append((f"denseblock{block}", nn.Sequential(OrderedDict(layers))))
        width += count * c["growth_rate"]
        if block < len(c["block_config"]):
            transition = [
                ("norm", nn.BatchNorm2d(width, eps)),
                ("relu", nn.ReLU()),
                ("conv", nn.Conv2d(width, width // 2, 1, bias=False)),
                ("pool", nn.AvgPool2d(2)),
            ]
            parts.append((f"transition{block}", nn.Sequential(OrderedDict(transition))))
            width //= 2
    parts.append(("norm5", nn.BatchNorm2d(width, eps)))
    return nn.Sequential(OrderedDict(parts)), width


class Classifier(nn.Module):
    """A DenseNet or an `Encoder`, a neck, and what tells classes apart.

    Args:
      config: `model` of the release's config.json.
    """

    def __init__(self, config: dict):
        super().__init__()
        c, self.config = config, config
        if c["backbone"] == "vit":
            self.encoder, width = nn.ModuleDict({"vit_backbone": Encoder(c)}), c["embed_dim"]
        else:
            self.features, width = densenet(c)
        width += len(c["cell_types"]) if c["cell_type"] else 0
        dim, eps = c["neck_dim"], c["batch_norm_eps"]
        self.neck = nn.Sequential()
        if dim:
            first = nn.BatchNorm1d(width, eps), nn.Linear(width, dim), nn.ReLU()
            second = nn.BatchNorm1d(dim, eps), nn.Linear(dim, dim), nn.BatchNorm1d(dim, eps)
            self.neck = nn.Sequential(*first, *second)
        if c["arcface_weight"] < 1.0:
            self.classifier = nn.Linear(dim or width, len(c["classes"]))
        if c["arcface_weight"] > 0.0:
            self.arcface = nn.Linear(dim or width, len(c["classes"]), bias=False)

    def forward(self, pixels: torch.Tensor, cells: torch.Tensor | None = None) -> torch.Tensor:
        """Pixels [batch, channel, height, width], as they are stored (8 or 16 bit) -> float32
        [batch, dim].

        Of a model that is told cell types, `cells` [batch] are places in config.json's
        model.cell_types.
        """
        if self.config["backbone"] == "vit":
            encoder = self.encoder["vit_backbone"]
            x = encoder.fc_norm(encoder(pixels))
        else:
            x = F.relu(self.features(standardise(pixels, self.config["standardise"])))
            x = x.mean((2, 3))
        if self.config["cell_type"]:
            x = torch.cat([x, F.one_hot(cells, len(self.config["cell_types"])).to(x)], 1)
        return self.neck(x)

    def logits(self, pixels: torch.Tensor, cells: torch.Tensor | None = None) -> torch.Tensor:
        """[batch, class]; of a model that has ArcFace alone, cosines."""
        x = self(pixels, cells)
        if self.config["arcface_weight"] < 1.0:
            return self.classifier(x)
        return F.linear(F.normalize(x), F.normalize(self.arcface.weight))


def standardise(pixels: torch.Tensor, how: str) -> torch.Tensor:
    """Each image and channel to mean 0 and variance 1; for "none" divided by the type's largest."""
    x = pixels.float()
    if how == "none":
        return x / (255.0 if pixels.dtype == torch.uint8 else 65535.0)
    x = x - x.mean((2, 3), keepdim=True)
    return x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + 1e-5 * 255.0**2)


def positions(rows: int, columns: int, dim: int, grid: float = 0.0) -> torch.Tensor:
    """The fixed table [rows * columns, dim]: sin and cos of the row, then of the column; with a
    `grid` of places between those of that many tokens along each.
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))

    def table(count: int) -> torch.Tensor:
        places = torch.arange(count, dtype=torch.float64)
        places = (places + 0.5) * (grid / count) - 0.5 if grid else places
        angles = places[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)

    y = table(rows)[:, None].expand(-1, columns, -1)
    x = table(columns)[None].expand(rows, -1, -1)
    return torch.cat([y, x], -1).reshape(rows * columns, dim)


def load(folder: str | Path) -> Encoder | Classifier:
    """The model of a release folder, ready to run; of a masked autoencoder the encoder."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())["model"]
    state = load_file(folder / "model.safetensors")
    if "classes" in config:
        model: Encoder | Classifier = Classifier(config)
    else:
        model = Encoder(config)
        encoder = [name for name in state if name.startswith(BACKBONE)]
        state = {name[len(BACKBONE) :]: state[name] for name in encoder}
        state.pop("pos_embed", None)  # fixed, and computed for any size
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    q_norm: nn.Module,
    k_norm: nn.Module,
) -> torch.Tensor:
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q_norm(q), k_norm(k), v).transpose(1, 2).flatten(2)


def _head_norms(dim: int, c: dict) -> list[nn.Module]:
    return [
        nn.LayerNorm(dim // c["num_heads"], eps=c["norm_eps"]) if c["qk_norm"] else nn.Identity()
        for _ in range(2)
    ]


def _scale(dim: int, c: dict) -> nn.Module:
    return Scale(dim) if c["layer_scale"] else nn.Identity()


def _gelu(c: dict) -> nn.Module:
    return nn.GELU(approximate="tanh" if c["gelu"] == "tanh" else "none")
