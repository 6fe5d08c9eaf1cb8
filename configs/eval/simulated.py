"""Every kind of task on data that the project simulates itself, for the models of `make demo-protein` and its siblings: no download, two minutes.

make demo-protein
python -m phenomjax.evaluate --checkpoint runs/txl_demo --suite configs/eval/simulated.py --out runs/txl_demo/report

The labelled proteins are written to runs/simulated_proteins at the first start. They are of the families that the demo's model was trained on;
what the tests "members", "relatives" and "new family" hold, no model has seen (phenomjax/probes/simulated.py).
"""

from pathlib import Path

from phenomjax.data.simulated_families import FamilyConfig
from phenomjax.probes import simulated
from phenomjax.probes.suite import CLASS, RESIDUE, VALUE, Label, Mutations, Source, Suite, Task, Training

DATA = Path("runs/simulated_proteins")


def get_config(arg: str = "") -> Suite:
    """The suite; `arg` is not used."""
    simulated.write(DATA, FamilyConfig(families=20))  # as configs/prot_txl.py:demo
    proteins = Source("families.csv", id="id")
    limits = {"max_train": 300, "max_test": 120}
    tasks: dict[str, Task | Mutations] = {
        "conservation": Task(
            (Source("sites.fasta", labels_path="sites_labels.fasta"),),
            {"site": Label(RESIDUE, classes=("conserved", "free"), translate={"C": "conserved", "F": "free"})},
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
            **limits,
        ),
        "divergence": Task((proteins,), {"divergence": Label(VALUE, "divergence")}, **limits),
        "mutations": Mutations("mutants.csv", "wild_type.fasta", "effect"),
    }
    return Suite(str(DATA), tasks, Training(seeds=2, max_epochs=40))
