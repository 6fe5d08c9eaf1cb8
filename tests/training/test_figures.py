"""Figures of reconstructions: what the pixels show, text that does not overlap, and the command on
real checkpoints.
"""

import sys

import flax.linen as nn
import imagecodecs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from phenomjax import config, tasks
from phenomjax.checkpoints import checkpointer
from phenomjax.config import stored
from phenomjax.data.images import bank, opening
from phenomjax.data.simulated.write_screen import SimulationConfig, write_screen
from phenomjax.figures import reconstructions as figures_reconstructions
from phenomjax.figures.reconstructions import compare, composite_channels, reconstructions
from phenomjax.runs import reconstructions as runs_reconstructions
from phenomjax.state import TrainState
from phenomjax.system.errors import UserError
from tests.lab import warm

RXRX = ("Hoechst", "ConA", "Phalloidin", "SYTO14", "MitoTracker", "WGA")


def example(images=2, size=32, channels=6, patch=8, seed=0):
    random = np.random.default_rng(seed)
    original = random.standard_normal((images, size, size, channels)).astype(np.float32)
    kept = random.uniform(size=(images, size // patch, size // patch, 1)) > 0.75
    visible = np.broadcast_to(kept.repeat(patch, 1).repeat(patch, 2), original.shape)
    return original, visible, 0.5 * original


def tiles(figure, size=32, columns=7, gap=2):
    """The mosaic cut into its rows of tiles: (columns, size, size, 3) each."""
    canvas = figure.axes[0].get_images()[0].get_array()
    tops = [
        i
        for i in range(canvas.shape[0])
        if (i == 0 or (canvas[i - 1] == 1).all()) and not (canvas[i] == 1).all()
    ]
    lefts = [column * (size + gap) for column in range(columns)]
    return [
        np.stack([canvas[top : top + size, left : left + size] for left in lefts]) for top in tops
    ]


def test_rows_show_original_mask_reconstruction_and_difference():
    original, visible, predicted = example(images=1)
    # what stands at visible pixels must not matter
    reconstruction = np.where(visible, 99.0, predicted)
    first, masked, third, difference = tiles(
        reconstructions(original, visible, reconstruction, RXRX)
    )
    low, high = np.percentile(original, figures_reconstructions.PERCENTILES, axis=(0, 1, 2))
    expected = np.clip((original[0] - low) / (high - low), 0, 1)
    seen = visible[0, ..., 0]
    for channel in range(6):
        np.testing.assert_allclose(
            first[1 + channel], np.stack([expected[..., channel]] * 3, -1), atol=1e-6
        )
        np.testing.assert_allclose(
            masked[1 + channel][~seen], figures_reconstructions.MASK_GREY, atol=1e-6
        )
        np.testing.assert_allclose(masked[1 + channel][seen], first[1 + channel][seen], atol=1e-6)
        np.testing.assert_allclose(third[1 + channel][seen], first[1 + channel][seen], atol=1e-6)
        # nothing differs where nothing was hidden
        assert np.ptp(difference[1 + channel][seen], axis=0).max() == 0
        assert difference[1 + channel][~seen].std() > 0.01
    # actin red, ER green, DNA blue
    np.testing.assert_allclose(first[0], expected[..., [2, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(masked[0][~seen], figures_reconstructions.MASK_GREY, atol=1e-6)


def test_contrast_does_not_depend_on_what_is_predicted():
    original, visible, predicted = example(images=1)
    one = tiles(reconstructions(original, visible, predicted, RXRX))
    other = tiles(reconstructions(original, ~visible, 100 * predicted, RXRX))
    np.testing.assert_array_equal(one[0], other[0])


def test_channel_wise_masks_show_through_in_the_composite():
    original, visible, predicted = example(images=1)
    visible = visible.copy()
    visible[..., 0], visible[..., 1], visible[..., 2] = True, False, False  # only DNA seen
    masked = tiles(reconstructions(original, visible, predicted, RXRX))[1]
    assert masked[0][..., :2].max() == 0 and masked[0][..., 2].std() > 0.1
    np.testing.assert_allclose(
        masked[1], tiles(reconstructions(original, visible, predicted, RXRX))[0][1]
    )


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (RXRX, [2, 1, 0]),
        (("DNA", "ER", "RNA", "AGP", "Mito"), [3, 1, 0]),
        (("DAPI", "GFP", "RFP"), [2, 1, 0]),
        (("c0", "c1", "c2", "c3"), [2, 1, 0]),
        (("GFP",), [None, 0, None]),
        (("Hoechst", "other"), [None, 1, 0]),
    ],
)
def test_composite_channels(channels, expected):
    assert composite_channels(channels) == expected


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (2, 64), (6, 32), (12, 48)])
def test_texts_lie_inside_the_figure_and_do_not_overlap(channels, size):
    original, visible, predicted = example(images=2, size=size, channels=channels)
    names = [*RXRX, *(f"channel {i}" for i in range(6, 12))][:channels]
    models = {
        "a run\nstep 100": (visible, predicted),
        "another_run\nstep 20000": (~visible, predicted),
    }
    figure = compare(
        original,
        models,
        names,
        image_names=["simulated P01/B03/1"] * 2,
        pixel_size_um=0.65,
        title="Two models",
    )
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    boxes = [text.get_window_extent(renderer) for text in texts]
    whole = figure.bbox
    for text, box in zip(texts, boxes, strict=True):
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.x1 and box.y1 <= whole.y1
        assert inside, f"{text.get_text()!r} is cut off"
    for i, one in enumerate(boxes):
        for j in range(i):
            assert not one.overlaps(boxes[j]), (
                f"{texts[i].get_text()!r} overlaps {texts[j].get_text()!r}"
            )
    words = " ".join(text.get_text() for text in texts)
    assert all(name in words for name in names) and "µm" in words and "reconstruction" in words


def test_masked_share_and_error_are_printed():
    original = np.zeros((1, 16, 16, 1), np.float32)
    original[:, ::2] = 1
    visible = np.zeros(original.shape, bool)
    visible[:, :4] = True
    figure = reconstructions(original, visible, original + 0.5, ["DNA"])
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "masked 75%" in words and "reconstruction\nMSE 0.25" in words


def untrained(workdir, bank_path, **model):
    """A workdir with a checkpoint of random parameters: figures need no training."""
    c = config.base()
    c.data.banks, c.data.crop_size, c.data.val_fraction, c.global_batch_size = (
        (str(bank_path),),
        32,
        0.5,
        4,
    )
    c.model.update(
        {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8, "decoder_dim": 32, **model}
    )
    c.model.decoder_depth, c.model.decoder_num_heads = 1, 8
    workdir.mkdir()
    c = tasks.resolve(config.finalize(c), workdir)
    stored.save(c, workdir / "config.json")
    task = tasks.make(c)
    batch = task.loader("train", 0, 1).batch(0)
    params = jax.jit(lambda key: nn.unbox(task.init(key, jax.tree.map(jnp.asarray, batch))))(
        jax.random.key(0)
    )
    checkpoints = checkpointer.Checkpointer(workdir, c)
    checkpoints.save(7, TrainState(jnp.int32(7), params, {"unused": jnp.zeros(1)}, (), ()), {})
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models on one simulated screen: a standard MAE and a channel-agnostic one of another mask
    ratio.
    """
    folder = tmp_path_factory.mktemp("runs")
    write_screen(
        folder / "screen.zarr",
        SimulationConfig(num_plates=2, wells_per_plate=6, field_px=48),
        jobs=1,
    )
    untrained(folder / "mae", folder / "screen.zarr")
    untrained(folder / "ca", folder / "screen.zarr", channel_agnostic=True, mask_ratio=0.5)
    return folder


def test_several_checkpoints_on_the_same_crops(runs):
    figure = runs_reconstructions.of_checkpoints(
        [runs / "mae", runs / "ca"], num_images=2, names=("standard", "agnostic")
    )
    words = [text.get_text() for text in figure.axes[0].texts]
    assert sum("original" in word for word in words) == 2
    assert sum(word.startswith("standard\nmasked 75%") for word in words) == 2
    assert sum(word.startswith("agnostic\nmasked 50%") for word in words) == 2


def test_command(runs, tmp_path):
    command = [
        sys.executable,
        "-m",
        "phenomjax.figures",
        "reconstructions",
        "--checkpoints",
        str(runs / "mae"),
    ]
    command += [
        str(runs / "ca"),
        "--bank",
        str(runs / "screen.zarr"),
        "--images",
        "2",  # as above, whose programs are in the cache
        "--out",
        str(tmp_path / "a" / "b.png"),
    ]
    done = warm.run(command)
    assert done.returncode == 0, done.stderr
    assert imagecodecs.imread(tmp_path / "a" / "b.png").shape[1] > 1000
    missing = warm.run([*command[:5], str(tmp_path), "--out", "x.png"])
    assert missing.returncode == 2 and "holds no checkpoint" in missing.stderr


def test_channels_that_a_model_does_not_know(runs, tmp_path):
    opened = opening.open_bank(runs / "screen.zarr")
    images = [opened.read(i)[..., :2] for i in range(len(opened))]
    bank.write_bank(tmp_path / "other.zarr", images, opened.metadata, ("DAPI", "GFP"))
    other = untrained(tmp_path / "run", tmp_path / "other.zarr")
    with pytest.raises(
        UserError,
        match=r"was trained on the channels DAPI, GFP, the images shown have Hoechst, ConA",
    ):
        runs_reconstructions.of_checkpoints([runs / "mae", other])
