"""Words of experiments' tables: yes and no, types of perturbations, roles of wells."""

import re
from typing import Literal

from phenomjax.data.images.metadata import PERTURBATION_TYPES

# with what Excel writes in German, French, Spanish and Italian
TRUE = frozenset(
    {"1", "1.0", "-1", "-1.0", "true", "yes", "t", "y", "wahr", "vrai", "verdadero", "vero"}
)
FALSE = frozenset({"0", "0.0", "false", "no", "f", "n", "falsch", "faux", "falso"})
_TYPES = {
    **{name: name for name in PERTURBATION_TYPES},
    **{"cp": "compound", "drug": "compound", "smallmolecule": "compound", "chemical": "compound"},
    **{"crisprko": "crispr", "crisprknockout": "crispr", "knockout": "crispr", "cas9": "crispr"},
    **{"sgrna": "crispr", "rnai": "sirna", "overexpression": "orf", "cdna": "orf"},
}
Role = Literal["negative", "positive", "treated", "empty", "control"]
# names of columns, as `plain` writes them, that hold roles where their values are such words
COLUMNS_OF_ROLES = frozenset(
    {
        *("role", "welltype", "perttype", "controltype", "negconcontroltype", "wellrole"),
        *("sampletype", "treatmenttype", "contenttype", "control", "controls"),
    }
)
# and those that hold them where all their values are, some of them controls
COLUMNS_OF_SOME_ROLES = frozenset(
    {"content", "treatment", "wellcontent", "wellcategory", "category", "condition", "group"}
)
_WORDS: dict[Role, tuple[str, ...]] = {
    "negative": (
        *("negcon", "negativecontrol", "negcontrol", "negctrl", "negctl", "negative", "neg", "nc"),
        *("nontargeting", "nontargetingcontrol", "nontargeted", "nontarget", "ntc", "noguide"),
        *("scrambled", "scramble", "scrambledcontrol", "vehicle", "vehiclecontrol", "dmso"),
        *("dmsocontrol", "solvent", "solventcontrol", "mock", "mockcontrol", "untreated"),
        *("untreatedcontrol", "nocut", "cuttingcontrol", "ctlvehicle", "ctlvector", "ctluntrt"),
        *("crisprcontrol", "controlnegative", "lowcontrol", "nct", "neutral", "neutralcontrol"),
        *("emptycontrol", "safeharbor", "intergenic", "nontargetingguide", "notargeting"),
        *("dimethylsulfoxide", "dimethylsulphoxide", "dmsoctrl", "dmsoctl", "notreatment"),
        *("nodrug", "nocompound", "water", "h2o", "pbs", "lacz", "luciferase", "egfp"),
        *("safetargeting", "allstars", "allstarsnegativecontrol", "negctrlsirna"),
    ),
    "positive": (
        *("poscon", "positivecontrol", "poscontrol", "posctrl", "posctl", "positive", "pos", "pc"),
        *("posconcp", "poscondiverse", "posconorf", "poscondrug", "trtposcon", "highcontrol"),
        *("controlpositive", "inhibitorcontrol", "stimulatorcontrol"),
    ),
    "treated": (
        *("trt", "treatment", "treated", "sample", "test", "compound", "drug", "perturbation"),
        *("library", "experimental", "targeting", "trtcp", "trtsh", "trtoe", "trtxpr", "sirna"),
        *("crispr", "orf", "gene", "treat", "perturbed", "notcontrol", "notacontrol", "noncontrol"),
    ),
    "empty": (
        *("empty", "blank", "nocells", "unused", "media", "medium", "mediaonly", "emptywell"),
        *("background",),
    ),
    "control": ("control", "ctrl", "ctl", "controls"),
}
_ROLES: dict[str, Role] = {word: role for role, words in _WORDS.items() for word in words}


def plain(column: str) -> str:
    """A column's name as it is compared: "Metadata_Well Position" -> "wellposition"."""
    return re.sub(r"[\W_]", "", column.lower().removeprefix("metadata_"))


def type_of(text: str) -> str | None:
    """The bank's perturbation type that a word means."""
    return _TYPES.get(plain(text).removesuffix("s"), _TYPES.get(plain(text)))


def role_of(word: str) -> Role | None:
    """The role that a word means; None of an unknown word."""
    found = _ROLES.get(plain(word))
    if found is None and (match := re.fullmatch(r"(\D+?)\d{1,2}", plain(word))):
        found = _ROLES.get(match[1])  # negcon1, poscon2; but compound1 is a perturbation
        found = None if found == "treated" else found
    return found
