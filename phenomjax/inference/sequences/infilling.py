"""Fills masked positions of sequences with a permutation language model (XLNet), in any order.

Each position is predicted by the query stream from the known residues and from those filled before
it, and no other: the factorisation that the model was trained with (Yang et al. 2019,
https://arxiv.org/abs/1906.08237, equation 3). The log-likelihood of a filling is therefore that of
the training objective for the order in which it was filled.
"""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from phenomjax.data.sequences.vocabulary import MASK, RARE, UNK, Vocabulary
from phenomjax.inference.sequences.batches import WINDOW, window_width
from phenomjax.inference.sequences.drawing import draw, letters
from phenomjax.system.errors import UserError
from phenomjax.system.types import Params
from phenomjax.tasks.permutation_lm import PermutationLM
from phenomjax.trained.model import SequenceModel

Order: TypeAlias = Literal["random", "left_to_right", "confident"]

GIVEN = "filled"  # the name of a sequence that stands on the command line itself


@dataclass(frozen=True)
class Template:
    """A sequence with masked positions.

    Attributes:
      name: its id.
      tokens: ids without boundaries, MASK where a position is to be filled.
    """

    name: str
    tokens: UInt8[np.ndarray, " tokens"]

    @property
    def places(self) -> np.ndarray:
        """Masked positions, from 0."""
        return np.flatnonzero(self.tokens == MASK)


class Filled(NamedTuple):
    """A filled template.

    Attributes:
      tokens: all of them.
      places: that were filled, in that order, from 0.
      log_probs: nats, of the token at each of them under the model as it is.
    """

    tokens: UInt8[np.ndarray, " tokens"]
    places: Int[np.ndarray, " filled"]
    log_probs: Float[np.ndarray, " filled"]


def template(words: Vocabulary, rare: str, name: str, text: str, mask: str) -> Template:
    """A template from its text.

    Args:
      words: the model's alphabet.
      rare: what the model's banks did with rare letters of proteins.
      name: of the record.
      text: letters, and `mask` for each position to fill.
      mask: one character.

    Raises:
      UserError: nothing to fill, or letters that the model does not read.
    """
    if words.name == "protein":
        text, mask = text.upper().replace(" ", ""), mask.upper()
    if mask not in text:
        x = " Or is X meant? Give `mask` X." if words.name == "protein" and "X" in text else ""
        raise UserError(
            f"{_record(name)} has no masked position. Write '{mask}' for each residue that is to"
            f" be filled, as in MK{mask}{mask}V, or name another sign with `mask`.{x}"
        )
    parts = []
    for piece in text.split(mask):
        read = piece
        if words.name == "protein" and rare == "x":
            read = piece.translate(str.maketrans(RARE + "J", "X" * (len(RARE) + 1)))
        ids = words.encode(read)
        if (ids == UNK).any() or (rare == "reject" and set(read) & set(RARE)):
            bad = next((c for c in read if (words.encode(c) == UNK).all() or c in RARE), "?")
            raise UserError(
                f"{_record(name)} has {bad!r}, which is no token that the model reads"
                f" ({words.name}). Correct it; positions to fill are written '{mask}' (`mask`)."
            )
        parts += [ids, np.array([MASK], np.uint8)]
    return Template(name, np.concatenate(parts[:-1]))


def _record(name: str) -> str:
    return "`fill`" if name == GIVEN else f"The record {name} of `fill`"


class _State(NamedTuple):
    """What a step of filling changes."""

    tokens: UInt8[Array, "rows seq"]
    rank: Int[Array, "rows seq"]
    is_open: Bool[Array, "rows seq"]
    # places, tokens and log-probabilities in the order of filling
    found: tuple[Array, Array, Array]


class Filler:
    """Fills templates.

    Args:
      model: of a permutation language model.
      task: its task.
      order: in which positions are filled: "random" by the seed, "left_to_right", or "confident":
        the one whose likeliest token is the likeliest comes next.
      temperature, top_p, top_k: see `draw`.
    """

    def __init__(
        self,
        model: SequenceModel,
        task: PermutationLM,
        order: Order,
        temperature: float,
        top_p: float,
        top_k: int = 0,
    ):
        self._task, self._params, self._order = task, model.params, order
        self._allowed = letters(task.words, model.config.model.vocab_size)
        self._draw = functools.partial(
            draw, allowed=self._allowed, temperature=temperature, top_p=top_p, top_k=top_k
        )
        self._run = jax.jit(self._fill)

    def __call__(self, key: Key[Array, ""], wanted: Template, rows: Sequence[int]) -> list[Filled]:
        """Fillings of a template; number i of them depends on the key, the template and i only.

        Args:
          key: of the seed.
          wanted: what is filled.
          rows: numbers of the fillings.

        Raises:
          UserError: the masked positions of a long sequence are too far apart.
        """
        before, after = (np.array(ids, np.uint8) for ids in self._task.boundary)
        framed = np.concatenate([before, wanted.tokens, after])
        places = wanted.places + len(before)
        size = window_width(len(framed))
        start = self._start(wanted.name, places, len(framed), size)
        part = framed[start : start + size]
        tokens = np.zeros((len(rows), size), np.uint8)
        tokens[:, : len(part)] = part
        # of its own, so that what else is filled has no say
        key = jax.random.fold_in(key, zlib.crc32(wanted.name.encode() + wanted.tokens.tobytes()))
        # padded with the first, so that few shapes are compiled
        at = np.full(1 << (len(places) - 1).bit_length(), places[0] - start, np.int32)
        at[: len(places)] = places - start
        arrays = np.asarray(rows, np.int32), tokens, at, np.int32(len(places))
        with jax.default_matmul_precision("float32"):
            found = self._run(self._params, key, *map(jnp.asarray, arrays))
        order, drawn, log_probs = (x[:, : len(places)] for x in jax.device_get(found))
        filled = []
        for row in range(len(rows)):
            whole = framed.copy()
            whole[start + order[row]] = drawn[row]
            kept = whole[len(before) : len(whole) - len(after)]
            filled.append(
                Filled(kept, start + order[row] - len(before), log_probs[row].astype(np.float64))
            )
        return filled

    def _start(self, name: str, places: np.ndarray, length: int, size: int) -> int:
        """The first token that is read."""
        first, last = int(places[0]), int(places[-1])
        if length > size and last - first >= size:
            raise UserError(
                f"{name} is longer than the {WINDOW} tokens that are read at once, and its masked"
                f" positions are {last - first + 1} apart. Fill them in parts: first some that are"
                " nearer to each other, then the others in the result."
            )
        return int(np.clip((first + last + 1) // 2 - size // 2, 0, max(length - size, 0)))

    def _fill(
        self,
        params: Params,
        key: Key[Array, ""],
        rows: Int[Array, " rows"],
        tokens: UInt8[Array, "rows seq"],
        places: Int[Array, " masked"],
        number: Int[Array, ""],
    ) -> tuple[Int[Array, "rows masked"], UInt8[Array, "rows masked"], Float[Array, "rows masked"]]:
        """(places, tokens, log-probabilities), each in the order of filling."""
        count, most, every = len(rows), len(places), jnp.arange(len(rows))
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        orders = targets = jnp.broadcast_to(places, (count, most))
        if self._order == "random":

            def shuffled(key: Key[Array, ""]) -> Int[Array, " masked"]:
                lots = jax.random.uniform(jax.random.fold_in(key, 0), (most,))
                return places[jnp.argsort(jnp.where(jnp.arange(most) < number, lots, jnp.inf))]

            orders = jax.vmap(shuffled)(keys)
        is_open = jnp.zeros(tokens.shape, bool).at[:, places].set(True)
        rank = jnp.zeros(tokens.shape, jnp.int32)
        found = (
            jnp.zeros((count, most), jnp.int32),
            jnp.zeros((count, most), jnp.uint8),
            jnp.zeros((count, most)),
        )

        def step(turn: Int[Array, ""], state: _State) -> _State:
            tokens, rank, is_open, (order, drawn, log_probs) = state
            # all that is open comes next, and is seen by nobody yet
            rank = jnp.where(is_open, turn + 1, rank)
            if self._order == "confident":
                logits = self._task.ordered_logits(params, tokens, rank, targets)
                chosen = self._likeliest(logits, is_open[:, places])
                place, logits = places[chosen], logits[every, chosen]
            else:
                place = orders[:, turn]
                logits = self._task.ordered_logits(params, tokens, rank, place[:, None])[:, 0]
            here = jax.vmap(lambda k: jax.random.fold_in(k, turn + 1))(keys)
            token = self._draw(here, logits)
            chance = jax.nn.log_softmax(logits, -1)[every, token]
            letter = token.astype(jnp.uint8)
            return _State(
                tokens.at[every, place].set(letter),
                rank,
                is_open.at[every, place].set(False),
                (
                    order.at[:, turn].set(place),
                    drawn.at[:, turn].set(letter),
                    log_probs.at[:, turn].set(chance),
                ),
            )

        start = _State(tokens, rank, is_open, found)
        return jax.lax.fori_loop(0, number, step, start).found

    def _likeliest(
        self, logits: Float[Array, "rows masked vocab"], is_open: Bool[Array, "rows masked"]
    ) -> Int[Array, " rows"]:
        """The open position whose likeliest token is the likeliest."""
        chance = jnp.where(self._allowed, jax.nn.log_softmax(logits, -1), -jnp.inf).max(-1)
        return jnp.where(is_open, chance, -jnp.inf).argmax(-1)
