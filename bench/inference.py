"""Embedding crops: our runtimes against PyTorch, the encoder alone and end to end from a bank:
`python -m bench.inference [--out FILE]`.

The same weights everywhere (a release folder; random ones unless --checkpoint), crops of 256 x 256
x 6, batches of 8. On a CPU: one core, one thread, every implementation in a process of its own,
alternating rounds, CPU time (user and system), medians. On a GPU: crops/s, share of the measured
bfloat16 matmul rate, TensorRT where it is installed.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import rounds

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
GOALS = {
    "phenomjax": 0.45,
    "openvino-bfloat16": 0.24,
    "openvino-int8": 0.18,
}  # CPU time over torch eager's, encoder alone, ViT-S/16
SHARE = 0.9  # of the encoder's rate, end to end
MATMUL_SHARE = 0.6  # on one H100, L/16
PEERS = (
    "torch",
    "torch-compile",
    "phenomjax",
    "onnxruntime",
    "openvino",
    "openvino-bfloat16",
    "openvino-int8",
)
GPU_PEERS = ("torch", "torch-compile", "phenomjax", "tensorrt-float16", "tensorrt-int8")
END_TO_END = ("phenomjax", "onnxruntime", "openvino-int8", "torch")
CHANNELS, CROP, FIELD = 6, 256, 1024
IMAGES = 8  # of the simulated bank; 16 crops each
PACKAGES = ("jax", "jaxlib", "flax", "torch", "onnxruntime", "openvino", "nncf", "jax2onnx")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="", help="S/16, B/16, L/16 (default S/16, on a GPU L/16)"
    )
    parser.add_argument("--block", default="parallel", help="parallel or prenorm")
    parser.add_argument(
        "--checkpoint", default="", help="a run or release instead of random weights"
    )
    parser.add_argument("--peers", default="")
    parser.add_argument("--batch", type=int, default=0, help="crops (default 8, on a GPU 256)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="batches a round, encoder alone")
    parser.add_argument("--out", default="", help="also write the output to this file")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case = json.loads(options.worker)
        return prepare(case) if case["mode"] == "prepare" else rounds.serve(case, build)
    gpu = rounds.gpu_name()
    lines: list[str] = []

    def show(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    show(rounds.header(gpu, PACKAGES))
    peers = options.peers.split(",") if options.peers else list(GPU_PEERS if gpu else PEERS)
    case = {
        "model": options.model or ("L/16" if gpu else "S/16"),
        "block": options.block,
        "gpu": bool(gpu),
        "repeats": options.repeats,
    }
    case |= {"batch": options.batch or (256 if gpu else 8), "checkpoint": options.checkpoint}
    with tempfile.TemporaryDirectory() as folder:
        case |= {"folder": folder, "mode": "prepare"}
        subprocess.run(
            [sys.executable, __file__, "--worker", json.dumps(case)], check=True, env=environment()
        )
        weights = "random weights"
        if options.checkpoint:
            weights = f"weights of {Path(options.checkpoint).name}"
        show(
            f"{case['model']} {case['block']}, crops {CROP} x {CROP} x {CHANNELS} uint8, batch"
            f" {case['batch']}, bank: {IMAGES} images of {FIELD} px; {weights}"
        )
        case["mode"] = "encoder"
        encoder = rounds.alternate(__file__, case, peers, options.rounds)
        show("\n" + (table_gpu if gpu else table_cpu)(case, encoder))
        case |= {"mode": "end to end", "repeats": 1}
        whole = rounds.alternate(
            __file__, case, [peer for peer in peers if gpu or peer in END_TO_END], options.rounds
        )
        show("\n" + table_whole(case, encoder, whole))
    show(
        f"load at the end {', '.join(f'{x:.1f}' for x in os.getloadavg())} on {os.cpu_count()}"
        " cores"
    )
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n")
    return 0


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{rounds.ROOT}:{rounds.ROOT / 'bench'}"}


def per_crop(results: dict[str, list[dict]], name: str) -> dict[str, float]:
    """Median milliseconds a crop."""
    return {
        peer: statistics.median(1e3 * row[name] / row["crops"] for row in rows)
        for peer, rows in results.items()
    }


def table_cpu(case: dict, results: dict[str, list[dict]]) -> str:
    cpu, wall = per_crop(results, "cpu"), per_crop(results, "wall")
    base = cpu.get("torch")
    bound = max((rows[-1].get("matmul_gflops", 0.0) for rows in results.values()), default=0.0)
    lines = [
        "encoder alone          CPU ms/crop (min)      wall ms  crops/CPU-s  GFLOP/s  x torch "
        " cosine to float32  peak GB"
    ]
    for peer, rows in results.items():
        least, row = min(1e3 * x["cpu"] / x["crops"] for x in rows), rows[-1]
        line = (
            f"  {peer:20s} {cpu[peer]:8.1f} ({least:6.1f})   {wall[peer]:8.1f}  "
            f" {1e3 / cpu[peer]:8.2f}   {row['gflops'] / cpu[peer] * 1e3:7.1f}"
        )
        line += f"   {cpu[peer] / base:6.2f}" if base else "         "
        lines.append(f"{line}   {row.get('cosine', float('nan')):.6f}           {row['rss']:.2f}")
    for peer, goal in GOALS.items():
        if base and peer in cpu:
            ratio = cpu[peer] / base
            lines.append(
                f"  {peer}: {ratio:.2f} x torch eager, goal {goal}:"
                f" {'met' if ratio <= goal else 'NOT met'}"
            )
    if bound and base:
        flops = results["torch"][-1]["gflops"] * 1e3  # per crop, over ms
        lines.append(
            f"  float32 products of this shape run at {bound:.0f} GFLOP/s on this core, and torch"
            f" eager reaches {flops / base:.0f} with everything: at that rate float32 could reach"
            f" {flops / bound / base:.2f} x at best"
        )
    return "\n".join(lines)


def table_gpu(case: dict, results: dict[str, list[dict]]) -> str:
    wall = per_crop(results, "wall")
    lines = ["encoder alone"]
    for peer, rows in results.items():
        tflops, row = rows[-1]["gflops"] / wall[peer], rows[-1]
        line = (
            f"  {peer:20s} {1e3 / wall[peer]:9.0f} crops/s  {tflops:7.1f} TFLOP/s  cosine to"
            f" float32 {row.get('cosine', float('nan')):.6f}"
        )
        if rate := row.get("matmul_tflops"):
            line += f"  {tflops / rate:.1%} of the matmul rate ({rate:.0f} TFLOP/s)"
        lines.append(line)
    if "phenomjax" in results:
        share = (
            results["phenomjax"][-1]["gflops"]
            / wall["phenomjax"]
            / results["phenomjax"][-1]["matmul_tflops"]
        )
        lines.append(
            f"  phenomjax: {share:.1%} of the matmul rate, goal {MATMUL_SHARE:.0%} (L/16):"
            f" {'met' if share >= MATMUL_SHARE else 'NOT met'}"
        )
    for peer in ("tensorrt-float16", "tensorrt-int8"):
        if peer in wall:
            lines.append(
                f"  {peer}: {wall['torch'] / wall[peer]:.2f} x torch eager bfloat16,"
                f" {wall['phenomjax'] / wall[peer]:.2f} x phenomjax"
            )
    return "\n".join(lines)


def table_whole(case: dict, encoder: dict[str, list[dict]], whole: dict[str, list[dict]]) -> str:
    name = "wall" if case["gpu"] else "cpu"
    alone, time = per_crop(encoder, name), per_crop(whole, name)
    lines = [
        f"end to end from the bank (read, decode, encode, mean of an image's crops), {name} time"
    ]
    for peer in whole:
        share = alone[peer] / time[peer]
        goal = (
            f", goal {SHARE:.0%}: {'met' if share >= SHARE else 'NOT met'}"
            if peer == "phenomjax"
            else ""
        )
        line = (
            f"  {peer:20s} {time[peer]:8.2f} ms/crop  {1e3 / time[peer]:8.2f} crops/s  {share:6.1%}"
            f" of the encoder alone{goal}"
        )
        lines.append(line)
    if "torch" in time and "phenomjax" in time:
        lines.append(f"  phenomjax: {time['phenomjax'] / time['torch']:.2f} x torch eager")
    return "\n".join(lines)


# In the worker processes


def prepare(case: dict) -> int:
    """What all peers share: the bank, the weights, and the files that runtimes are made from."""
    import jax
    from flax import linen as nn
    from ml_collections import ConfigDict

    from phenomjax.config.keys import base
    from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
    from phenomjax.export import release
    from phenomjax.tasks.mae import MaskedAutoencoder
    from phenomjax.trained import opening
    from phenomjax.trained.model import Trained, fingerprint

    folder = Path(case["folder"])
    screen = SimulationConfig(
        num_plates=1,
        plates_per_experiment=1,
        wells_per_plate=IMAGES,
        field_px=FIELD,
        cell_radius=26.0,
    )
    write_screen(folder / "bank.zarr", screen)
    if case["checkpoint"]:
        model = opening.load_images(case["checkpoint"])
    else:
        config: ConfigDict = base()
        size, patch = case["model"].split("/")
        config.model.embed_dim, config.model.depth, config.model.num_heads = SIZES[size]
        # Blocks of fresh weights hardly change their input; with a scale of 1 rounding shows as it
        # would after training.
        config.model.update(
            patch_size=int(patch),
            block=case["block"],
            layer_scale=1.0,
            decoder_depth=1,
            decoder_dim=64,
            decoder_num_heads=2,
        )
        config.model.channels, config.data.crop_size = (
            ("Hoechst", "ConA", "Phalloidin", "SYTO14", "MitoTracker", "WGA"),
            CROP,
        )
        task = MaskedAutoencoder(config)
        batch = {
            "pixels": np.zeros((1, CROP, CROP, CHANNELS), np.uint8),
            "channels": np.arange(CHANNELS)[None],
        }
        params = jax.device_get(nn.unbox(jax.jit(task.init)(jax.random.key(0), batch)))
        model = Trained(folder, 0, config, task, params, fingerprint(params))
    (folder / "release").mkdir()
    release.write(folder / "release", model, "bench", "none")
    return 0


def build(case: dict) -> tuple[Callable, Callable]:
    """One implementation: the encoder alone on one batch, or a pass over the bank."""
    from phenomjax.data.images.loading.reader import CropReader
    from phenomjax.data.images.opening import open_bank
    from phenomjax.inference.images import crops as images_crops
    from phenomjax.inference.images import plan, worker
    from phenomjax.models import flops
    from phenomjax.trained import opening

    folder, size = Path(case["folder"]), case["batch"]
    bank, model = open_bank(folder / "bank.zarr"), opening.load_images(folder / "release")
    grid = plan.grid(FIELD, FIELD, CROP, CROP)
    reader = CropReader(bank)
    pixels = np.empty((size, CROP, CROP, CHANNELS), bank.dtype)
    for place in range(size):
        reader.read_into(
            pixels[place], place % IMAGES, grid.ys[place % len(grid)], grid.xs[place % len(grid)]
        )
    # NNCF draws its progress there, where the parent reads
    with contextlib.redirect_stdout(sys.stderr):
        runtime = make_runtime(case, model, folder)
    extra: dict[str, Any] = {
        "gflops": flops.image_encoder(model.config.model, (1, CROP, CROP, CHANNELS)) / 1e9
    }
    if agreement := getattr(runtime, "agreement", None):
        extra["cosine"] = agreement.cosine

    def encode() -> None:
        runtime.submit(pixels)()

    def whole() -> None:
        layout = plan.WorkLayout(IMAGES, len(grid), size, max(1, size // len(grid)), IMAGES)
        loader = images_crops.CropLoader(
            reader, grid, CROP, range(CHANNELS), layout, 0 if case["gpu"] else 1
        )
        try:
            for _, values in worker.embed(loader, layout, runtime, iter([0]), threading.Event()):
                values.mean(1, dtype=np.float64)
        finally:
            loader.close()

    extra["crops"] = size if case["mode"] == "encoder" else IMAGES * len(grid)

    def figures() -> dict:
        if not case["gpu"]:
            return extra | (
                {"matmul_gflops": core_rate(model, size)} if case["peer"] == "phenomjax" else {}
            )
        if case["peer"] == "phenomjax":
            return extra | rounds.jax_gpu_figures()
        return extra | (rounds.torch_gpu_figures() if case["peer"].startswith("torch") else {})

    return (encode if case["mode"] == "encoder" else whole), figures


def make_runtime(case: dict, model: Any, folder: Path) -> Any:
    """A runtime of phenomjax, or PyTorch behind the same method."""
    from phenomjax.inference.runtimes import choose
    from phenomjax.trained.graphs import graph

    settings = graph.settings(model)
    name, _, precision = case["peer"].partition("-")
    if name == "torch":
        return TorchRuntime(folder / "release", precision == "compile", case["gpu"], model)
    if name == "phenomjax":
        name, options = "jax", {}
    else:
        options = {
            "bank": str(folder / "bank.zarr"),
            "cache": str(folder / "cache"),
            "min_cosine": "0.5",
        }
        options |= {"precision": precision} if precision else {}
        options |= {} if name == "tensorrt" else {"threads": "1"}
    return choose.make(name, model, settings, case["batch"], options)


class TorchRuntime:
    """The PyTorch encoder of the release folder."""

    def __init__(self, folder: Path, compiled: bool, gpu: bool, model: Any):
        import torch

        from phenomjax.export.published import encoder as torch_encoder
        from phenomjax.trained.graphs import graph

        torch.set_num_threads(1)
        self._torch, self._device, self._gpu = torch, "cuda" if gpu else "cpu", gpu
        encoder = torch_encoder.load(folder).to(self._device)
        self._encoder = torch.compile(encoder) if compiled else encoder
        settings = graph.settings(model)
        crops = graph.sample_crops(model, settings, 2, folder.parent / "bank.zarr", seed=1)
        if not compiled:  # which would compile for this batch size too
            self.agreement = graph.compare(
                self.submit(crops)()[:, None], graph.jax_reference(model, settings)(crops)
            )

    def submit(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        torch = self._torch
        with (
            torch.inference_mode(),
            torch.autocast(self._device, torch.bfloat16, enabled=self._gpu),
        ):
            crops = torch.from_numpy(pixels).to(self._device, non_blocking=True).permute(0, 3, 1, 2)
            result = self._encoder(crops).float()
        return lambda: result.cpu().numpy()


def core_rate(model: Any, batch: int) -> float:
    """GFLOP/s of this core on float32 products like those of the MLP, the best of several."""
    import time

    import jax
    import jax.numpy as jnp

    width = model.config.model.embed_dim
    rows = batch * (model.task.num_tokens((1, CROP, CROP, CHANNELS)) + 1)
    x, kernel, product = jnp.ones((rows, width)), jnp.ones((width, 4 * width)), jax.jit(jnp.matmul)
    product(x, kernel).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.process_time()
        product(x, kernel).block_until_ready()
        best = min(best, time.process_time() - start)
    return 8 * rows * width**2 / best / 1e9


if __name__ == "__main__":
    sys.exit(main())
