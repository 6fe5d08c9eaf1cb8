"""Training step of the language models against plain PyTorch and Hugging Face's modules: `python -m
bench.lm_step [--out FILE]`.

On a CPU: one core, one thread, every implementation in a process of its own, alternating rounds,
CPU time (user and system), medians. On a GPU: residues/s, MFU against a bfloat16 matrix product
measured in the same run, and peak memory. The step is forward, backward and Adam on a row of
residues with full memories, without dropout and data loading, in all programs.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from bench import rounds

# family, layers, width, heads x head_dim, mlp (ELMo: projection, cell), segment, memory
MODELS = {
    "txl-6x256": ("causal_lm", 6, 256, (4, 64), 1024, 128, 128),
    "txl-6x512": ("causal_lm", 6, 512, (8, 64), 2048, 512, 512),
    "txl-12x512": ("causal_lm", 12, 512, (8, 64), 2048, 512, 512),
    "prot-txl": ("causal_lm", 30, 1024, (16, 64), 4096, 512, 512),
    "prot-txl-bfd": ("causal_lm", 32, 1024, (14, 128), 4096, 512, 512),
    "xlnet-6x256": ("permutation_lm", 6, 256, (4, 64), 1024, 128, 96),
    "prot-xlnet": ("permutation_lm", 30, 1024, (16, 64), 4096, 512, 384),
    "elmo-2x128": ("bidirectional_lm", 2, 128, None, 512, 100, 0),
    "seqvec": ("bidirectional_lm", 2, 512, None, 4096, 100, 0),
}
CPU = {"txl-6x256": 8, "txl-6x512": 2, "txl-12x512": 2, "xlnet-6x256": 8, "elmo-2x128": 8}  # rows
GPU = {"txl-12x512": 64, "prot-txl": 16, "prot-txl-bfd": 16, "prot-xlnet": 16, "seqvec": 128}
PEERS = {
    "causal_lm": ("phenomjax", "torch", "huggingface"),
    "permutation_lm": ("phenomjax", "huggingface"),
    "bidirectional_lm": ("phenomjax", "torch"),
}
VOCAB = 32
GOAL = 0.65  # our CPU time over that of the fastest PyTorch implementation in float32


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        default="",
        help=f"of {', '.join(MODELS)} (default {', '.join(CPU)}; on a GPU {', '.join(GPU)})",
    )
    parser.add_argument("--batch", type=int, default=0, help="rows a step (default by model)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="steps a round")
    parser.add_argument(
        "--peers", default="", help="e.g. phenomjax,torch-compile (default: all that there are)"
    )
    parser.add_argument(
        "--overrides",
        default="",
        help="of phenomjax's model config, e.g. scan_layers=True,attention=cudnn",
    )
    parser.add_argument("--out", default="", help="also write the output to this file")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case = json.loads(options.worker)
        return rounds.serve(case, jax_case if case["peer"] == "phenomjax" else torch_case)
    gpu = rounds.gpu_name()
    lines = [rounds.header(gpu, ("jax", "jaxlib", "flax", "torch", "transformers"))]
    print(lines[0], flush=True)
    defaults = GPU if gpu else CPU
    for model in options.models.split(",") if options.models else defaults:
        peers = (
            options.peers.split(",")
            if options.peers
            else [
                *PEERS[MODELS[model][0]],
                *(["torch-compile"] if gpu and MODELS[model][3] else []),
            ]
        )
        case = {
            "model": model,
            "gpu": bool(gpu),
            "repeats": options.repeats,
            "overrides": options.overrides,
        }
        case["batch"] = options.batch or defaults.get(model, 8)
        text = table(case, rounds.alternate(__file__, case, peers, options.rounds))
        print(text, flush=True)
        lines.append(text)
        if options.out:
            Path(options.out).write_text("\n".join(lines) + "\n")
    return 0


def table(case: dict, results: dict[str, list[dict]]) -> str:
    """Residues a second of each implementation, and our time over each peer's."""
    clock = "wall" if case["gpu"] else "cpu"
    residues = case["batch"] * MODELS[case["model"]][5]
    median = {peer: statistics.median(row[clock] for row in rows) for peer, rows in results.items()}
    lines = [
        f"\n{case['model']}, {case['batch']} rows of"
        f" {MODELS[case['model']][5]}{' ' + case['overrides'] if case['overrides'] else ''}"
    ]
    for peer, rows in results.items():
        row, seconds = rows[-1], median[peer]
        line = (
            f"  {peer:14s} {seconds:8.3f} s (min {min(r[clock] for r in rows):.3f}) "
            f" {residues / seconds:9.0f} residues/s"
        )
        if case["gpu"]:
            tflops = row["gflops"] / 1e3 / seconds
            line += (
                f"  {tflops:6.1f} TFLOP/s = {tflops / row['matmul_tflops']:.1%} of the matmul rate"
                f" ({row['matmul_tflops']:.0f} TFLOP/s)"
            )
            line += f"  peak {row['device_gb']:.1f} GB"
        else:
            line += f"  {row['gflops'] / seconds:6.1f} GFLOP/s  peak {row['rss']:.2f} GB"
        lines.append(
            line
            + (
                f"  {median['phenomjax'] / seconds:.2f}"
                if "phenomjax" in median and peer != "phenomjax"
                else ""
            )
        )
    fastest = min((median[peer] for peer in median if peer != "phenomjax"), default=None)
    if fastest and "phenomjax" in median:
        ratio = median["phenomjax"] / fastest
        goal = 1 / 1.5 if case["gpu"] else GOAL
        lines.append(
            f"  our time over the fastest PyTorch's: {ratio:.2f}, goal {goal:.2f}:"
            f" {'met' if ratio <= goal else 'NOT met'}"
        )
    return "\n".join(lines)


def make_config(case: dict):
    """The configuration of a case."""
    from phenomjax import config

    task, depth, width, heads, hidden, segment, memory = MODELS[case["model"]]
    c = config.base(task)
    m, c.data.segment_len, c.global_batch_size = c.model, segment, case["batch"]
    m.vocab_size, m.num_layers, m.dropout = VOCAB, depth, 0.0
    if task == "bidirectional_lm":
        m.projection_dim, m.cell_dim = width, hidden
    else:
        m.embed_dim, m.mlp_dim, m.mem_len, m.attention_dropout = width, hidden, memory, 0.0
        m.num_heads, m.head_dim = heads
        m.scan_layers = depth >= 24
    if task == "permutation_lm":
        m.reuse_len = m.perm_size = segment // 2
        m.num_predict = segment // 6
    for item in filter(None, case["overrides"].split(",")):
        key, value = item.split("=")
        m[key] = value == "True" if isinstance(m[key], bool) else type(m[key])(value)
    return c


def bank_of(case: dict) -> Path:
    """A bank of random residues, for the loaders that make the batches."""
    import tempfile

    import numpy as np

    from phenomjax.data.sequences.bank import write_token_bank

    path = Path(tempfile.mkdtemp()) / "random.zarr"
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    count = 2 + case["batch"] * MODELS[case["model"]][5] * 4 // 300
    rng = np.random.default_rng(0)
    write_token_bank(
        path, {"train": [(str(i), "".join(rng.choice(letters, 300))) for i in range(count)]}
    )
    return path


def jax_case(case: dict) -> tuple[Callable, Callable]:
    import jax
    import optax
    from flax import linen as nn

    from phenomjax import tasks

    c = make_config(case)
    c.data.banks = (str(bank_of(case)),)
    task = tasks.make(c)
    batch = task.loader("train", 0, 1).batch(1)
    gflops = task.flops(batch) / 1e9
    batch = jax.device_put(batch)
    params = nn.unbox(jax.jit(task.init)(jax.random.key(0), batch))
    optimizer = optax.adam(1e-4)

    def step(params, state, carry, batch):
        def loss(p):
            value, _, after = task.loss(p, batch, jax.random.key(0), carry)
            return value, after

        (value, carry), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        update, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, update), state, carry, value

    state = [params, jax.jit(optimizer.init)(params), jax.jit(lambda: task.carry(case["batch"]))()]
    compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state, batch).compile()

    def run():
        *state[:], loss = compiled(*state, batch)
        return jax.block_until_ready(loss)

    run()  # the memories are full from now on
    return run, lambda: {"gflops": gflops, **(rounds.jax_gpu_figures() if case["gpu"] else {})}


def torch_case(case: dict) -> tuple[Callable, Callable]:
    import torch

    torch.set_num_threads(1)
    task, segment = MODELS[case["model"]][0], MODELS[case["model"]][5]
    c, rows, device = make_config(case), case["batch"], "cuda" if case["gpu"] else "cpu"
    c.data.banks = (str(bank_of(case)),)
    gflops = flops_of(c, segment, rows) / 1e9
    tokens = torch.randint(7, 27, (rows, segment + 2), device=device)
    step_of = (
        torch_elmo
        if task == "bidirectional_lm"
        else torch_xlnet
        if task == "permutation_lm"
        else torch_txl
    )
    forward, model = step_of(case, c, tokens, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    precision = torch.autocast(device, torch.bfloat16, enabled=case["gpu"])

    def run():
        optimizer.zero_grad(set_to_none=True)
        with precision:
            loss = forward()
        loss.backward()
        optimizer.step()
        return loss.item()

    run()
    return run, lambda: {"gflops": gflops, **(rounds.torch_gpu_figures() if case["gpu"] else {})}


def flops_of(c, segment: int, rows: int) -> float:
    """FLOPs of a step by the formula of the task."""
    from phenomjax import tasks

    task = tasks.make(c)
    return task.flops(task.loader("train", 0, 1).batch(0))


def torch_txl(case: dict, c, tokens, device: str):
    import torch

    _, depth, width, heads, hidden, _, memory = MODELS[case["model"]]
    if case["peer"] == "huggingface":
        import transformers

        settings = transformers.TransfoXLConfig(
            vocab_size=VOCAB,
            cutoffs=[],
            d_model=width,
            d_embed=width,
            n_head=heads[0],
            d_head=heads[1],
            d_inner=hidden,
            div_val=1,
            n_layer=depth,
            mem_len=memory,
            clamp_len=-1,
            same_length=False,
            untie_r=False,
            dropout=0.0,
            dropatt=0.0,
        )
        model = transformers.TransfoXLLMHeadModel(settings).to(device)
        state = {"mems": None}

        def forward():
            out = model(tokens[:, :-2], mems=state["mems"], labels=tokens[:, :-2])
            state["mems"] = out.mems
            return out.loss

        return forward, model
    import lm_peer

    model = lm_peer.PlainTransformerXL(VOCAB, width, depth, *heads, hidden, memory).to(device)
    call = torch.compile(model) if case["peer"] == "torch-compile" else model
    state = {"mems": [torch.zeros(len(tokens), memory, width, device=device) for _ in range(depth)]}

    def forward():
        loss, state["mems"] = call(tokens[:, 1:], state["mems"])
        return loss

    return forward, model


def torch_xlnet(case: dict, c, tokens, device: str):
    import torch
    import transformers

    _, depth, width, heads, hidden, segment, memory = MODELS[case["model"]]
    model = transformers.XLNetLMHeadModel(
        transformers.XLNetConfig(
            vocab_size=VOCAB,
            d_model=width,
            n_layer=depth,
            n_head=heads[0],
            d_inner=hidden,
            mem_len=memory,
            reuse_len=c.model.reuse_len,
            bi_data=False,
            dropout=0.0,
        )
    ).to(device)
    inputs, targets = tokens[:, 1:-1], c.model.num_predict
    places = torch.stack([torch.randperm(segment, device=device)[:targets] for _ in inputs])
    mapping = torch.nn.functional.one_hot(places, segment).float()
    mask = torch.zeros(len(inputs), segment, segment, device=device)
    mask.scatter_(2, places[:, None].expand(-1, segment, -1), 1.0)
    labels, state = inputs.gather(1, places), {"mems": None}

    def forward():
        out = model(
            inputs,
            mems=state["mems"],
            perm_mask=mask,
            target_mapping=mapping,
            labels=labels,
            use_mems=True,
        )
        state["mems"] = out.mems
        return out.loss

    return forward, model


def torch_elmo(case: dict, c, tokens, device: str):
    import lm_peer

    _, depth, width, _, hidden, _, _ = MODELS[case["model"]]
    model, state = lm_peer.PlainELMo(VOCAB, width, hidden, depth).to(device), {"states": None}

    def forward():
        loss, state["states"] = model(tokens, state["states"])
        return loss

    return forward, model


if __name__ == "__main__":
    sys.exit(main())
