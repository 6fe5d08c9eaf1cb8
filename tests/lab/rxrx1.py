"""A small screen as RxRx1 was published: EXPERIMENT/PlateN/WELL_sS_wC.png and metadata.csv; or as
RxRx1-WILDS was: WELL_sS.png, with three channels as samples.
"""

import numpy as np
import pandas as pd
from PIL import Image

# training, validation, and test of the official splits
EXPERIMENTS = (
    "HUVEC-01",
    "HUVEC-02",
    "RPE-01",
    "RPE-02",
    "HUVEC-17",
    "RPE-08",
    "HUVEC-18",
    "RPE-09",
)
SIRNAS = 4
WELLS = [f"{row}{column:02d}" for row in "BC" for column in range(2, 6)]


def write(folder, *, wilds=False, pixels=32, seed=0):
    """Eight experiments of one plate with eight wells, two of them negative controls (EMPTY), the
    others of three siRNAs twice; two sites a well. Each siRNA brightens a square of its own size,
    each experiment has a gain of its own.

    Returns:
      The rows of metadata.csv.
    """
    rng, rows, channels = np.random.default_rng(seed), [], 3 if wilds else 6
    for number, experiment in enumerate(EXPERIMENTS):
        plate = folder / "images" / experiment / "Plate1"
        plate.mkdir(parents=True)
        gain = rng.uniform(0.7, 1.3, channels)
        for place, well in enumerate(rng.permutation(WELLS)):
            sirna = place % SIRNAS
            for site in (1, 2):
                field = rng.uniform(20, 40, (pixels, pixels, channels))
                edge = 4 + 6 * sirna
                field[:edge, :edge, sirna % channels] += 120
                field = np.clip(field * gain, 0, 255).astype(np.uint8)
                planes = {f"_w{c + 1}": field[..., c] for c in range(channels)}
                for channel, plane in ({"": field} if wilds else planes).items():
                    Image.fromarray(plane).save(plate / f"{well}_s{site}{channel}.png")
                name = f"{experiment}_1_{well}"
                rows.append(
                    {
                        "site_id": f"{name}_{site}",
                        "well_id": name,
                        "cell_type": experiment.split("-")[0],
                        "dataset": "train" if number < 4 else "test",
                        "experiment": experiment,
                        "plate": 1,
                        "well": well,
                        "site": site,
                        "well_type": "treatment" if sirna else "negative_control",
                        "sirna": f"s{sirna:05d}" if sirna else "EMPTY",
                        "sirna_id": sirna,
                    }
                )
    table = pd.DataFrame(rows)
    table.to_csv(folder / "metadata.csv", index=False)
    return table
