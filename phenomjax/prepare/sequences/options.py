"""The options of `prepare sequences`, what does not fit together in them, and what of them is
recorded in the bank.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import FlagCreatePairsOff, arg

from phenomjax.data.sequences.sources import SequenceFile
from phenomjax.engine.options import EngineOptions
from phenomjax.prepare import growing
from phenomjax.system.errors import UserError
from phenomjax.system.options import unrecorded

Share = Annotated[float, arg(metavar="SHARE")]


@dataclass(frozen=True, kw_only=True)
class Options(EngineOptions):
    """Files of sequences, what is kept of them, how they are split, and the bank to make."""

    GROUPS: ClassVar[dict[str, str]] = {
        "format": "file",
        "min_length": "filter",
        "validation": "split",
        "verify_sources": "run",
    }

    source: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]")]
    """files, on disks or in stores (s3://, gs://, http://), plain or compressed with gzip,
    Zstandard, bzip2 or xz. FASTA is divided among the processes if it is plain, BGZF (`bgzip`) or
    Zstandard in the seekable format; other files go one to a process"""

    out: Path
    """the bank to make, NAME.zarr"""

    format: Literal["fasta", "text", "named", "smi", "csv", "jsonl"] | None = None
    """of the files: FASTA (also PIR and Pearson's), one sequence a line, a name and a sequence a
    line, a SMILES and a name a line, CSV or TSV (also Parquet, .xlsx) with a header, or JSON lines
    (None: by the beginning and the name of each file)"""

    alphabet: Literal["protein", "smiles", "bytes"] | None = None
    """tokens: protein by residue, smiles by atom, bytes of text such as source code (None: protein
    for FASTA and text, smiles for .smi, bytes for JSON lines; for CSV by the column)"""

    column: Annotated[str | None, arg(metavar="NAME")] = None
    """CSV: the column with the sequences (None: the one whose name says it, such as smiles,
    sequence or seq)"""

    no_header: FlagCreatePairsOff[bool] = False
    """CSV: the first line is a row; columns are called 1, 2, 3"""

    field: Annotated[str, arg(metavar="FIELD[,FIELD]")] = "code"
    """JSON lines: the field with the sequences; the texts of several are joined"""

    id: Annotated[str | None, arg(metavar="NAME")] = None
    """CSV, JSON lines: the column or field with the ids (None: FILE:LINE)"""

    rare: Literal["x", "keep", "reject"] = "x"
    """protein: U, Z, O, B become X, keep ids of their own, or reject the sequence; J becomes X or
    rejects"""

    gaps: Literal["strip", "reject"] | None = None
    """alignments (A2M, A3M, FASTA with gaps): take '-' and '.' out, or reject sequences that have
    them (None: an alignment is an error)"""

    accept_nucleotides: bool = False
    """take sequences of which over 95 % are A, C, G, T, U or N as proteins; otherwise they are
    rejected as DNA or RNA"""

    boundary: Literal["eos", "bos_eos"] = "eos"
    """tokens that bound each sequence: <eos> after it, or <bos> before it too"""

    min_length: int = 1
    """leave out shorter sequences, in tokens"""

    max_length: int | None = None
    """leave out longer sequences (None: keep all)"""

    max_ambiguous: Share = 1.0
    """protein: leave out sequences with a larger share of X, after `rare` (1: keep all)"""

    keep_duplicates: bool = False
    """keep equal sequences; otherwise the first one in the order of the files stays"""

    validation: Share = 0.01
    """of the sequences, chosen by the hash of each"""

    test: Share = 0.01
    """the same for the test split"""

    clusters: Annotated[Path | None, arg(metavar="TSV")] = None
    """split by cluster: a ..._cluster.tsv of MMseqs2, representative and member, a .clstr of CD-HIT
    or a .uc of UCLUST; the hash of the representative's id decides, and an id that is in no cluster
    stands for itself. Ids are looked up as they stand, then as MMseqs2 shortens them"""

    min_clustered: float = unrecorded(0.9)
    """the share of the sequences that must be in a cluster of `clusters`; with fewer, the file is
    another one's, and nothing is made"""

    min_cluster_ids: float = unrecorded(0.1)
    """the share of the ids of `clusters` that must be those of sequences, for the same reason"""

    cluster: Annotated[float | None, arg(metavar="IDENTITY")] = None
    """keep only the representatives of clusters at this identity, for instance 0.3; runs `mmseqs
    easy-linclust`, which must be on the PATH"""

    cluster_coverage: Share = 0.8
    """share of a member that must align with its representative"""

    verify_sources: bool = unrecorded(False)
    """compare the content of all files with what the bank records; otherwise only that of files
    whose size or date is another one"""

    overwrite: bool = unrecorded(False)
    """where OUT was made or begun with other settings or files, make it again in its place; what is
    there stays until the new one is whole"""


def check(options: Options) -> None:
    """Raises UserError for what is out of range or contradicts itself."""
    if options.min_length < 1 or (
        options.max_length is not None and options.max_length < options.min_length
    ):
        raise UserError(
            f"`min_length` {options.min_length} and `max_length` {options.max_length} leave"
            " nothing: 1 <= min <= max."
        )
    shares = ("validation", "test", "max_ambiguous", "cluster", "cluster_coverage")
    for name in (*shares, "min_clustered", "min_cluster_ids"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"`{name}` is a share from 0 to 1, not {value:g}.")
    if options.cluster == 0:
        raise UserError(
            "`cluster` 0 would put all sequences into one cluster. Give an identity above 0, for"
            " instance 0.3."
        )
    # all of a bank may be held out, beside others to train on
    if options.validation + options.test > 1:
        raise UserError(
            f"`validation` {options.validation:g} and `test` {options.test:g} are more than all"
            " sequences together."
        )
    if options.clusters and options.cluster:
        raise UserError(
            "`clusters` splits by clusters that you have, `cluster` makes some and keeps one"
            " sequence of each: give one of the two."
        )
    if options.clusters and not options.clusters.is_file():
        raise UserError(
            f"There is no cluster file {options.clusters}. Name the ..._cluster.tsv that MMseqs2"
            " wrote."
        )


def arguments_of(
    options: Options, sources: list[SequenceFile], alphabet: str, column: tuple[str, ...]
) -> growing.Arguments:
    """The arguments that decide what is in the bank, as they are recorded in it."""
    kinds = {source.kind for source in sources}
    found: growing.Arguments = {"source": [growing.name(source.path) for source in sources]}
    found |= {"format": sorted(kinds), "alphabet": alphabet}
    found |= {"column": ",".join(column)} if kinds & {"csv", "table"} else {}
    found |= {"field": options.field} if "jsonl" in kinds else {}
    names = [
        "id",
        "no_header",
        "gaps",
        "accept_nucleotides",
        "rare",
        "boundary",
        "min_length",
        "max_length",
        "max_ambiguous",
        "keep_duplicates",
        "validation",
        "test",
    ]
    found |= {name: getattr(options, name) for name in [*names, "cluster"]}
    found |= {"cluster_coverage": options.cluster_coverage} if options.cluster else {}
    found |= {"clusters": str(options.clusters.resolve())} if options.clusters else {}
    return {name: value for name, value in found.items() if value not in (None, False, "")}
