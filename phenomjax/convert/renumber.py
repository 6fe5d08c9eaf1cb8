"""Gives the tokens of another project's language model the ids that our vocabulary has for them."""

import logging
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from phenomjax.data.sequences.vocabulary import SPECIALS, Vocabulary
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params

log = logging.getLogger("phenomjax")
# Names that others have for our special tokens.
SPECIAL_NAMES = {
    "<pad>": ("[PAD]",),
    "<unk>": ("[UNK]",),
    "<bos>": ("<s>", "<S>"),
    "<eos>": ("</s>", "</S>", "<eod>"),
    "<cls>": ("[CLS]",),
    "<sep>": ("[SEP]",),
    "<mask>": ("[MASK]",),
}


def renumber(
    params: Params, paths: Sequence[str], theirs: Sequence[str], words: Vocabulary
) -> Params:
    """Parameters with the rows of the vocabulary in the order of our ids.

    Args:
      params: unboxed.
      paths: parameters, "a/b/c", whose first axis is the vocabulary.
      theirs: their tokens in the order of their ids; SentencePiece's mark of a word's beginning is
        left out.
      words: our vocabulary; a token that they do not have gets the row of their unknown one.

    Raises:
      UserError: another number of tokens than rows, or neither an amino acid nor an unknown token
        in their list.
    """
    ids = {
        token.strip().lstrip("\u2581"): number
        for number, token in enumerate(theirs)
        if token.strip("\u2581 ")
    }
    names = {
        token: next((n for n in (token, *SPECIAL_NAMES.get(token, ())) if n in ids), None)
        for token in words.tokens
    }
    known = [token for token, name in names.items() if name is not None and token not in SPECIALS]
    if not known or names["<unk>"] is None:
        raise UserError(
            f"`vocabulary` lists {len(theirs)} tokens ({', '.join(list(ids)[:6])}, …), and among"
            f" them {'no token of the ' + words.name + ' vocabulary' if not known else 'no <unk>'}."
            " Give a file with one token a line, in the order of the ids of these weights."
        )
    missing = [token for token, name in names.items() if name is None]
    log.info(
        "tokens renumbered: %d by name; %s as their unknown token",
        len(names) - len(missing),
        " ".join(missing) or "none",
    )
    rows = np.array([ids[name or names["<unk>"]] for name in names.values()])
    flat = traverse_util.flatten_dict(params, sep="/")
    for path in paths:
        if len(flat[path]) != len(theirs):
            raise UserError(
                f"`vocabulary` lists {len(theirs)} tokens, and the weights have {len(flat[path])}"
                f" ({path}). Give the list of these weights."
            )
        flat[path] = jnp.asarray(flat[path])[rows]
    return traverse_util.unflatten_dict(flat, sep="/")
