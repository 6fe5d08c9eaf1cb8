r"""The best learning rate against width, "standard" and "mup", on the demo.

    python -m bench.mup [--task mae|causal_lm] [--out bench/results/mup_mae]

Trains small runs of configs/mae_demo.py (on crops of 32 px) or configs/prot_txl.py:demo at several
widths and peak learning rates, under both parametrisations, which are the same at the smallest
width. Leaves OUT.json, the validation loss of each run, OUT.txt, a table, and OUT.png. What
OUT.json has already is not trained again.

Of the demo of masked autoencoders, 240 steps, one seed (bench/results/mup_mae.txt, 337 CPU
seconds): the best rate of "mup" is 2^-8.3, 2^-8.0, 2^-8.1 and 2^-7.8 at the widths 32, 64, 128 and
256, that of "standard" 2^-8.3, 2^-8.4, 2^-8.9 and 2^-10 or less, with a cliff behind it: at 2^-8
the width 256 has 0.965, close to the 1 of predicting a constant, where "mup" has 0.803. At their
best rates of those tried they have 0.827 and 0.803. Of the demo Transformer-XL at 32, 64 and 128
(bench/results/mup_causal_lm.txt) the best rate of "mup" rises too, from 2^-6 to 2^-5 or more, and
"standard" is lower at its own best rate, 2.17 against 2.53 at the width 128.

All runs of a width see the same batches and begin with the same draws. An update is linear in its
learning rate, so that one program serves all rates of a width: the step's update at a peak of 1,
times the peak. The best rate is the minimum of a parabola through the best run and its neighbours,
in log2 of the rate.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from ml_collections import ConfigDict

from bench.rounds import header
from phenomjax import config, optim, tasks
from phenomjax.config.experiment import read_config
from phenomjax.figures import style
from phenomjax.system import files
from phenomjax.system.errors import UserError, exit_on_user_error
from phenomjax.system.options import run_command

HEAD = 16  # features of a head
SIDES = "standard", "mup"


@dataclass(frozen=True)
class Options:
    """Of `python -m bench.mup`."""

    task: Literal["mae", "causal_lm"] = "mae"
    """which demo"""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """of the models, the base first"""
    rates: tuple[int, ...] = (-10, -9, -8, -7, -6, -5)
    """log2 of the peak learning rates"""
    steps: int = 240
    """of each run"""
    seeds: int = 1
    """runs of each setting, with other first values; their mean counts"""
    out: Path = Path("bench/results/mup_mae")
    """beginning of the names of the results"""


def make_config(options: Options, side: str, width: int) -> ConfigDict:
    """The demo at a width."""
    image = options.task == "mae"
    c = read_config("configs/mae_demo.py" if image else "configs/prot_txl.py:demo")
    m = c.model
    m.embed_dim, m.num_heads, m.scan_layers = width, width // HEAD, True
    if image:
        m.decoder_dim, m.decoder_num_heads = width, width // HEAD
        c.data.crop_size = 32
    else:
        m.head_dim, m.mlp_dim = HEAD, 4 * width
    if side == "mup":
        m.parametrisation, m.base_width = "mup", options.widths[0]
    c.num_steps, c.optimizer.learning_rate = options.steps, 1.0
    return config.finalize(c)


def make_run(
    c: ConfigDict, train: dict[str, jax.Array], held_out: dict[str, jax.Array]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A run as a function of its peak learning rate and seed, which returns val/loss."""
    task, tx = tasks.make(c), optim.make(c)

    def step(state: tuple, batch: dict) -> tuple[tuple, None]:
        params, opt_state, carry, key, peak = state
        key, own = jax.random.split(key)

        def loss(p: Any) -> tuple[jax.Array, Any]:
            value, _, following = task.loss(p, batch, own, carry)
            return value, following

        grads, carry = jax.grad(loss, has_aux=True)(params)
        found, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda x: peak * x, found))
        return (params, opt_state, carry, key, peak), None

    def run(peak: jax.Array, seed: jax.Array) -> jax.Array:
        key = jax.random.key(seed)
        params = nn.unbox(task.init(key, jax.tree.map(lambda x: x[0], train)))
        carry = task.carry(c.global_batch_size)
        state = params, tx.init(params), carry, key, peak
        (params, *_), _ = jax.lax.scan(step, state, train)

        def judge(carry: Any, batch: dict) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            sums, carry = task.evaluate(params, batch, carry)
            return carry, sums["loss"]

        _, (total, count) = jax.lax.scan(judge, task.carry(c.global_batch_size, "val"), held_out)
        return total.sum() / count.sum()

    return jax.jit(run)


def batches(c: ConfigDict, split: str, count: int) -> dict[str, jax.Array]:
    """The first batches of a split, one on another."""
    loader = tasks.make(c).loader(split, 0, 1)
    assert loader
    found = [loader.batch(step) for step in range(count)]
    return {name: jnp.stack([jnp.asarray(b[name]) for b in found]) for name in found[0]}


def best(rates: Sequence[int], losses: Sequence[float]) -> float:
    """log2 of the best learning rate: see above; NaN where it is at an end."""
    at = int(np.nanargmin(losses))
    if not 0 < at < len(rates) - 1:
        return float("nan")
    a, b, _ = np.polyfit(rates[at - 1 : at + 2], losses[at - 1 : at + 2], 2)
    return float(-b / (2 * a))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Options, run, "python -m bench.mup", __doc__ or "", argv) or 0


def run(options: Options) -> None:
    """Trains all, and writes what came out."""
    stored = options.out.with_suffix(".json")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(stored.read_text()) if stored.is_file() else {}
    losses: dict[str, dict[str, list[float]]] = known.get("losses", {side: {} for side in SIDES})
    begin = time.process_time() - known.get("cpu_seconds", 0.0)
    if known and known["rates_log2"] != list(options.rates):
        raise UserError(f"{stored} is of other `rates`. Give another `out`, or remove it.")
    with tempfile.TemporaryDirectory() as folder:
        made, banks = {}, ()
        for width in options.widths:
            for side in SIDES:
                c = make_config(options, side, width)
                with c.unlocked():
                    c.data.banks = banks
                made[width, side] = c = tasks.make(c).resolve(c, Path(folder))
                banks = c.data.banks
        one = made[options.widths[0], SIDES[0]]
        train, held_out = batches(one, "train", options.steps), batches(one, "val", 16)
        for (width, side), c in made.items():
            if str(width) in losses[side]:
                continue
            if width == options.widths[0] and side == "mup":
                losses[side][str(width)] = losses["standard"][str(width)]
                continue
            trained, row = make_run(c, train, held_out), list[float]()
            for rate in options.rates:
                each = [float(trained(2.0**rate, seed)) for seed in range(options.seeds)]
                row.append(float(np.mean(each)))
            losses[side][str(width)] = row
            used = time.process_time() - begin
            done = {"rates_log2": options.rates, "losses": losses, "cpu_seconds": used}
            files.write_json(stored, done)
            print(f"{side:9} {width:5}", *(f"{loss:8.4f}" for loss in row), flush=True)
    text = [header("", ("jax", "jaxlib", "flax", "optax"), ""), ""]
    text += [f"val/loss of {options.task} after {options.steps} steps, by log2 of the peak rate"]
    text += ["width     " + "".join(f"{rate:9}" for rate in options.rates) + "     best"]
    for side, rows in losses.items():
        text.append(side)
        for width, row in rows.items():
            shown = "".join(f"{loss:9.4f}" for loss in row)
            text.append(f"{width:10}{shown}{best(options.rates, row):9.2f}")
    text += ["", f"{time.process_time() - begin:.0f} CPU s"]
    print("\n".join(text))
    options.out.with_suffix(".txt").write_text("\n".join(text) + "\n")
    draw(options, losses)


def draw(options: Options, losses: dict[str, dict[str, list[float]]]) -> None:
    """Loss against rate for each width, both parametrisations side by side."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    tones = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(options.widths)))
    for axis, side in zip(axes, SIDES, strict=True):
        for (width, row), tone in zip(losses[side].items(), tones, strict=True):
            axis.plot(options.rates, row, "o-", color=tone, markersize=3, label=width)
            at = int(np.nanargmin(row))
            axis.plot(options.rates[at], row[at], "o", color=tone, markersize=8)
        axis.set_title({"standard": "standard", "mup": "muP"}[side], **style.HEADING)
        axis.set_xlabel("log2 of the peak learning rate")
        style.open_frame(axis)
    least = min(min(row) for row in losses["mup"].values())
    start = max(row[0] for row in losses["mup"].values())
    axes[0].set_ylim(least - 0.05 * (start - least), start + 0.15 * (start - least))
    axes[0].set_ylabel("validation loss")
    axes[1].legend(title="width", frameon=False, fontsize=8)
    figure.savefig(options.out.with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    exit_on_user_error(main)
