"""The model card: README.md of exported weights, filled in from the configuration and the metrics
of the run.
"""

from pathlib import Path

import jax

from phenomjax import __version__
from phenomjax.trained.image_model import encoder_params
from phenomjax.trained.model import ImageModel
from phenomjax.training.metrics import FILE, read_metrics

JAX_LINES = """\
import jax, numpy as np
from phenomjax.trained.opening import load
model = load("FOLDER")
pixels = PIXELS
embeddings = jax.jit(model.task.embed)(model.params, {"pixels": pixels})[0][:, 0]"""
TORCH_LINES = """\
import sys, torch
sys.path.insert(0, "FOLDER")
from encoder import load
pixels = PIXELS
embeddings = load("FOLDER")(pixels)"""
PIXELS = (
    "Give raw 8- or 16-bit pixels. Each channel of each crop is brought to mean 0 and variance 1 by"
    " the model itself: do not normalise before."
)
LIMITS = (
    "Trained without labels on the banks above; embeddings carry batch effects of plates and"
    " experiments, which have to be aligned (`python -m phenomjax.maps align`) before perturbations"
    " are compared. Not for diagnosis."
)


def write(
    path: Path,
    model: ImageModel,
    name: str,
    licence: str,
    layout: str = "openphenom",
    release: bool = False,
) -> None:
    """Writes the card.

    Args:
      path: README.md.
      model: that it is about; the metrics are those of its run, if that is there.
      name: of the model.
      licence: SPDX name, or "" where none was given.
      layout: of the weights.
      release: whether the folder can be loaded by the lines of `JAX_LINES` and `TORCH_LINES`.
    """
    sections = [
        _head(model, name, licence),
        _table(("", ""), _rows(model)),
        ["## Metrics", "", *_metrics(model)],
        ["## Pixels", "", PIXELS],
        _use(model) if release else _weights(model, layout),
        ["## Limits", "", LIMITS],
        ["## Licence", "", licence or "None was stated."],
    ]
    path.write_text("\n".join(line for section in sections for line in (*section, "")))


def _head(model: ImageModel, name: str, licence: str) -> list[str]:
    """The card's front matter, its title and what the model is."""
    c = model.config.model
    return [
        "---",
        f"license: {licence or 'unknown'}",
        "library_name: phenomjax",
        "pipeline_tag: image-feature-extraction",
        "tags: [microscopy, cell-painting, masked-autoencoder, vision-transformer]",
        "---",
        f"# {name}",
        "",
        (
            f"A {_kind(model)} of microscopy images of cells. It turns a crop of {len(c.channels)}"
            f" channels into an embedding of {c.embed_dim} numbers: the mean of the encoder's patch"
            " tokens."
        ),
    ]


def _kind(model: ImageModel) -> str:
    if model.config.model.channel_agnostic:
        return "channel-agnostic masked autoencoder (CA-MAE)"
    return "masked autoencoder"


def _rows(model: ImageModel) -> list[tuple[str, str]]:
    """The table of the model and its training."""
    c, run = model.config.model, model.config
    encoder, everything = (
        sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
        for tree in (encoder_params(model), model.params)
    )
    others = " (any others can be given)" if c.channel_agnostic else " (these, in this order)"
    return [
        ("Kind", _kind(model)),
        (
            "Encoder",
            (
                f"ViT, {c.depth} {c.block} blocks, width {c.embed_dim}, {c.num_heads} heads,"
                f" patches of {c.patch_size} px"
            ),
        ),
        ("Parameters", f"{encoder:.2f} M encoder, {everything:.2f} M with decoder"),
        ("Channels", ", ".join(c.channels) + others),
        ("Crops in training", f"{run.data.crop_size} x {run.data.crop_size} px"),
        ("Mask ratio", f"{c.mask_ratio:g}"),
        (
            "Training",
            (
                f"step {model.step} of {run.num_steps}, {run.global_batch_size} crops a step,"
                f" {run.optimizer.name}, learning rate {run.optimizer.learning_rate:g}"
            ),
        ),
        ("Banks", ", ".join(Path(bank).name for bank in run.data.banks) or "unknown"),
        ("Fingerprint of the parameters", f"`{model.fingerprint}`"),
        ("Written by", f"phenomjax {__version__}"),
    ]


def _use(model: ImageModel) -> list[str]:
    """How a release is used."""
    size, count = model.config.data.crop_size, len(model.config.model.channels)
    pixels = f"np.zeros((1, {size}, {size}, {count}), np.uint8)  # batch, height, width, channel"
    tensor = (
        f"torch.zeros(1, {count}, {size}, {size}, dtype=torch.uint8)  # batch, channel, height,"
        " width"
    )
    return [
        "## Use with JAX",
        "",
        "```python",
        JAX_LINES.replace("PIXELS", pixels).replace("FOLDER", "."),
        "```",
        "",
        "## Use with PyTorch",
        "",
        "`encoder.py` needs torch and safetensors, nothing else.",
        "",
        "```python",
        TORCH_LINES.replace("PIXELS", tensor).replace("FOLDER", "."),
        "```",
        "",
        (
            "Whole banks of images: `python -m phenomjax.embed --checkpoint . --bank BANK --out"
            " E.zarr`."
        ),
    ]


def _weights(model: ImageModel, layout: str) -> list[str]:
    """What the files hold, where they are no release."""
    what = "the encoder, under the names of timm"
    if layout == "openphenom":
        what = "encoder and decoder, under the names of OpenPhenom"
    lines = [
        "## Weights",
        "",
        f"`model.safetensors` holds {what}; `config.json` says their shapes.",
    ]
    if model.config.model.block == "parallel" and model.config.model.bias_order == "mlp":
        lines.append(
            "The bias of the MLP belongs to the MLP, as in timm from 1.0.25 on; earlier versions"
            " misplace it."
        )
    return lines


def metrics(model: ImageModel) -> tuple[dict[str, float], dict[str, float]]:
    """The last training and validation metrics of the run at or before the model's step, from its
    metrics.jsonl; {} where there are none.
    """
    train: dict[str, float] = {}
    val: dict[str, float] = {}
    lines, _ = read_metrics(model.path.parent.parent / FILE)
    for line in lines:
        if line.step <= model.step:
            train = line.values if "train/loss" in line.values else train
            val = line.values if "val/loss" in line.values else val
    return train, val


def _metrics(model: ImageModel) -> list[str]:
    train, val = metrics(model)
    rows = [
        (name, f"{value:.6g}")
        for row in (val, train)
        for name, value in sorted(row.items())
        if name.startswith(("val/", "train/"))
    ]
    if not rows:
        return ["The run's metrics were not at hand."]
    held_out = (
        ", ".join(model.config.data.val_groups)
        or f"{model.config.data.val_fraction:g} of them, by hash of the name"
    )
    note = (
        f"Validation: groups of `{model.config.data.split_by}` that training did not see"
        f" ({held_out})."
    )
    if "val/loss_visible_mean" in val:
        note += " `loss_visible_mean` is the error of predicting the mean of the visible pixels."
    return [note, "", *_table(("Metric", "Value"), rows)]


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {a} | {b} |" for a, b in (header, ("---", "---"), *rows)]
