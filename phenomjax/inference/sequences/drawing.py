"""Draws tokens from what a model predicts."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, SPECIALS, Vocabulary


def letters(words: Vocabulary, size: int) -> Bool[np.ndarray, " vocab"]:
    """Tokens that may be drawn: the 20 amino acids; of other alphabets all that are not special.

    Args:
      words: the alphabet.
      size: of the model's vocabulary.
    """
    drawn = (
        [words.ids[a] for a in AMINO_ACIDS]
        if words.name == "protein"
        else list(range(len(SPECIALS), len(words)))
    )
    allowed = np.zeros(size, bool)
    allowed[drawn] = True
    return allowed


def draw(
    keys: Key[Array, " rows"],
    logits: Float[Array, "rows vocab"],
    allowed: Bool[np.ndarray, " vocab"],
    temperature: float,
    top_p: float,
    top_k: int = 0,
) -> Int[Array, " rows"]:
    """Draws a token of each row.

    Args:
      keys: one a row.
      logits: of the token.
      allowed: tokens that may come at all.
      temperature: by which logits are divided; 0 = the likeliest.
      top_p: nucleus sampling (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751): the fewest
        likeliest tokens whose probabilities sum to at least this.
      top_k: only this many likeliest tokens, before top_p; 0 = all.

    Returns:
      int32.
    """
    logits = jnp.where(allowed, logits, -jnp.inf)
    if temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        least = -jnp.sort(-logits, -1)[:, top_k - 1 : top_k]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if top_p < 1:
        chance = jax.nn.softmax(logits, -1)
        falling = -jnp.sort(-chance, -1)
        before = jnp.cumsum(falling, -1) - falling  # probability of all that is likelier
        smallest = jnp.where(before < top_p, falling, jnp.inf).min(-1)
        logits = jnp.where(chance >= smallest[:, None], logits, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
