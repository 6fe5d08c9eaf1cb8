"""What a command that made a bank says at its end: how to look at it, and how to train on it."""

from collections.abc import Sequence
from pathlib import Path

from phenomjax.data import store
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.sequences.bank import TokenBank
from phenomjax.system import ending

CROP, PATCH = 256, 16  # px, of the configuration of images
CONFIGS = {  # small models
    "images": "configs/mae.py:S/16",
    "protein": "configs/prot_txl.py:small",
    "smiles": "configs/smiles_txl.py:small",
    "bytes": "configs/code_txl.py:small",
}


def look(out: Path) -> None:
    """How to see what is in a bank."""
    ending.then("look at it", "python -m phenomjax.prepare inspect {}", store.url(out))


def train(banks: Sequence[ImageBank | TokenBank], selection: Path | None = None) -> None:
    """How to train on banks, or on what a list chooses of them."""
    first = banks[0]
    kind = first.vocabulary.name if isinstance(first, TokenBank) else "images"
    words = [f"--config.data.banks={store.url(bank.path)}" for bank in banks]
    words += [f"--config.data.selection={selection}"] if selection else []
    if isinstance(first, ImageBank) and (side := min(first.shape[1:3])) < CROP:
        words.append(f"--config.data.crop_size={side // PATCH * PATCH}")
    ending.then(
        "train on it",
        "python -m phenomjax.main --config {} --workdir {}" + " {}" * len(words),
        *(CONFIGS[kind], Path("runs") / (selection or first.path).stem, *words),
    )
