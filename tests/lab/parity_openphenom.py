"""Compares our modules with stored outputs of the published ones: `python -m
tests.lab.parity_openphenom CASE.npz …`.

A case holds pixels, noise, the rule that fills every parameter, and what the published modules
computed. Prints the largest relative error of each array (largest difference over largest
magnitude) and exits with 1 above 1e-4.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from phenomjax.convert import openphenom
from phenomjax.models import losses, mae, vit
from phenomjax.models import patches as models_patches
from phenomjax.models.mae_decoders import Masking

TOLERANCE = 1e-4


def filled_state(spec: dict) -> dict[str, np.ndarray]:
    """The state dict that the rule of `spec["fill"]` makes from names and shapes; fixed tables are
    left out.
    """
    state = {}
    for index, (name, shape) in enumerate(sorted(spec["params"])):
        count = int(np.prod(shape))
        value = 0.2 * np.sin(
            np.arange(1, count + 1) * (0.37 + 0.011 * index) + 0.5 * index
        ).reshape(shape)
        parent, last = name.rsplit(".", 2)[-2:]
        if last == "gamma":
            value = 0.5 + value
        elif last == "weight" and "norm" in parent:
            value = 1.0 + value
        state[name] = value.astype(np.float32)
    return state


def compare(path: Path) -> dict[str, float]:
    """Largest relative error of every array of a case."""
    case = dict(np.load(path, allow_pickle=False))
    spec = json.loads(str(case.pop("spec_json")))
    state = filled_state(spec)
    model = openphenom.infer_model(state, spec["dec_heads"])
    model.norm_eps = model.decoder_norm_eps = spec["eps_norm"]
    model.mask_ratio = spec["mask_ratio"]
    model.bias_order = "timm_legacy" if _version(spec["timm"]) <= (1, 0, 24) else "mlp"
    tables = {
        openphenom.FIXED[0]: case["pos_embed"],
        openphenom.FIXED[1]: case["decoder_pos_embed"],
    }
    params = jax.tree.map(jnp.asarray, openphenom.from_state_dict({**state, **tables}, model))
    errors = {"round trip": _round_trip(state, params, model)}
    for name, value in compute(case, spec, model, params).items():
        errors[name] = relative_error(value, case.pop(name))
    left = set(case) - {"pixels", "noise"}
    if left:
        raise ValueError(f"{path} holds arrays that are not compared: {sorted(left)}")
    return errors


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:3])


def _round_trip(state: dict[str, np.ndarray], params: dict, model: ConfigDict) -> float:
    """Largest difference after going to our layout (stacked and unstacked too) and back; infinite
    if a name changed.
    """
    stacked = jax.device_get(jax.jit(vit.stack_layers)(params))
    back = openphenom.to_state_dict(stacked, model)
    if {k: v.shape for k, v in back.items()} != {k: v.shape for k, v in state.items()}:
        return float("inf")
    return max(float(np.abs(back[name] - state[name]).max()) for name in state)


def compute(
    case: dict[str, np.ndarray], spec: dict, model: ConfigDict, params: dict
) -> dict[str, np.ndarray]:
    """What our modules make of a case, under the names of its arrays."""
    module = mae.build(model, jnp.dtype(jnp.float32))
    pixels = jnp.asarray(case["pixels"]).transpose(0, 2, 3, 1)
    batch, height, width, count = pixels.shape
    patch, agnostic = spec["patch"], model.channel_agnostic
    noise = jnp.asarray(case["noise"])
    visible = models_patches.num_visible(noise.shape[1], model.mask_ratio)

    @jax.jit  # operation by operation it would be hundreds of programs
    def arrays(params: dict, pixels: jax.Array, noise: jax.Array) -> dict[str, jax.Array]:
        def apply(method: str, *args: object, **options: object) -> jax.Array:
            return module.apply({"params": params}, *args, method=method, **options)

        channels = jnp.tile(jnp.arange(count), (batch, 1))
        masking = Masking(*models_patches.token_order(noise), visible)
        tokens = apply("tokens", pixels)
        patches = tokens[:, 1:]
        out = apply("__call__", pixels, channels, noise, visible, all_tokens=True)
        only_masked = apply("__call__", pixels, channels, noise, visible)
        per_patch = losses.fourier_patch(
            only_masked.prediction, only_masked.target, 1 if agnostic else count
        )
        images = (
            models_patches.unpatchify(x, height, width, count, patch, agnostic)
            for x in (out.prediction, out.target)
        )
        computed = {
            "normalized": models_patches.self_standardise(pixels).transpose(0, 3, 1, 2),
            "features": tokens,
            "encoder_forward": apply("pooled", pixels),
            "mean_patch_embedding": patches.mean(1),
            "latent_masked": apply("latent", pixels, masking),
            "mask": masking.mask,
            "ids_restore": masking.restore,
            "reconstruction": out.prediction,
            "target_tokens": out.target,
            "recon_loss": losses.squared_error(only_masked.prediction, only_masked.target).mean(),
            "fourier_patch_masked": per_patch.mean(),
            "fourier_image": losses.fourier_image(*images).mean(),
            "fourier_repo_view_masked": losses.fourier_legacy(
                out.prediction, out.target, masking.mask, count if agnostic else 1
            ).mean(),
        }
        if agnostic:
            computed["channelwise_embedding"] = (
                patches.reshape(batch, count, -1, spec["dim"]).mean(2).reshape(batch, -1)
            )
        return computed

    def table(number: int, repeats: int) -> np.ndarray:
        return openphenom.fixed_tables(model, height // patch, repeats)[openphenom.FIXED[number]]

    return arrays(params, pixels, noise) | {
        "pos_embed": table(0, spec["max_in_chans"] if agnostic else 1),
        "decoder_pos_embed": table(1, count),
    }


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest magnitude; infinite if the shapes differ."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    if value.shape != expected.shape:
        return float("inf")
    return float(np.abs(value - expected).max() / max(np.abs(expected).max(), 1e-30))


def main(paths: list[str]) -> int:
    worst = 0.0
    for path in paths:
        errors = compare(Path(path))
        for name, error in errors.items():
            print(
                f"{Path(path).name}  {name:26s}"
                f" {error:.2e}{'' if error <= TOLERANCE else '  <- too large'}"
            )
        worst = max(worst, *errors.values())
    print(f"largest relative error {worst:.2e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.lab.parity_openphenom CASE.npz …")
    sys.exit(main(sys.argv[1:]))
