"""Runs a model on a few sequences or images, so that two can be compared: what was exported with
what is converted back.

Weights that fit a model are no proof that it computes the same: the place of a norm, a memory or a
boundary token is in no shape.
"""

import base64
import functools
import json
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer
from ml_collections import ConfigDict

from phenomjax import tasks
from phenomjax.config import keys
from phenomjax.data.sequences.vocabulary import PAD, SPECIALS
from phenomjax.models import vit
from phenomjax.system.errors import EXIT_FAILED, UserError
from phenomjax.system.types import Params
from phenomjax.tasks.language_model import LanguageModel
from phenomjax.tasks.mae import MaskedAutoencoder
from phenomjax.tasks.perturbation import Perturbation

Outputs = dict[str, Float[np.ndarray, "..."]]
TOLERANCE = 1e-4  # largest difference over the largest magnitude, of float32
ROWS, SEGMENTS, SEGMENT_LEN = 2, 3, 16  # of sequences: a memory and its end are seen
PATCHES = 3  # along an edge of an image
DENSENET_PIXELS = 64  # along an edge of an image for one
MEMORY = 64  # longer memories compute as this one: nothing before it is read
KEPT = 512  # numbers of an output that are recorded
# What changes speed and not the numbers, or is set to the same for the comparison.
INDIFFERENT = ("scan_layers", "remat", "attention", "dtype")


def outputs(config: ConfigDict, params: Params) -> Outputs:
    """What a model computes on a few drawn inputs, always the same ones, in float32.

    Returns:
      "features" and "log-likelihoods" of a language model, "features" and "reconstructions" of a
      masked autoencoder, "features" and "logits" of a weakly supervised model.
    """
    probe = keys.base(config.task)
    probe.model = ConfigDict(config.model.to_dict())
    probe.model.dtype = "float32"
    if "crop_size" in probe.data:
        probe.data.crop_size = config.data.crop_size
    for key in {"scan_layers", "remat", "attention", "mem_len", "eval_mem_len"} & set(probe.model):
        value = probe.model[key]
        fixed = {"scan_layers": False, "remat": "none", "attention": "auto"}
        probe.model[key] = fixed[key] if key in fixed else min(value, MEMORY)
    if probe.model.get("scan_layers") is not None:
        params = vit.unstack_layers(params)
    with jax.default_matmul_precision("highest"):
        found = _computing(json.dumps(probe.to_dict(), sort_keys=True, default=list))(params)
    return {name: np.asarray(x, np.float32) for name, x in found.items()}


@functools.lru_cache(maxsize=4)
def _computing(content: str) -> Callable[[Params], dict[str, Array]]:
    """The compiled computation of a configuration; two models of one share it."""
    config = ConfigDict(json.loads(content))
    task = tasks.make(config)
    if isinstance(task, LanguageModel):
        return jax.jit(functools.partial(_of_sequences, task))
    if isinstance(task, Perturbation):
        return jax.jit(functools.partial(_of_classes, task))
    return jax.jit(functools.partial(_of_images, MaskedAutoencoder(config)))


def _of_sequences(task: LanguageModel, params: Params) -> dict[str, Array]:
    tokens = _sequences(task)
    carry, features = task.inference_carry(ROWS, whole=False), []
    for segment in range(SEGMENTS):
        part = tokens[:, :, segment * SEGMENT_LEN : (segment + 1) * SEGMENT_LEN]
        batch = {"tokens": part, "lengths": jnp.full(ROWS, SEGMENT_LEN)}
        found, carry = task.embed(params, batch, carry)
        features.append(found)
    if task.scoring == "masked":
        places = jnp.broadcast_to(jnp.arange(3, 8), (ROWS, 5))
        likelihoods = task.masked_log_probs(params, tokens[:, 0], places)
    else:
        before = task.inference_carry(ROWS, whole=True)
        likelihoods, _ = task.segment_log_probs(params, tokens[..., :-1], tokens[..., 1:], before)
    return {"features": jnp.concatenate(features, 2), "log-likelihoods": likelihoods}


def _sequences(task: LanguageModel) -> Integer[Array, "rows directions seq"]:
    """Drawn tokens between the model's boundaries, no padding."""
    before, after = (np.array(tokens, np.int32) for tokens in task.boundary)
    count = SEGMENTS * SEGMENT_LEN - len(before) - len(after)
    drawn = np.random.default_rng(0).integers(len(SPECIALS), len(task.words), (ROWS, count))
    framed = np.stack([np.concatenate([before, row, after]) for row in drawn])
    assert PAD not in framed
    return jnp.asarray(np.stack([framed, framed[:, ::-1]][: task.directions], 1))


def _of_images(task: MaskedAutoencoder, params: Params) -> dict[str, Array]:
    m = task.config.model
    pixels, channels = _pixels(PATCHES * m.patch_size, m), len(m.channels)
    features, _ = task.embed(params, {"pixels": pixels})
    count = PATCHES**2 * (channels if m.channel_agnostic else 1)
    noise = jnp.broadcast_to(jnp.linspace(0.0, 1.0, count), (ROWS, count))
    numbers = jnp.broadcast_to(jnp.arange(channels), (ROWS, channels))
    seen = task.model.apply({"params": params}, pixels, numbers, noise, count // 2)
    return {"features": features, "reconstructions": seen.prediction}


def _of_classes(task: Perturbation, params: Params) -> dict[str, Array]:
    m = task.config.model
    size = PATCHES * m.patch_size if m.backbone == "vit" else DENSENET_PIXELS
    batch = {"pixels": _pixels(size, m), "cell_type": jnp.zeros(ROWS, jnp.int32)}
    return {"features": task.embed(params, batch)[0], "logits": task.logits(params, batch)}


def _pixels(size: int, model: ConfigDict) -> Integer[Array, "rows height width channel"]:
    """Drawn pixels, always the same ones."""
    shape = (ROWS, size, size, len(model.channels))
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape), jnp.uint8)


def differing(before: ConfigDict, now: ConfigDict) -> list[str]:
    """Settings of two models in which they compute differently, with both values."""
    names = sorted((set(before.model) | set(now.model)) - set(INDIFFERENT))
    plain = [json.loads(json.dumps(c.model.to_dict(), default=list)) for c in (before, now)]
    return [
        f"{name} is {plain[1].get(name)} and was {plain[0].get(name)}"
        for name in names
        if plain[0].get(name) != plain[1].get(name)
    ]


def agreement(found: Outputs, expected: Outputs, what: str) -> str:
    """How far two models are apart, in words.

    Args:
      found, expected: of `outputs`, or `recalled`; only what both have is compared.
      what: was compared, for the error.

    Raises:
      UserError: they differ by more than `TOLERANCE` of the largest value, or are not finite; exit
        code 1.
    """
    said = []
    for name in sorted(found.keys() & expected.keys()):
        largest = float(np.abs(expected[name]).max())
        allowed = TOLERANCE * largest
        same_shape = found[name].shape == expected[name].shape
        apart = float(np.abs(found[name] - expected[name]).max()) if same_shape else np.inf
        if not apart <= allowed:  # nan too
            raise UserError(
                f"{what}: the {name} differ by up to {apart:.3g}, and {allowed:.2g} is allowed"
                f" ({TOLERANCE:.0e} of the largest, {largest:.3g}). A setting that the arrays do"
                " not show is another one, or the arrays are damaged: nothing was written.",
                EXIT_FAILED,
            )
        said.append(f"{name} differ by at most {apart:.2g} (allowed {allowed:.2g})")
    return ", ".join(said)


def recorded(found: Outputs) -> dict[str, str]:
    """A part of the outputs, as JSON has it."""
    return {name: base64.b64encode(_part(x).tobytes()).decode() for name, x in found.items()}


def recalled(stored: Mapping[str, str]) -> Outputs:
    """What `recorded` kept.

    Raises:
      ValueError: it is damaged.
    """
    return {
        str(name): np.frombuffer(base64.b64decode(text, validate=True), "<f4")
        for name, text in stored.items()
    }


def parts(found: Outputs) -> Outputs:
    """The numbers that `recorded` keeps."""
    return {name: _part(x) for name, x in found.items()}


def _part(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, " kept"]:
    flat = x.astype("<f4").reshape(-1)
    return flat[:: max(1, -(-len(flat) // KEPT))]
