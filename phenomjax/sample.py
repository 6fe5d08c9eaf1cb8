"""Samples new sequences from a trained causal language model, token by token.

python -m phenomjax.sample --checkpoint runs/prot_txl --num 10 --length 200 --temperature 1.0
  --top_p 0.95 --seed 0 --out samples.fasta

A sequence ends where the model says so, or is cut at --length (end=cut). Sequence i depends on the
model, --seed and i only. The log-likelihood, in nats, is that of the drawn tokens under the model
as it is, without temperature and top_p. Exit codes: 0 done; 2 a mistake in the arguments; 75
stopped by a signal.
"""

import json
import logging
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8
from tyro.conf import arg

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, SPECIALS, UNK, Vocabulary
from phenomjax.inference.options import Checkpoint, check_numbers_and_folder
from phenomjax.system import files
from phenomjax.system import log as system_log
from phenomjax.system.errors import EXIT_DONE, EXIT_STOPPED, UserError, exit_on_user_error
from phenomjax.system.options import run_command
from phenomjax.system.processes import stop_on_signals
from phenomjax.system.types import Carry, Params
from phenomjax.tasks.causal_lm import CausalLM
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
ROWS = 64  # sequences at a time
Count = Annotated[int, arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of `python -m phenomjax.sample`."""

    checkpoint: Checkpoint
    """workdir of a causal run (its newest checkpoint), or one of its checkpoints/STEP folders"""
    num: Count = 10
    """sequences"""
    length: Count = 200
    """the most tokens of a sequence, prompt included"""
    temperature: Annotated[float, arg(metavar="T")] = 1.0
    """below 1 likelier tokens are drawn more often; 0 always takes the likeliest"""
    top_p: Annotated[float, arg(metavar="P")] = 1.0
    """draw only from the likeliest tokens that together have probability P; 1: from all"""
    seed: int = 0
    """of the draws"""
    prompt: Annotated[str, arg(metavar="TEXT")] = ""
    """how every sequence begins, for instance MKV"""
    out: Path
    """FASTA for proteins; JSON lines with `id` and `text` for SMILES and source code"""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and samples; returns the exit code."""
    return run_command(Options, run, "python -m phenomjax.sample", __doc__ or "", argv) or EXIT_DONE


def run(options: Options) -> int:
    """Samples; returns the exit code.

    Raises:
      UserError: a mistake in the options, or a model that cannot write.
    """
    check(options)
    model = opening.load_sequences(options.checkpoint)
    prompt = _prompt(options, model)
    assert isinstance(model.task, CausalLM)
    words = model.task.words
    sampler = Sampler(model, model.task, prompt, options.length, options.temperature, options.top_p)
    lines, bar = [], system_log.Progress("sample", options.num, "sequences")
    key = jax.random.key(options.seed)
    with stop_on_signals() as stop:
        for first in range(0, options.num, ROWS):
            rows = np.arange(first, first + min(ROWS, options.num))
            for row, (tokens, ended, likelihood) in zip(rows, sampler(key, rows), strict=True):
                if row < options.num:
                    whole, drawn = np.concatenate([prompt, tokens]), len(tokens) + ended
                    lines.append(record(words, f"sample_{row}", whole, drawn, ended, likelihood))
            bar.update(min(first + ROWS, options.num) - first)
            if stop.is_set() and first + ROWS < options.num:
                log.info("stopped; nothing was written")
                return EXIT_STOPPED
    files.write_text(options.out, "".join(lines))
    log.info("wrote %s: %d sequences", options.out, options.num)
    return EXIT_DONE


def check(options: Options) -> None:
    """Raises UserError for numbers that cannot be honoured."""
    check_numbers_and_folder(options, options.out, num=1, length=1)
    if options.temperature < 0:
        raise UserError(
            f"`temperature` is {options.temperature}; it must be 0 (always the likeliest token) or"
            " more."
        )
    if not 0 < options.top_p <= 1:
        raise UserError(
            f"`top_p` is {options.top_p}; it is a probability above 0, and 1 draws from all tokens."
        )


def _prompt(options: Options, model: SequenceModel) -> UInt8[np.ndarray, " tokens"]:
    """The tokens that every sequence begins with.

    Raises:
      UserError: the model cannot write, or not so.
    """
    if not isinstance(model.task, CausalLM):
        raise UserError(
            f"`checkpoint` {options.checkpoint} holds a model of task '{model.config.task}', which"
            " does not write sequences from left to right. Give a run of causal_lm, such as"
            " configs/prot_txl.py."
        )
    words = model.task.words
    prompt = words.encode(options.prompt.upper() if words.name == "protein" else options.prompt)
    if (prompt == UNK).any():
        raise UserError(
            f"`prompt` {options.prompt!r} has a letter that is no token of the model's alphabet"
            f" ({words.name})."
        )
    if len(prompt) >= options.length:
        raise UserError(
            f"`prompt` has {len(prompt)} tokens, and `length` {options.length} leaves none to"
            " sample. Give a larger `length`."
        )
    return prompt


class _Drawn(NamedTuple):
    """The state of the loop that draws."""

    number: Int[Array, ""]
    logits: Float[Array, "rows vocab"]
    carry: Carry
    tokens: UInt8[Array, "rows most"]
    count: Int[Array, " rows"]
    ended: Bool[Array, " rows"]
    likelihood: Float[Array, " rows"]


class Sampler:
    """Draws sequences.

    Args:
      model: what is sampled from.
      task: its task.
      prompt: ids that each begins with.
      length: the most tokens of each, prompt included.
      temperature, top_p: see `draw`.
    """

    def __init__(
        self,
        model: SequenceModel,
        task: CausalLM,
        prompt: UInt8[np.ndarray, " tokens"],
        length: int,
        temperature: float,
        top_p: float,
    ):
        self._task, self._params = task, model.params
        (self._first,), (self._last,) = task.boundary
        self._prompt = np.concatenate([[self._first], prompt]).astype(np.int32)
        self._most = length - len(prompt)
        self._temperature, self._top_p = temperature, top_p
        # As far back as a token of training could see; in a shorter sequence everything.
        seen = task.inference_segment_len + task.mem_len("val")
        self._cache = min(len(prompt) + self._most + 1, seen)
        words = model.task.words
        drawn = (
            [words.ids[a] for a in AMINO_ACIDS]
            if words.name == "protein"
            else list(range(len(SPECIALS), len(words)))
        )
        self._allowed = np.zeros(model.config.model.vocab_size, bool)
        self._allowed[[*drawn, self._last]] = True
        self._run = jax.jit(self._sample)

    def __call__(
        self, key: Key[Array, ""], rows: Int[np.ndarray, " rows"]
    ) -> list[tuple[np.ndarray, bool, float]]:
        """(drawn ids without the end, whether it came to its end, log-likelihood of all that was
        drawn) for each row number.
        """
        tokens, count, ended, likelihood = jax.device_get(
            self._run(self._params, key, rows.astype(np.int32))
        )
        return [
            (t[: n - e], bool(e), float(x))
            for t, n, e, x in zip(tokens, count, ended, likelihood, strict=True)
        ]

    def _sample(
        self, params: Params, key: Key[Array, ""], rows: Int[Array, " rows"]
    ) -> tuple[Array, ...]:
        batch, m = len(rows), self._task.config.model
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        shape = (batch, m.num_layers, self._cache, m.embed_dim)
        carry = {"memory": jnp.zeros(shape, self._task.dtype), "valid": jnp.zeros(batch, jnp.int32)}
        prompt = jnp.broadcast_to(jnp.asarray(self._prompt), (batch, len(self._prompt)))
        logits, after = self._task.next_logits(params, prompt, carry)
        zero = jnp.zeros(batch, jnp.int32)
        start = _Drawn(
            jnp.int32(0),
            logits[:, -1],
            after,
            jnp.zeros((batch, self._most), jnp.uint8),
            zero,
            zero > 0,
            jnp.zeros(batch),
        )

        def unfinished(state: _Drawn) -> Bool[Array, ""]:
            return (state.number < self._most) & ~state.ended.all()

        def step(state: _Drawn) -> _Drawn:
            number, logits, carry, tokens, count, ended, likelihood = state
            here = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
            token = draw(here, logits, self._allowed, self._temperature, self._top_p)
            chance = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), token[:, None], 1)[:, 0]
            likelihood = likelihood + jnp.where(ended, 0.0, chance)
            tokens = tokens.at[:, number].set(token.astype(jnp.uint8))
            count = count + jnp.where(ended, 0, 1)
            logits, carry = self._task.next_logits(params, token[:, None], carry)
            ended = ended | (token == self._last)
            return _Drawn(number + 1, logits[:, -1], carry, tokens, count, ended, likelihood)

        end = lax.while_loop(unfinished, step, start)
        return end.tokens, end.count, end.ended, end.likelihood


def draw(
    keys: Key[Array, " rows"],
    logits: Float[Array, "rows vocab"],
    allowed: Bool[np.ndarray, " vocab"],
    temperature: float,
    top_p: float,
) -> Int[Array, " rows"]:
    """Draws a token of each row.

    Args:
      keys: one a row.
      logits: of the next token.
      allowed: tokens that may come at all.
      temperature: by which logits are divided; 0 = the likeliest.
      top_p: nucleus sampling (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751): the fewest
        likeliest tokens whose probabilities sum to at least this.

    Returns:
      int32.
    """
    logits = jnp.where(allowed, logits, -jnp.inf)
    if temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    logits = logits / temperature
    if top_p < 1:
        chance = jax.nn.softmax(logits, -1)
        falling = -jnp.sort(-chance, -1)
        before = jnp.cumsum(falling, -1) - falling  # probability of all that is likelier
        least = jnp.where(before < top_p, falling, jnp.inf).min(-1)
        logits = jnp.where(chance >= least[:, None], logits, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def record(
    words: Vocabulary, name: str, tokens: np.ndarray, drawn: int, ended: bool, likelihood: float
) -> str:
    """One sequence as FASTA, or as a line of JSON."""
    text, perplexity = words.decode(tokens), float(np.exp(-likelihood / max(drawn, 1)))
    end = "eos" if ended else "cut"
    if words.name == "protein":
        body = "\n".join(textwrap.wrap(text, 60)) + "\n" if text else ""
        return (
            f">{name} length={len(text)} end={end} log_likelihood={likelihood:.3f}"
            f" perplexity={perplexity:.3f}\n{body}"
        )
    return (
        json.dumps({"id": name, "text": text, "end": end, "log_likelihood": round(likelihood, 3)})
        + "\n"
    )


if __name__ == "__main__":
    exit_on_user_error(main)
