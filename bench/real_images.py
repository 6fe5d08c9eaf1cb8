r"""What a small MAE and a small CA-MAE learn from six public image sets on a CPU, and whether they
follow a dose.

    python -m bench.real_images [--images ../shared/data/microscopy/images] [--out runs/real] \
      [--steps 800]

Prepares RxRx3, RxRx1, BBBC022, JUMP, NF1 and SBS images into banks with the public commands, trains
both models on all of them together (the MAE on two channels that every set has, the CA-MAE on all),
then prints validation loss against predicting the visible mean, and, for the SBS FKHR-GFP dose
plate, how the mean-pooled embedding separates controls (Z') and follows dose (Spearman), every well
scored on an axis found without it, next to the hand-made feature that the assay was designed for
(correlation of GFP and DNA per image).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from scipy import stats

from phenomjax import tasks
from phenomjax.checkpoints import loading
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.opening import open_bank
from phenomjax.system.log import log_to_stderr

# folder, layout and naming, channels that all sets have, all channels
SETS = {
    "rxrx3": (
        "rxrx3_AA41_s1 --layout rxrx3",
        "1=DNA,2=cell",
        "1=DNA,2=ER,3=actin,4=RNA,5=Mito,6=Golgi",
    ),
    "rxrx1": (
        "rxrx1_HEPG2-08_P1_B02 --layout rxrx1",
        "1=DNA,2=cell",
        "1=DNA,2=ER,3=actin,4=RNA,5=Mito,6=Golgi",
    ),
    "bbbc022": (
        (
            r"bbbc022_A01_s2 --layout generic --pattern"
            r" (?P<plate>[^/_]+)_(?P<well>[A-P]\d\d)_s(?P<site>\d)_w(?P<channel>\d).*\.png"
        ),
        "1=DNA,2=cell",
        "1=DNA,2=ER,3=RNA,4=AGP,5=Mito",
    ),
    "jump": (
        "jump_BR00117006 --layout jump --default plate=BR00117006",
        "5=DNA,3=cell",
        "5=DNA,3=RNA,2=AGP",
    ),
    "nf1": (
        (
            r"nf1_plate2 --layout generic --pattern"
            r" (?P<well>[A-H]\d+)_\d+_\d_(?P<site>\d)_(?P<channel>[A-Z]+)_\d+\.tif --default"
            r" plate=Plate_2"
        ),
        "DAPI=DNA,GFP=cell",
        "DAPI=DNA,GFP=ER,RFP=actin",
    ),
    "sbs": (
        r"sbs_plate --layout generic --pattern"
        r" Channel(?P<channel>\d)-\d+-(?P<row>[A-H])-(?P<column>\d\d)\.tif --default plate=1049 "
        "--metadata {images}/sbs_plate/1049_Metadata.csv --rename Row=row --rename Column=column"
        " --rename SBS_Doses=concentration "
        "--rename SBS_Controls=is_control --set perturbation_type=compound",
        "2=DNA,1=cell",
        "2=DNA,1=GFP",
    ),
}
# Every set but SBS has so few fields that all are trained on but one of NF1; of SBS one negative,
# one positive and two doses are held out.
HELD_OUT = ("Plate_2/D06", "1049/B02", "1049/B12", "1049/B05", "1049/B09")
CROP = 64


def run(*command: str) -> None:
    subprocess.run([sys.executable, "-m", *command], check=True)


def prepare(images: Path, out: Path, kind: str) -> list[Path]:
    """Makes the banks of "common" or "all" channels with the public command; finished ones are
    kept.
    """
    banks = []
    for name, (arguments, common, everything) in SETS.items():
        bank = out / f"{name}_{kind}.zarr"
        channels = common if kind == "common" else everything
        words = arguments.replace("{images}", str(images)).split()
        run(
            "phenomjax.prepare",
            "images",
            "--source",
            str(images / words[0]),
            *words[1:],
            "--channels",
            channels,
            "--out",
            str(bank),
        )
        banks.append(bank)
    return banks


def train(out: Path, name: str, banks: list[Path], steps: int) -> Path:
    """Trains with the public command; a finished run is kept."""
    settings = {
        "data.banks": tuple(map(str, banks)),
        "data.weights": (2.0, 2.0, 2.0, 2.0, 3.0, 6.0),
        "data.split_by": "well",
        "data.val_groups": HELD_OUT,
        "data.crop_size": CROP,
        "data.flip": True,
        "data.rotate": True,
        "model.embed_dim": 192,
        "model.depth": 4,
        "model.num_heads": 6,
        "model.patch_size": 8,
        "model.drop_path": 0.0,
        "model.layer_scale": 1.0,
        "model.decoder_dim": 128,
        "model.decoder_depth": 2,
        "model.decoder_num_heads": 8,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 1e-3 if name == "ca_mae" else 2e-3,
        "eval.every_steps": 100,
        "eval.num_batches": 8,
        "log.every_steps": 50,
        "figures.every_steps": 300,
        "checkpoint.every_steps": 200,
    }
    preset = (
        f"configs/mae.py:S/8,batch=16,steps={steps},ca={'true' if name == 'ca_mae' else 'false'}"
    )
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    run("phenomjax.main", "--config", preset, "--workdir", str(out / name), *flags)
    return out / name


def embed_images(workdir: Path, bank: ImageBank) -> list[np.ndarray]:
    """For each image (crops, dim): the mean-pooled embeddings of a grid of crops that covers it."""
    config, params, _ = loading.load(workdir)
    task = tasks.make(config)
    ids = [list(config.model.channels).index(name) for name in bank.channels]
    embed = jax.jit(lambda params, batch: task.embed(params, batch)[0][:, 0])
    result = []
    for index in range(len(bank)):
        image = bank.read(index)
        tops, lefts = (range(0, size - CROP + 1, CROP) for size in image.shape[:2])
        crops = np.stack([image[y : y + CROP, x : x + CROP] for y in tops for x in lefts])
        channels = np.tile(np.int32(ids), (len(crops), 1))
        result.append(
            np.asarray(embed(params, {"pixels": crops, "channels": channels}), np.float64)
        )
    return result


def scores(crops: list[np.ndarray], negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Places each well between the negative (0) and the positive (1) controls, on an axis that was
    found without that well.

    The axis is Fisher's linear discriminant between the crops of negative and of positive control
    wells, with a tenth of the mean variance added to every variance because there are fewer crops
    than it takes to know all covariances.
    """
    result = []
    for well in range(len(crops)):
        groups = [
            [crops[w] for w in np.flatnonzero(kind) if w != well] for kind in (negative, positive)
        ]
        low, high = (np.mean([c.mean(0) for c in group], axis=0) for group in groups)
        centred = np.concatenate([c - c.mean(0) for group in groups for c in group])
        spread = centred.T @ centred / len(centred)
        spread += (0.1 * np.trace(spread) / len(spread) + 1e-12) * np.eye(len(spread))
        axis = np.linalg.solve(spread, high - low)
        result.append(float((crops[well].mean(0) - low) @ axis / ((high - low) @ axis)))
    return np.array(result)


def z_prime(score: np.ndarray, negative: np.ndarray, positive: np.ndarray) -> float:
    """1 - 3 (sd of positives + sd of negatives) / distance of their means (Zhang et al. 1999)."""
    spread = score[negative].std(ddof=1) + score[positive].std(ddof=1)
    return float(1 - 3 * spread / abs(score[positive].mean() - score[negative].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, default=Path("../shared/data/microscopy/images"))
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--steps", type=int, default=800, help="of each model")
    args = parser.parse_args()
    log_to_stderr()
    rows, plates = [], {}
    for name, kind in (("mae", "common"), ("ca_mae", "all")):
        banks = prepare(args.images, args.out, kind)
        workdir = train(args.out, name, banks, args.steps)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in lines if "val/loss" in line][-1]
        rows.append(
            f"{name:<8} val squared error {last['val/squared_error']:.3f}, val loss"
            f" {last['val/loss']:.3f}, loss of predicting the visible mean"
            f" {last['val/loss_visible_mean']:.3f}, step {last['step']}"
        )
        plates[name] = (workdir, open_bank(banks[-1]))
    bank = plates["mae"][1]
    table = bank.metadata.to_pydict()
    doses, control = np.array(table["concentration"]), np.array(table["is_control"], bool)
    negative, positive = control & (doses == 0), control & (doses > 0)
    pixels = [bank.read(index).reshape(-1, 2).astype(float) for index in range(len(bank))]
    features = {
        "correlation of GFP and DNA": [np.array([[np.corrcoef(p.T)[0, 1]]]) for p in pixels]
    }
    features |= {
        f"{name} embedding": embed_images(workdir, plate)
        for name, (workdir, plate) in plates.items()
    }
    print(f"\n{'':<28}{'Z prime':>10}{'separated':>11}{'Spearman of treated':>21}{'of all':>8}")
    for name, crops in features.items():
        score = scores(crops, negative, positive)
        separated = "yes" if score[positive].min() > score[negative].max() else "no"
        treated, everything = (
            float(stats.spearmanr(score[rows], doses[rows]).statistic)
            for rows in (~control, slice(None))
        )
        print(
            f"{name:<28}{z_prime(score, negative, positive):>10.2f}{separated:>11}"
            f"{treated:>21.2f}{everything:>8.2f}"
        )
    print(
        f"({negative.sum()} negative, {positive.sum()} positive control wells, {(~control).sum()}"
        " treated wells, one image each)\n"
    )
    print("\n".join(rows))


if __name__ == "__main__":
    main()
