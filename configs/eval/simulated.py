"""Every kind of task on data that the project simulates itself, for the models of `make
demo-protein` and its siblings: no download, two minutes.

make demo-protein
python -m phenomjax.evaluate --checkpoint runs/txl_demo --suite configs/eval/simulated.py
  --out runs/txl_demo/report

The labelled proteins are written to runs/simulated_proteins at the first start. They are of the
families that the demo's model was trained on; what the tests "members", "relatives" and "new
family" hold, no model has seen (phenomjax/probes/suites/simulated.py).

Expected of the demo's Transformer-XL, its random-weights twin, and the best baseline:

conservation on members      0.95   0.86   0.66 (one-hot)
             on relatives    0.80   0.76   0.64
             on new family   none is above the majority
family       on relatives    0.98   0.82   1.00 (composition, MMseqs2: such families are told apart
                                           without a model)
divergence   on members      0.69   0.66   0.77 (composition)
mutations                    0.50  -0.07   0.18 (BLOSUM62)
"""

from pathlib import Path

from phenomjax.data.simulated.families import FamilyConfig
from phenomjax.probes.suites import simulated
from phenomjax.probes.suites.suite import (
    CLASS,
    RESIDUE,
    VALUE,
    Label,
    Mutations,
    Source,
    Suite,
    Task,
    Training,
)
from phenomjax.system.errors import UserError

DATA = Path("runs/simulated_proteins")


def get_config(arg: str = "") -> Suite:
    """The suite; there are no presets."""
    if arg:
        raise UserError(f"configs/eval/simulated.py has no presets; leave out ':{arg}'.")
    simulated.write(DATA, FamilyConfig(families=20))  # as configs/prot_txl.py:demo
    proteins = Source("families.csv", id="id")
    limits = {"max_train": 200, "max_validation": 40}
    tasks: dict[str, Task | Mutations] = {
        "conservation": Task(
            (Source("sites.fasta", labels_path="sites_labels.fasta"),),
            {
                "site": Label(
                    RESIDUE,
                    classes=("conserved", "free"),
                    translate={"C": "conserved", "F": "free"},
                )
            },
            heads=("linear", "cnn"),
            baselines=("majority", "one_hot", "random_weights"),
            **limits,
        ),
        "family": Task(
            (proteins,),
            {"family": Label(CLASS, "family", drop=("F000",))},  # held out whole
            heads=("linear", "nearest"),
            baselines=("majority", "composition", "random_weights", "alignment"),
            identities=(0.5, 0.6, 0.7),
            max_train=40,  # two of a family: with all of them every method is always right
            max_validation=40,
        ),
        "divergence": Task((proteins,), {"divergence": Label(VALUE, "divergence")}, **limits),
        "mutations": Mutations("mutants.csv", "wild_type.fasta", "effect"),
    }
    return Suite(
        str(DATA), tasks, Training(seeds=2, learning_rate=3e-3, batch_size=32, max_epochs=15)
    )
