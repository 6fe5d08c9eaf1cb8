"""Which wells are negative controls, which positive ones, which under study: by columns of yes and
no, by columns of words (negcon, poscon_cp, trt, ctl_vehicle, EMPTY_control, …), else by names of
perturbations that are such words (DMSO).

What was found is written as pandas queries, which a user reads, and may give back as a flag.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from phenomjax.data.images.words import COLUMNS_OF_ROLES, COLUMNS_OF_SOME_ROLES, role_of
from phenomjax.maps.tables.columns import DETECT, Columns, query_of, quoted, truths

if TYPE_CHECKING:
    import pandas as pd

# names of columns, as `plain` writes them, best first
YES_OF_NEGATIVE = (
    *("isnegativecontrol", "isnegcon", "negcon", "isnegctrl", "negativecontrol", "negcontrol"),
    *(
        "negctrl",
        "isneg",
        "isnegative",
        "isnegcontrol",
        "isdmso",
        "isvehicle",
        "isuntreated",
        "ismock",
        "isnontargeting",
    ),
    *("dmso", "vehicle", "nontargeting"),
)
YES_OF_CONTROL = ("iscontrol", "control", "isctrl", "ctrl")
YES_OF_POSITIVE = (
    *("ispositivecontrol", "isposcon", "isposctrl", "isposcontrol", "ispositive", "ispos"),
    *("poscon", "positivecontrol", "poscontrol", "posctrl"),
)
VEHICLES = ("solvent", "vehicle", "pertvehicle")
OF_ROLES = (
    *("controltype", "perttype", "welltype", "role", "wellrole", "assaywellrole", "sampletype"),
    *("treatmenttype", "controlstatus", "typeofcontrol", "control", "controls"),
    *sorted(COLUMNS_OF_ROLES),
    *("perturbationtype", "broadsampletype", "assayrole", "compoundtype", "wellclass", "type"),
)
OF_NAMES = (
    *("pertiname", "treatment", "compound", "compoundname", "broadsample", "perturbation"),
    *("pertname", "name", "drug", "drugname", "sirna", "gene", "genesymbol", "symbol", "target"),
    *("perturbationname", "treatmentname", "condition", "genecode"),
    *("focibarcodematchedtogenecode", "pert", "pertid", "compoundid"),
)

# JUMP's controls by id, for tables without names: datasets/metadata/perturbation_control.csv (CC0)
JUMP = {
    "empty": ("JCP2022_999999",),
    "negative": (
        *("JCP2022_033924", "JCP2022_800001", "JCP2022_800002", "JCP2022_915128"),
        *("JCP2022_915129", "JCP2022_915130", "JCP2022_915131"),
    ),
    "positive": (
        *("JCP2022_037716", "JCP2022_025848", "JCP2022_046054", "JCP2022_035095"),
        *("JCP2022_064022", "JCP2022_050797", "JCP2022_012818", "JCP2022_085227"),
        *("JCP2022_805264", "JCP2022_915132"),
    ),
}
_NON_TARGETING = re.compile(  # of any number: siNT, sgNTC_12, shScramble, si-Control #2
    r"non?[\s_-]?target|s(i|h|g)(RNA)?[\s_-]?(NTC?|NC|Neg|Scr|Scrambled?|Ctrl|Control)([\W_\d]+|$)",
    re.IGNORECASE,
)
_JUMP = {name: role for role, names in JUMP.items() for name in names}


def column_of_words(
    metadata: "pd.DataFrame", meaning: Callable[[str], object]
) -> Callable[[str], bool]:
    """A test of columns: does a column hold nothing but words that have such a meaning?"""

    def holds(name: str) -> bool:
        values = metadata[name].dropna().unique()
        return 0 < len(values) <= 100 and all(
            isinstance(value, str) and meaning(value) is not None for value in values
        )

    return holds


def find(metadata: "pd.DataFrame", columns: Columns, called: Mapping[str, str]) -> Columns:
    """The columns with `control`, `positive` and `treatment` resolved.

    Args:
      metadata: one row a profile.
      columns: with `DETECT` where the user named nothing.
      called: plain name of each column.
    """
    words = _words(metadata, called, OF_ROLES, half=True)
    words |= _words(metadata, called, sorted(COLUMNS_OF_SOME_ROLES), whole=True)
    named = _words(metadata, called, OF_NAMES)
    jump = {
        name: {word: _JUMP[word] for word in metadata[name].unique() if word in _JUMP}
        for name, known in called.items()
        if known == "jcp2022"
    }

    def of(role: str, tables: Mapping[str, Mapping[str, str]]) -> str:
        """A query for the rows that have the role by any of some columns."""
        parts: list[str] = []
        covered = np.zeros(len(metadata), bool)
        for name, meanings in tables.items():
            chosen = [word for word, meaning in meanings.items() if meaning == role]
            rows = metadata[name].isin(chosen).to_numpy()
            if (rows & ~covered).any():
                covered |= rows
                parts.append(query_of(name, chosen))
        return " or ".join(parts)

    surely = columns.positive
    if surely == DETECT:
        surely = (
            _yes(metadata, called, YES_OF_POSITIVE)
            or of("positive", words)
            or of("positive", jump)
            or of("positive", named)
        )
    control = columns.control
    if control == DETECT:
        control = (
            _yes(metadata, called, YES_OF_NEGATIVE)
            or _without(metadata, _yes(metadata, called, YES_OF_CONTROL), surely)
            or of("negative", words)
            or of("negative", jump)
            or of("negative", named)
            or _without(metadata, of("control", words), surely)
            or _without(metadata, of("control", named), surely)
            or _nothing_but_vehicle(metadata, columns, called)
        )
    positive = surely
    if columns.positive == DETECT and not surely:  # ours says so: "control" stands for all kinds
        ours = [n for n in words if called[n] == "perturbationtype" and "control" in words[n]]
        positive = f'{quoted(ours[0])} == "control"' if ours else ""
        positive = "" if positive == control else positive
    treatment = columns.treatment
    if treatment in ("", DETECT):
        parts = []
        for name, meanings in words.items():
            chosen = [word for word, meaning in meanings.items() if meaning != "treated"]
            if "treated" in meanings.values() or "empty" in meanings.values():
                parts += [query_of(name, chosen, "not in")] if chosen else []
        called_so = {n: meanings for n, meanings in named.items() if n == columns.perturbation}
        for name, meanings in (jump | called_so).items():
            if chosen := [word for word, meaning in meanings.items() if meaning == "empty"]:
                parts.append(query_of(name, chosen, "not in"))
        treatment = " and ".join(parts)
    return replace(columns, control=control, positive=positive, treatment=treatment)


def meaning(word: str) -> str | None:
    """The role that a word means; of "0.1% DMSO" as of DMSO, of every non-targeting guide as of
    the first.
    """
    bare = re.sub(r"[\d.,]+\s*%|\(.*\)", "", word)
    if _NON_TARGETING.match(bare):
        return "negative"
    return role_of(bare)


def counts(metadata: "pd.DataFrame", columns: Columns) -> dict[str, int]:
    """Rows of each role: control, positive, study, and neither."""
    control = columns.controls(metadata)
    positive = columns.positives(metadata)
    study = columns.treatments(metadata) if columns.perturbation else ~control & ~positive
    return {
        "control": int(control.sum()),
        "positive": int((positive & ~study).sum()),
        "study": int(study.sum()),
        "neither": int((~control & ~positive & ~study).sum()),
    }


def _words(
    metadata: "pd.DataFrame",
    called: Mapping[str, str],
    known: Sequence[str],
    *,
    half: bool = False,
    whole: bool = False,
) -> dict[str, dict[str, str]]:
    """{column: {word: role}} of the columns of some names that hold words of roles.

    Args:
      metadata: one row a profile.
      called: plain name of each column.
      known: plain names of the columns, best first.
      half: only columns at least half of whose words are known.
      whole: only columns all of whose words are; short ones are not known in any other (PC and NEG
        may be genes).
    """
    found: dict[str, dict[str, str]] = {}
    for wanted in dict.fromkeys(known):
        for name, plain in called.items():
            if plain != wanted or metadata[name].dtype.kind in "bifu":
                continue
            words = [word for word in metadata[name].dropna().unique() if isinstance(word, str)]
            meanings = {word: role for word in words if (role := meaning(word)) is not None}
            if not half and not whole:
                meanings = {w: role for w, role in meanings.items() if _is_no_other_name(w)}
            least = len(words) if whole else len(words) / 2 if half else 1
            if meanings and len(meanings) >= least:
                found[name] = dict(meanings)
    return found


def _is_no_other_name(word: str) -> bool:
    """Whether a word of a role among names is no gene nor compound, as PC, NEG and NC-07 may be."""
    letters = re.sub(r"[\W\d_]", "", word)
    return len(letters) > 3 or letters.lower() == "ntc"


def _yes(metadata: "pd.DataFrame", called: Mapping[str, str], known: tuple[str, ...]) -> str:
    """The first column of some names that says yes and no, and yes at least once."""
    for wanted in known:
        for name, plain in called.items():
            if re.fullmatch(rf"{wanted}(s|wells?|txt)?", plain):
                rows = truths(metadata[name])
                if rows is not None and rows.any():
                    return name
    return ""


def _nothing_but_vehicle(
    metadata: "pd.DataFrame", columns: Columns, called: Mapping[str, str]
) -> str:
    """Wells without a perturbation's name that hold a solvent: so plate maps of the Broad Institute
    write DMSO; "" where there are none.
    """
    if columns.perturbation in metadata:
        nameless = metadata[columns.perturbation].isna()
        for name in (name for name, plain in called.items() if plain in VEHICLES):
            words = [w for w in metadata[name].dropna().unique() if meaning(str(w)) == "negative"]
            if 0 < (nameless & metadata[name].isin(words)).sum() < len(metadata):
                return f"{quoted(columns.perturbation)}.isna() and {query_of(name, words)}"
    return ""


def _without(metadata: "pd.DataFrame", control: str, positive: str) -> str:
    """What tells controls of all kinds, without the positive ones where it counts these too; ""
    where it tells no others.
    """
    if not control or not positive:
        return control
    rows, others = (Columns(control=told).controls(metadata) for told in (control, positive))
    if not (rows & others).any():
        return control
    tellings = []
    for told in (control, positive):
        if told not in metadata.columns:
            tellings.append(f"({told})")
        elif metadata[told].dtype == bool:
            tellings.append(quoted(told))
        else:
            yes = metadata[told][Columns(control=told).controls(metadata)].unique().tolist()
            tellings.append(f"({query_of(told, yes)})")
    return " and not ".join(tellings) if (rows & ~others).any() else ""
