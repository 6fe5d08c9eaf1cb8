"""Alphabets of sequences: proteins by residue, SMILES by atom, source code by byte. Ids are fixed
by name and version.
"""

import functools
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from phenomjax.system.errors import UserError, did_you_mean

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>", "<cls>", "<sep>", "<mask>")
PAD, UNK, BOS, EOS, CLS, SEP, MASK = range(len(SPECIALS))
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
RARE = "BOUZ"  # aspartate or asparagine, pyrrolysine, selenocysteine, glutamate or glutamine
VERSION = 1

# Outside brackets SMILES writes the organic subset and aromatic atoms; inside, any element
# (OpenSMILES 3.1).
_ORGANIC = "Cl Br B C N O P S F I b c n o p s *"
_AROMATIC = "se as te si"
_ELEMENTS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb
Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db
Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
_MARKS = ". - = # $ : / \\ ( ) [ ] @@ @ + % ~ > 0 1 2 3 4 5 6 7 8 9"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of an alphabet, special ones first, in the order of their ids.

    Attributes:
      name: "protein", "smiles" or "bytes".
      version: of the ids.
      tokens: one string a token; bytes are written as Latin-1 characters.
    """

    name: str
    version: int
    tokens: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: number for number, token in enumerate(self.tokens)}

    @functools.cached_property
    def table(self) -> np.ndarray:
        """[256] uint8: the id of each byte, <unk> for those that are no token (single-character
        alphabets).
        """
        table = np.full(256, UNK, np.uint8)
        for token, number in self.ids.items():
            if len(token) == 1:
                table[ord(token)] = number
        return table

    def encode(self, text: str | bytes) -> UInt8[np.ndarray, "tokens"]:
        """Ids of a text [tokens] uint8, without boundaries; what is in no token becomes <unk>."""
        if self.name == "smiles":
            text = text.decode("latin-1") if isinstance(text, bytes) else text
            return np.array([self.ids.get(token, UNK) for token in smiles_tokens(text)], np.uint8)
        data = text if isinstance(text, bytes) else text.encode("utf-8")
        return self.table[np.frombuffer(data, np.uint8)]

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids; special tokens are written by name, but <pad>, <bos> and <eos> are left
        out.
        """
        text = "".join(self.tokens[int(i)] for i in ids if i not in (PAD, BOS, EOS))
        return text.encode("latin-1").decode("utf-8", "replace") if self.name == "bytes" else text


@functools.cache
def vocabulary(name: str) -> Vocabulary:
    """The vocabulary of an alphabet.

    Proteins have the 20 amino acids, X, and the rare letters B, O, U and Z, which a bank maps to X
    unless it was prepared to keep them. SMILES is closed: brackets are opened into elements,
    digits, charges and chirality. Bytes are those that UTF-8 can hold.

    Raises:
      UserError: an unknown alphabet.
    """
    if name not in ALPHABETS:
        raise UserError(
            f"There is no alphabet '{name}'.{did_you_mean(name, ALPHABETS)} There are:"
            f" {', '.join(ALPHABETS)}."
        )
    return Vocabulary(name, VERSION, (*SPECIALS, *ALPHABETS[name]()))


def _bytes() -> list[str]:
    never = {0xC0, 0xC1, *range(0xF5, 0x100)}  # in no UTF-8 text, so that all ids fit into 8 bits
    return [chr(i) for i in range(256) if i not in never]


ALPHABETS = {
    "protein": lambda: [*AMINO_ACIDS, "X", *RARE],
    "smiles": lambda: list(
        dict.fromkeys([*_ORGANIC.split(), *_AROMATIC.split(), *_MARKS.split(), *_ELEMENTS.split()])
    ),
    "bytes": _bytes,
}
# what one token is called in logs
UNITS = {"protein": "residues", "smiles": "tokens", "bytes": "bytes"}


@functools.cache
def _pattern(inside: bool) -> re.Pattern:
    names = [
        *(_ELEMENTS if inside else "").split(),
        *(_AROMATIC if inside else "").split(),
        *_ORGANIC.split(),
        *_MARKS.split(),
    ]
    return re.compile(
        "|".join(re.escape(name) for name in sorted(set(names), key=len, reverse=True)) + "|.",
        re.DOTALL,
    )


def smiles_tokens(text: str) -> list[str]:
    """Splits a SMILES string: Cl and Br are one atom, the inside of [brackets] goes by element,
    ring numbers by digit.

    A character that SMILES does not know comes as it is, and has no id.
    """
    tokens: list[str] = []
    for part in re.split(r"(\[[^\]]*\])", text):
        tokens += _pattern(part.startswith("[")).findall(part)
    return tokens
