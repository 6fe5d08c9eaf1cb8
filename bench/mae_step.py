"""Training step and encoder inference of the MAE against a plain PyTorch MAE: `python -m
bench.mae_step [--out FILE]`.

On a CPU: one core, one thread, every implementation in a process of its own, alternating rounds,
CPU time (user and system), medians. On a GPU: crops/s, MFU against a bfloat16 matrix product
measured in the same run, and peak memory. The step is forward, backward and AdamW, without the
Fourier term, drop path and data loading, in both programs.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from bench import rounds

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
GOALS = {"step": 0.75, "encoder": 0.45}  # our CPU time over torch eager's, ViT-S/16
CHANNELS, CROP = 6, 256


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        default="",
        help="e.g. S/16,B/16 (default: S/16,B/16 on a CPU, S, B, L at 16 and 8 on a GPU)",
    )
    parser.add_argument("--blocks", default="parallel,prenorm")
    parser.add_argument("--modes", default="step,encoder")
    parser.add_argument("--peers", default="phenomjax,torch,torch-compile")
    parser.add_argument(
        "--batch", type=int, default=0, help="crops a step (default 4 on a CPU; on a GPU by model)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--repeats",
        type=int,
        default=4,
        help="calls a round; the first after a pause pays for memory given back",
    )
    parser.add_argument(
        "--overrides",
        default="",
        help="of phenomjax's model config, e.g. scan_layers=True,remat=full",
    )
    parser.add_argument("--out", default="", help="also write the output to this file")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case = json.loads(options.worker)
        return rounds.serve(case, jax_case if case["peer"] == "phenomjax" else torch_case)
    gpu = rounds.gpu_name()
    lines = [
        rounds.header(gpu)
        + f"\ncrops {CROP} x {CROP} x {CHANNELS} uint8; decoder 512 x 8 x 16; mask 0.75"
    ]
    print(lines[0], flush=True)
    models = options.models or ("S/16,B/16,L/16,S/8,B/8,L/8" if gpu else "S/16,B/16")
    for model in models.split(","):
        for block in options.blocks.split(","):
            for mode in options.modes.split(","):
                case = {
                    "model": model,
                    "block": block,
                    "mode": mode,
                    "gpu": bool(gpu),
                    "overrides": options.overrides,
                }
                case |= {
                    "batch": options.batch or default_batch(model, bool(gpu)),
                    "repeats": options.repeats,
                }
                results = rounds.alternate(__file__, case, options.peers.split(","), options.rounds)
                text = (table_gpu if gpu else table_cpu)(case, results)
                print(text, flush=True)
                lines.append(text)
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n")
    return 0


def default_batch(model: str, gpu: bool) -> int:
    return (
        {"S/16": 512, "B/16": 512, "L/16": 256, "S/8": 128, "B/8": 128, "L/8": 64}[model]
        if gpu
        else 4
    )


def table_cpu(case: dict, results: dict[str, list[dict]]) -> str:
    median = {peer: statistics.median(x["cpu"] for x in rows) for peer, rows in results.items()}
    lines = [
        f"\n{case['model']} {case['block']} {case['mode']}, batch"
        f" {case['batch']}{' ' + case['overrides'] if case['overrides'] else ''}"
    ]
    for peer, rows in results.items():
        cpus, base = [x["cpu"] for x in rows], median.get("torch")
        line = (
            f"  {peer:14s} CPU {median[peer]:7.3f} s (min {min(cpus):.3f}, sys"
            f" {statistics.median(x['sys'] for x in rows):.3f})"
        )
        line += (
            f"  {case['batch'] / median[peer]:6.2f} crops/CPU-s "
            f" {rows[-1]['gflops'] / median[peer]:6.1f} GFLOP/s  peak {rows[-1]['rss']:.2f} GB"
        )
        lines.append(line + (f"  {median[peer] / base:.2f} x torch" if base else ""))
    if "torch" in median and "phenomjax" in median:
        ratio, goal = median["phenomjax"] / median["torch"], GOALS[case["mode"]]
        lines.append(
            f"  ratio {ratio:.2f}, goal {goal} (set for S/16):"
            f" {'met' if ratio <= goal else 'NOT met'}"
        )
    return "\n".join(lines)


def table_gpu(case: dict, results: dict[str, list[dict]]) -> str:
    lines = [f"\n{case['model']} {case['block']} {case['mode']}, batch {case['batch']}, bfloat16"]
    rates = {}
    for peer, rows in results.items():
        seconds, row = statistics.median(x["wall"] for x in rows), rows[-1]
        rates[peer] = case["batch"] / seconds
        tflops = row["gflops"] / 1e3 / seconds
        lines.append(
            f"  {peer:14s} {rates[peer]:8.0f} crops/s  {tflops:6.1f} TFLOP/s ="
            f" {tflops / row['matmul_tflops']:.1%} of the matmul rate ({row['matmul_tflops']:.0f}"
            f" TFLOP/s)  peak {row['device_gb']:.1f} GB"
        )
    if {"phenomjax", "torch-compile"} <= set(rates):
        lines.append(
            f"  {rates['phenomjax'] / rates['torch-compile']:.2f} x torch.compile, goal 1.2"
        )
    return "\n".join(lines)


# In the worker processes


def model_config(case: dict):
    """The configuration of a case, and its FLOPs by the formula of the task."""
    from phenomjax.config.keys import base
    from phenomjax.models import flops

    config, (size, patch) = base(), case["model"].split("/")
    model = config.model
    model.channels = tuple(f"c{i}" for i in range(CHANNELS))
    model.patch_size, model.block = int(patch), case["block"]
    model.embed_dim, model.depth, model.num_heads = SIZES[size]
    model.drop_path = model.fourier_weight = 0.0
    if case["block"] == "prenorm":
        model.qk_norm, model.layer_scale = False, 0.0
    for item in filter(None, case["overrides"].split(",")):
        key, value = item.split("=")
        model[key] = (
            type(model[key])(value == "True")
            if isinstance(model[key], bool)
            else type(model[key])(value)
        )
    config.data.crop_size = CROP
    shape = (case["batch"], CROP, CROP, CHANNELS)
    work = (
        3 * flops.masked_autoencoder(model, shape)
        if case["mode"] == "step"
        else flops.image_encoder(model, shape)
    )
    return config, work / 1e9


def jax_case(case: dict) -> tuple[Callable, Callable]:
    import jax
    import numpy as np
    import optax
    from flax import linen as nn

    from phenomjax.tasks.mae import MaskedAutoencoder

    config, gflops = model_config(case)
    task, rows = MaskedAutoencoder(config), case["batch"]
    pixels = np.random.default_rng(0).integers(0, 256, (rows, CROP, CROP, CHANNELS), np.uint8)
    channels, row = (
        np.tile(np.arange(CHANNELS, dtype=np.int32), (rows, 1)),
        np.arange(rows, dtype=np.int32),
    )
    batch = jax.device_put({"pixels": pixels, "channels": channels, "row": row, "image": row})
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), batch))
    optimizer = optax.adamw(1e-4)

    def step(params, state, key, batch):
        key, now = jax.random.split(key)
        loss, gradient = jax.value_and_grad(lambda p: task.loss(p, batch, now, ())[0])(params)
        update, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, update), state, key, loss

    if case["mode"] == "step":
        state = [params, jax.jit(optimizer.init)(params), jax.random.key(1)]
        compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state, batch).compile()

        def run():
            *state[:], loss = compiled(*state, batch)
            return jax.block_until_ready(loss)

    else:
        compiled = (
            jax.jit(lambda params, batch: task.embed(params, batch)[0])
            .lower(params, batch)
            .compile()
        )

        def run():
            return jax.block_until_ready(compiled(params, batch))

    return run, lambda: {"gflops": gflops, **(rounds.jax_gpu_figures() if case["gpu"] else {})}


def torch_case(case: dict) -> tuple[Callable, Callable]:
    import mae_peer
    import torch

    torch.set_num_threads(1)
    _, gflops = model_config(case)
    size, patch = case["model"].split("/")
    device = "cuda" if case["gpu"] else "cpu"
    model = mae_peer.PlainMAE(
        CHANNELS, int(patch), *SIZES[size], case["block"], tokens=(CROP // int(patch)) ** 2
    ).to(device)
    pixels = torch.randint(
        0, 256, (case["batch"], CHANNELS, CROP, CROP), dtype=torch.uint8, device=device
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
    compiled = case["peer"] == "torch-compile"
    forward = torch.compile(model) if compiled else model
    features = torch.compile(model.features) if compiled else model.features
    precision = torch.autocast(device, torch.bfloat16, enabled=case["gpu"])

    def step():
        optimizer.zero_grad(set_to_none=True)
        with precision:
            loss = forward(pixels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def encode():
        with torch.inference_mode(), precision:
            return features(pixels).float().sum().item()

    run = step if case["mode"] == "step" else encode
    return run, lambda: {"gflops": gflops, **(rounds.torch_gpu_figures() if case["gpu"] else {})}


if __name__ == "__main__":
    sys.exit(main())
