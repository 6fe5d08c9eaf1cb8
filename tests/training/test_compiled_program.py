"""Reads the partitioned train step: what is reduced, in which type and how often, what is gathered,
what is sharded, what reaches the host.

Compiled for 8 devices without an array, with the models as on a GPU and in bfloat16; see
`bench.programs.partitioned`.
"""

import collections
import logging
import math
import re

import jax
import pytest

from bench import programs
from bench.hlo import HOST
from configs import mae
from phenomjax import config, sharding, step
from phenomjax.models import attention
from phenomjax.state import divide

# a batch of 56 rows: no other dimension of these models is a multiple of 56; hsdp has 2 groups
DEVICES, GROUP, DEPTH, ROWS, SEQ = 8, 4, 3, 56, 10
SIZES = {
    "causal_lm": {
        "embed_dim": 32,
        "num_layers": DEPTH,
        "num_heads": 4,
        "head_dim": 16,
        "mlp_dim": 96,
        "mem_len": 6,
        "vocab_size": 24,
    },
    "permutation_lm": {
        "embed_dim": 32,
        "num_layers": DEPTH,
        "num_heads": 4,
        "head_dim": 16,
        "mlp_dim": 96,
        "mem_len": 6,
        "vocab_size": 24,
        "reuse_len": 5,
        "perm_size": 5,
        "num_predict": 3,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "bidirectional_lm": {
        "char_dim": 4,
        "filters": ((1, 8), (2, 24)),
        "max_characters": 5,
        "projection_dim": 32,
        "cell_dim": 48,
        "vocab_size": 24,
    },
    "mae": {
        "channels": ("a", "b"),
        "embed_dim": 32,
        "depth": DEPTH,
        "num_heads": 4,
        "patch_size": 8,
        "decoder_dim": 24,
        "decoder_depth": 2,
        "decoder_num_heads": 2,
        "attention": "xla",
    },
    "perturbation": {
        "channels": ("a", "b"),
        "classes": ("one", "two", "three"),
        "block_config": (2, 1),
        "growth_rate": 8,
        "stem_features": 16,
        "neck_dim": 32,
    },
}
# (task, preset, micro-batches)
CASES = [
    ("mae", "dp", 1),
    ("mae", "hsdp", 1),  # its groups are fsdp's
    ("mae", "fsdp_tp", 2),
    ("causal_lm", "fsdp", 1),
    ("causal_lm", "fsdp_tp", 1),
    ("causal_lm", "hsdp", 2),
]


def make_config(task, preset, micro=1):
    """A tiny model with scanned layers."""
    c = config.base(task)
    c.mesh.preset, c.mesh.model, c.global_batch_size = (
        preset,
        2 if preset == "fsdp_tp" else 1,
        ROWS * micro,
    )
    c.mesh.replica = DEVICES // GROUP if preset == "hsdp" else -1
    c.model.update(SIZES[task])
    c.model.dtype, c.optimizer.accumulate_steps, c.optimizer.clip_norm = "bfloat16", micro, 1.0
    if preset != "dp":
        c.optimizer.name, c.optimizer.ema_decay = "adamw", 0.9
    if task in ("mae", "perturbation"):
        c.data.crop_size = 32
    else:
        c.data.segment_len, c.model.dropout = SEQ, 0.0
    if "scan_layers" in c.model:
        c.model.scan_layers = True
    return c


def elements(collectives):
    """Of the whole arrays, over a step; scalars (losses, norms) do not count."""
    sizes = [
        c.times * (c.group if c.kind == "all-gather" else 1) * math.prod(shape)
        for c in collectives
        for _, shape in c.arrays
        if math.prod(shape) > 1
    ]
    return sum(sizes)


def among_rows(found, preset, *kinds):
    """Collectives of devices with different rows; in fsdp_tp two neighbours, the model axis, hold
    the same rows.
    """
    alike = lambda c: preset == "fsdp_tp" and c.group == c.span == 2  # noqa: E731
    return [c for c in found.collectives() if c.kind in kinds and not alike(c)]


def named(params, *, gathered):
    """{name: elements of a leaf on a device}; `gathered`: of all that its data axis holds, for
    leaves that it shards.
    """
    result = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        sharded = "data" in leaf.sharding.spec
        count = math.prod(leaf.sharding.shard_shape(leaf.shape)) * (
            leaf.sharding.mesh.shape["data"] if sharded else 1
        )
        if sharded or not gathered:
            result[jax.tree_util.keystr(path, simple=True, separator="/")] = count
    return result


@pytest.mark.parametrize("task,preset,micro", CASES)
def test_the_partitioned_step(task, preset, micro):
    lowered, state = programs.lower(make_config(task, preset, micro), jax.devices()[:DEVICES])
    found = programs.partitioned(lowered)
    check_gradients_are_reduced_once_in_float32(task, preset, micro, found, state)
    check_parameters_alone_are_gathered_once_a_pass(task, preset, micro, found, state)
    check_the_program_holds_shards(found, state)
    check_shards(state, preset)
    for _, op in found.operations():
        # No transfer, no callback, and no device that holds rows of another: nothing has the size
        # of the global batch.
        assert op.opcode not in HOST and "callback" not in op.text and "Host" not in op.text, op
        assert not any(size and size % ROWS == 0 for _, shape in op.arrays for size in shape), op


def check_gradients_are_reduced_once_in_float32(task, preset, micro, found, state):
    """As many elements are summed over devices as there are parameters: once a step, whatever the
    number of micro-batches.
    """
    sums = among_rows(found, preset, "all-reduce", "reduce-scatter")
    assert {dtype for c in sums for dtype, _ in c.arrays} == {"f32"}
    if preset == "hsdp":
        sums = once_over_two_stages(sums, state)
    expected = named(state.params, gathered=False)
    if task == "causal_lm" and micro == 1:
        # Once a use: the embedding is also the softmax, and all layers share the biases of relative
        # attention. Positions have no rows: the gradient of what is projected from them is summed,
        # and the kernel's follows from it on each device.
        expected["vocabulary/bin_0_embedding"] += math.prod(
            state.params["vocabulary"]["bin_0_embedding"].shape
        )
        expected["content_bias"] *= DEPTH
        expected["position_bias"] *= DEPTH
        m, shards = SIZES[task], 2 if preset == "fsdp_tp" else 1
        projected = (m["mem_len"] + SEQ) * m["num_heads"] * m["head_dim"] // shards
        expected["blocks/layers/position/kernel"] = DEPTH * projected
    assert elements(sums) == sum(expected.values())


def once_over_two_stages(sums, state):
    """The sums of hsdp without their second stage: each sum over a group of neighbours goes on as
    one over the groups, of what a device then holds; only vectors are summed over all at once.
    """
    within, between = ([c for c in sums if c.group == n] for n in (GROUP, DEVICES // GROUP))
    at_once = [c for c in sums if c.group == DEVICES]
    assert len(within) + len(between) + len(at_once) == len(sums)
    assert all(c.span == GROUP for c in within) and all(c.span > GROUP for c in between)
    shares = [elements([c]) // (GROUP if c.kind == "reduce-scatter" else 1) for c in within]
    assert elements(between) == sum(shares)
    kernels = {k: n for k, n in named(state.params, gathered=True).items() if "kernel" in k}
    assert elements([c for c in within if c.kind == "reduce-scatter"]) >= sum(kernels.values())
    return within + at_once


def check_parameters_alone_are_gathered_once_a_pass(task, preset, micro, found, state):
    """Forward every sharded parameter, backward the kernels that carry a gradient to their input;
    no activations, nothing is resharded.
    """
    gathers = among_rows(found, preset, "all-gather")
    assert preset != "hsdp" or {(c.group, c.span) for c in gathers} == {(GROUP, GROUP)}
    forward, backward = ([c for c in gathers if c.backward == which] for which in (False, True))
    sharded = named(state.params, gathered=True)
    # The embedding is whole where tokens look it up, float32, and where it is the softmax, in the
    # compute type.
    again = sharded["vocabulary/bin_0_embedding"] if task == "causal_lm" else 0
    assert elements(forward) == micro * (sum(sharded.values()) + again)
    # no gradient goes further back than these
    ends = ("bias", "patch_embed/kernel", "position/kernel")
    assert elements(backward) == micro * sum(
        n for name, n in sharded.items() if not name.endswith(ends)
    )
    assert not among_rows(found, preset, "all-to-all", "collective-permute")


def check_the_program_holds_shards(found, state):
    """Arguments and results of the program have the shapes of the state's shards."""
    expected = collections.Counter(
        leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(state)
    )
    operations = found.computations[found.entry]
    arguments = collections.Counter(
        op.arrays[0][1] for op in operations if op.opcode == "parameter"
    )
    (root,) = (op for op in operations if op.root)
    assert not expected - arguments and not expected - collections.Counter(
        shape for _, shape in root.arrays
    )


def check_shards(state, preset):
    """Every matrix of the state, with what the optimiser keeps of it, is divided by the axes of the
    preset; the carry by rows, what it shares by nothing.
    """
    for path, leaf in jax.tree.leaves_with_path((state.params, state.opt_state, state.ema)):
        share = math.prod(leaf.shape) // math.prod(leaf.sharding.shard_shape(leaf.shape))
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        table = any(
            part in name
            for part in (
                "filter_",
                "token_encoder/embedding",
                "segment/embedding",
                "channel_tokens",
            )
        )
        if name.endswith(("kernel", "embedding")) and not table:
            shares = {"dp": (1,), "fsdp": (8,), "hsdp": (4,), "fsdp_tp": (4, 8)}
            assert share in shares[preset], name
    rows, shared = divide(state.carry)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(shared))
    for leaf in jax.tree.leaves(rows):
        assert leaf.sharding.shard_shape(leaf.shape)[0] == leaf.shape[0] // (
            4 if preset == "fsdp_tp" else 8
        )


@pytest.mark.parametrize("preset", ["dp", "fsdp", "hsdp", "fsdp_tp"])
def test_every_task_shards_its_state(preset):
    compiled = {task for task, other, _ in CASES if other == preset}
    for task in SIZES.keys() - compiled:  # of the others the step's own state is looked at
        with programs.on_mesh(make_config(task, preset), jax.devices()[:DEVICES]) as made:
            check_shards(made[4], preset)


@pytest.mark.parametrize("task", ["permutation_lm", "bidirectional_lm"])
def test_other_tasks_reduce_in_float32(task):
    lowered, _ = programs.lower(make_config(task, "fsdp"), jax.devices()[:DEVICES])
    sums = among_rows(programs.partitioned(lowered), "fsdp", "all-reduce", "reduce-scatter")
    assert {dtype for c in sums for dtype, _ in c.arrays} == {"f32"}


@pytest.mark.parametrize("size,micro", [("S/16", 1), ("L/8", 2)])
def test_the_program_for_a_gpu_takes_flash_attention(size, micro, caplog, monkeypatch):
    """Published sizes in bfloat16, with an odd number of tokens, encoder and decoder: no array is
    tokens x tokens, forward or backward.
    """
    monkeypatch.setattr(attention, "_logged", set())
    c = mae.get_config(size)
    c.model.update(channels=("a", "b"), depth=1, decoder_depth=1, dtype="bfloat16")
    c.model.scan_layers, c.global_batch_size, c.optimizer.accumulate_steps = False, 2 * micro, micro
    c.model.remat = "none"
    with caplog.at_level(logging.INFO, "phenomjax"):
        lowered, _ = programs.lower(c, jax.devices()[:1], language="cuda")
    text = lowered.as_text()
    for call in ("Softmax", "SoftmaxBackward"):
        assert text.count(f"@__cudnn$fmha{call}(") == 2
    patches = (c.data.crop_size // c.model.patch_size) ** 2
    for tokens in (patches + 1, patches + 2, patches // 4 + 1, patches // 4 + 2):
        assert not re.search(rf"x{tokens}x{tokens}x(bf16|f32)", text)
    assert "attention: cudnn (flash attention: bfloat16" in caplog.text


def test_xla_knows_the_options_for_several_gpus(monkeypatch, caplog):
    """An option that it does not know is told, and one that XLA_FLAGS names is left to them."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    lowered, mesh = jax.jit(lambda x: x + 1).lower(1.0), sharding.mesh_of(DEVICES)
    step.compile_step(lowered, mesh)
    assert not caplog.records
    monkeypatch.setitem(step.OVERLAP, "xla_gpu_of_tomorrow", True)
    assert step.compile_step(lowered, mesh)(1.0) == 2
    assert "'xla_gpu_of_tomorrow'): collectives may not overlap" in caplog.text
    caplog.clear()
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_of_tomorrow=false")
    step.compile_step(lowered, mesh)
    assert not caplog.records
