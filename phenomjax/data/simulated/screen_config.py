"""What a simulated screen is: plates, genes, compounds, optics and noise."""

import dataclasses

from phenomjax.system.errors import UserError

# rows and columns of 6 to 1536 wells
LAYOUTS = ((2, 3), (3, 4), (4, 6), (6, 8), (8, 12), (16, 24), (32, 48))
ACROCENTRIC = ("13", "14", "15", "21", "22")  # these have no genes on the short arm
ARMS = tuple(
    f"{c}{a}"
    for c in [*map(str, range(1, 23)), "X"]
    for a in "pq"
    if not (a == "p" and c in ACROCENTRIC)
)
POSITIVE = (
    "num_plates",
    "wells_per_plate",
    "sites_per_well",
    "field_px",
    "plates_per_experiment",
    "num_cell_types",
    "genes_per_complex",
    "num_doses",
    "num_arms",
    "cell_radius",
    "photons",
)
SHARES = ("inactive_fraction", "control_fraction", "complex_similarity", "edge_effect")
# what can be wrong with a well; the setting NAME_fraction says of how many
DEFECTS = ("out_of_focus", "empty", "dead", "saturated")
# settings that came later: where they are off, a screen is stored as if they did not exist
ADDED = ("first_plate", "staining_shift", *(f"{name}_fraction" for name in DEFECTS))


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """Settings of a simulated screen; equal settings give equal bytes.

    Attributes:
      seed: of everything.
      num_plates: plates; `data.split_by = "plate"` holds some of them out.
      first_plate: number of plates before the first one: screens that differ in nothing else have
        the same genes and compounds on other plates, of other experiments.
      wells_per_plate: wells used on each plate, filled row by row.
      sites_per_well: fields of view in a well.
      field_px: side of a field in pixels.
      bit_depth: 8, or 16 (14 bits used).
      plates_per_experiment: plates stained and seeded together; they share most of their batch
        effect.
      num_cell_types: experiments take turns with so many base morphologies.
      num_complexes: protein complexes.
      genes_per_complex: members; their knock-outs look alike.
      num_single_genes: genes outside complexes.
      inactive_fraction: share of the single genes that have no phenotype; half of these are not
        expressed.
      num_compounds: compounds; each mimics the knock-out of one gene.
      num_doses: concentrations of each compound, log-spaced over DOSES_UM.
      control_fraction: share of the wells with controls, half non-targeting guides, half DMSO.
      effect_size: median length of a phenotype, in units of the phenotype axes.
      complex_similarity: cosine between a member's phenotype and its complex's, 0 to 1.
      num_arms: chromosome arms that the genes lie on.
      arm_bias: length of the phenotype that the knock-outs on one arm share (proximity bias); 0 =
        off.
      batch_effect: scales all effects of plates and experiments; 0 = none.
      edge_effect: share of cells missing in the outer wells.
      staining_variation: standard deviation of the log of each channel's brightness between the
        wells of a plate.
      staining_shift: scales what the staining and the optics of an experiment do that no scaling
        of single channels takes back: light of neighbouring channels, a bent intensity curve,
        blur and noise; 0 = none.
      out_of_focus_fraction: share of the wells, controls among them, that are out of focus. A
        well has one defect at most; truth/defects.parquet lists them.
      empty_fraction: share of the wells without cells.
      dead_fraction: share of the wells with few and dying cells.
      saturated_fraction: share of the wells that are exposed too long.
      cell_variation: standard deviation of single cells along each phenotype axis.
      confluence: cell area over field area in an untreated well.
      cell_radius: pixels.
      photons: photo-electrons at full scale; fewer = noisier.
    """

    seed: int = 0
    num_plates: int = 4
    first_plate: int = 0
    wells_per_plate: int = 96
    sites_per_well: int = 1
    field_px: int = 512
    bit_depth: int = 8
    plates_per_experiment: int = 2
    num_cell_types: int = 1
    num_complexes: int = 6
    genes_per_complex: int = 4
    num_single_genes: int = 16
    inactive_fraction: float = 0.5
    num_compounds: int = 6
    num_doses: int = 6
    control_fraction: float = 0.2
    effect_size: float = 3.0
    complex_similarity: float = 0.9
    num_arms: int = 8
    arm_bias: float = 0.0
    batch_effect: float = 1.0
    edge_effect: float = 0.1
    staining_variation: float = 0.0
    staining_shift: float = 0.0
    out_of_focus_fraction: float = 0.0
    empty_fraction: float = 0.0
    dead_fraction: float = 0.0
    saturated_fraction: float = 0.0
    cell_variation: float = 0.5
    confluence: float = 0.75
    cell_radius: float = 26.0
    photons: float = 2000.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            lowest = 1 if field.name in POSITIVE else 0
            if not lowest <= value < float("inf"):
                raise UserError(
                    f"Simulated screen: {field.name} must be at least {lowest}, not {value}."
                )
        if self.bit_depth not in (8, 16):
            raise UserError(f"Simulated screen: bit_depth must be 8 or 16, not {self.bit_depth}.")
        if self.field_px < 32:
            raise UserError(
                f"Simulated screen: field_px must be at least 32 pixels, not {self.field_px}."
            )
        if self.cell_radius > self.field_px:
            raise UserError(
                f"Simulated screen: cells of cell_radius {self.cell_radius} pixels are larger than"
                f" a field of field_px {self.field_px}."
            )
        if self.num_compounds and not self.effect_size:
            raise UserError(
                f"Simulated screen: num_compounds is {self.num_compounds}, each of which mimics a"
                " knock-out, and with effect_size 0 none has a phenotype. Set num_compounds to 0,"
                " or effect_size above 0."
            )
        if self.wells_per_plate > 1536:
            raise UserError(
                f"Simulated screen: a plate has at most 1536 wells, not {self.wells_per_plate}."
            )
        if self.num_arms > len(ARMS):
            raise UserError(
                f"Simulated screen: there are {len(ARMS)} chromosome arms, num_arms is"
                f" {self.num_arms}."
            )
        defects = [f"{name}_fraction" for name in DEFECTS]
        for name in (*SHARES, *defects):
            if getattr(self, name) > 1:
                raise UserError(
                    f"Simulated screen: {name} is a share from 0 to 1, not {getattr(self, name)}."
                )
        if self.first_plate % self.plates_per_experiment:
            whole = -(-self.first_plate // self.plates_per_experiment) * self.plates_per_experiment
            raise UserError(
                f"Simulated screen: first_plate {self.first_plate} would begin in the middle of an"
                f" experiment of plates_per_experiment {self.plates_per_experiment} plates; give"
                f" {whole}."
            )
        if sum(self.defect_shares) > 1 + 1e-9:
            raise UserError(
                f"Simulated screen: {', '.join(defects)} are shares of the same wells; together"
                f" they are {sum(self.defect_shares):.3g}, more than 1."
            )

    @property
    def plates(self) -> range:
        """Numbers of the plates."""
        return range(self.first_plate, self.first_plate + self.num_plates)

    @property
    def defect_shares(self) -> tuple[float, ...]:
        """Share of the wells with each of DEFECTS."""
        return tuple(getattr(self, f"{name}_fraction") for name in DEFECTS)

    @property
    def num_genes(self) -> int:
        return self.num_complexes * self.genes_per_complex + self.num_single_genes

    @property
    def num_treatments(self) -> int:
        return self.num_genes + self.num_compounds * self.num_doses

    @property
    def num_controls(self) -> int:
        """Control wells on each plate: an even number, two at least."""
        return min(
            self.wells_per_plate,
            max(2, 2 * round(self.control_fraction * self.wells_per_plate / 2)),
        )

    @property
    def num_places(self) -> int:
        """Wells of the screen beside the controls; treatments that find none do not occur."""
        return self.num_plates * (self.wells_per_plate - self.num_controls)

    @property
    def num_images(self) -> int:
        return self.num_plates * self.wells_per_plate * self.sites_per_well


def plate_layout(wells: int) -> tuple[int, int]:
    """Rows and columns of the smallest standard plate with so many wells."""
    return next((rows, columns) for rows, columns in LAYOUTS if rows * columns >= wells)
