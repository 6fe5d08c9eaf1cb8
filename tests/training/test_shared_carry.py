"""What a carry shares, such as the statistics of batch norm: the same on any number of devices and
micro-batches, kept in checkpoints, read by evaluators, handed over by `init_from`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax import sharding, train
from phenomjax.checkpoints import loading
from phenomjax.cluster import messages
from phenomjax.system.errors import UserError
from phenomjax.system.types import Shared
from tests.lab.toy_task import WIDTH, ToyTask, add_sections, check
from tests.training.test_train import equal, lines, losses, make_config, use_devices

__all__ = ["OtherHead", "Statistics", "add_sections", "check"]
PARTS = 2  # row r is normalised with those of its part, r % PARTS


class Statistics(ToyTask):
    """The toy with batch norm over parts of the batch, beside memories of rows."""

    def carry(self, global_batch_size, split="train"):
        if split == "val":
            return ()
        mean = Shared({"batch_stats": {"dense": {"mean": jnp.zeros(WIDTH)}}})
        return {"rows": jnp.zeros((global_batch_size, WIDTH)), "mean": mean}

    def loss(self, params, batch, key, carry):
        micro = self.config.optimizer.accumulate_steps
        parts = batch["pixels"].reshape(-1, PARTS // micro, WIDTH)
        means = jnp.tanh(3 * parts).mean(0)
        if micro > 1:
            means = jax.lax.pmean(means, sharding.SHARDS)
        x = (parts - means).reshape(-1, WIDTH) + 0.01 * carry["rows"]
        y = x @ params["dense"]["kernel"] + params["dense"]["bias"]
        error = jnp.mean((y - jnp.flip(batch["pixels"], 1)) ** 2)
        before = carry["mean"].value["batch_stats"]["dense"]["mean"]
        after = Shared({"batch_stats": {"dense": {"mean": 0.9 * before + 0.1 * means.mean(0)}}})
        return error, {"mean": before.mean()}, {"rows": 0.5 * carry["rows"] + x, "mean": after}

    def evaluate(self, params, batch, carry):
        x = batch["pixels"] - params["batch_stats"]["dense"]["mean"]
        sums, _ = super().evaluate(params, {"pixels": x}, carry)
        return sums, carry


class OtherHead(Statistics):
    """Begins with what `Statistics` learnt, and has something of its own."""

    begins_with = ("dense",)

    def init(self, key, batch):
        return super().init(key, batch) | {"head": {"bias": jnp.zeros(3)}}

    def carry(self, global_batch_size, split="train"):
        carry = super().carry(global_batch_size, split)
        if carry:
            carry["mean"].value["batch_stats"]["head"] = {"mean": jnp.full(3, 7.0)}
        return carry

    def loss(self, params, batch, key, carry):
        head = carry["mean"].value["batch_stats"]["head"]
        error, metrics, after = super().loss(params, batch, key, carry)
        after["mean"].value["batch_stats"]["head"] = head
        return error, metrics, after


def made(task=Statistics, **changes):
    return make_config(task=f"{__name__}:{task.__name__}", **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A straight run on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        assert train.run(made(), workdir) == 0
    return workdir


@pytest.mark.parametrize(("devices", "micro"), [(4, 1), (1, 2), (2, 2), (4, 2)])
def test_devices_and_micro_batches_change_nothing(alone, tmp_path, monkeypatch, devices, micro):
    use_devices(monkeypatch, devices)
    assert train.run(made(optimizer__accumulate_steps=micro), tmp_path) == 0
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=2e-5)
    (mine, theirs) = (loading.load(path)[1] for path in (tmp_path, alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), mine, theirs)
    assert np.abs(theirs["batch_stats"]["dense"]["mean"]).max() > 1e-3


def test_an_interrupted_run_goes_on_bit_for_bit_and_validation_reads_the_statistics(
    alone, tmp_path, monkeypatch
):
    use_devices(monkeypatch, 1)
    calls = iter(range(1, 1000))
    monkeypatch.setattr(messages, "stop_requested", lambda: next(calls) == 8)
    assert train.run(made(), tmp_path) == 75
    monkeypatch.setattr(messages, "stop_requested", lambda: False)
    assert train.run(made(), tmp_path) == 0
    assert lines(tmp_path) == lines(alone)
    equal(loading.load(tmp_path)[1], loading.load(alone)[1])
    config, params, _ = loading.load(alone)
    task = Statistics(config)
    batches = [task.loader("val", 0, 1).batch(step) for step in range(2)]
    found = [task.evaluate(params, batch, ())[0]["loss"] for batch in batches]
    expected = sum(total for total, _ in found) / sum(count for _, count in found)
    seen = [line["val/loss"] for line in lines(alone) if "val/loss" in line]
    np.testing.assert_allclose(seen[-1], expected, rtol=1e-5)


def test_a_moving_average_is_judged_with_the_statistics(tmp_path, monkeypatch):
    use_devices(monkeypatch, 1)
    assert train.run(made(optimizer__ema_decay=0.9), tmp_path) == 0
    assert set(loading.load(tmp_path)[1]) == {"dense", "batch_stats"}


def test_init_from_takes_the_parts_that_a_task_begins_with(alone, tmp_path, caplog, monkeypatch):
    use_devices(monkeypatch, 1)
    config = made(OtherHead, init_from=str(alone), optimizer__learning_rate=0.0)
    with caplog.at_level("INFO", "phenomjax"):
        assert train.run(config, tmp_path / "other") == 0
    assert "in 3 arrays loaded" in caplog.text
    assert "fresh      head/bias (the run has none)" in caplog.text
    mine, theirs = (loading.load(path)[1] for path in (tmp_path / "other", alone))
    equal(mine["dense"], theirs["dense"])
    np.testing.assert_array_equal(mine["batch_stats"]["head"]["mean"], np.full(3, 7.0))
    first = next(line["train/mean"] for line in lines(tmp_path / "other"))
    assert abs(first) > 1e-3  # statistics did not start from zero

    # of the same task, all of it, and both moments begin where they ended
    config = made(init_from=str(alone), optimizer__learning_rate=0.0)
    assert train.run(config, tmp_path / "same") == 0
    equal(loading.load(tmp_path / "same")[1]["dense"], theirs["dense"])

    # a task that begins with nothing of another takes it whole or not at all
    monkeypatch.setattr(OtherHead, "begins_with", ())
    config = made(OtherHead, init_from=str(alone))
    with pytest.raises(UserError, match="head/bias: only in the model"):
        train.run(config, tmp_path / "strict")
