"""The model card: README.md of exported weights, filled in from the configuration and the metrics
of the run.
"""

from pathlib import Path

import jax

from phenomjax import __version__
from phenomjax.models.batch_norm import RUNNING
from phenomjax.trained.image_model import encoder_params
from phenomjax.trained.model import ImageModel
from phenomjax.training.metrics import FILE, read_metrics

JAX_LINES = """\
import jax, numpy as np
from phenomjax.trained.opening import load
model = load("FOLDER")
pixels = PIXELS
embeddings = jax.jit(model.task.embed)(model.params, {"pixels": pixels})[0][:, 0]"""
# what stands after "pixels" where a model is told cell types too
JAX_CELLS, TORCH_CELLS = ', "cell_type": np.zeros(1, int)', ", cells=torch.zeros(1, dtype=int)"
TORCH_LINES = """\
import sys, torch
sys.path.insert(0, "FOLDER")
from encoder import load
pixels = PIXELS
embeddings = load("FOLDER")(pixels)"""
TRANSFORMERS_LINES = """\
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True).eval()
pixels = PIXELS
embeddings = model(pixels).pooler_output"""
PIXELS = "Give raw 8- or 16-bit pixels, and do not normalise before: the model does it itself. "
STANDARDISE = {
    "image": "Each channel of each crop is brought to mean 0 and variance 1.",
    "none": "They are divided by the largest number of their type.",
}
CARRIED = (
    "embeddings carry batch effects of plates and experiments, which have to be aligned (`python -m"
    " phenomjax.maps align`) before perturbations are compared. Not for diagnosis."
)
LIMITS = f"Trained without labels on the banks above; {CARRIED}"
LIMITS_OF_CLASSES = (
    "Trained to tell the classes of the banks above apart: whatever goes with a class there, such"
    " as the place of a gene on a chromosome, may be in its embeddings. Its batch norms keep"
    " statistics of these banks, and batches that look otherwise may need their own (`python -m"
    f" phenomjax.embed --statistics experiment`); {CARRIED}"
)


def write(
    path: Path,
    model: ImageModel,
    name: str,
    licence: str,
    layout: str = "",
    release: bool = False,
) -> None:
    """Writes the card.

    Args:
      path: README.md.
      model: that it is about; the metrics are those of its run, if that is there.
      name: of the model.
      licence: SPDX name, or "" where none was given.
      layout: of the weights, as of `weights.arrays`.
      release: whether the folder can be loaded by the lines of `JAX_LINES` and `TORCH_LINES`.
    """
    # a masked autoencoder has no such key: it always does
    standardise = model.config.model.get("standardise", "image")
    sections = [
        _head(model, name, licence),
        _table(("", ""), _rows(model)),
        ["## Metrics", "", *_metrics(model)],
        ["## Pixels", "", PIXELS + STANDARDISE[standardise]],
        _use(model, name) if release else _weights(model, layout),
        ["## Limits", "", LIMITS_OF_CLASSES if _of_classes(model) else LIMITS],
        ["## Licence", "", licence or "None was stated."],
    ]
    path.write_text("\n".join(line for section in sections for line in (*section, "")))


def _head(model: ImageModel, name: str, licence: str) -> list[str]:
    """The card's front matter, its title and what the model is."""
    c, tags = model.config.model, "masked-autoencoder, vision-transformer"
    what = "the mean of the encoder's patch tokens"
    if _of_classes(model):
        tags = "weak-supervision, " + c.backbone.replace("vit", "vision-transformer")
        what = "what its classes are told apart by"
    return [
        "---",
        f"license: {licence or 'unknown'}",
        "library_name: phenomjax",
        "pipeline_tag: image-feature-extraction",
        f"tags: [microscopy, cell-painting, {tags}]",
        "---",
        f"# {name}",
        "",
        (
            f"A {_kind(model)} of microscopy images of cells. It turns a crop of {len(c.channels)}"
            f" channels into an embedding of {model.task.embedding_dim} numbers: {what}."
        ),
    ]


def _of_classes(model: ImageModel) -> bool:
    return model.config.task == "perturbation"


def _kind(model: ImageModel) -> str:
    if _of_classes(model):
        return "weakly supervised model"
    if model.config.model.channel_agnostic:
        return "channel-agnostic masked autoencoder (CA-MAE)"
    return "masked autoencoder"


def _rows(model: ImageModel) -> list[tuple[str, str]]:
    """The table of the model and its training."""
    c, run = model.config.model, model.config
    encoder, everything = (
        sum(leaf.size for n in tree if n != RUNNING for leaf in jax.tree.leaves(tree[n])) / 1e6
        for tree in (encoder_params(model), model.params)
    )
    network = (
        f"ViT, {c.depth} {c.block} blocks, width {c.embed_dim}, {c.num_heads} heads, patches of"
        f" {c.patch_size} px"
    )
    learnt = ("Mask ratio", f"{c.get('mask_ratio', 0):g}")
    if _of_classes(model):
        learnt = "Classes", f"{len(c.classes)}, by `{run.data.label}`"
        if c.backbone == "densenet":
            network = (
                f"DenseNet, blocks of {', '.join(map(str, c.block_config))} layers, growth rate"
                f" {c.growth_rate}, {c.stem_features} features of the stem"
            )
        network += f", neck of {c.neck_dim}" if c.neck_dim else ""
    others = " (any others can be given)" if c.channel_agnostic else " (these, in this order)"
    return [
        ("Kind", _kind(model)),
        ("Encoder", network),
        (
            "Parameters",
            f"{encoder:.2f} M encoder, {everything:.2f} M with {model.task.training_only[0]}",
        ),
        ("Channels", ", ".join(c.channels) + others),
        ("Crops in training", f"{run.data.crop_size} x {run.data.crop_size} px"),
        learnt,
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


def _use(model: ImageModel, name: str) -> list[str]:
    """How a release is used."""
    size, count = model.config.data.crop_size, len(model.config.model.channels)
    told = (JAX_CELLS, TORCH_CELLS) if model.task.reads_cell_type else ("", "")
    pixels = f"np.zeros((1, {size}, {size}, {count}), np.uint8)  # batch, height, width, channel"
    tensor = (
        f"torch.zeros(1, {count}, {size}, {size}, dtype=torch.uint8)  # batch, channel, height,"
        " width"
    )
    return [
        "## Use with JAX",
        "",
        "```python",
        JAX_LINES.replace("PIXELS", pixels)
        .replace("FOLDER", ".")
        .replace(": pixels}", f": pixels{told[0]}}}"),
        "```",
        "",
        "## Use with PyTorch",
        "",
        "`encoder.py` needs torch and safetensors, nothing else.",
        "",
        "```python",
        TORCH_LINES.replace("PIXELS", tensor)
        .replace("FOLDER", ".")
        .replace("(pixels)", f"(pixels{told[1]})"),
        "```",
        "",
        "## Use with transformers",
        "",
        (
            "The path of this folder, or OWNER/NAME on the hub. `trust_remote_code` runs"
            " `modeling_phenomjax.py` and `encoder.py`: read them first."
        ),
        "",
        "```python",
        TRANSFORMERS_LINES.replace("PIXELS", tensor)
        .replace("FOLDER", name)
        .replace("(pixels)", f"(pixels{told[1]})"),
        "```",
        "",
        (
            "Whole banks of images: `python -m phenomjax.embed --checkpoint . --bank BANK --out"
            " E.zarr`."
        ),
    ]


def _weights(model: ImageModel, layout: str) -> list[str]:
    """What the files hold, where they are no release."""
    what = "encoder and decoder, under the names of OpenPhenom"
    if _of_classes(model):
        theirs = "torchvision" if model.config.model.backbone == "densenet" else "OpenPhenom"
        what = f"the whole model, its encoder under the names of {theirs}"
    elif layout == "timm":
        what = "the encoder, under the names of timm"
    lines = [
        "## Weights",
        "",
        f"`model.safetensors` holds {what}; `config.json` says their shapes.",
    ]
    c = model.config.model
    if c.get("backbone") != "densenet" and (c.block, c.bias_order) == ("parallel", "mlp"):
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
