"""What a model knows of proteins: structure, function, localization, fitness, origin; and of
molecules, where it reads SMILES.

python -m phenomjax.evaluate --checkpoint RUN --suite configs/eval/protein.py --out report/
  minutes on 2 cores; with protein.py:full every record of the files; with protein.py:quick two
  tasks, for use during training

task                  predicted                     split     train  valid.   test  data of "full"
secondary_structure   H, E, C of a residue          given     9,712   1,080    364  NetSurfP-2.0
  _q8                 eight states of DSSP          given        11       1     18  CASP13, CASP14
  _tape               H, E, C of a residue          cluster   1,562     174    434  TAPE
disorder              residues without coordinates  given     9,712   1,080    364  NetSurfP-2.0
localization          10 places; in the membrane    given     1,484     171  2,768  DeepLoc 1.0
remote_homology       1,195 folds                   given    11,077   1,235    736  TAPE
scop_class            7 classes                     cluster  11,017   1,224  3,060  SCOP
enzyme                EC numbers, sets              cluster   1,790     199    497  Swiss-Prot
organism              which of four                 cluster   3,918     435  1,088  and mycoplasmas
gb1_one_vs_rest       fitness                       given        25       3  8,705  FLIP
gb1_two_vs_rest       fitness                       given       381      43  8,309  FLIP
gb1_low_vs_high       fitness                       given     4,580     509  3,644  FLIP
stability             stability                     hash      1,768     211    533  TAPE
blat_…                effects of mutations, untrained                        4,996  Stiffler 2015
pabp_…                effects of mutations, untrained                        1,188  Melamed 2013
solubility            log mol/l of a molecule       scaffold    902     113    113  ESOL
hiv_activity          active or not, of a molecule  scaffold 33,524   4,191  4,191  MoleculeNet

The test of secondary_structure and disorder is NEW364; CASP13 (12 proteins) and CASP14 (18) are
tests of their own. The eight states have too few proteins to learn much. What is TAPE's here is its
validation set; secondary_structure_tape is not in the default. DeepLoc is a part of its training,
and its test. Enzymes are those of archaea and mitochondria, at four levels of EC numbers.

The files are those of public repositories on GitHub, below --data (default ../shared/data/protein):
secondary_structure/ and dms/gb1_* of J-SNACKKB/FLIP, casp* of Rostlab/pbc, scope/, dms/tape_* and
secondary_structure/tape_* of nadavbra/protein_bert, localization/ of
HannesStark/protein-localization, fasta/ of tseemann/prokka and davidemms/OrthoFinder, dms/ of
OATML-Markslab/ProteinGym, facebookresearch/esm and debbiemarkslab/DeepSequence, smiles/ of
deepchem/deepchem. Some may not be used commercially: see their licences.

Clusters need `mmseqs` on the PATH, scaffolds need RDKit (`pip install phenomjax[smiles]`).
"""

from dataclasses import replace

from phenomjax import config
from phenomjax.probes.suites import published
from phenomjax.probes.suites.suite import (
    CLASS,
    MULTILABEL,
    RESIDUE,
    VALUE,
    Label,
    Mutations,
    Source,
    Split,
    Suite,
    Task,
)

PRESETS = ("default", "full", "quick")

# The most rows of training, validation and each test; and the longest sequence.
LIMITS = {
    "default": {
        "secondary_structure": (600, 100, 0, 500),
        "disorder": (600, 100, 0, 500),
        "localization": (0, 0, 1500, 600),
        "remote_homology": (2000, 200, 500, 500),
        "scop_class": (800, 100, 400, 500),
        "enzyme": (800, 100, 400, 800),
        "organism": (800, 100, 400, 800),
        "gb1_one_vs_rest": (0, 0, 500, 0),
        "gb1_two_vs_rest": (0, 0, 500, 0),
        "gb1_low_vs_high": (500, 100, 500, 0),
        "hiv_activity": (2000, 400, 400, 200),
    },
    "quick": {"secondary_structure": (300, 50, 100, 300), "localization": (300, 50, 200, 400)},
}

MAX_VARIANTS = 300  # of each assay, in the default

EC_HEADER = r"(?P<id>\S+) (?P<ec>[^~]*)~~~.*"  # >ACC EC~~~gene~~~product~~~COG
# >ACC Location-M [test]
LOCALIZATION_HEADER = r"(?P<id>\S+) (?P<location>\S+)-(?P<membrane>[MSU])(?: test)?"


def secondary_structure() -> dict[str, Task]:
    """Per residue: NetSurfP-2.0 (test NEW364) as FLIP gives it, CASP13 and CASP14 as PBC does,
    TAPE's validation set.
    """
    netsurfp = Source(
        "secondary_structure/netsurfp2_sequences.fasta",
        labels_path="secondary_structure/netsurfp2_sampled.fasta",
        mask_path="secondary_structure/netsurfp2_mask.fasta",
    )

    def casp(number: int, split: str = "", **fields: str) -> Source:
        # 1 in the column "disorder" is a residue with coordinates: NetSurfP's mask.
        return Source(
            f"secondary_structure/casp{number}_q8.csv",
            sequence="input",
            fields={"mask": "disorder"} | fields,
            constants={"split": split or f"CASP{number}"},
        )

    residues = {
        "heads": ("linear", "cnn"),
        "baselines": ("majority", "one_hot", "blosum62", "random_weights"),
    }
    q3 = Label(RESIDUE, classes=("H", "E", "C"))
    return {
        "secondary_structure": Task(
            (netsurfp, casp(13, target="dssp3"), casp(14, target="dssp3")), {"q3": q3}, **residues
        ),
        "secondary_structure_q8": Task(
            (casp(13, "train", target="dssp8"), casp(14, "test", target="dssp8")),
            {"q8": Label(RESIDUE, classes=tuple("HEGBTSIC"))},
            **residues,
        ),
        "secondary_structure_tape": Task(
            (
                Source(
                    "secondary_structure/tape_valid_q3.csv",
                    sequence="seq",
                    fields={"target": "label"},
                ),
            ),
            {"q3": replace(q3, translate={"0": "H", "1": "E", "2": "C"})},
            Split("cluster", identity=0.25),
            **residues,
        ),
        "disorder": Task(
            (netsurfp, casp(13), casp(14)),
            {
                "disorder": Label(
                    RESIDUE,
                    "mask",
                    classes=("ordered", "disordered"),
                    translate={"1": "ordered", "0": "disordered"},
                    metric="mcc",
                )
            },
            **residues,
        ),
    }


def proteins() -> dict[str, Task]:
    """Per protein: localization (DeepLoc), fold and class (SCOPe), EC number and organism
    (Swiss-Prot and two genomes).
    """
    per_protein = {
        "heads": ("linear", "fnn", "nearest"),
        "baselines": ("majority", "composition", "random_weights", "alignment"),
    }
    folds = [
        Source(
            f"scope/remote_homology_{file}.csv",
            sequence="seq",
            fields={"target": "label"},
            constants={"split": split},
        )
        for file, split in (("train", "train"), ("valid", "test"))
    ]
    swissprot = [
        Source(f"fasta/swissprot_{name}.fasta", header=EC_HEADER, constants={"organism": name})
        for name in ("archaea", "mitochondria")
    ]
    mycoplasma = [
        Source(f"fasta/mycoplasma_{name}.faa", constants={"organism": f"M. {name}"})
        for name in ("agalactiae", "genitalium")
    ]
    return {
        "localization": Task(
            tuple(
                Source(
                    f"localization/deeploc_{file}_set.fasta",
                    header=LOCALIZATION_HEADER,
                    constants={"split": split},
                )
                for file, split in (("our_val", "train"), ("test", "test"))
            ),
            {
                "location": Label(CLASS, "location", drop=("Cytoplasm-Nucleus",)),
                "membrane": Label(CLASS, "membrane", classes=("M", "S"), unknown=("U",)),
            },
            **per_protein,
        ),
        "remote_homology": Task(
            tuple(folds), {"fold": Label(CLASS)}, identities=(0.2, 0.3, 0.4), **per_protein
        ),
        "scop_class": Task(
            (Source("scope/scop_class_train.csv", sequence="seq", fields={"target": "label"}),),
            {"class": Label(CLASS, classes=tuple("abcdefg"))},
            Split("cluster"),
            identities=(0.2, 0.3),
            **per_protein,
        ),
        "enzyme": Task(
            tuple(swissprot),
            {f"ec{level}": Label(MULTILABEL, "ec", level=level) for level in (1, 2, 3, 4)},
            Split("cluster", identity=0.5),
            identities=(0.3, 0.5),
            **per_protein,
        ),
        "organism": Task(
            (*swissprot, *mycoplasma),
            {"organism": Label(CLASS, "organism")},
            Split("cluster"),
            **per_protein,
        ),
    }


def fitness() -> dict[str, Task | Mutations]:
    """Effects of mutations: FLIP's GB1 and TAPE's stability with a head, two deep mutational scans
    of ProteinGym without one.
    """
    heads = {
        "heads": ("linear", "fnn"),
        "baselines": ("majority", "one_hot", "blosum62", "random_weights"),
    }
    found: dict[str, Task | Mutations] = {
        f"gb1_{split}": Task((Source(f"dms/gb1_{split}.csv"),), {"fitness": Label(VALUE)}, **heads)
        for split in ("one_vs_rest", "two_vs_rest", "low_vs_high")
    }
    found["stability"] = Task(
        (Source("dms/tape_stability_valid.csv", sequence="seq", fields={"target": "label"}),),
        {"stability": Label(VALUE)},
        Split("hash"),
        baselines=("majority", "composition", "random_weights"),
    )
    for gym, file, target in (
        ("BLAT_ECOLX_Stiffler_2015", "BLAT_ECOLX_Ranganathan2015", "2500"),
        ("PABP_YEAST_Melamed_2013", "PABP_YEAST_Fields2013-singles", "linear"),
    ):
        found[gym.lower()] = Mutations(
            f"dms/{file}.csv",
            f"dms/proteingym_DMS_substitutions_reference.csv:{gym}",
            target,
            published=(
                f"dms/proteingym_zero_shot_spearman_per_assay.csv:{gym}",
                f"dms/esm1v_paper_rho_per_protein.csv:{file}",
            ),
        )
    return found


def molecules() -> dict[str, Task]:
    """Whole molecules, by the scaffold split of MoleculeNet (80, 10 and 10 %)."""
    split = Split("scaffold", test=0.1, validation=1 / 9)
    return {
        "solubility": Task(
            (
                Source(
                    "smiles/delaney_esol.csv",
                    sequence="smiles",
                    id="Compound ID",
                    fields={"target": "measured log solubility in mols per litre"},
                ),
            ),
            {"solubility": Label(VALUE)},
            split,
            alphabet="smiles",
        ),
        "hiv_activity": Task(
            (Source("smiles/hiv.csv", sequence="smiles", fields={"target": "HIV_active"}),),
            {"active": Label(CLASS, classes=("0", "1"), metric="auroc")},
            split,
            alphabet="smiles",
        ),
    }


def papers() -> tuple[dict, ...]:
    """Published numbers to draw beside ours: {their test: ours} where it is the same; the others
    are shown as of other data.
    """
    return (
        *published.rows("q3", "secondary_structure", "q3", {"NEW364": "test"}),
        *published.rows("q8", "secondary_structure_q8", "q8"),
        *published.rows("disorder", "disorder", "disorder"),
        *published.rows("q10", "localization", "location", {"DeepLoc test": "test"}),
        *published.rows("q2", "localization", "membrane", {"DeepLoc test": "test"}),
        *published.rows("tape_q3", "secondary_structure_tape", "q3"),
        *published.rows("remote_homology", "remote_homology", "fold"),
        *published.rows("stability", "stability", "stability"),
        *published.rows("ec", "enzyme", "ec4"),
    )


def get_config(arg: str = "default") -> Suite:
    """One of the presets above; "" is the default."""
    preset = config.preset(arg or "default", PRESETS)
    tasks = secondary_structure() | proteins() | fitness() | molecules()
    limits = LIMITS.get(preset, {})
    if preset == "quick":
        tasks = {name: tasks[name] for name in limits}
    elif preset == "default":
        del tasks["secondary_structure_tape"]
        tasks |= {
            n: replace(t, max_variants=MAX_VARIANTS)
            for n, t in tasks.items()
            if isinstance(t, Mutations)
        }
    for name, (train, validation, test, length) in limits.items():
        tasks[name] = replace(
            tasks[name],
            max_train=train,
            max_validation=validation,
            max_test=test,
            max_length=length,
        )
    return Suite("../shared/data/protein", tasks, published=papers())
