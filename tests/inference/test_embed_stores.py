"""A bank in a store goes where one on a disk goes: embeddings, training, inspection."""

import numpy as np
import pytest

from phenomjax import config, tasks
from phenomjax.config import keys
from phenomjax.data import node_cache, store
from phenomjax.data.sequences.bank import write_token_bank
from phenomjax.prepare.inspect import images as inspect_images
from phenomjax.system.errors import UserError
from tests.inference.test_embed_images import read, run_embed, write_images, write_run
from tests.lab.doors import run_as_door
from tests.lab.servers import Fault
from tests.lab.tiny_language_models import SHAPES


@pytest.fixture
def places(tmp_path, s3, monkeypatch):
    """An image and a token bank on the disk, and both again in a store."""
    s3.use(monkeypatch, **{node_cache.FOLDER: str(tmp_path / "cache"), node_cache.GIGABYTES: "0.1"})
    here = tmp_path / "banks"
    write_images(here / "b.zarr", 6)
    entries = [(f"s{i}", "ACDEFGHIKLMNPQRSTVWY"[i % 7 :] * 3) for i in range(30)]
    write_token_bank(here / "t.zarr", {"train": entries, "validation": entries[:5]})
    for name, *_ in store.list_files(here):
        store.write_bytes(f"s3://bank/banks/{name}", (here / name).read_bytes())
    return here, "s3://bank/banks", s3.proxy


def test_embeddings_of_a_bank_in_a_store_are_those_of_a_disk(tmp_path, places):
    here, there, proxy = places
    workdir, *_ = write_run(tmp_path / "run")
    run_embed(workdir, here / "b.zarr", tmp_path / "here.zarr", "--level", "site")
    proxy.faults = [Fault("503", every=7), Fault("truncate", every=9, match="GET.*/c")]
    run_embed(workdir, f"{there}/b.zarr", tmp_path / "there.zarr", "--level", "site")
    ours, theirs = read(tmp_path / "here.zarr"), read(tmp_path / "there.zarr")
    assert (ours[0] == theirs[0]).all() and ours[1] == theirs[1]


def test_training_reads_a_bank_in_a_store(tmp_path, places):
    """The configuration names the cache; batches are those of the local bank."""
    here, there, _ = places

    def batches(task, name, place, **changes):
        c = keys.base(task)
        c.data.banks, c.global_batch_size = (f"{place}/{name}",), 4
        c.data.cache, c.data.cache_gb = str(tmp_path / "mine"), 0.2
        for key, value in changes.items():
            c.data[key] = value
        if task in SHAPES:
            c.model.update(SHAPES[task])
        else:
            c.model.patch_size = 16
        c = tasks.resolve(config.finalize(c), tmp_path)
        return tasks.make(c).loader("train", 0, 1).batch(1)

    for task, name, changes in (
        ("mae", "b.zarr", {"crop_size": 32, "val_fraction": 0.0}),
        ("causal_lm", "t.zarr", {"segment_len": 16}),
    ):
        ours, theirs = (batches(task, name, place, **changes) for place in (here, there))
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert len(list((tmp_path / "mine" / "objects").iterdir())) > 3
    c = keys.base("mae")
    c.data.banks = (f"{there}/c.zarr",)
    with pytest.raises(UserError, match=r"does not exist\. (In|Did you mean) s3://bank/banks"):
        config.finalize(c)
    c.data.banks, c.data.cache_gb = (f"{there}/b.zarr",), -1.0
    with pytest.raises(
        UserError, match=r"config\.data\.cache_gb is -1\.0; it must be at least 0\."
    ):
        config.finalize(c)


def test_a_bank_in_a_store_is_inspected(tmp_path, places, capsys, monkeypatch):
    here, there, _ = places
    monkeypatch.chdir(tmp_path)
    for name in ("b.zarr", "t.zarr"):
        shown = []
        for place in (here, there):
            assert run_as_door(inspect_images, [f"{place}/{name}"]) == 0
            lines = capsys.readouterr().out.splitlines()
            shown.append([line for line in lines if not line.startswith(("bank:", "figures:"))])
        assert shown[0] == shown[1]
    assert (tmp_path / "b_inspect" / "contact_sheet.png").is_file()
    store.write_bytes(f"{there}/b.zarr/images/c.3.0.0.0", b"short")
    assert run_as_door(inspect_images, [f"{there}/b.zarr"]) == 1
    assert "damaged" in capsys.readouterr().out
