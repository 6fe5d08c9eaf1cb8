"""What people write for a variant of a protein, understood: A12G, A12G:K34R, HGVS (p.Lys2Arg, del,
ins, dup, delins, =), whole mutated sequences, and the many words for the wild type.

What is no variant of a whole protein (a stop, a frameshift, a date that a spreadsheet made) is a
`Problem` that says so by name.
"""

import itertools
import re
from dataclasses import dataclass
from typing import TypeAlias

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS

Mutation: TypeAlias = tuple[int, str]  # place from 0, new letter
# substitutions, sorted by place; or a whole sequence of another length
Variant: TypeAlias = list[Mutation] | str

WILD_TYPE = ("", "=", "wt", "_wt", "wildtype", "wild-type", "wild type", "_sy", "syn", "synonymous")
MISSING = ("na", "n/a", "nan", "none", "null", "#n/a", "missing", "-", "?", "p.?")
THREE = dict(
    zip(
        (
            *("Ala", "Cys", "Asp", "Glu", "Phe", "Gly", "His", "Ile", "Lys", "Leu"),
            *("Met", "Asn", "Pro", "Gln", "Arg", "Ser", "Thr", "Val", "Trp", "Tyr"),
        ),
        AMINO_ACIDS,
        strict=True,
    )
) | {"Ter": "*", "Stp": "*", "Sec": "U", "Pyl": "O", "Asx": "B", "Glx": "Z", "Xle": "J", "Xaa": "X"}
_LETTERS = {name.upper(): letter for name, letter in THREE.items()}
_RESIDUE = rf"({'|'.join(_LETTERS)}|[A-Z*])"
_PLACE = rf"{_RESIDUE}(-?\d{{1,7}})"
_RANGE = rf"{_PLACE}(?:_{_PLACE})?"
_SUBSTITUTION = re.compile(rf"{_PLACE}({'|'.join(_LETTERS)}|STOP|[A-Z*=-])")
_REGION = re.compile(rf"{_RANGE}(DELINS|DEL|INS|DUP|>|=$)([A-Z*]*|\d+)")
_THREE_LETTERS = re.compile("([A-Z][a-z][a-z]|[*])+")
# A frame that shifts, a start or an end that is lost: HGVS v21, "protein"
_SHIFT = re.compile(rf"{_PLACE}(?:{_RESIDUE})?FS.*")
_FROM_ZERO = re.compile(r"S([A-Z])(\d+)([A-Z*])")  # Sarkisyan et al. 2016: avGFP, counted from 0
_INSERTION_CODE = re.compile(rf"{_PLACE}[A-Z]{_RESIDUE}")
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DATE = re.compile(
    rf"\d{{1,2}}[- ]({_MONTHS})[a-z]*([- ]\d+)?|({_MONTHS})[a-z]*[- ]\d+"
    r"|\d{4}-\d\d-\d\d.*|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?(e[-+]?\d+)?", re.IGNORECASE)
_OTHER_MOLECULE = re.compile(r"(?:[\w.\-]+:)?([cgnmr])\.\S")
_ACCESSION = r"[\w.\-]+(?:\([\w.\-]+\))?:"
_PREFIX = re.compile(rf"^(?:{_ACCESSION})?p\.", re.IGNORECASE)
_TARGET = re.compile(rf"\s*({_ACCESSION})p\.", re.IGNORECASE)
_ENRICH = re.compile(r"[cgn]\.\S+ \(p\.([^()]+)\)")
# what typesetting makes of signs
_SIGNS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-") | {"\u2192": ">"})
# `_` and `-` also stand inside an edit (Lys2_Met4del, K-5R): they part what a letter ends and a
# residue with a number begins
_SEPARATORS = re.compile(
    rf"[:;,/|+&\s]+|(?<=[A-Z*=])[_-](?=(?:p\.)?S?(?:{'|'.join(_LETTERS)}|[A-Z])-?\d)", re.IGNORECASE
)


class Problem(ValueError):
    """Why a text is no variant that can be scored; the message follows "row N".

    Args:
      reason: what kind of fault it is, one or two words.
      message: what is wrong.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(re.sub(r"'([^']{40})[^']{40,}'", r"'\1…'", message))
        self.reason = reason


@dataclass(frozen=True)
class Edit:
    """A stretch of the wild type that is replaced.

    Attributes:
      text: as it was written.
      first, last: the positions that are replaced, as the table counts them; last = first - 1 for
        an insertion before `first`.
      claims: (position, letter of the wild type) that the text states.
      new: what stands there instead; None: the stretch a second time, after `last` (dup).
    """

    text: str
    first: int
    last: int
    claims: tuple[tuple[int, str], ...]
    new: str | None


def target(text: str) -> str:
    """The protein that a variant of HGVS says it is of, BRCA1 of BRCA1:p.Lys2Arg; else ""."""
    found = _TARGET.match(text)
    return found[1].removesuffix(":") if found else ""


def read(text: str) -> list[Edit] | str:
    """Edits of a variant ([] for the wild type), or the whole sequence that stands there.

    Raises:
      Problem: it is neither.
    """
    bare = text.translate(_SIGNS).strip().strip("\"'").strip()
    if bare.lower() in WILD_TYPE or bare.lower() in ("p.=", "p.(=)", "p.wt", "wildtype protein"):
        return []
    if bare.lower() in MISSING:
        raise Problem(
            "missing",
            f"has '{bare}' where the variant should be. If it is the wild type, write WT there",
        )
    if named := _ENRICH.findall(bare):  # what Enrich2 writes: c.76A>C (p.Ile26Leu), c.78T>C (p.=)
        bare = ";".join(dict.fromkeys(name for name in named if name != "="))
        return read(bare or "p.=")
    _refuse_what_is_no_protein(bare)
    if len(bare) > 3 and re.fullmatch(r"[A-Za-z]+\*?", bare):
        return bare.upper().removesuffix("*")
    if re.fullmatch(r"[A-Za-z*.-]+", bare) and len(bare) > 20:
        fault = "a stop" if "*" in bare else "gaps"
        raise Problem("stop" if "*" in bare else "gaps", f"has a sequence with {fault} inside")
    if re.search(r"\]\s*[;,]\s*\[", bare):
        raise Problem(
            "two alleles",
            f"has the mutant '{bare}', which is of two alleles, and so of two proteins",
        )
    bare = re.sub(r"[\[\](){}'\"]", "", bare)
    parts = [_PREFIX.sub("", part) for part in _SEPARATORS.split(_PREFIX.sub("", bare)) if part]
    parts = [part for part in parts if part]
    if not parts:
        raise Problem("not read", f"has the mutant '{text}', which names nothing")
    return [_edit(part, text.strip()) for part in parts]


def _refuse_what_is_no_protein(text: str) -> None:
    """Raises Problem for what spreadsheets make of names, and for DNA and RNA."""
    if _DATE.fullmatch(text):
        raise Problem(
            "date",
            f"has '{text}', a date: a spreadsheet such as Excel turned the name of a variant into"
            " it. Take the table as it was before, or correct the cell by hand",
        )
    if _NUMBER.fullmatch(text):
        made = ", perhaps made by a spreadsheet of a name such as E5" if "e" in text.lower() else ""
        raise Problem(
            "number",
            f"has the mutant '{text}', which is a number{made}. Perhaps another column has the"
            " variants",
        )
    if found := _OTHER_MOLECULE.match(text):
        kind = "RNA" if found[1] == "r" else "DNA"
        raise Problem(
            "DNA",
            f"has '{text}', a variant of {kind} ({found[1]}.). Name the column that has the"
            " protein's, such as hgvs_pro",
        )


def _edit(part: str, whole: str) -> Edit:
    """One edit, such as A12G, Lys2_Met4del or Lys2delinsGlyAla.

    Raises:
      Problem: it cannot be read, or not be scored.
    """
    # "ß" and its like would become two letters
    text = part.upper() if part.isascii() else ""
    shown = f"'{part}'" if part == whole else f"'{whole}', of which '{part}'"
    if found := _SUBSTITUTION.fullmatch(text):
        old, place, new = _letter(found[1]), int(found[2]), found[3]
        if new == "-":
            return Edit(part, place, place, ((place, old),), "")
        if len(found[1]) == 3 and len(new) == 1 and part[-1].islower() and not part.islower():
            raise _not_read(part, whole)  # Lys2f is no phenylalanine, but a frameshift cut short
        new = old if new == "=" else "*" if new == "STOP" else _letter(new)
        return Edit(part, place, place, ((place, old),), _checked(new, part))
    if found := _FROM_ZERO.fullmatch(text):
        place = int(found[2])
        return Edit(part, place, place, ((place, found[1]),), _checked(found[3], part))
    if _SHIFT.fullmatch(text):
        raise Problem(
            "frameshift", f"has the mutant '{part}', a frameshift, which changes all that follows"
        )
    if re.search(r"EXT", text) or re.fullmatch(r"(M|MET)1\?", text) or text in ("0", "0?"):
        raise Problem(
            "start or end",
            f"has the mutant '{part}', where the start or the end of the protein is lost",
        )
    if found := _REGION.fullmatch(text):
        return _region(found, part, shown)
    if _INSERTION_CODE.fullmatch(text):
        raise Problem(
            "insertion code",
            f"has the mutant '{part}', a position with an insertion code (52A, as in PDB files and"
            " the numbering of antibodies), which counts no residues. Renumber it by the wild type",
        )
    raise _not_read(part, whole)


def _not_read(part: str, whole: str) -> Problem:
    of_which = "which" if part == whole else f"of which '{part}'"
    return Problem(
        "not read",
        f"has the mutant '{whole}', {of_which} is not wild type, position, new amino acid, as in"
        " A12G, and no variant of HGVS, as in p.Ala12Gly",
    )


def _region(found: re.Match, part: str, shown: str) -> Edit:
    old, start, last_old, stop, kind, new = found.groups()
    first, last = int(start), int(stop or start)
    claims = [(first, _letter(old))] + ([(last, _letter(last_old))] if stop else [])
    if last < first:
        raise Problem("not read", f"has the mutant {shown}, whose end is before its beginning")
    if kind == "=":
        return Edit(part, first, first - 1, tuple(claims), "")
    three = len(old) == 3 or bool(_THREE_LETTERS.fullmatch(part[len(part) - len(new) :]))
    if kind in ("DUP", "DEL"):  # what is named behind it is what stands there
        if new and not new.isdigit():
            letters = _sequence(new, part, three=three)
            claims += [(first + i, letter) for i, letter in enumerate(letters)]
        if new and (int(new) if new.isdigit() else len(letters)) != last - first + 1:
            raise Problem(
                "not read", f"has the mutant {shown}, which names another number of residues"
            )
        return Edit(part, first, last, tuple(claims), None if kind == "DUP" else "")
    letters = _sequence(new, part, three=three)
    if kind == "INS":
        if last != first + 1:
            raise Problem(
                "not read",
                f"has the mutant {shown}: an insertion names the two residues that it is between,"
                " as in Met1_Lys2insAla",
            )
        return Edit(part, last, first, tuple(claims), letters)
    return Edit(part, first, last, tuple(claims), letters)


def counts_from_zero(edit: Edit) -> bool:
    """Whether an edit is written as in tables whose first residue is 0."""
    return bool(_FROM_ZERO.fullmatch(edit.text.upper()))


def _letter(name: str) -> str:
    return _LETTERS.get(name, name)


def _checked(letter: str, part: str) -> str:
    """A new residue.

    Raises:
      Problem: it is none of the 20.
    """
    if letter == "*":
        raise Problem(
            "stop", f"has the mutant '{part}', a stop codon: there is no whole protein to score"
        )
    if letter not in AMINO_ACIDS:
        also = " (in some tables X is a stop)" if letter == "X" else ""
        raise Problem(
            "no amino acid",
            f"has the mutant '{part}', and {letter} is none of the 20 amino acids{also}",
        )
    return letter


def _sequence(text: str, part: str, *, three: bool) -> str:
    """Inserted residues, in one or three letters.

    Raises:
      Problem: none are named, or not by residue.
    """
    if three:
        names = re.findall(r"\*|.{1,3}", text)
        known = all(name in _LETTERS or name == "*" for name in names)
        text = "".join(map(_letter, names)) if known else ""
    if not text.replace("*", "A").isalpha():
        raise Problem(
            "not read", f"has the mutant '{part}', which does not say which residues are inserted"
        )
    return "".join(_checked(letter, part) for letter in text)


def applied(edits: list[Edit] | str, wild_type: str, offset: int = 0) -> Variant:
    """A variant of a wild type.

    Args:
      edits: of `read`.
      wild_type: the sequence.
      offset: position 1 + offset is its first residue.

    Raises:
      Problem: it does not fit the wild type.
    """
    if isinstance(edits, str):
        return _of_sequence(edits, wild_type)
    spans: list[tuple[int, int, str]] = []  # replaced, from 0
    for edit in edits:
        for position, letter in edit.claims:
            _check_claim(edit.text, position, letter, wild_type, offset)
        first, last = edit.first - 1 - offset, edit.last - 1 - offset
        new = edit.new
        if new is None:
            first, last, new = last + 1, last, wild_type[first : last + 1]
        spans.append((first, last + 1, new))
    spans = sorted(span for span in spans if span[1] > span[0] or span[2])
    for (before, stop, _), (start, end, _) in itertools.pairwise(spans):
        if start < stop or before == stop == start == end:  # of two insertions none is the first
            raise Problem(
                "twice",
                f"has the mutant '{':'.join(e.text for e in edits)}', which changes position"
                f" {start + 1 + offset} twice",
            )
    if all(stop - start == len(new) for start, stop, new in spans):
        return [
            (start + i, letter)
            for start, _, new in spans
            for i, letter in enumerate(new)
            if wild_type[start + i] != letter
        ]
    parts, place = [], 0
    for start, stop, new in spans:
        parts += [wild_type[place:start], new]
        place = stop
    return "".join([*parts, wild_type[place:]])


def _check_claim(text: str, position: int, letter: str, wild_type: str, offset: int) -> None:
    place = position - 1 - offset
    if not 0 <= place < len(wild_type):
        raise Problem(
            "outside",
            f"has the mutant '{text}', but the wild type has {len(wild_type)} residues, positions"
            f" {1 + offset} to {len(wild_type) + offset}",
        )
    if wild_type[place] != letter:
        raise Problem(
            "disagrees",
            f"has the mutant '{text}', but the wild type has {wild_type[place]} at position"
            f" {position}",
        )


SAME = 0.5  # the least share of a sequence that it has in common with its wild type


def _of_sequence(sequence: str, wild_type: str) -> Variant:
    """A whole mutated sequence: as substitutions where it is as long as the wild type.

    Raises:
      Problem: it has letters that are no amino acids, or is no variant of this protein.
    """
    if strange := set(sequence) - set(AMINO_ACIDS) - set(wild_type):
        raise Problem(
            "no amino acid",
            f"has a sequence with the letter {min(strange)}, which is none of the 20 amino acids",
        )
    found = [
        (place, new)
        for place, (old, new) in enumerate(zip(wild_type, sequence, strict=False))
        if old != new
    ]
    if len(sequence) == len(wild_type) and len(found) <= (1 - SAME) * len(wild_type):
        return found
    if alike(sequence, wild_type) < SAME:
        raise Problem(
            "disagrees",
            f"has a sequence ({sequence[:12]}…, {len(sequence)} residues) that is not like the wild"
            f" type ({wild_type[:12]}…, {len(wild_type)} residues)",
        )
    return found if len(sequence) == len(wild_type) else sequence


def alike(one: str, other: str, size: int = 3) -> float:
    """About which share of the longer of two sequences both have: of the stretches of three
    residues, or of what both begin and end with.
    """
    least, most = sorted((len(one), len(other)))
    same = next((i for i in range(least) if one[i] != other[i]), least)
    turned = next((i for i in range(least - same) if one[-1 - i] != other[-1 - i]), least - same)
    words = [{s[i : i + size] for i in range(len(s) - size + 1)} for s in (one, other)]
    shared = len(words[0] & words[1]) / max(*map(len, words), 1)
    return max((same + turned) / most if most else 1.0, shared)
