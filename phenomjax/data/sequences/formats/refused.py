"""Files of biology that hold sequences in a form that is not read here, told by their first lines;
and in one sentence what makes FASTA of them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Biopython's name of a format, in the command that converts
_CONVERT = (
    'make FASTA of it: pip install biopython, then python -c "from Bio import SeqIO; print(SeqIO.'
    "convert('{path}', '{name}', '{stem}.fasta', 'fasta'))\""
)
_MOLECULES = "make SMILES of it: obabel {path} -O {stem}.smi (Open Babel)"


class Refused(NamedTuple):
    """What a file is that is not read.

    Attributes:
      what: "a GenBank file".
      mend: how to come to a file that is.
      aligned: whether that file has gaps then.
    """

    what: str
    mend: str
    aligned: bool = False


# The first line, what the file is, what to do
_FIRST_LINES: tuple[tuple[str, str, str], ...] = (
    (r"LOCUS\s+\S+.*\b(aa|bp)\b", "a GenBank file", _CONVERT.replace("{name}", "genbank")),
    (
        r"ID   \S+\s+(Reviewed|Unreviewed|STANDARD|PRELIMINARY);",
        "a flat file of UniProt",
        _CONVERT.replace("{name}", "swiss") + ", or download it as FASTA",
    ),
    (r"ID   \S+;.*\bBP\.", "an EMBL file", _CONVERT.replace("{name}", "embl")),
    (
        r"(HEADER|TITLE|COMPND|REMARK|CRYST1|MODEL|ATOM|HETATM|SEQRES)\b.{4,}",
        "a structure (PDB)",
        _CONVERT.replace("{name}", "pdb-atom"),
    ),
    (r"data_\S*\s*", "a structure (mmCIF)", _CONVERT.replace("{name}", "cif-atom")),
    (r"#\s*STOCKHOLM", "an alignment (Stockholm)", _CONVERT.replace("{name}", "stockholm")),
    (
        r"(CLUSTAL|MUSCLE|PROBCONS|MSAPROBS|Kalign)\b.*",
        "an alignment (Clustal)",
        _CONVERT.replace("{name}", "clustal"),
    ),
    (
        r"\s*\d+\s+\d+\s*[IS]?\s*",
        "an alignment (PHYLIP)",
        _CONVERT.replace("{name}", "phylip-relaxed"),
    ),
    (r"#NEXUS", "an alignment (NEXUS)", _CONVERT.replace("{name}", "nexus")),
    (
        r"!![AN]A_MULTIPLE|PileUp\b|.*\bMSF:\s*\d+.*\bCheck:",
        "an alignment (MSF)",
        _CONVERT.replace("{name}", "msf"),
    ),
    (
        r"HMMER[23]|NAME\s+\S|HH[MC]\S*",
        "a profile (HMM)",
        "name the FASTA of the sequences that it was made of",
    ),
    (
        r"@(HD|SQ|RG|PG|CO)\t",
        "alignments of reads (SAM)",
        "name a FASTA of proteins: reads are DNA",
    ),
    (r"##fileformat=VCF", "a table of variants (VCF)", "name a FASTA of proteins"),
    (r"##gff-version|##gtf", "annotations (GFF)", "name the FASTA of the proteins"),
    (r"@<TRIPOS>MOLECULE", "molecules (MOL2)", _MOLECULES),
    (r"<\?xml|<[A-Za-z][\w:]*[ >]", "XML", "download the file as FASTA"),
    (r"\(.*\)\S*;", "a tree (Newick)", "name the FASTA of its sequences"),
)

# Headers of records that are no proteins among those that are: what they are, and for awk
_MIXED = (
    (r"^>(ss_pred|ss_conf|ss_dssp|sa_dssp|sa_pred)\b", "secondary structures", "^>(ss|sa)_"),
    (r":secstr\b", "secondary structures (ss.txt of the PDB)", ":secstr"),
    (r"\bmol:na\b", "DNA and RNA (pdb_seqres.txt)", "mol:na"),
)


def find_refused(path: Path, lines: Sequence[str]) -> Refused | None:
    """What a file is that is not read; None of one that may be.

    Args:
      path: for the command that converts.
      lines: the first ones of the text.
    """
    filled = [line for line in lines if line.strip()][:200]
    if not filled:
        return None
    names = {"path": str(path), "stem": path.name.split(".")[0]}

    def found(what: str, mend: str) -> Refused:
        aligned = what.startswith("an alignment (")
        return Refused(what, mend.format(**names), aligned)

    if _is_molfile(lines):
        return found("molecules (SDF or MOL)", _MOLECULES)
    if _is_fastq(filled):
        return found(
            "reads of a sequencer (FASTQ), which are DNA", "name a FASTA of proteins instead"
        )
    if filled[0].lstrip().startswith("[") and re.match(r"\s*\[\s*(\{|\[|$)", filled[0]):
        return found("a list of JSON", "write one record a line: jq -c '.[]' {path} > {stem}.jsonl")
    headers = "\n".join(line for line in lines if line.startswith(">"))
    for pattern, what, awk in _MIXED:
        if re.search(pattern, headers, re.MULTILINE):  # of 5,000 headers at once
            keep = f"awk '/^>/ {{{{keep = !/{awk}/}}}} keep' {{path}} > {{stem}}_proteins.fasta"
            return found(f"FASTA with {what}", f"take them out: {keep}")
    if any(re.match(r"\s+>", line) for line in filled) and not any(
        line.startswith(">") for line in lines
    ):
        indented = "take the blanks out: sed 's/^[[:blank:]]*//' {path} > {stem}_plain.fasta"
        return found("FASTA whose lines begin with blanks", indented)
    for pattern, what, mend in _FIRST_LINES:
        if re.match(pattern, filled[0]):
            return found(what, mend)
    return None


def _is_molfile(lines: Sequence[str]) -> bool:
    counts = any(re.search(r"\bV[23]000\s*$", line) for line in lines[:6])
    return counts or any(line.startswith("M  END") and not line[6:].strip() for line in lines)


def _is_fastq(filled: Sequence[str]) -> bool:
    return len(filled) > 2 and filled[0].startswith("@") and filled[2].startswith("+")
