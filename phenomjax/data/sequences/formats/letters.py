"""What the first sequences of a file look like: proteins, DNA, or rows of an alignment."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from phenomjax.data.sequences.streams import COMMENTS
from phenomjax.system.errors import UserError

SAMPLE = 300  # sequences
FEWEST = 20  # letters that are told to be DNA
_NUCLEOTIDES = frozenset("ACGTUN")
_MIXED = frozenset("RYSWKMBDHV")  # IUPAC's codes for one of several nucleotides
_THREE = re.compile(
    "(ala|arg|asn|asp|cys|gln|glu|gly|his|ile|leu|lys|met|phe|pro|ser|thr|trp|tyr|val|sec|xaa|ter"
    "){4,}",
    re.IGNORECASE,
)
_GAPPED = 0.1  # the share of sequences with gaps that makes a file an alignment


@dataclass
class Letters:
    """Letters of some sequences, added up.

    Attributes:
      sequences: how many.
      gapped: how many of them have gaps.
      three: how many are written in codes of three letters.
      counts: of each letter, in upper case.
    """

    sequences: int
    gapped: int
    three: int
    counts: dict[str, int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Letters":
        """Counts the first sequences."""
        found = cls(0, 0, 0, {})
        for text in itertools.islice(texts, SAMPLE):
            found.sequences += 1
            found.gapped += "-" in text or "." in text
            found.three += _THREE.fullmatch(re.sub(r"[-\s]", "", text)) is not None
            for letter in set(text):
                if letter.isalpha():
                    upper = letter.upper()
                    found.counts[upper] = found.counts.get(upper, 0) + text.count(letter)
        return found

    @property
    def nucleotides(self) -> float:
        """The share of A, C, G, T, U and N; 0 where these are not all there, or few letters. With
        IUPAC's codes for mixtures, where those four are what no protein has so much of.
        """
        total = sum(self.counts.values())
        here = {"T" if letter == "U" else letter for letter in self.counts}
        if total < FEWEST or not here >= set("ACGT"):
            return 0.0
        count = self.counts.get
        share = sum(count(letter, 0) for letter in _NUCLEOTIDES) / total
        least = min(count("A", 0), count("C", 0), count("G", 0), count("T", 0) + count("U", 0))
        if share > 0.75 and least > 0.05 * total:
            share += sum(count(letter, 0) for letter in _MIXED) / total
        return share

    @property
    def aligned(self) -> bool:
        """Whether these are rows of an alignment."""
        return self.gapped >= max(1, _GAPPED * self.sequences)


def fasta_texts(lines: Iterable[str]) -> Iterable[str]:
    """The sequences of a FASTA text."""
    parts: list[str] = []
    begun = False
    marks = tuple(chr(mark) for mark in COMMENTS)
    for line in lines:
        if line.startswith(">"):
            if begun:
                yield "".join(parts)
            parts, begun = [], True
        elif begun and not line.startswith(marks):
            parts.append("".join(line.split()))
    if begun:
        yield "".join(parts)


def check_proteins(path: Path, found: Letters, gaps: str | None, nucleotides: bool) -> None:
    """Looks whether sequences are proteins without gaps.

    Args:
      path: of their file.
      found: their letters.
      gaps: what the user wants done with gaps; None: nothing was said.
      nucleotides: whether DNA and RNA are meant.

    Raises:
      UserError: they are rows of an alignment, and nothing was said of gaps; or DNA or RNA.
    """
    if not nucleotides and found.nucleotides > 0.95:
        what = "RNA" if found.counts.get("U", 0) > found.counts.get("T", 0) else "DNA"
        raise UserError(
            f"{path}: {found.nucleotides:.1%} of the letters of its first {found.sequences:,}"
            f" sequences are A, C, G, T, U or N (or mixtures of these). Is this {what}? It would be"
            " read as alanine, cysteine, glycine, threonine and so on. Name a file of proteins"
            " (transeq of EMBOSS translates), or say that these are proteins with"
            " --accept_nucleotides."
        )
    if found.three * 2 > found.sequences:
        raise UserError(
            f"{path}: {found.three:,} of its first {found.sequences:,} sequences are written in"
            " codes of three letters (MetLysVal), and each letter would be a residue. Write them in"
            " codes of one letter; `seq1` of Bio.SeqUtils (Biopython) does."
        )
    if gaps is None and found.aligned:
        raise UserError(
            f"{path} is an alignment: {found.gapped:,} of its first {found.sequences:,} sequences"
            " have gaps ('-' or '.'). --gaps strip takes the gaps out (small letters, which A2M and"
            " A3M have for residues beside the columns, become capitals); --gaps reject lists such"
            " sequences as rejected."
        )
