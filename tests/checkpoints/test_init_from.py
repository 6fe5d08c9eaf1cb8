"""`init_from`: parameters by name, resampled patches, restacked layers, and what is refused."""

import ast
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AxisType

from phenomjax import config, sharding, tasks
from phenomjax.checkpoints import init_from, loading, named_axes
from phenomjax.checkpoints.named_axes import Pixels
from phenomjax.config import keys, stored
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.models import vit
from phenomjax.system.errors import UserError
from tests.lab import tiny_language_models
from tests.lab.beginning import begin, write

MODEL = {
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 2,
    "decoder_dim": 8,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "patch_size": 4,
    "layer_scale": 0.5,
    "channels": ("DNA", "ER", "Actin"),
}


def make(task="mae", **changes):
    c = config.base(task)
    c.model.update({key: value for key, value in MODEL.items() if key in c.model})
    c.data.crop_size, c.global_batch_size, c.data.banks = 16, 2, ("gone.zarr",)
    if task == "perturbation":
        c.model.update(backbone="vit", neck_dim=0, classes=("a", "b", "c"), cell_types=("U2OS",))
    c.update_from_flattened_dict({key.replace("__", "."): x for key, x in changes.items()})
    return c


def flat(params):
    return traverse_util.flatten_dict(params, sep="/")


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def hows(report):
    return {row["name"]: row["how"] for row in report["arrays"] if row["how"] != "left"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, parameters) of a masked autoencoder."""
    folder = tmp_path_factory.mktemp("runs") / "mae"
    return folder, write(folder, make())


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(5).integers(0, 255, (2, 16, 16, 3)).astype(np.uint8)


def embedded(c, params, pixels):
    return jax.jit(tasks.make(c).embed)(params, {"pixels": jnp.asarray(pixels)})[0]


# Names


def test_channels_in_another_order_are_the_same_model(run, pixels):
    folder, theirs = run
    c = make(model__channels=("Actin", "DNA", "ER"))
    params, _, report = begin(folder, c)
    turned = pixels[..., [2, 0, 1]]
    np.testing.assert_allclose(
        embedded(c, params, turned), embedded(make(), theirs, pixels), rtol=1e-4, atol=1e-5
    )
    mine, old = (
        jax.jit(tasks.make(of).reconstruct)(
            p, {"pixels": x, "channels": np.zeros((2, 3), int), "image": np.arange(2)}
        )["reconstruction"]
        for of, p, x in ((c, params, turned), (make(), theirs, pixels))
    )
    np.testing.assert_allclose(mine, np.asarray(old)[..., [2, 0, 1]], atol=1e-4)
    assert hows(report)["encoder/patch_embed/kernel"] == "by name"
    assert hows(report)["encoder/patch_embed/bias"] == "taken"


def test_channels_that_are_not_there_count_as_empty_ones(run, pixels):
    folder, theirs = run
    c = make(model__channels=("ER",))
    params, _, report = begin(folder, c)
    empty = pixels.copy()
    empty[..., [0, 2]] = 7
    np.testing.assert_allclose(
        embedded(c, params, pixels[..., 1:2]), embedded(make(), theirs, empty), rtol=1e-4, atol=1e-5
    )
    note = next(r["note"] for r in report["arrays"] if r["name"] == "encoder/patch_embed/kernel")
    assert note == "channels by name: ER, not taken: DNA, Actin"


@pytest.mark.parametrize("how", ["mean", "fresh"])
def test_new_channels(run, how):
    folder, theirs = run
    params, new, _ = begin(
        folder, make(model__channels=("RNA", "Actin", "DNA", "ER"), init_new=how)
    )
    for name, axis in (
        ("encoder/patch_embed/kernel", 0),
        ("decoder/predict/kernel", 1),
        ("decoder/predict/bias", 0),
    ):
        mine, old, begins = (np.moveaxis(flat(p)[name], axis, -1) for p in (params, theirs, new))
        mine, old, begins = (x.reshape(*x.shape[:-1], 16, -1) for x in (mine, old, begins))
        np.testing.assert_array_equal(mine[..., 1:], old[..., [2, 0, 1]])
        wanted = old.mean(-1) if how == "mean" else begins[..., 0]
        np.testing.assert_allclose(mine[..., 0], wanted, rtol=1e-5, atol=1e-7)


def test_channels_by_another_name(run, caplog):
    folder, theirs = run
    c = make(model__channels=("actin", "Hoechst", "GFP"))
    begin(folder, c)
    assert "knows no channels actin, Hoechst, GFP (it has DNA, ER, Actin, which" in caplog.text
    offered = re.search(r"--config.init_names=\"(.*)\"", caplog.text)[1]
    assert ast.literal_eval(offered) == ("actin=Actin",)
    c.init_names = ("actin=Actin", "Hoechst = DNA")
    params, _, _ = begin(folder, c)
    mine, old = (flat(p)["encoder/patch_embed/kernel"].reshape(16, 3, -1) for p in (params, theirs))
    np.testing.assert_array_equal(mine[:, :2], old[:, [2, 0]])
    for wrong in ("DNA=actin", "actin", "actin=Action"):
        c.init_names = (wrong,)
        with pytest.raises(UserError, match=r"init_names has .* there DNA, ER, Actin"):
            begin(folder, c)
    c.init_names = ("actin=Actin", "actin=DNA")
    with pytest.raises(UserError, match="says that actin is Actin there, and that it is DNA"):
        begin(folder, c)


def test_of_other_channels_alone_grey_images_have_the_same_features(run, pixels):
    folder, theirs = run
    c = make(model__channels=("a", "b", "c", "d", "e"))
    params, _, _ = begin(folder, c)
    grey = pixels[..., :1]
    mine, old = (
        embedded(of, p, np.repeat(grey, n, -1))
        for of, p, n in ((c, params, 5), (make(), theirs, 3))
    )
    np.testing.assert_allclose(mine, old, rtol=1e-4, atol=1e-5)


def test_channels_of_a_channel_agnostic_model(tmp_path):
    agnostic = {"model__channel_agnostic": True}
    theirs = write(tmp_path / "run", make(**agnostic))
    c = make(**agnostic, model__channels=("ER", "RNA", "DNA"))
    params, _, _ = begin(tmp_path / "run", c)
    for name, x in flat(theirs).items():
        mine = flat(params)[name]
        if re.match("decoder/channel_", name):
            np.testing.assert_array_equal(mine[0], x[1])
            np.testing.assert_array_equal(mine[2], x[0])
            np.testing.assert_array_equal(mine[1], x[0])
        else:
            np.testing.assert_array_equal(mine, x)
    with pytest.raises(UserError, match="tokens are of single channels, or of all") as caught:
        begin(tmp_path / "run", make())
    assert "--config.model.channel_agnostic=True" in str(caught.value)


def test_classes_and_cell_types_go_by_name(tmp_path):
    theirs = write(tmp_path / "run", make("perturbation", model__cell_type=True))
    cells = ("HepG2", "U2OS")
    c = make("perturbation", model__cell_type=True, model__classes=("c", "a"))
    c.model.cell_types = cells
    params, _, _ = begin(tmp_path / "run", c)
    mine, old = (p["head"]["classifier"]["kernel"] for p in (params, theirs))
    np.testing.assert_array_equal(mine[:8], old[:8, [2, 0]])
    np.testing.assert_array_equal(mine[8:], old[[8, 8]][:, [2, 0]])
    c.model.classes = ("c", "d")
    params, new, report = begin(tmp_path / "run", c)
    equal(params["head"], new["head"])
    equal(params["encoder"], theirs["encoder"])
    note = next(r["note"] for r in report["arrays"] if r["name"] == "head/classifier/bias")
    assert note == "it does not fit: the run knows no classes d"


@pytest.mark.parametrize("task", ["causal_lm", "permutation_lm", "bidirectional_lm"])
def test_tokens_go_by_letter(tmp_path, task):
    lm = lambda **changes: tiny_language_models.make_config(task, **changes)  # noqa: E731
    theirs = write(tmp_path / "run", lm(model__alphabet="protein"))
    letters, numbers = vocabulary("protein").ids, vocabulary("bytes").ids
    c = lm(model__alphabet="bytes", model__vocab_size=len(numbers))
    params, _, report = begin(tmp_path / "run", c)
    name = {
        "causal_lm": "vocabulary/bin_0_embedding",
        "permutation_lm": "word_embedding/embedding",
        "bidirectional_lm": "softmax/kernel",
    }[task]
    mine, old = flat(params)[name], flat(theirs)[name]
    if task == "bidirectional_lm":
        mine, old = mine.T, old.T
    for letter in ("A", "W", "<eos>"):
        np.testing.assert_array_equal(mine[numbers[letter]], old[letters[letter]])
    known = [number for letter, number in letters.items() if len(letter) == 1]
    np.testing.assert_allclose(mine[numbers["a"]], old[known].mean(0), rtol=1e-5, atol=1e-7)
    assert {how for n, how in hows(report).items() if n != name} <= {"taken", "by name"}
    larger = lm(model__alphabet="protein", model__vocab_size=40)
    mine = flat(begin(tmp_path / "run", larger)[0])[name]
    np.testing.assert_array_equal((mine.T if task == "bidirectional_lm" else mine)[:32], old)


# Patches and layers


@pytest.mark.parametrize("edge", [3, 8])
def test_patches_of_another_size(run, edge):
    folder, theirs = run
    params, _, report = begin(folder, make(model__patch_size=edge, data__crop_size=edge * 4))
    assert hows(report)["encoder/patch_embed/kernel"] == "resampled"
    (kernel, old), (head, old_head), (bias, old_bias) = (
        [np.asarray(flat(p)[name], np.float64) for p in (params, theirs)]
        for name in (
            "encoder/patch_embed/kernel",
            "decoder/predict/kernel",
            "decoder/predict/bias",
        )
    )
    resize = np.asarray(named_axes.resampling(Pixels(4, False), Pixels(edge, False)), np.float64)
    patch = np.random.default_rng(0).normal(size=(16, 3))
    answer = (resize @ patch).reshape(-1) @ kernel
    if edge > 4:  # nothing is lost
        np.testing.assert_allclose(answer, patch.reshape(-1) @ old, atol=1e-5)
    else:  # the best that there is on average over patches
        wanted = np.linalg.lstsq(np.kron(resize, np.eye(3)).T, old, rcond=None)[0]
        np.testing.assert_allclose(kernel, wanted, atol=1e-5)
    hidden = np.random.default_rng(1).normal(size=8)
    made = (hidden @ head + bias).reshape(-1, 3)
    np.testing.assert_allclose(
        made, resize @ (hidden @ old_head + old_bias).reshape(-1, 3), atol=1e-5
    )


@pytest.mark.parametrize(
    "patch,crop,grid",
    [
        (4, 16, 0.0),  # the same
        (4, 32, 4.0),  # beyond what the run saw: scaled
        (4, 8, 0.0),  # a part of it
        (2, 16, 4.0),  # where the patches lay
        (8, 16, 4.0),
        (8, 32, 0.0),  # larger all together
        (2, 12, 3.0),
    ],
)
def test_positions_are_those_that_the_run_knows(run, tmp_path, patch, crop, grid):
    c = make(model__patch_size=patch, data__crop_size=crop, init_from=str(run[0]))
    found = init_from.resolve(c, tmp_path)
    assert found.model.position_grid == grid
    own = make(model__position_grid=5.0, init_from=str(run[0]))
    assert init_from.resolve(own, tmp_path).model.position_grid == 5.0
    # a run that has begun needs the other no longer
    stored.save(found, tmp_path / "config.json")
    (tmp_path / "progress").write_text("1\n")
    c.init_from = "gone"
    assert init_from.resolve(c, tmp_path).model.position_grid == grid
    # and another that begins with it has its places
    if grid:
        c.init_from = str(loading.write(tmp_path / "second", found, {"norm": {}}))
        assert init_from.resolve(c, tmp_path / "third").model.position_grid == grid


def test_layers_are_stacked_and_unstacked(run, tmp_path):
    folder, theirs = run
    params, _, report = begin(folder, make(model__scan_layers=True))
    equal(params, vit.stack_layers(theirs))
    assert hows(report)["encoder/blocks/layers/norm/scale"] == "restacked"
    stacked = write(tmp_path / "run", make(model__scan_layers=True))
    equal(begin(tmp_path / "run", make())[0], vit.unstack_layers(stacked))


@pytest.mark.parametrize("scanned", [False, True])
def test_sharded_parameters_begin_as_whole_ones(run, tmp_path, monkeypatch, scanned):
    changes = {"model__channels": ("ER", "RNA"), "mesh__preset": "fsdp"}
    monkeypatch.setattr(sharding, "SMALL", 2)
    mesh = jax.make_mesh((4, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    folder = run[0]
    if not scanned:
        folder = tmp_path / "run"
        write(folder, make(model__scan_layers=True))
    c = lambda: make(model__scan_layers=scanned, **changes)  # noqa: E731
    equal(begin(folder, c(), mesh)[0], begin(folder, c())[0])


# Heads, and what does not fit


def test_parts_begin_anew(run):
    folder, theirs = run
    params, new, _ = begin(folder, make(init_fresh=("decoder/.*", "encoder/blocks/layer_1/.*")))
    equal(params["decoder"], new["decoder"])
    equal(params["encoder"]["blocks"]["layer_1"], new["encoder"]["blocks"]["layer_1"])
    equal(params["encoder"]["blocks"]["layer_0"], theirs["encoder"]["blocks"]["layer_0"])
    params, new, report = begin(folder, make(model__decoder_depth=2))  # by itself, and told
    equal(params["decoder"], new["decoder"])
    equal(params["encoder"], theirs["encoder"])
    assert hows(report)["decoder/predict/kernel"] == "fresh"


@pytest.mark.parametrize(
    "patterns,text",
    [
        (("decoder",), r"'decoder', which describes no parameter. Did you mean 'decoder/"),
        (("enc(.*",), r"'enc\(.*', which is no regular expression"),
        ((".*",), r"init_fresh \('\.\*',\) leaves nothing that is taken"),
    ],
)
def test_patterns_that_describe_nothing(run, patterns, text):
    with pytest.raises(UserError, match=text):
        begin(run[0], make(init_fresh=patterns))


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"model__depth": 3}, "a layer is trained for those before and behind it"),
        ({"model__num_heads": 1}, "one a head"),
        ({"model__embed_dim": 16}, "another width has other pairs"),
        ({"model__mlp_ratio": 2.0}, "another width has other pairs"),
        ({"model__block": "prenorm", "model__qk_norm": False}, "made of other parts"),
        ({"model__bias_order": "timm_legacy"}, "would compute something else"),
    ],
)
def test_another_architecture_is_refused_and_the_mend_fits(run, changes, text):
    with pytest.raises(UserError, match=text) as caught:
        begin(run[0], make(**changes))
    mended = make(**changes)
    for key, value in re.findall(r"--config\.([\w.]+)=([\w.]*\w)", str(caught.value)):
        kind = type(keys.flatten(mended)[key])
        mended.update_from_flattened_dict({key: value == "True" if kind is bool else kind(value)})
    assert begin(run[0], mended)


def test_a_run_of_another_family_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"of the task 'mae', this one is of 'causal_lm'"):
        begin(run[0], tiny_language_models.make_config("causal_lm"))
    write(tmp_path / "xl", tiny_language_models.make_config("causal_lm"))
    with pytest.raises(UserError, match=r"of the task 'causal_lm', this one is of 'mae'"):
        begin(tmp_path / "xl", make())


@pytest.mark.parametrize(
    "changes",
    [{"init_new": "fresh"}, {"init_fresh": ("decoder/.*", "norm/.*")}, {"init_names": ("a=b",)}],
)
def test_keys_that_nothing_reads(changes):
    (key,) = changes
    with pytest.raises(UserError, match=rf"config.{key} is .* nothing reads it"):
        keys.finalize(make(**changes))


def test_the_table_is_written(run, tmp_path, caplog):
    caplog.set_level("INFO", "phenomjax")
    _, _, report = begin(run[0], make(model__channels=("ER", "RNA"), model__gelu="tanh"))
    init_from.write(report, tmp_path)
    told = json.loads((tmp_path / init_from.FILE).read_text())
    assert told["from"] == str(run[0] / "checkpoints" / "0") and told["step"] == 0
    assert told["model"] == {
        "channels": [["DNA", "ER", "Actin"], ["ER", "RNA"]],
        "gelu": ["exact", "tanh"],
    }
    row = next(row for row in told["arrays"] if row["name"] == "encoder/patch_embed/kernel")
    assert (row["from"], row["to"]) == ([48, 8], [32, 8])
    assert "channels by name: ER, new: RNA, not taken: DNA, Actin" in caplog.text
