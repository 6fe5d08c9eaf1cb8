"""Images -> embeddings: the encoder by block, the grid of crops, channels, units, levels, digests,
and the mistakes a user can make.
"""

import json
import os
import shlex
import signal
import subprocess

import jax
import kubernetes_validate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flax import linen as nn

from phenomjax import embed
from phenomjax.checkpoints import loading
from phenomjax.data.images.bank import open_array, shard_path, write_bank
from phenomjax.data.images.loading.reader import CropReader
from phenomjax.data.images.opening import open_bank
from phenomjax.engine import units
from phenomjax.inference.images import estimate, options, plan, result
from phenomjax.maps.tables import reading
from phenomjax.models import vit
from phenomjax.system.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.options import parse
from phenomjax.tasks.mae import MaskedAutoencoder
from phenomjax.trained import image_model
from phenomjax.trained.model import ImageModel
from tests.lab import ROOT
from tests.prepare.test_images import prepare
from tests.tasks.test_mae import make_batch, make_config, start

CHANNELS = ("DNA", "ER", "Actin")


def write_run(folder, **options):
    """The workdir of a tiny model of 32 px crops; returns it with its task and parameters."""
    config = make_config(**{"model__layer_scale": 0.5, "model__channels": CHANNELS, **options})
    task, params = start(config, make_batch())
    loading.write(folder, config, params)
    return folder, task, params


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("standard") / "run")


@pytest.fixture(scope="session")
def agnostic(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("agnostic") / "run", model__channel_agnostic=True)


def write_images(path, images, channels=("ER", "DNA", "Actin", "RNA"), size=(80, 72), **metadata):
    """A bank of noise: two sites a well, the wells' images not side by side."""
    pixels = np.random.default_rng(3).integers(0, 4096, (images, *size, len(channels)), np.uint16)
    wells = [f"A{i % (images // 2) + 1:02d}" for i in range(images)]
    columns = {
        "experiment": ["E"] * images,
        "plate": ["P1"] * images,
        "well": wells,
        "site": [str(i) for i in range(images)],
    }
    columns |= {"gene": wells, "is_control": [well == "A01" for well in wells]}
    write_bank(path, pixels, pa.table(columns | metadata), channels, chunk=32)
    return path


@pytest.fixture(scope="session")
def bank(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("bank") / "b.zarr", 6)


def run_embed(workdir, banks, out, *options):
    banks = banks if isinstance(banks, list) else [banks]
    arguments = [
        "--checkpoint",
        workdir,
        "--bank",
        *banks,
        "--out",
        out,
        "--devices",
        1,
        "--batch_size",
        8,
        "--unit_crops",
        8,
        *options,
    ]
    return embed.main([str(a) for a in arguments])


def read(path, array="embeddings"):
    values = open_array(path / array, json.loads((path / array / "zarr.json").read_text()))
    return values.read().result(), pq.read_table(path / "metadata.parquet").to_pylist()


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("agnostic", [False, True])
def test_outputs_of_blocks(agnostic):
    """The last block is `embed`; block 1 does not depend on block 2, nor on whether layers are
    scanned.
    """
    batch = make_batch()
    options = {"model__channel_agnostic": agnostic, "model__layer_scale": 0.5}
    task, params = start(make_config(**options), batch)
    scanned = MaskedAutoencoder(make_config(model__scan_layers=True, **options))
    encode = jax.jit(
        image_model.features(ImageModel(None, 0, task.config, task, params, "")),
        static_argnums=(2, 3),
    )
    y = encode(params, batch["pixels"], (2, 1))
    last = jax.jit(lambda p, x: task.model.apply({"params": p}, x, method="tokens")[:, 1:].mean(1))
    np.testing.assert_allclose(y[:, 0], last(params, batch["pixels"]), rtol=1e-6, atol=1e-6)
    assert np.abs(y[:, 0] - y[:, 1]).max() > 0.1
    other = jax.tree.map(lambda x: x, params)
    other["encoder"]["blocks"].pop("layer_1")  # it would be missed if it were computed
    other.pop("decoder")
    np.testing.assert_allclose(
        encode(other, batch["pixels"], (1,))[:, 0], y[:, 1], rtol=1e-5, atol=1e-6
    )
    encode = jax.jit(
        image_model.features(ImageModel(None, 0, scanned.config, scanned, params, "")),
        static_argnums=(2, 3),
    )
    stacked = vit.stack_layers(params)
    np.testing.assert_allclose(encode(stacked, batch["pixels"], (2, 1)), y, rtol=1e-5, atol=1e-6)
    if agnostic:
        channelwise = encode(stacked, batch["pixels"], (1,), True)
        np.testing.assert_allclose(
            channelwise.reshape(4, 3, 32).mean(1), y[:, 1], rtol=1e-5, atol=1e-6
        )


def test_time_points_of_a_well_are_not_averaged(bank, tmp_path):
    assert result.num_wells(open_bank(bank)) == 3
    times = write_images(tmp_path / "t.zarr", 6, time=["1"] * 3 + ["2"] * 3)
    assert result.num_wells(open_bank(times)) == 6


def test_levels(run, bank, tmp_path):
    """Crops are those of a centred grid with channels by name; sites and wells are their means;
    rows say what they are.
    """
    workdir, task, params = run
    for level in ("crop", "site", "well"):
        options = ("--level", level, "--block", 2, 1, "--stride", 16, "--dtype", "float32")
        assert run_embed(workdir, bank, tmp_path / f"{level}.zarr", *options) == EXIT_DONE
    crops, rows = read(tmp_path / "crop.zarr", "embeddings_block_2")
    images = np.stack([open_bank(bank).read(i) for i in range(6)])[..., [1, 0, 2]]
    ys, xs = (0, 16, 32, 48), (4, 20, 36)  # of 80 x 72 px: 8 columns are left out
    cut = np.stack([image[y : y + 32, x : x + 32] for image in images for y in ys for x in xs])
    np.testing.assert_allclose(
        crops, jax.jit(task.embed)(params, {"pixels": cut})[0][:, 0], rtol=1e-4, atol=1e-5
    )
    assert [(r["image"], r["y"], r["x"]) for r in rows] == [
        (i, y, x) for i in range(6) for y in ys for x in xs
    ]
    sites, rows = read(tmp_path / "site.zarr", "embeddings_block_2")
    np.testing.assert_allclose(sites, crops.reshape(6, 12, 32).mean(1), rtol=1e-5, atol=1e-6)
    assert [(r["site"], r["num_crops"], r["num_images"], r["image"]) for r in rows] == [
        (str(i), 12, 1, i) for i in range(6)
    ]
    wells, rows = read(tmp_path / "well.zarr", "embeddings_block_2")
    np.testing.assert_allclose(wells, sites.reshape(2, 3, 32).mean(0), rtol=1e-5, atol=1e-6)
    expected = {
        "experiment": "E",
        "plate": "P1",
        "well": "A02",
        "gene": "A02",
        "is_control": False,
        "num_crops": 24,
        "num_images": 2,
    }
    assert rows[1].items() >= expected.items() and rows[1]["site"] is rows[1]["image"] is None
    first = read(tmp_path / "well.zarr", "embeddings_block_1")[0]
    assert first.shape == wells.shape and np.abs(first - wells).max() > 0.01
    entry = json.loads((tmp_path / "well.zarr" / "zarr.json").read_text())["attributes"][
        "phenomjax"
    ]
    known = {
        "format": "embeddings",
        "level": "well",
        "blocks": [2, 1],
        "channels": list(CHANNELS),
        "stride": 16,
        "precision": "float32",
    }
    assert (
        entry.items() >= known.items() and entry["bank_fingerprint"] == open_bank(bank).fingerprint
    )
    assert entry["computed_by"].startswith(f"jax {jax.__version__}, ")


def test_channel_agnostic_models_take_subsets(agnostic, bank, tmp_path):
    workdir, task, params = agnostic
    with pytest.raises(
        UserError,
        match=(
            r"RNA cannot be embedded: the model was not trained with it.*--channels ER DNA Actin\."
        ),
    ):
        run_embed(workdir, bank, tmp_path / "a.zarr")
    options = (
        "--level",
        "crop",
        "--channels",
        "Actin",
        "DNA",
        "--channelwise",
        "--devices",
        8,
        "--dtype",
        "float32",
    )
    assert run_embed(workdir, bank, tmp_path / "a.zarr", *options) == EXIT_DONE
    values, _ = read(tmp_path / "a.zarr")
    # in the order of the model
    images = np.stack([open_bank(bank).read(i) for i in range(6)])[..., [1, 2]]
    cut = np.stack(
        [image[y : y + 32, x : x + 32] for image in images for y in (8, 40) for x in (4, 36)]
    )
    expected = jax.jit(lambda p, x: task.embed(p, {"pixels": x}, channelwise=True)[0][:, 0])(
        params, cut
    )
    assert values.shape == (24, 64)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_bad_images_cost_themselves(run, tmp_path, monkeypatch, caplog):
    """A truncated and a missing file are named and left out; every image is read once."""
    path = write_images(tmp_path / "b.zarr", 6)
    assert run_embed(run[0], path, tmp_path / "good.zarr", "--level", "crop") == EXIT_DONE
    shard_path(path, 1).write_bytes(shard_path(path, 1).read_bytes()[:-100])
    shard_path(path, 4).unlink()
    reads, original = [], CropReader.read_crops
    monkeypatch.setattr(
        CropReader,
        "read_crops",
        lambda self, outs, image, *yx: reads.append(image) or original(self, outs, image, *yx),
    )
    for level in ("crop", "well"):
        assert run_embed(run[0], path, tmp_path / f"{level}.zarr", "--level", level) == EXIT_FAILED
    assert sorted(reads) == sorted([*range(6)] * 2)
    good, rows = read(tmp_path / "good.zarr")
    values, left = read(tmp_path / "crop.zarr")
    assert left == [row for row in rows if row["image"] not in (1, 4)]
    np.testing.assert_array_equal(values, good.reshape(6, 4, 32)[[0, 2, 3, 5]].reshape(16, 32))
    _, rows = read(tmp_path / "well.zarr")
    # of A02 both images were bad
    assert [(r["well"], r["num_images"]) for r in rows] == [("A01", 2), ("A03", 2)]
    rejected = pq.read_table(tmp_path / "well.zarr" / "rejected.parquet").to_pylist()
    assert [(r["image"], r["name"]) for r in rejected] == [(1, "b P1/A02/1"), (4, "b P1/A02/4")]
    assert "truncated" in rejected[0]["reason"] and "not there" in rejected[1]["reason"]
    # nothing to do, but it is said again
    assert run_embed(run[0], path, tmp_path / "well.zarr") == EXIT_FAILED


def test_stopped_continued_and_finished(run, bank, tmp_path, monkeypatch, caplog):
    assert run_embed(run[0], bank, tmp_path / "straight.zarr", "--level", "crop") == EXIT_DONE
    commit, seen = units.Notes.commit, []

    def stop_after_two(self, unit, *rest):
        commit(self, unit, *rest)
        seen.append(unit)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(units.Notes, "commit", stop_after_two)
    out = tmp_path / "out.zarr"
    assert run_embed(run[0], bank, out, "--level", "crop") == EXIT_STOPPED
    assert not out.exists() and len(seen) == 2
    with pytest.raises(
        UserError,
        match=r"was begun with other settings: --stride was 32, is now 16\. Give the same",
    ):
        run_embed(run[0], bank, out, "--level", "crop", "--stride", 16)
    assert (
        run_embed(run[0], bank, out, "--level", "crop", "--batch_size", 4, "--unit_crops", 4)
        == EXIT_DONE
    )  # the first ones stay
    assert len(seen) == len(set(seen)) == 3 and contents(out) == contents(
        tmp_path / "straight.zarr"
    )
    assert run_embed(run[0], bank, out, "--level", "crop") == EXIT_DONE and len(seen) == 3
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(
        UserError,
        match=(
            r"is there already, and it was made with other settings: --level was crop, is now"
            r" site\."
        ),
    ):
        run_embed(run[0], bank, out, "--level", "site")
    other = write_images(tmp_path / "other.zarr", 2)
    assert run_embed(run[0], [bank, other], tmp_path / "folder", "--level", "crop") == EXIT_DONE
    assert (
        contents(tmp_path / "folder" / "b.zarr") == contents(out)
        and (tmp_path / "folder" / "other.zarr").is_dir()
    )


def test_the_untrained_twin(run, bank, tmp_path):
    """The same network with parameters as training begins with; what is made of it says so."""
    workdir, task, params = run
    out, options = tmp_path / "twin.zarr", ("--level", "crop", "--dtype", "float32")
    assert run_embed(workdir, bank, out, *options, "--random_weights", 3) == EXIT_DONE
    begun = nn.unbox(jax.jit(task.init)(jax.random.key(3), make_batch(rows=2)))
    images = np.stack([open_bank(bank).read(i) for i in range(6)])[..., [1, 0, 2]]
    cut = np.stack([i[y : y + 32, x : x + 32] for i in images for y in (8, 40) for x in (4, 36)])
    encode = jax.jit(lambda p, x: task.embed(p, {"pixels": x})[0][:, 0])
    values, _ = read(out)
    np.testing.assert_allclose(values, encode(begun, cut), rtol=1e-4, atol=1e-5)
    assert np.abs(values - encode(params, cut)).max() > 0.1
    entry = json.loads((out / "zarr.json").read_text())["attributes"]["phenomjax"]
    assert (entry["random_weights"], entry["step"]) == (3, 0)
    assert reading.read([out]).provenance["sources"][0]["random_weights"] == 3
    assert run_embed(workdir, bank, out, *options, "--random_weights", 3) == EXIT_DONE
    for other, told in (([], "not given"), (["--random_weights", 4], "4")):
        with pytest.raises(UserError, match=rf"--random_weights was 3, is now {told}"):
            run_embed(workdir, bank, out, *options, *other)
    assert run_embed(workdir, bank, tmp_path / "own.zarr", *options) == EXIT_DONE
    own = json.loads((tmp_path / "own.zarr" / "zarr.json").read_text())["attributes"]["phenomjax"]
    assert "random_weights" not in own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--random_weights", -1], r"--random_weights is -1; it must be at least 0"),
        (["--crop_size", 30], r"multiples of 8 px, so give one, such as 32\."),
        (
            ["--crop_size", 128],
            (
                r"A crop of 128 px does not fit into the images of .*b.zarr, 80 x 72 px. Give a"
                r" --crop_size of at most 72"
            ),
        ),
        (["--stride", 48], r"--stride 48: give 1 to 32 px"),
        (["--block", 3], r"--block 3: this model's encoder has blocks 1 to 2"),
        (["--channelwise"], r"--channelwise needs a channel-agnostic model"),
        (["--runtime", "jaks"], r"--runtime jaks is not known. Did you mean 'jax'\?"),
        (["--per", "residue"], r"--per goes with --source, not with --bank"),
        (["--out", "e.h5"], r"Embeddings of images are written as Zarr: give --out NAME.zarr"),
        (["--devices", 3], r"The batch of 8 crops does not divide over 3 devices"),
    ],
)
def test_mistakes(run, bank, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run_embed(run[0], bank, tmp_path / "e.zarr", *options)
    assert not list(tmp_path.iterdir())


def test_banks_that_do_not_fit(run, tmp_path):
    path = write_images(tmp_path / "names.zarr", 2, channels=("dna", "ER", "Actin"))
    with pytest.raises(
        UserError,
        match=(
            r"DNA of the model is not in the bank \(is 'dna' the same\?\): the bank .* has"
            r" \(dna, ER, Actin\)"
        ),
    ):
        run_embed(run[0], path, tmp_path / "e.zarr")
    path = write_images(tmp_path / "stains.zarr", 2, channels=("DNB", "ER", "Actin"))
    with pytest.raises(UserError, match="DNA of the model is not in the bank: the bank"):
        run_embed(run[0], path, tmp_path / "e.zarr")
    path = write_images(tmp_path / "wells.zarr", 2, channels=CHANNELS, well=["A01", None])
    with pytest.raises(
        UserError, match=r"1 of the 2 images of .* have no well in their metadata.* --level site"
    ):
        run_embed(run[0], path, tmp_path / "e.zarr")
    with pytest.raises(UserError, match=r"Nothing to embed is named. Give --bank"):
        embed.main(["--checkpoint", str(run[0]), "--out", "e.zarr"])


def test_layouts_waste_little_and_cover_everything():
    for images, crops, batch in (
        (1000, 64, 8),
        (1000, 64, 512),
        (10, 63, 32),
        (5, 1, 64),
        (300, 16, 48),
    ):
        layout = plan.layout(images, crops, 256 * 256 * 6, batch, 4096)
        covered = [image for unit in range(layout.units) for image in layout.images_of(unit)]
        assert (
            covered == list(range(images))
            and sum(map(layout.crops_of, range(layout.units))) == images * crops
        )
        group = layout.group_images * crops
        assert -group % batch <= 0.03 * group or layout.group_images == images
        assert layout.unit_images % layout.group_images == 0
    grid = plan.grid(2048, 2048, 256, 256)
    assert len(grid) == 64 and grid.left_out == (0, 0) and (grid.ys[9], grid.xs[9]) == (256, 256)
    assert len(plan.grid(2048, 2048, 256, 128)) == 225


def test_dry_run(run, bank, tmp_path, capsys, monkeypatch):
    """Crops and bytes of banks, and of an archive on paper; nothing is written."""
    monkeypatch.setattr(estimate, "SAMPLE_SECONDS", 0.0)
    before = contents(bank.parent)
    assert (
        run_embed(
            run[0], bank, tmp_path / "e.zarr", "--dry_run", "--level", "site", "--num_workers", 3
        )
        == EXIT_DONE
    )
    header, row, rate, total = capsys.readouterr().out.splitlines()
    stored = sum(shard_path(bank, i).stat().st_size for i in range(6))
    assert header.split() == [
        "bank",
        "images",
        "crops",
        "rows",
        "read",
        "written",
        "meanwhile",
        "hours",
    ]
    assert (
        row.split()[:4] == ["b", "6", "24", "6"]
        and estimate.human(stored) in row
        and estimate.human(6 * 32 * 2) in row
    )
    assert "crops/s from files to embeddings (jax" in rate and "over 3 of them" in total
    assert contents(bank.parent) == before and not list(tmp_path.iterdir())
    arguments = (
        "--checkpoint",
        run[0],
        "--devices",
        1,
        "--batch_size",
        16,
        "--dry_run",
        "--image_size",
        128,
    )
    for option, value in (("--crops", 139e6), ("--images", 139e6 / 16)):
        assert embed.main([str(a) for a in (*arguments, option, value)]) == EXIT_DONE
        assert "8,687,500    139,000,000" in capsys.readouterr().out
    with pytest.raises(UserError, match="--dry_run wants one of: --bank"):
        embed.main([str(a) for a in (*arguments, "--crops", 1, "--images", 1)])


def parsed(words):
    """The options of the old form of the command, which names no kind."""
    assert embed.what(words) == "images"
    return parse(options.Options, words, "embed", "")


def test_launch_files_run_this_command(tmp_path):
    """A share a task under SLURM, and an indexed job that takes the exit codes as meant."""
    words = ["--checkpoint", "runs/a b", "--bank", "b.zarr", "c.zarr", "--out", "e"]

    def launch(*arguments, **environment):
        command = ["bash", ROOT / "launch" / "embed.sbatch", *arguments]
        with_srun = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | environment
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=with_srun)

    line = shlex.split(launch("--dry-run", *words).stdout)
    assert line[0] == "srun" and line[-9:-7] == ["-m", "phenomjax.embed"]
    assert parsed(line[-7:]).checkpoint == "runs/a b"
    (tmp_path / "srun").write_text('#!/bin/bash\nexec "${@:4}"\n')
    (tmp_path / "srun").chmod(0o755)
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_MAX": "8"}
    for shares, told in (({}, "5/8"), ({"PHENOMJAX_SHARES": "9"}, "7/9")):
        each = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"} if not shares else {}
        environment = array | each | shares | {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_JOB_ID": "1"}
        done = launch("--out", "a b", PHENOMJAX_EMBED="printf %s,", **environment)
        assert done.stdout == f"--out,a b,--share,{told},", done.stderr
    done = launch(SLURM_JOB_ID="1", SLURM_ARRAY_TASK_COUNT="2", **array)
    assert done.returncode == 2 and "must be neighbours" in done.stderr
    job = yaml.safe_load((ROOT / "launch" / "k8s" / "embed.yaml").read_text())
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert (
        container["command"] == ["python", "-m", "phenomjax.embed"]
        and parsed(container["args"]).bank
    )
    rules = {
        rule["onExitCodes"]["values"][0]: rule["action"]
        for rule in job["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert rules == {EXIT_CONFIG: "FailJob", EXIT_FAILED: "FailIndex", EXIT_STOPPED: "Ignore"}
    count = job["spec"]["completions"]
    assert count == job["spec"]["parallelism"]
    assert container["args"][-1] == f"--share=$(JOB_COMPLETION_INDEX)/{count}"


@pytest.mark.shared_data
def test_a_real_well(shared, tmp_path):
    """From the files of RxRx3 to the embedding of a well, equal to the model's own on the pixels of
    the bank.
    """
    path, names = (
        tmp_path / "b.zarr",
        (
            "Hoechst",
            "ConA",
            "Phalloidin",
            "SYTO14",
            "MitoTracker",
            "WGA",
        ),
    )
    assert (
        prepare(
            shared / "microscopy" / "images" / "rxrx3_AA41_s1", path, "rxrx3", default="plate=1"
        )
        == 0
    )
    workdir, task, params = write_run(
        tmp_path / "run", model__channel_agnostic=True, model__channels=names
    )
    assert (
        run_embed(workdir, path, tmp_path / "e.zarr", "--crop_size", 64, "--dtype", "float32")
        == EXIT_DONE
    )
    values, rows = read(tmp_path / "e.zarr")
    image = open_bank(path).read(0)
    cut = np.stack(
        [image[y : y + 64, x : x + 64] for y in range(0, 512, 64) for x in range(0, 512, 64)]
    )
    embed_crops = jax.jit(lambda pixels: task.embed(params, {"pixels": pixels})[0][:, 0])
    expected = np.concatenate([embed_crops(cut[i : i + 8]) for i in range(0, 64, 8)]).mean(0)
    np.testing.assert_allclose(values[0], expected, rtol=1e-3, atol=1e-5)
    assert [(r["plate"], r["well"], r["num_crops"], r["num_images"]) for r in rows] == [
        ("1", "AA41", 64, 1)
    ]
