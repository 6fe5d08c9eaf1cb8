"""What an evaluation suite is made of: tasks, the files they read and the labels they predict.
Entries of configs/eval/*.py.

A suite file has `get_config(arg="") -> Suite`. Entries are frozen dataclasses, so a typo is an
error where it stands.
"""

from dataclasses import dataclass, field

RESIDUE, CLASS, MULTILABEL, VALUE = KINDS = ("residue_class", "class", "multilabel", "value")
HEADS = ("linear", "fnn", "cnn", "nearest")
BASELINES = ("majority", "composition", "one_hot", "blosum62", "random_weights", "alignment")


@dataclass(frozen=True)
class Source:
    """One file of labelled sequences. CSV, TSV and FASTA, plain, gzip or Zstandard; the suffix says
    which.

    Attributes:
      path: below the suite's data folder, or absolute.
      sequence: CSV: the column with the sequence.
      id: CSV: the column with names; "" = the number of the row.
      fields: CSV: {name: column} of what labels, split and mask are read from; a field that is not
        listed is the column of its own name.
      header: FASTA: regular expression on the text behind ">" whose named groups are the fields;
        `id` is one of them. "" = the biotrainer and FLIP form `>id KEY=value KEY=value`; keys are
        taken in lower case (SET, VALIDATION, TARGET, MASK).
      labels_path: FASTA: a second file with the same ids whose *sequences* are the labels of the
        residues (field "target") and whose headers carry fields too; "" = none.
      mask_path: FASTA: a file with the same ids of 0 and 1 for each residue (field "mask"); "" =
        none.
      constants: {field: text} that this file says by itself, e.g. {"split": "CASP13", "organism":
        "archaea"}.
    """

    path: str
    sequence: str = "sequence"
    id: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    header: str = ""
    labels_path: str = ""
    mask_path: str = ""
    constants: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Label:
    """One thing that is predicted.

    Attributes:
      kind: a name in KINDS.
      column: the field of the source that says it.
      classes: their order; () = those of the training rows, sorted. A class that is neither listed
        nor unknown is an error, unless () was given and it only stands in test rows: then it can
        never be right, and is counted.
      unknown: texts that mean "not known"; the row (or residue) then has no label. Empty text
        always does.
      drop: texts whose rows are left out of the task.
      separator: MULTILABEL: between classes.
      level: of hierarchical classes such as EC numbers, counted from 1: only so many parts between
        dots; a class with "-" in one of them is not known at this level. 0 = the whole text.
      translate: {letter: letter} for RESIDUE labels written otherwise, e.g. {"0": "H"}.
      metric: the one to judge by; "" = accuracy (RESIDUE, CLASS), f1_samples (MULTILABEL), spearman
        (VALUE).
    """

    kind: str
    column: str = "target"
    classes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    separator: str = ";"
    level: int = 0
    translate: dict[str, str] = field(default_factory=dict)
    metric: str = ""


@dataclass(frozen=True)
class Split:
    """How rows become "train", "validation" and tests (every other name is a test set).

    Attributes:
      by: "given": the field "split" or, as in FLIP, "set" and "validation"; "hash": of the
        sequence; "cluster": whole MMseqs2 clusters; "scaffold": whole Bemis-Murcko scaffolds
        (SMILES), rare ones to the test.
      test: share of the rows that become the test (not with "given").
      validation: share of the training rows that become the validation where the files name none;
        whole clusters or scaffolds with these.
      identity: of "cluster": sequences of a cluster share at least this much with its centre.
    """

    by: str = "given"
    test: float = 0.2
    validation: float = 0.1
    identity: float = 0.3


@dataclass(frozen=True)
class Task:
    """One entry of a suite.

    Attributes:
      sources: files.
      labels: {name: Label}; several are predicted by one head with several outputs, as the
        published heads do.
      split: how rows are divided.
      alphabet: "protein" or "smiles"; models of another alphabet skip the task.
      heads: names in HEADS; "cnn" is for residues, "nearest" for proteins.
      baselines: names in BASELINES.
      identities: sequence identities, rising: test rows are also judged by their MMseqs2 identity
        to the training rows, below each of them.
      max_train, max_validation, max_test: rows at most (of each test set), chosen by hash; 0 = all.
      max_length: longer sequences are left out, and counted; 0 = none.
    """

    sources: tuple[Source, ...]
    labels: dict[str, Label]
    split: Split = Split()
    alphabet: str = "protein"
    heads: tuple[str, ...] = ("linear", "fnn")
    baselines: tuple[str, ...] = ("majority", "composition", "random_weights")
    identities: tuple[float, ...] = ()
    max_train: int = 0
    max_validation: int = 0
    max_test: int = 0
    max_length: int = 0


@dataclass(frozen=True)
class Mutations:
    """Measured effects of mutations of one protein, predicted without training.

    Attributes:
      path: table with variants such as A12G or A12G:K34R, as `phenomjax.score --mutants` reads it.
      wild_type: the sequence, or a file: FASTA, or "TABLE.csv:NAME" = column target_seq of the row
        whose DMS_id is NAME (ProteinGym).
      target: column of the measured effect; higher is fitter.
      mutant: column of the variants.
      offset: the first residue is position 1 + offset.
      published: {method: Spearman's rho} to draw beside ours; or one or several "TABLE.csv:NAME": a
        row of ProteinGym's table of all methods, or the rows of a protein in the ESM-1v paper's.
      max_variants: rows at most, chosen by hash; 0 = all.
    """

    path: str
    wild_type: str
    target: str
    mutant: str = "mutant"
    offset: int = 0
    published: dict[str, float] | str | tuple[str, ...] = field(default_factory=dict)
    max_variants: int = 0


@dataclass(frozen=True)
class Training:
    """How heads are trained.

    Attributes:
      seeds: heads of different initialisation and dropout, which see the same batches; "linear" is
        convex and has one.
      learning_rate, weight_decay: of AdamW.
      batch_size: proteins a step.
      max_epochs: at most.
      patience: epochs without a better validation loss until the end.
      hidden: units of "fnn" and channels of "cnn".
      dropout: of both.
    """

    seeds: int = 3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    batch_size: int = 64
    max_epochs: int = 60
    patience: int = 6
    hidden: int = 32
    dropout: float = 0.25


@dataclass(frozen=True)
class Suite:
    """A whole evaluation.

    Attributes:
      data: folder of the files; `--data` replaces it.
      tasks: {name: Task or Mutations}.
      training: of the heads.
      bootstrap_draws: of the intervals.
      published: numbers of papers for the report, [{"task", "label", "split", "metric", "method",
        "value", "source"}].
    """

    data: str
    tasks: dict[str, Task | Mutations]
    training: Training = Training()
    bootstrap_draws: int = 1000
    published: tuple[dict, ...] = ()
