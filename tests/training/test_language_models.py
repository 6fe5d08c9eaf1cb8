"""The language-model tasks in the real loop: every mesh gives the same losses, micro-batches change
nothing, resume is bit for bit.
"""

import json

import jax
import numpy as np
import pytest

from phenomjax import config, sharding, tasks, train
from phenomjax.checkpoints import loading
from phenomjax.cluster import messages
from phenomjax.data.simulated.families import FamilyConfig, write_families
from phenomjax.system.errors import UserError
from phenomjax.training.evaluators import STANDARD

TINY: dict[str, dict] = {
    "causal_lm": {
        "embed_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_dim": 32,
        "mem_len": 8,
    },
    "permutation_lm": {
        "embed_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_dim": 32,
        "mem_len": 8,
        "reuse_len": 6,
        "perm_size": 6,
        # dropout triples its compilation
        "num_predict": 2,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "bidirectional_lm": {
        "char_dim": 4,
        "filters": ((1, 4), (2, 4)),
        "max_characters": 5,
        "projection_dim": 8,
        "cell_dim": 16,
    },
}
# Losses of the first three steps, pinned on a CPU in float32, so that a change of the mathematics
# cannot pass for a refactoring.
GOLDEN = {
    "causal_lm": [3.467940, 3.485465, 3.407630],
    "permutation_lm": [3.442740, 3.416389, 3.370927],
    "bidirectional_lm": [3.470338, 3.469918, 3.441564],
}


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "families.zarr"
    write_families(path, FamilyConfig(families=3, members=20, length=40))
    return path


def test_a_cluster_beyond_the_vocabulary_is_refused(bank, tmp_path):
    c = config.base("causal_lm")
    c.data.banks, c.model.cutoffs = (str(bank),), (10, 32)
    with pytest.raises(UserError, match=r"begins at 32, and there are tokens 0 to 31 alone"):
        tasks.resolve(config.finalize(c), tmp_path)


def make_config(task, bank, **changes):
    c = config.base(task)
    c.data.banks, c.data.segment_len, c.global_batch_size, c.num_steps = (str(bank),), 12, 8, 6
    c.model.update(TINY[task])
    c.optimizer.learning_rate, c.eval.every_steps, c.checkpoint.every_steps, c.log.every_steps = (
        1e-2,
        4,
        4,
        1,
    )
    c.eval.num_batches, c.log.tensorboard, c.figures.num_images = 2, False, 1
    c.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return c


def run(c, workdir, patch, devices=1, evaluators=STANDARD):
    shape = (devices // 2, 2) if c.mesh.preset == "fsdp_tp" else (devices, 1)
    mesh = sharding.mesh_of(*shape, devices=jax.devices()[:devices])
    patch.setattr(sharding, "make_mesh", lambda c: mesh)
    code = train.run(c, workdir, evaluators)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return code, [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.fixture(scope="module", params=TINY)
def alone(request, bank, tmp_path_factory):
    """(task, workdir of a straight run on one device, its losses)."""
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        return request.param, workdir, run(make_config(request.param, bank), workdir, patch)[1]


def test_golden_losses(alone):
    np.testing.assert_allclose(alone[2][:3], GOLDEN[alone[0]], rtol=1e-4)


def test_a_mesh_and_micro_batches_change_nothing(alone, bank, tmp_path, monkeypatch):
    """Validation and pictures, programs of their own, on the mesh with one of the tasks."""
    c = make_config(alone[0], bank, mesh__preset="fsdp_tp", optimizer__accumulate_steps=2)
    evaluators = STANDARD if alone[0] == "causal_lm" else ()
    found = run(c, tmp_path, monkeypatch, devices=8, evaluators=evaluators)[1]
    np.testing.assert_allclose(found, alone[2], rtol=2e-6)


def test_bfloat16_follows_float32(alone, bank, tmp_path):
    task, found, params = alone[0], [], loading.load(alone[1])[1]
    for dtype in ("float32", "bfloat16"):
        made = tasks.make(
            tasks.resolve(config.finalize(make_config(task, bank, model__dtype=dtype)), tmp_path)
        )
        batch = made.loader("train", 0, 1).batch(1)
        found.append(
            jax.jit(lambda p, b, made=made: made.evaluate(p, b, made.carry(8))[0]["loss"])(
                params, batch
            )
        )
    np.testing.assert_allclose(found[1], found[0], rtol=2e-2)


def test_transformer_xl_without_memory_is_saved(bank, tmp_path, monkeypatch):
    c = make_config(
        "causal_lm", bank, model__mem_len=0, model__num_layers=1, model__dropout=0.0, num_steps=1
    )
    assert run(c, tmp_path, monkeypatch, evaluators=())[0] == 0
    assert loading.load(tmp_path)[2] == 1


def test_interrupted_equals_straight(alone, bank, tmp_path, monkeypatch):
    calls = iter(range(1, 100))
    monkeypatch.setattr(messages, "stop_requested", lambda: next(calls) == 3)
    assert run(make_config(alone[0], bank), tmp_path, monkeypatch)[0] == 75
    monkeypatch.setattr(messages, "stop_requested", lambda: False)
    assert run(make_config(alone[0], bank), tmp_path, monkeypatch) == (0, alone[2])
    assert (tmp_path / "metrics.jsonl").read_text().count("val/perplexity") == 2
    jax.tree.map(
        np.testing.assert_array_equal, loading.load(tmp_path)[1], loading.load(alone[1])[1]
    )


def test_a_branch_with_other_shares_and_batches_is_the_run_that_had_them_from_its_beginning(
    bank, tmp_path, monkeypatch
):
    other = tmp_path / "other.zarr"
    write_families(other, FamilyConfig(families=2, members=20, length=40, seed=1))
    how = {
        "data__banks": (str(bank), str(other)),
        "data__weights": (1.0, 1.0),
        "model__num_layers": 1,
        "model__dropout": 0.0,
        "optimizer__schedule": "constant",
        "log__sample_ids": True,
        "eval__every_steps": 0,
        "figures__num_images": 0,
        "checkpoint__every_steps": 2,
        "checkpoint__keep_latest": 9,
    }
    later = {"data__weights_later": ((4.0, 0.0, 1.0),), "batch_ramp": ((4, 16),)}
    straight, parent, branch = (tmp_path / name for name in ("straight", "parent", "branch"))
    with_later = how | later
    following = with_later | {"continue_from": f"{parent}@4"}
    for folder, changes in ((straight, with_later), (parent, how), (branch, following)):
        assert run(make_config("causal_lm", bank, **changes), folder, monkeypatch)[0] == 0

    def read(folder):
        files = (folder / "logs/samples_000.jsonl", folder / "metrics.jsonl")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [
            {name: value for name, value in line.items() if not name.startswith("perf/")}
            for line in lines
            if line["step"] > 4
        ]

    assert read(branch) == read(straight) and len(read(branch)[0]["ids"]) == 16
    record = json.loads((branch / "continued_from.json").read_text())
    assert record["data"] == "go on at position 4, nothing is read twice"
    jax.tree.map(np.testing.assert_array_equal, loading.load(branch)[1], loading.load(straight)[1])
