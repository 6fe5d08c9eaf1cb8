"""Weak supervision in the demo of the maps: does a model that learns the names of CRISPR knock-outs
take up the bias of chromosome arms, and more of it than a masked autoencoder does?

Both are trained on later plates of the screen's genes, once on plates without the bias, once on
plates with it, and embed the same screen. What the probability of the proximity bias gains from the
one training to the other is the model's: the screen's own bias is in both.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from phenomjax.maps.arm_bias import scores
from phenomjax.maps.demo.results import Kind
from phenomjax.maps.tables.reading import read
from phenomjax.statistics import bootstrap

TRAININGS = {"without": 0.0, "with": None}  # --arm-bias of the plates; None = as the screen
MODELS = {"mae": "MAE", "perturbation": "weakly supervised"}
DIMS = 96  # of 128
FEATURES = {
    f"{model}_{bias}": Kind(
        f"{told}, {bias} bias in training", f"{model}_{bias}.zarr", DIMS, learned=True
    )
    for model, told in MODELS.items()
    for bias in TRAININGS
}
UNTRAINED = "perturbation_untrained"
FEATURES[UNTRAINED] = Kind("its untrained twin", f"{UNTRAINED}.zarr", DIMS)
# What the models differ in from configs/mae_demo.py and configs/perturbation_demo.py.
SETTINGS: dict[str, tuple[str, ...]] = {
    "mae": (),
    "perturbation": (
        "--config.data.perturbation_type=crispr",
        "--config.model.neck_dim=128",
        "--config.num_steps=1000",
    ),
}
STRIDE = {"mae": 32, "perturbation": 80}  # their crops have 64 and 96 px


def steps(out: Path, screen: Mapping[str, int | float], plates: int) -> list[list[object]]:
    """The words of every command that makes FEATURES, of a screen with these settings; models are
    trained on so many plates.
    """
    shown = int(screen["--plates"])
    commands: list[list[object]] = []
    for bias, strength in TRAININGS.items():
        bank = out / f"training_{bias}.zarr"
        changed: dict[str, float] = {"--plates": plates, "--first_plate": shown + shown % 2}
        changed |= {} if strength is None else {"--arm-bias": strength}
        words = chain(*{**screen, **changed}.items())
        commands.append(["phenomjax.prepare", "simulate", "--out", bank, *words])
        last = (shown + shown % 2 + plates + 1) // 2
        for model in MODELS:
            data = [f"--config.data.banks=('{bank}',)", "--config.data.split_by=experiment"]
            data += [f"--config.data.val_groups=('EXP{last:02d}',)"]
            run = ["phenomjax.main", "--config", f"configs/{model}_demo.py", *data]
            commands.append([*run, *SETTINGS[model], "--workdir", out / f"{model}_{bias}"])
    for model in MODELS:
        for bias in TRAININGS:
            commands.append(_embed(out, model, bias, FEATURES[f"{model}_{bias}"].profiles))
    twin = _embed(out, "perturbation", "with", FEATURES[UNTRAINED].profiles)
    return [*commands, [*twin, "--random_weights", 0]]


def _embed(out: Path, model: str, bias: str, profiles: str) -> list[object]:
    embed = ["phenomjax.embed", "--checkpoint", out / f"{model}_{bias}"]
    embed += ["--bank", out / "screen.zarr", "--stride", STRIDE[model]]
    if model == "perturbation":
        embed += ["--statistics", "experiment"]  # AdaBN, as such models are used
    return [*embed, "--out", out / profiles]


def measure(out: Path) -> dict[str, Any]:
    """How much of the bias each model takes up from its training.

    Returns:
      Values of P(cosine within an arm > between arms) over all pairs of genes in the uncorrected
      map, each with its 95 % `interval` by bootstrap over genes, all of the same draws: for each
      model `without` and `with`, of one training each, and what it gains; `difference`, of these
      gains, and `level`, of the models trained with the bias, weakly supervised less MAE.
    """
    import pandas as pd

    arm_of = pd.read_parquet(out / "screen.zarr/truth/genes.parquet").set_index("gene")["arm"]
    gained: dict[str, np.ndarray] = {}
    level: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for model in MODELS:
        drawn = {}
        for bias in TRAININGS:
            profiles = read(out / f"{model}_{bias}" / "map.parquet")
            gene = profiles.metadata["perturbation"]
            known = gene.isin(arm_of.index).to_numpy()
            order = np.argsort(gene[known].to_numpy())
            features = np.asarray(profiles.features)[known][order]
            arms = arm_of[gene[known].to_numpy()[order]].to_numpy()
            drawn[bias] = scores.drawn_probabilities(features, arms)
        gained[model], level[model] = drawn["with"] - drawn["without"], drawn["with"]
        found[model] = {**_entry(gained[model]), **{k: _entry(v) for k, v in drawn.items()}}
    found["difference"] = _entry(gained["perturbation"] - gained["mae"])
    found["level"] = _entry(level["perturbation"] - level["mae"])
    return found


def _entry(drawn: np.ndarray) -> dict[str, Any]:
    """The value of the genes as they are comes first, then those of the draws."""
    return {"value": float(drawn[0]), "interval": bootstrap.interval(drawn[1:])}


def sentence(leak: Mapping[str, Any]) -> str:
    """What was measured, in words."""

    def change(entry: Mapping[str, Any]) -> str:
        low, high = entry["interval"]
        return f"{entry['value']:+.3f} ({low:+.3f} to {high:+.3f})"

    told = ", ".join(
        f"{MODELS[model]} {leak[model]['without']['value']:.3f} ->"
        f" {leak[model]['with']['value']:.3f}, {change(leak[model])}"
        for model in MODELS
    )
    low, high = leak["difference"]["interval"]
    verdict = (
        "The weakly supervised model takes up more of the bias than the MAE"
        if low > 0
        else "The MAE takes up more of the bias than the weakly supervised model"
        if high < 0
        else "Neither is shown to take up more of the bias than the other"
    )
    return (
        "Bias in the training plates, and P(cosine within an arm > between arms) of one and the"
        f" same screen: {told}. {verdict}: the difference is {change(leak['difference'])}. Trained"
        f" with it, the weakly supervised map differs from the MAE's by {change(leak['level'])}."
    )
