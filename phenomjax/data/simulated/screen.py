"""A simulated Cell Painting screen with known truth: plates, controls, knock-outs in complexes,
compounds with doses.

Every field is a pure function of (config, plate, well, site): any one can be made alone, in any
order, in any process. `phenomjax.data.simulated.write_screen.write_screen` makes an image bank of
them and puts the truth beside the images:

    NAME.zarr/truth/genes.parquet          gene, complex, arm, position, expressed, zfpkm,
                                           effect_size, arm_effect
    NAME.zarr/truth/relationships.parquet  entity1, entity2, complex: all pairs of a complex
    NAME.zarr/truth/compounds.parquet      compound, target_gene, ec50_um, hill, efficacy
    NAME.zarr/truth/phenotypes.parquet     kind (gene, compound, arm), name, a column a phenotype
                                           axis
    NAME.zarr/truth/plates.parquet         plate, experiment, cell_type, density, blur,
                                           gain_CHANNEL, background_CHANNEL; with a
                                           staining_shift photons, gamma_CHANNEL and
                                           bleed_CHANNEL_CHANNEL, from one into the next
    NAME.zarr/truth/defects.parquet        image (row of the bank), experiment, plate, well, site,
                                           defect, strength: images with a planted defect, where
                                           there are any
"""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, UInt

from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.simulated import cells
from phenomjax.data.simulated.cells import AXES, CHANNELS, Optics
from phenomjax.data.simulated.screen_config import ARMS, DEFECTS, SimulationConfig, plate_layout
from phenomjax.system.errors import UserError

# of the pictures: raise it when the same settings give other bytes, so that no bank mixes two
# versions
VERSION = 1
DOSES_UM = (0.01, 10.0)  # the lowest and the highest concentration


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What one well got; the names are those of the bank's metadata."""

    perturbation: str
    perturbation_type: str
    gene: str | None = None
    concentration: float | None = None
    is_control: bool = False


GENE_COLUMNS = ("gene", "complex", "arm", "position", "expressed", "zfpkm", "effect_size")
# Phenotype of a well whose cells are dying: few, round and small, with bright shrunken nuclei.
DYING = {
    "cell_count": -4.0,
    "rounded_cells": 4.0,
    "cell_size": -2.0,
    "nucleus_size": -3.0,
    "dna_intensity": 2.0,
    "rna_intensity": -2.0,
    "mito_intensity": -5.0,
}
CONTROLS = (
    Treatment("non_targeting", "control", is_control=True),
    Treatment("DMSO", "control", concentration=0.0, is_control=True),
)


def hill(concentration: np.ndarray | float, ec50: float, slope: float) -> np.ndarray:
    """Share of the full effect at a concentration: c^n / (c^n + EC50^n)."""
    power = np.asarray(concentration, float) ** slope
    return power / (power + ec50**slope)


class Screen:
    """The truth of a simulated screen, and its fields. Made in milliseconds; fields are drawn on
    request.

    Attributes:
      genes, relationships, compounds, phenotypes, plates: pyarrow tables, as written to `truth/`.
      treatments: the knock-outs and the compounds at each dose, in the order in which they are
        dealt to wells.
    """

    def __init__(self, config: SimulationConfig):
        self.config = config
        self._make_genes()
        self._make_compounds()
        self.treatments = [
            Treatment(gene, "crispr", gene) for gene in self.genes["gene"].to_pylist()
        ]
        # Rounded, so that a concentration is the number that is printed.
        doses = [float(f"{dose:.4g}") for dose in np.geomspace(*DOSES_UM, config.num_doses)]
        for name in self.compounds["compound"].to_pylist():
            self.treatments += [Treatment(name, "compound", concentration=dose) for dose in doses]
        self._make_plates()
        kinds = (
            ("gene", self._gene_vectors),
            ("compound", self._compound_vectors),
            ("arm", self._arm_vectors),
        )
        rows = [(kind, name, vector) for kind, vectors in kinds for name, vector in vectors.items()]
        columns: dict[str, Any] = {
            "kind": [row[0] for row in rows],
            "name": [row[1] for row in rows],
        }
        columns |= {axis: np.array([row[2][i] for row in rows]) for i, axis in enumerate(AXES)}
        self.phenotypes = pa.table(columns)

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, *key])

    def _make_genes(self) -> None:
        config, random = self.config, self._random(1)
        directions = np.array([_direction(random) for _ in range(config.num_complexes)])
        arms = ARMS[: config.num_arms]
        self._arm_vectors = {arm: config.arm_bias * _direction(random) for arm in arms}
        width = max(2, len(str(config.num_genes)))
        columns: dict[str, list] = {name: [] for name in GENE_COLUMNS}
        self._gene_vectors, self._arm_shift = {}, {}
        for index in range(config.num_genes):
            name, complex_id = f"GENE{index + 1:0{width}d}", index // config.genes_per_complex
            single = complex_id >= config.num_complexes
            strength = config.effect_size * np.exp(0.35 * random.standard_normal())
            own, draw = _direction(random), random.uniform()
            if single:
                vector, inactive = own, draw < config.inactive_fraction
            else:
                similarity, direction = config.complex_similarity, directions[complex_id]
                own -= (own @ direction) * direction
                vector = similarity * direction + np.sqrt(1 - similarity**2) * own / np.linalg.norm(
                    own
                )
                inactive = False
            expressed = not (inactive and draw < config.inactive_fraction / 2)
            vector = vector * strength * (not inactive)
            arm, position = arms[random.integers(len(arms))], random.uniform()
            zfpkm = random.uniform(-2, 4) if expressed else random.uniform(-6, -3.2)
            effect = float(np.linalg.norm(vector))
            row = (
                name,
                None if single else f"complex_{complex_id + 1}",
                arm,
                position,
                expressed,
                zfpkm,
                effect,
            )
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            self._gene_vectors[name] = vector
            # A cut loses the arm from the cut to the telomere: the nearer to the centromere, the
            # more.
            self._arm_shift[name] = (1 - 0.5 * position) * self._arm_vectors[arm]
        arm_effect = [float(np.linalg.norm(shift)) for shift in self._arm_shift.values()]
        self.genes = pa.table(columns).append_column(
            "arm_effect", pa.array(arm_effect, pa.float64())
        )
        members = [
            (*pair, f"complex_{c + 1}")
            for c in range(config.num_complexes)
            for pair in itertools.combinations(
                columns["gene"][c * config.genes_per_complex : (c + 1) * config.genes_per_complex],
                2,
            )
        ]
        names = ("entity1", "entity2", "complex")
        self.relationships = pa.table(
            {name: pa.array([m[i] for m in members], pa.string()) for i, name in enumerate(names)}
        )

    def _make_compounds(self) -> None:
        config, random = self.config, self._random(2)
        active = [name for name, vector in self._gene_vectors.items() if vector.any()]
        order = random.permutation(active).tolist() if active else []
        rows, self._compound_vectors = [], {}
        for index in range(config.num_compounds):
            if not order:
                raise UserError(
                    "Simulated screen: compounds need genes that have a phenotype; raise"
                    " num_complexes, or lower inactive_fraction."
                )
            name, target = f"CPD{index + 1:02d}", order[index % len(order)]
            ec50, slope = float(10 ** random.uniform(-1, 0.3)), float(random.uniform(1.0, 2.0))
            efficacy = float(random.uniform(0.8, 1.1))
            aside = _direction(random) * 0.25 * np.linalg.norm(self._gene_vectors[target])
            self._compound_vectors[name] = efficacy * self._gene_vectors[target] + aside
            rows.append((name, target, ec50, slope, efficacy))
        schema = [("compound", pa.string()), ("target_gene", pa.string())]
        schema = pa.schema(
            schema + [(name, pa.float64()) for name in ("ec50_um", "hill", "efficacy")]
        )
        self.compounds = pa.Table.from_pylist(
            [dict(zip(schema.names, row, strict=True)) for row in rows], schema
        )
        self._dose = {name: (ec50, slope) for name, _, ec50, slope, _ in rows}

    def _make_plates(self) -> None:
        config, rows = self.config, []
        self._optics, self._batch_shift = {}, {}
        base = [np.zeros(len(AXES))] + [
            2 * _direction(self._random(3, k)) for k in range(1, config.num_cell_types)
        ]
        for plate in config.plates:
            experiment = plate // config.plates_per_experiment
            cell_type = experiment % config.num_cell_types
            # Plates of one experiment share most of their batch effect.
            shared, own = self._random(4, experiment), self._random(5, plate)
            draw = np.sqrt(0.6) * shared.standard_normal(64) + np.sqrt(0.4) * own.standard_normal(
                64
            )
            draw *= config.batch_effect
            shading = 0.12 * draw[12:42].reshape(6, 5)
            shading[:, 2:4] -= 0.12  # every lens is a little darker towards the corners
            shift = _staining_shift(self._random(10, experiment), config)
            optics = Optics(
                gain=np.exp(0.18 * draw[:6]),
                background=3.0 * np.exp(0.25 * draw[6:12]),
                illumination=shading,
                blur=float(np.exp(0.15 * draw[42])) * shift.pop("blur", 1.0),
                density=float(np.exp(0.12 * draw[43])),
                photons=config.photons * shift.pop("photons", 1.0),
                **shift,
            )
            self._optics[plate] = optics
            batch = shared.standard_normal(len(AXES)) + 0.5 * own.standard_normal(len(AXES))
            self._batch_shift[plate] = base[cell_type] + 0.25 * config.batch_effect * batch
            row: dict[str, Any] = {
                "plate": f"P{plate + 1:02d}",
                "experiment": f"EXP{experiment + 1:02d}",
            }
            row |= {
                "cell_type": f"simulated_{cell_type + 1}",
                "density": optics.density,
                "blur": optics.blur,
            }
            row |= {f"gain_{c}": float(v) for c, v in zip(CHANNELS, optics.gain, strict=True)}
            row |= {
                f"background_{c}": float(v)
                for c, v in zip(CHANNELS, optics.background, strict=True)
            }
            if optics.gamma is not None and optics.bleed is not None:
                row["photons"] = optics.photons
                row |= {f"gamma_{c}": float(v) for c, v in zip(CHANNELS, optics.gamma, strict=True)}
                row |= {
                    f"bleed_{CHANNELS[a]}_{CHANNELS[b]}": float(optics.bleed[b, a])
                    for a, b in _neighbours()
                }
            rows.append(row)
        self.plates = pa.Table.from_pylist(rows)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - screens are few and cached themselves
    def layout(self, plate: int) -> tuple[Treatment, ...]:
        """What each well of a plate got.

        Treatments are dealt to the plates in turn; places are shuffled.
        """
        config = self.config
        places = config.wells_per_plate - config.num_controls
        dealt = [CONTROLS[i % 2] for i in range(config.num_controls)]
        if self.treatments:
            dealt += [
                self.treatments[(plate * places + i) % len(self.treatments)] for i in range(places)
            ]
        else:
            dealt += [CONTROLS[i % 2] for i in range(places)]
        return tuple(dealt[i] for i in self._random(6, plate).permutation(config.wells_per_plate))

    def phenotype(self, treatment: Treatment) -> Float[np.ndarray, "axes"]:
        """Shift along the phenotype axes that a treatment causes: float (len(AXES),), without batch
        effects.
        """
        if treatment.is_control:
            return np.zeros(len(AXES))
        if treatment.perturbation_type == "crispr":
            return (
                self._gene_vectors[treatment.perturbation] + self._arm_shift[treatment.perturbation]
            )
        share = hill(treatment.concentration or 0.0, *self._dose[treatment.perturbation])
        return share * self._compound_vectors[treatment.perturbation]

    def field(self, plate: int, well: int, site: int) -> UInt[np.ndarray, "y x channels"]:
        """Draws one field of view: uint8 or uint16 (field_px, field_px, 6); all indices count from
        0.
        """
        config, optics, random = self.config, self._optics[plate], self._random(7, plate, well)
        rows, columns = plate_layout(config.wells_per_plate)
        row, column = divmod(well, columns)
        outer = row in (0, rows - 1) or column in (0, columns - 1)
        crowd = (
            optics.density
            * np.exp(0.08 * random.standard_normal())
            * (1 - config.edge_effect * outer)
        )
        shift = self.phenotype(self.layout(plate)[well]) + self._batch_shift[plate]
        shift = shift + 0.1 * random.standard_normal(len(AXES))  # no two wells are handled alike
        defect, strength = self.defect(plate, well)
        if defect == "dead":
            shift = shift + np.array([DYING.get(axis, 0.0) for axis in AXES])
        random = self._random(8, plate, well, site)
        if defect == "empty":
            ideal = cells.draw_debris(random, config.field_px, config.cell_radius)
        else:
            ideal = cells.draw_field(
                random,
                config.field_px,
                shift,
                confluence=config.confluence * crowd,
                cell_radius=config.cell_radius,
                variation=config.cell_variation,
            )
        stain = np.exp(
            config.staining_variation
            * self._random(9, plate, well).standard_normal(len(optics.gain))
        )
        optics = dataclasses.replace(optics, gain=optics.gain * stain)
        if defect == "out_of_focus":
            optics = dataclasses.replace(optics, blur=strength)
        if defect == "saturated":
            optics = dataclasses.replace(optics, gain=optics.gain * strength, saturates=True)
        return cells.photograph(random, ideal, optics, config.bit_depth)

    def defect(self, plate: int, well: int) -> tuple[str | None, float]:
        """What is wrong with a well, and how much: pixels of blur, or times the exposure; (None,
        0.0) of a sound one.
        """
        config = self.config
        draw, strength = self._random(11, plate, well).uniform(size=2)
        which = int(np.searchsorted(np.cumsum(config.defect_shares), draw, side="right"))
        if which == len(DEFECTS):
            return None, 0.0
        name, size = DEFECTS[which], config.cell_radius / cells.REFERENCE_RADIUS
        return name, {"out_of_focus": (4 + 6 * strength) * size, "saturated": 4 + 8 * strength}.get(
            name, 1.0
        )

    @functools.cached_property
    def defects(self) -> pa.Table:
        """The images with a planted defect, in the order of the bank."""
        found, columns = [], ("experiment", "plate", "well", "site")
        for image, row in enumerate(self.metadata().select(columns).to_pylist()):
            name, strength = self.defect(*self.place(image)[:2])
            if name:
                found.append({"image": image, **row, "defect": name, "strength": strength})
        texts = [(name, pa.string()) for name in (*columns, "defect")]
        schema = pa.schema([("image", pa.int64()), *texts, ("strength", pa.float64())])
        return pa.Table.from_pylist(found, schema)

    def place(self, index: int) -> tuple[int, int, int]:
        """(plate, well, site) of image `index` of the bank; plates are numbered as in
        `SimulationConfig.plates`.
        """
        rest, site = divmod(index, self.config.sites_per_well)
        plate, well = divmod(rest, self.config.wells_per_plate)
        return self.config.first_plate + plate, well, site

    def metadata(self) -> pa.Table:
        """One row an image, columns of METADATA_SCHEMA; source and checksum are null."""
        rows = []
        truths = self.plates.select(["plate", "experiment", "cell_type"]).to_pylist()
        for plate, truth in zip(self.config.plates, truths, strict=True):
            for well, treatment in enumerate(self.layout(plate)):
                row = (
                    truth
                    | dataclasses.asdict(treatment)
                    | {"well": well_name(well, self.config.wells_per_plate)}
                )
                rows += [
                    row | {"site": str(site + 1)} for site in range(self.config.sites_per_well)
                ]
        return pa.Table.from_pylist(rows, schema=METADATA_SCHEMA)


@functools.lru_cache(maxsize=4)
def screen(config: SimulationConfig) -> Screen:
    """The screen of these settings; made once a process."""
    return Screen(config)


def well_name(well: int, wells_per_plate: int) -> str:
    """Name of the well counted row by row from 0, such as A01 or AF48."""
    row, column = divmod(well, plate_layout(wells_per_plate)[1])
    letters = chr(ord("A") + row) if row < 26 else "A" + chr(ord("A") + row - 26)
    return f"{letters}{column + 1:02d}"


def _neighbours() -> list[tuple[int, int]]:
    """Pairs of channels (from, into) whose dyes and filters overlap."""
    pairs = list(itertools.pairwise(range(len(CHANNELS))))
    return [*pairs, *((b, a) for a, b in pairs)]


def _staining_shift(random: np.random.Generator, config: SimulationConfig) -> dict[str, Any]:
    """What an experiment's staining and optics do beyond brightness: fields of `Optics`; of `blur`
    and `photons` the factors. Nothing where it is off.
    """
    if not config.staining_shift:
        return {}
    draw, bleed = config.staining_shift * random.standard_normal(18), np.eye(len(CHANNELS))
    for (a, b), share in zip(_neighbours(), np.abs(draw[:10]), strict=True):
        bleed[b, a] = 0.3 * share
    return {
        "bleed": bleed,
        "gamma": np.exp(0.3 * draw[10:16]),
        "blur": float(np.exp(0.4 * draw[16])),
        "photons": float(np.exp(0.6 * draw[17])),
    }


def _direction(random: np.random.Generator) -> np.ndarray:
    """A random unit vector along about a third of the phenotype axes: a knock-out changes some
    things, not all.
    """
    vector = random.standard_normal(len(AXES)) * (random.permutation(len(AXES)) < 7)
    return vector / np.linalg.norm(vector)
