"""A small screen as the field publishes its profiles: plates of one layout, columns named as in
CPJUMP1, features named as CellProfiler names them.
"""

import numpy as np
import pandas as pd

from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.profiles import Profiles

ROWS, COLUMNS = 8, 12
CONTROLS, POSITIVE = 24, 8  # wells of a plate
NEGCON = 'Metadata_control_type == "negcon"'
TOLD = Columns(
    batch=("Metadata_Plate",),
    control=NEGCON,
    perturbation="Metadata_broad_sample",
    gene="Metadata_gene",
    well="Metadata_Well",
    plate="Metadata_Plate",
    dose="",
    kind="",
)


def profiles_of(frame: pd.DataFrame) -> Profiles:
    """A table as `read` would give it."""
    metadata = frame.filter(regex="^Metadata_").reset_index(drop=True)
    features = frame.drop(columns=metadata.columns)
    return Profiles(features.to_numpy(np.float32), metadata, tuple(features))


def feature_names(dim: int) -> list[str]:
    """Names as of CellProfiler, dim of them."""
    parts, kinds = ("Cells", "Cytoplasm", "Nuclei"), ("AreaShape", "Intensity", "Texture")
    return [
        f"{parts[k % 3]}_{kinds[k // 3 % 3]}_Measure{k // 9}_{'DNA' if k % 2 else 'ER'}"
        for k in range(dim)
    ]


def screen(
    plates: int = 3, dim: int = 24, *, effect: float = 1.0, position: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """One row a well, plate after plate: 96 wells, of which 24 are DMSO, 8 of positive controls
    and 64 of compounds, two for each of 32 target genes; half of the compounds do nothing.

    Args:
      plates: of the same layout.
      dim: features; each plate has an offset of its own.
      effect: size of a compound's shift, in units of the noise.
      position: size of the shift of a row and of a column, the same on all plates.
      seed: of everything.
    """
    rng = np.random.default_rng(seed)
    wells = [f"{'ABCDEFGH'[r]}{c + 1:02d}" for r in range(ROWS) for c in range(COLUMNS)]
    order = np.random.default_rng(7).permutation(len(wells))  # of the layout, not of the noise
    compounds = len(wells) - CONTROLS - POSITIVE
    number = np.empty(len(wells), int)
    number[order] = np.arange(len(wells))  # 0 … 63 compounds, then positive, then negative controls
    target = rng.normal(size=(compounds // 2, dim))
    own = rng.normal(size=(compounds, dim))
    shift = np.zeros((len(wells), dim))
    active = np.arange(compounds) // 2 % 2 == 0
    shift[:compounds] = effect * active[:, None] * (target[np.arange(compounds) // 2] + own)
    shift[compounds : compounds + POSITIVE] = 3 * effect * rng.normal(size=dim)
    places = np.random.default_rng(11)
    of_row, of_column = (places.normal(size=(n, dim)) for n in (ROWS, COLUMNS))
    place = position * (of_row.repeat(COLUMNS, 0) + np.tile(of_column, (ROWS, 1)))
    tables = []
    for plate in range(plates):
        noise = rng.normal(size=(len(wells), dim)) + 0.5 * rng.normal(size=dim)
        is_compound, is_positive = number < compounds, (number < compounds + POSITIVE)
        is_positive &= ~is_compound
        kind = np.where(is_compound, None, np.where(is_positive, "poscon_cp", "negcon"))
        names = [f"CMP-{n:03d}" if n < compounds else None for n in number]
        names = [
            f"POS-{n % 2}" if p else name
            for n, p, name in zip(number, is_positive, names, strict=True)
        ]
        genes = [f"GENE{n // 2:02d}" if n < compounds else None for n in number]
        metadata = {
            "Metadata_broad_sample": names,
            "Metadata_Plate": f"BR{plate + 1:08d}",
            "Metadata_Well": wells,
            "Metadata_pert_iname": [name or "DMSO" for name in names],
            "Metadata_gene": genes,
            "Metadata_pert_type": np.where(is_compound, "trt", "control"),
            "Metadata_control_type": kind,
        }
        values = pd.DataFrame(
            (shift[number] + place + noise).astype(np.float32), columns=feature_names(dim)
        )
        tables.append(pd.concat([pd.DataFrame(metadata), values], axis=1))
    return pd.concat(tables, ignore_index=True)
