"""Embedding with the statistics of each experiment, or of its controls with a fixed weight: the
values, batches, banks, kills and shares, twins, and the mistakes a user can make.
"""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flax import linen as nn

from phenomjax import config, embed
from phenomjax.checkpoints import loading
from phenomjax.data.images.bank import shard_path, write_bank
from phenomjax.data.zarr_files import read_entry
from phenomjax.inference.images import blocks, command, job, moments
from phenomjax.inference.images.options import Options
from phenomjax.models.batch_norm import Statistics
from phenomjax.state import shared
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from phenomjax.system.options import parse
from phenomjax.tasks.perturbation import Perturbation
from phenomjax.trained import twin
from phenomjax.trained.domain_statistics import Moments, flatten, unflatten
from tests.inference.test_embed_images import contents, read, write_run
from tests.lab import toy_engine
from tests.lab.doors import run_as_door

SIZE, CHANNELS = 16, ("DNA", "ER")
NONE = np.zeros(0, int)
OWN = ["--level", "site", "--dtype", "float32", "--batch_size", 8, "--statistics_least", 1]


def write_model(folder, **model):
    """The workdir of a tiny DenseNet with running statistics of its own; its config and tree."""
    c = config.base("perturbation")
    c.task, c.global_batch_size, c.data.crop_size = "perturbation", 8, SIZE
    c.model.block_config, c.model.growth_rate, c.model.stem_features = (1,), 4, 8
    c.model.neck_dim, c.model.classes, c.model.channels = 6, ("a", "b", "c"), CHANNELS
    c.model.control_share, c.model.standardise = 0.25, "none"
    c.model.update(model)
    task = Perturbation(c)
    batch = {"pixels": np.zeros((2, SIZE, SIZE, len(CHANNELS)), np.uint8)}
    params = jax.device_get(nn.meta.unbox(jax.jit(task.init)(jax.random.key(1), batch)))
    random = np.random.default_rng(5)
    held = jax.tree.map(
        lambda x: np.float32(random.uniform(0.5, 1.5, x.shape)), shared(task.carry(8))
    )
    loading.write(folder, c, params, held)
    return task, jax.tree.map(jnp.asarray, params | held)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "run"
    return folder, *write_model(folder)


def pixels_of(count, seed, size=SIZE):
    """Images of an experiment that is brighter than others."""
    random = np.random.default_rng(seed)
    return random.integers(0, 60 + 60 * seed, (count, size, size, len(CHANNELS)), np.uint8)


def write(path, parts, size=SIZE):
    """A bank of `parts` {experiment: is_control of its images}, and the images of each."""
    pixels = {
        name: pixels_of(len(marks), i + 1, size) for i, (name, marks) in enumerate(parts.items())
    }
    rows = [(name, i, mark) for name, marks in parts.items() for i, mark in enumerate(marks)]
    table = pa.table(
        {
            "experiment": [name or None for name, _, _ in rows],
            "plate": ["1"] * len(rows),
            "well": [f"A{i + 1:02d}" for _, i, _ in rows],
            "is_control": [bool(mark) for _, _, mark in rows],
            "cell_type": ["U2OS"] * len(rows),
        }
    )
    write_bank(path, np.concatenate(list(pixels.values())), table, CHANNELS, chunk=16)
    return pixels


def run(model, banks, out, *words):
    banks = banks if isinstance(banks, list) else [banks]
    words = ["--checkpoint", model, "--bank", *banks, "--out", out, "--devices", 1, *words]
    own = OWN if "--statistics" in words else OWN[:-2]
    return embed.main([str(word) for word in [*words, *own]])


def normalised(task, tree, pixels, weight=None):
    """Embeddings of images that are normalised together, directly."""
    params = {name: x for name, x in tree.items() if name not in ("batch_stats", "head")}
    variables = {"params": params, "batch_stats": tree["batch_stats"]}
    weight = None if weight is None else jnp.float32(weight)

    @jax.jit
    def apply(images):
        own = Statistics(parts=1, weight=weight)
        return task.model.apply(
            variables, images, None, own, method="embedding", mutable=["moments"]
        )

    found, seen = apply(jnp.float32(pixels) / 255)
    return found, seen["moments"]


def embedded(task, tree, **batch):
    """Embeddings as the task gives them."""
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    return jax.jit(task.embed)(tree, batch)[0][:, 0]


def test_each_experiment_is_normalised_by_all_of_its_images(model, tmp_path):
    """Where they fit into one batch of statistics, that is the forward pass over all of them."""
    folder, task, tree = model
    pixels = write(tmp_path / "b.zarr", {"E1": [0] * 5, "E2": [1, 0, 0], "E3": [0] * 8})
    assert run(folder, tmp_path / "b.zarr", tmp_path / "o.zarr", "--statistics", "experiment") == 0
    values, _ = read(tmp_path / "o.zarr")
    expected = np.concatenate([normalised(task, tree, x)[0] for x in pixels.values()])
    np.testing.assert_allclose(values, expected, atol=2e-5)
    entry = read_entry(tmp_path / "o.zarr")
    assert (entry["statistics"], entry["statistics_by"]) == ("experiment", "experiment")
    assert entry["statistics_batch"] == 8 and entry["control_weight"] is None
    groups = pq.read_table(tmp_path / "o.zarr" / "statistics.parquet").to_pylist()
    assert groups[1] == {"experiment": "E2", "images": 3, "controls": 1}
    assert not (tmp_path / "o.zarr.statistics").exists()
    # running statistics: what the tree holds
    assert run(folder, tmp_path / "b.zarr", tmp_path / "r.zarr") == 0
    running, _ = read(tmp_path / "r.zarr")
    one = embedded(task, tree, pixels=pixels["E2"])
    np.testing.assert_allclose(running[5:8], one, atol=2e-5)
    assert np.abs(running - values).max() > 0.1
    assert "statistics" not in read_entry(tmp_path / "r.zarr")


@pytest.mark.parametrize("weight", [None, 0.6, 1.0])
def test_controls_weigh_what_is_said(model, tmp_path, weight, monkeypatch):
    """However many of an experiment's images they are: by default their share in training. Of very
    many experiments only those of a batch are on a device.
    """
    monkeypatch.setattr(job, "STACKED_BYTES", job.STACKED_BYTES if weight else 0)
    folder, task, tree = model
    marks = {"few": [1, 1, 0, 0, 0, 0, 0], "many": [1, 1, 1, 0]}
    pixels = write(tmp_path / "b.zarr", marks)
    words = [] if weight is None else ["--control_weight", weight]
    run(folder, tmp_path / "b.zarr", tmp_path / "o.zarr", "--statistics", "controls", *words)
    values, _ = read(tmp_path / "o.zarr")
    share, expected = 0.25 if weight is None else weight, []
    for name, mark in marks.items():
        mark = np.array(mark)
        each = np.where(mark, share / mark.sum(), (1 - share) / (1 - mark).sum())
        expected.append(normalised(task, tree, pixels[name], each)[0])
    np.testing.assert_allclose(values, np.concatenate(expected), rtol=2e-3, atol=1e-4)
    assert read_entry(tmp_path / "o.zarr")["control_weight"] == share


def test_controls_weigh_what_they_weighed_in_training(tmp_path):
    """Where a weight leaves some to other images, it is said what that means."""
    write(tmp_path / "b.zarr", {"E1": [1, 1, 0, 0]})
    write_model(tmp_path / "run", control_weight=1.0)
    for weight, words in {1.0: (), 0.5: ("--control_weight", 0.5)}.items():
        paths = tmp_path / "run", tmp_path / "b.zarr", tmp_path / f"{weight}.zarr"
        _, statistics = made(*paths, "--statistics", "controls", *words)
        assert statistics.settings.control_weight == weight
        said = "--control_weight 1 keeps these out of the statistics" in statistics.describe()
        assert said == (weight < 1)


def made(model, bank, out, *words):
    """A bank's embedding, and what takes its statistics."""
    words = ["--checkpoint", model, "--bank", bank, "--out", out, "--devices", 1, *words]
    options = parse(Options, [str(word) for word in [*words, *OWN]], "embed", "")
    one = job.BankEmbedding(options, twin.load_images(model), bank, out)
    statistics = moments.of_jobs([one], out)
    one.look()
    statistics.begin()
    return one, statistics


def taken(one, statistics):
    """The moments of all that is to be done."""
    found, batch = Moments(), statistics.settings.batch
    for part in statistics.left([one]):
        found += blocks.measure(one, one.make_runtime(), part.blocks, batch, threading.Event())
    return found


def test_many_batches_of_crops_are_moments_of_all_pixels(model, tmp_path):
    """The first norm sees what no other norm decides: its mean and variance are those over all
    crops, whatever batches they came in.
    """
    folder, task, tree = model
    pixels = write(tmp_path / "b.zarr", {"E": [0] * 21}, size=2 * SIZE)["E"]
    words = ["--statistics", "experiment", "--statistics_batch", 4]
    one, statistics = made(folder, tmp_path / "b.zarr", tmp_path / "o", *words)
    found = taken(one, statistics)
    assert found.weight == pytest.approx(1.0)
    crops = [x[y : y + SIZE, z : z + SIZE] for x in pixels for y in (0, SIZE) for z in (0, SIZE)]
    _, seen = normalised(task, tree, np.stack(crops))
    first = unflatten(tree["batch_stats"], [found.table()])["backbone"]["norm0"]
    for kind in ("mean", "var"):
        expected = seen["backbone"]["norm0"][kind]
        np.testing.assert_allclose(first[kind], expected, rtol=1e-5, atol=1e-7)


def test_blocks_have_controls_in_their_share_and_count_each_image_alike():
    """Few controls come in several blocks, and weigh as much less there."""
    controls, others = np.arange(3), np.arange(3, 63)
    dealt = blocks.deal([controls, others], [0.4 / 3, 0.6 / 60], 0.4, 10, random())
    assert {(len(b.images), int((b.images < 3).sum())) for b in dealt} == {(9, 3)}
    weights = np.zeros(63)
    for block in dealt:
        assert len(set(block.images)) == len(block.images)
        np.add.at(weights, block.images, block.weights)
    np.testing.assert_allclose(weights[:3], 0.4 / 3)
    np.testing.assert_allclose(weights[3:], 0.6 / 60)
    assert sum(block.weights.sum() for block in dealt) == pytest.approx(1.0)
    assert not blocks.deal([NONE, others], [0.0, 0.0], 1.0, 10, random())


def random():
    return np.random.default_rng(0)


def test_moments_of_parts_are_those_of_all():
    values = random().normal(3, 2, (12, 5))
    found = Moments()
    for part in (values[:2], values[2:]):
        found.add(len(part), np.stack([part.mean(0), part.var(0)]))
    np.testing.assert_allclose(found.table(), np.stack([values.mean(0), values.var(0)]))


def test_an_experiment_in_two_banks_is_one(model, tmp_path):
    """Their statistics are taken together; a bank of other experiments is none of theirs."""
    folder, task, tree = model
    both = write(tmp_path / "both.zarr", {"E": [0] * 8})["E"]
    marks = {"is_control": [0] * 4}
    for name, mine in (("a", both[:4]), ("b", both[4:])):
        table = pa.table({"experiment": ["E"] * 4, "well": ["A01", "A02", "A03", "A04"]} | marks)
        table = table.set_column(2, "is_control", pa.array([False] * 4))
        write_bank(tmp_path / f"{name}.zarr", mine, table, CHANNELS, chunk=16)
    write(tmp_path / "c.zarr", {"other": [0] * 4})
    banks = [tmp_path / f"{name}.zarr" for name in "abc"]
    assert run(folder, banks, tmp_path / "out", "--statistics", "experiment") == EXIT_DONE
    found = [read_entry(tmp_path / "out" / f"{name}.zarr") for name in "abc"]
    assert [len(entry["statistics_banks"]) for entry in found] == [2, 2, 1]
    found = Moments()
    for mine in (both[:4], both[4:]):
        found.add(0.5, flatten(normalised(task, tree, mine)[1])[0])
    values = np.concatenate([read(tmp_path / "out" / f"{name}.zarr")[0] for name in "ab"])
    tree = {**tree, "batch_stats": unflatten(tree["batch_stats"], [found.table()])}
    one = embedded(task, tree, pixels=both, domain=np.zeros(8, np.int32))
    np.testing.assert_allclose(values, one, atol=1e-4)
    assert not (tmp_path / "out.statistics").exists()


def test_what_is_killed_goes_on_and_shares_agree(model, tmp_path, monkeypatch):
    """The bytes are those of one undisturbed process, whoever took the statistics."""
    folder, *_ = model
    write(tmp_path / "b.zarr", {"E1": [1, 0] * 9, "E2": [1, 0, 0] * 5})
    words = ["--statistics", "controls", "--statistics_batch", 4, "--unit_crops", 8]
    assert run(folder, tmp_path / "b.zarr", tmp_path / "one.zarr", *words) == EXIT_DONE
    monkeypatch.setattr(moments, "UNIT_BATCHES", 1)  # more units
    whole, done = moments.measure, []

    def dies(*args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return whole(*args)

    monkeypatch.setattr(moments, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "b.zarr", tmp_path / "two.zarr", *words)
    monkeypatch.setattr(moments, "measure", lambda *args: done.append(1) or whole(*args))
    with pytest.raises(UserError, match=r"begun with other settings: --control_weight was 0.25"):
        run(folder, tmp_path / "b.zarr", tmp_path / "two.zarr", *words, "--control_weight", 0.5)
    assert run(folder, tmp_path / "b.zarr", tmp_path / "two.zarr", *words) == EXIT_DONE
    units = len(done)
    done.clear()
    for share in ("1/2", "0/2"):
        run(folder, tmp_path / "b.zarr", tmp_path / "three.zarr", *words, "--share", share)
    assert len(done) == units  # none was taken twice
    values = read(tmp_path / "one.zarr")[0]
    for name in ("two", "three"):
        np.testing.assert_allclose(read(tmp_path / f"{name}.zarr")[0], values, atol=1e-5)
        assert not (tmp_path / f"{name}.zarr.statistics").exists()
    two, three = (contents(tmp_path / f"{name}.zarr") for name in ("two", "three"))
    assert two == three


def test_an_engine_takes_them_over_several_banks(model, tmp_path, monkeypatch):
    """Stopped in the midst of it and gone on with; the bytes are those of one process."""
    folder, *_ = model
    for name in ("a", "b"):
        write(tmp_path / f"{name}.zarr", {"E1": [1, 0] * 4, name: [1, 0] * 3})
    banks = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    words = ["--statistics", "controls", "--unit_crops", 8]
    assert run(folder, banks, tmp_path / "one", *words) == EXIT_DONE
    engine = toy_engine.replace(monkeypatch)
    engine.limit = 3  # units of statistics, of four
    assert run(folder, banks, tmp_path / "two", *words, "--engine", "slurm") == EXIT_STOPPED
    assert len(list((tmp_path / "two.statistics" / "moments").iterdir())) == 3
    engine.limit = None
    assert run(folder, banks, tmp_path / "two", *words, "--engine", "slurm") == EXIT_DONE
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not (tmp_path / "two.statistics").exists()


def test_the_untrained_twin_has_statistics_too(model, tmp_path):
    folder, *_ = model
    write(tmp_path / "b.zarr", {"E1": [0] * 4})
    words = ["--statistics", "experiment", "--random_weights", 3]
    assert run(folder, tmp_path / "b.zarr", tmp_path / "o.zarr", *words) == EXIT_DONE
    values, _ = read(tmp_path / "o.zarr")
    drawn = twin.load_images(folder, random_weights=3)
    assert set(jax.tree.leaves(drawn.params["batch_stats"]["neck"]["norm_0"]["var"])[0]) == {1.0}
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-4)  # of the last norm, by its own images
    entry = read_entry(tmp_path / "o.zarr")
    assert entry["random_weights"] == 3 and entry["statistics"] == "experiment"


def test_damaged_images_count_nothing(model, tmp_path):
    folder, task, tree = model
    pixels = write(tmp_path / "b.zarr", {"E1": [0] * 6})["E1"]
    shard = shard_path(tmp_path / "b.zarr", 2)
    shard.write_bytes(shard.read_bytes()[:-1])
    code = run(folder, tmp_path / "b.zarr", tmp_path / "o.zarr", "--statistics", "experiment")
    assert code == EXIT_FAILED
    expected = normalised(task, tree, np.delete(pixels, 2, 0))[0]
    np.testing.assert_allclose(read(tmp_path / "o.zarr")[0], expected, atol=3e-5)


def test_cell_types_are_told_as_the_model_knows_them(tmp_path, caplog):
    run_, bank = tmp_path / "run", tmp_path / "b.zarr"
    task, tree = write_model(run_, cell_type=True, cell_types=("HUVEC", "U2OS"))
    pixels = write(bank, {"E1": [0] * 4})["E1"]
    assert run(run_, bank, tmp_path / "o.zarr") == EXIT_DONE
    one = embedded(task, tree, pixels=pixels, cell_type=np.ones(4, np.int32))
    np.testing.assert_allclose(read(tmp_path / "o.zarr")[0], one, atol=2e-5)
    write_model(tmp_path / "other", cell_type=True, cell_types=("HUVEC",))
    with pytest.raises(
        UserError, match=r"All 4 images have cell type U2OS .* HUVEC.*cell_type=NAME"
    ):
        run(tmp_path / "other", bank, tmp_path / "p.zarr")
    with pytest.raises(UserError, match=r"--runtime onnxruntime .* cell type of each image"):
        run(run_, bank, tmp_path / "q.zarr", "--runtime", "onnxruntime")


@pytest.mark.parametrize(
    "marks,words,text,mend",
    [
        (
            {"E1": [0] * 3, "E2": [0] * 12},
            ["--statistics", "experiment"],
            r"1 of the 2 groups by experiment have fewer than 8 images, .*: E1 \(3\)\. Give"
            r" --statistics running, or --statistics_least 3 ",
            ["--statistics", "experiment", "--statistics_least", 3],
        ),
        (
            {"E1": [1] + [0] * 9, "E2": [1] * 8},
            ["--statistics", "controls"],
            r"fewer than 8 controls, .*: E1 \(1\)\. Give --statistics experiment, or"
            r" --statistics_least 1 ",
            ["--statistics", "experiment"],
        ),
        (
            {"E1": [0] * 9},
            ["--statistics", "controls"],
            r"no image of .*b.zarr is marked as a control .* Give --statistics experiment",
            ["--statistics", "experiment"],
        ),
        (
            {"E1": [0] * 9},
            ["--statistics", "controls", "--control_weight", 1.5],
            r"--control_weight 1.5: it must be above 0 and at most 1",
            [],
        ),
        (
            {"E1": [0] * 9},
            ["--statistics", "experiment", "--statistics_by", "plat"],
            r"--statistics_by plat is no column of texts of the metadata. Did you mean 'plate'",
            ["--statistics", "experiment", "--statistics_by", "plate"],
        ),
        (
            {"E1": [0] * 9},
            ["--statistics", "experiment", "--statistics_by", "gene"],
            r"--statistics_by gene: .* would take away what tells perturbations apart",
            [],
        ),
        (
            {"": [0] * 9},
            ["--statistics", "experiment"],
            r"9 of the 9 images of .* have no experiment in their metadata, .* --statistics_by"
            r" plate",
            ["--statistics", "experiment", "--statistics_by", "plate"],
        ),
        (
            {"": [0] * 9, "E1": [0] * 9},
            ["--statistics", "experiment", "--statistics_by", "plate"],
            r"9 of the 18 images of .* have no experiment .* Give --statistics running, or make",
            ["--statistics", "running"],
        ),
        (
            {"E1": [1] * 9, "E2": [0] * 9},
            ["--statistics", "controls"],
            r"E2 \(0\)\. Give --statistics experiment\.$",
            ["--statistics", "experiment"],
        ),
        (
            {"E1": [0] * 9},
            ["--statistics_by", "plate"],
            r"--statistics_by is for statistics of the images' own experiments",
            [],
        ),
        (
            {"E1": [0] * 9},
            ["--statistics", "experiment", "--runtime", "onnxruntime"],
            r"--statistics experiment needs --runtime jax",
            ["--statistics", "experiment"],
        ),
        (
            {"E1": [0] * 9},
            ["--statistics", "experiment", "--control_weight", 0.5],
            r"--control_weight 0.5 is for --statistics controls",
            [],
        ),
    ],
)
def test_mistakes_and_what_mends_them(model, tmp_path, marks, words, text, mend):
    folder, *_ = model
    write(tmp_path / "b.zarr", marks)
    base = ["--checkpoint", folder, "--bank", tmp_path / "b.zarr", "--out", tmp_path / "o.zarr"]
    with pytest.raises(UserError, match=text):
        run_as_door(command, [*base, *words])
    if mend:
        assert run_as_door(command, [*base, *mend]) == EXIT_DONE


def test_models_without_batch_norms_or_without_controls_say_so(tmp_path):
    bank = tmp_path / "b.zarr"
    write(bank, {"E1": [1, 0] * 8})
    write_model(tmp_path / "run", control_share=0.0)
    with pytest.raises(UserError, match=r"says no share of controls.* --control_weight, for"):
        run(tmp_path / "run", bank, tmp_path / "o.zarr", "--statistics", "controls")
    mae, *_ = write_run(tmp_path / "mae", model__channels=CHANNELS)
    with pytest.raises(UserError, match=r"\(task 'mae'\) has no batch norms"):
        run(mae, bank, tmp_path / "o.zarr", "--statistics", "experiment", "--crop_size", 16)
    with pytest.raises(UserError, match=r"this model reads crops of 4 px or more, .* such as 4"):
        run(tmp_path / "run", bank, tmp_path / "o.zarr", "--crop_size", 2)
