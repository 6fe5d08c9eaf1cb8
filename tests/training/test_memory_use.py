"""Memory in the metrics, and what is said when there is not enough of it."""

import json
import re

import jax
import jax.numpy as jnp
import pytest

from phenomjax import train
from phenomjax.config import keys
from phenomjax.config.mae import add_sections, check  # noqa: F401  an objective's keys
from phenomjax.system import errors, memory
from phenomjax.system.errors import UserError
from phenomjax.training import memory_use
from tests.lab import toy_task
from tests.training.test_train import make_config


@pytest.mark.parametrize(
    "text,size",
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 70368744177664 bytes.", 2**46),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.5GiB.", 3.5 * 2**30),
        ("Failed to allocate request for 32.00MiB (33554433B) on device ordinal 0", 33554433),
        ("RESOURCE_EXHAUSTED: Attempting to allocate: out of memory", None),
        ("unable to allocate 12 bytes for the program of a step", 12),
    ],
)
def test_what_was_wanted_is_read(text, size):
    error = jax.errors.JaxRuntimeError(text)
    assert memory.ran_out(error) and memory.wanted(error) == size


def test_what_numpy_says_and_what_is_none():
    with pytest.raises(MemoryError) as told:
        jnp.asarray(memoryview(bytearray(1 << 56)))
    assert memory.ran_out(told.value)
    assert not memory.ran_out(RuntimeError("RESOURCE_EXHAUSTED: writing [OS error 28: No space]"))
    assert not memory.ran_out(ValueError("out of memory"))


def test_metrics_tell_memory(tmp_path):
    assert train.run(make_config(num_steps=3, eval__every_steps=0), tmp_path) == 0
    (line,) = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    now, most = line["perf/host_memory_gib"], line["perf/host_memory_peak_gib"]
    assert 0.05 < now <= most + 1e-6 < 100


def too_much(x):
    """A sort wants its input as a whole; its product is larger still."""
    table = jnp.sin(x * jax.lax.broadcasted_iota(jnp.float32, (1 << 23, 1 << 19), 0))
    return 0 * jnp.sort(table, 1)[0, 0] + 0 * (table @ table.T)[0, 0]


class Hungry(toy_task.ToyTask):
    """A step or an evaluation that no machine can hold."""

    def loss(self, params, batch, key, carry):
        error, values, carry = super().loss(params, batch, key, carry)
        wide = batch["pixels"] @ jnp.ones((toy_task.WIDTH, self.config.data.crop_size))
        if self.config.seed == 7:
            error += too_much(wide[0, 0])
        return error + 0 * (wide @ wide.T).sum(), values, carry

    def evaluate(self, params, batch, carry):
        if self.config.seed == 8:
            batch = batch | {"pixels": batch["pixels"] + too_much(batch["pixels"][0, 0])}
        return super().evaluate(params, batch, carry)


def mended(text, c):
    """The configurations with each flag that a text offers."""
    for flags in re.findall(r"((?:--config\S+ ?)+)\(", text):
        for key, value in re.findall(r"--config\.(\S+)=(\S+)", flags):
            now = keys.flatten(c)[key]
            c.update_from_flattened_dict({key: type(now)(value)})
        yield keys.finalize(c)


@pytest.mark.parametrize("seed,phase,code", [(7, "step", 2), (8, "evaluation", 1)])
def test_a_real_failure_is_explained_and_its_mends_are_sound(seed, phase, code, tmp_path):
    changes = {"optimizer__accumulate_steps": 1, "optimizer__name": "adamw", "seed": seed}
    c = make_config(**changes, task=f"{__name__}:Hungry", global_batch_size=32)
    with pytest.raises(UserError) as told:
        train.run(c, tmp_path)
    text, error = str(told.value), told.value
    assert error.exit_code == code
    assert re.match(rf"Memory ran out at step \d+ \(.*{phase}\): [\d.,]+ ?\w+ was wanted", text)
    assert "A device holds parameters" in text and "(4 rows a device)" in text
    assert "params/dense/kernel float32[8,8]" in text
    offered = list(mended(text, c))
    assert len(offered) >= 2
    if phase == "step":
        assert "float32[8388608,8388608]" in text
        assert offered[0].optimizer.accumulate_steps == 2
        assert not (tmp_path / "config.json").exists()
        changed = make_config(**changes | {"optimizer__accumulate_steps": 2, "seed": 6})
        assert train.run(changed, tmp_path) == 0  # goes on in the same folder
    else:
        assert offered[0].eval.batch_size == 16


def test_what_helps_most_comes_first_and_only_what_is_allowed():
    from phenomjax import sharding

    c = keys.finalize(make_config(global_batch_size=64, optimizer__name="adamw"))
    mesh = sharding.make_mesh(c)
    names = lambda found: [one.split("=")[0] for one in found]  # noqa: E731
    activations = memory_use.helping(c, "step", mesh, state_is_most=False, resumed=False)
    assert names(activations) == [
        "--config.optimizer.accumulate_steps",
        "--config.model.remat",
        "--config.global_batch_size",
    ]
    assert activations[0].startswith("--config.optimizer.accumulate_steps=2 ")
    state = memory_use.helping(c, "step", mesh, state_is_most=True, resumed=False)
    assert names(state)[:2] == ["--config.mesh.preset", "--config.optimizer.name"]
    resumed = memory_use.helping(c, "step", mesh, state_is_most=False, resumed=True)
    assert names(resumed) == ["--config.model.remat", "--config.mesh.preset"]
    data = memory_use.helping(c, "data", mesh, state_is_most=False, resumed=False)
    assert names(data) == [
        "--config.global_batch_size",
        "--config.data.prefetch_batches",
        "--config.data.threads",
    ]


def test_a_program_that_is_too_large_is_not_started(monkeypatch):
    from phenomjax import step

    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 100}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    step._check_room(99.0)
    with pytest.raises(MemoryError) as told:
        step._check_room(101.0)
    assert memory.wanted(told.value) == 101


def test_any_door_explains(capsys):
    def run():
        jnp.zeros((1 << 44,)).block_until_ready()

    with pytest.raises(SystemExit) as left:
        errors.exit_on_user_error(run)
    assert left.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "error: Memory ran out: 6.55e+04 GiB was wanted" in said
    with pytest.raises(UserError, match=r"6.55e\+04 GiB.*Give a smaller `batch_size`\.$"):
        errors.less_at_once("batch_size")(run)()
