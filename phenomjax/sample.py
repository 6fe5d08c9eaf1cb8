"""Samples new sequences from a trained causal language model, token by token, with its memory as
the cache.

python -m phenomjax.sample --checkpoint runs/prot_txl --num 10 --length 200 --temperature 1.0 --top_p 0.95 --seed 0 --out samples.fasta
"""

import argparse
import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from phenomjax.data.sequences.vocabulary import AMINO_ACIDS, SPECIALS, UNK
from phenomjax.inference.options import check_arguments
from phenomjax.system import errors
from phenomjax.system import log as system_log
from phenomjax.system.errors import EXIT_DONE, EXIT_STOPPED, UserError
from phenomjax.system.processes import stop_on_signals
from phenomjax.tasks.causal_lm import CausalLM
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
ROWS = 64  # sequences at a time


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m phenomjax.sample",
        description=__doc__.split("\n")[0],
        epilog=(
            "A sequence ends where the model says so, or is cut at --length (end=cut). Sequence i"
            " depends on the model, --seed and i only. The log-likelihood, in nats, is that of the"
            " drawn tokens under the model as it is, without temperature and top_p. Exit codes: 0"
            " done; 2 a mistake in the arguments; 75 stopped by a signal."
        ),
    )
    add = p.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help=(
            "workdir of a causal run (its newest checkpoint), or one of its checkpoints/STEP"
            " folders"
        ),
    )
    add("--num", type=int, default=10, metavar="N", help="sequences (default 10)")
    add(
        "--length",
        type=int,
        default=200,
        metavar="N",
        help="the most tokens of a sequence, prompt included (default 200)",
    )
    add(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help=(
            "below 1 likelier tokens are drawn more often; 0 always takes the likeliest (default 1)"
        ),
    )
    add(
        "--top_p",
        type=float,
        default=1.0,
        metavar="P",
        help=(
            "draw only from the likeliest tokens that together have probability P (default 1: all)"
        ),
    )
    add("--seed", type=int, default=0, help="of the draws (default 0)")
    add(
        "--prompt",
        default="",
        metavar="TEXT",
        help="how every sequence begins, for instance MKV (default: nothing)",
    )
    add(
        "--out",
        type=Path,
        required=True,
        help="FASTA for proteins; JSON lines with `id` and `text` for SMILES and source code",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and samples."""
    args = parser().parse_args(argv)
    system_log.log_to_stderr()
    return run(args)


def run(args: argparse.Namespace) -> int:
    """Samples; returns the exit code.

    Raises:
      UserError: a mistake in the arguments, or a model that cannot write.
    """
    check(args)
    model = opening.load_sequences(args.checkpoint)
    if not isinstance(model.task, CausalLM):
        raise UserError(
            f"--checkpoint {args.checkpoint} holds a model of task '{model.config.task}', which"
            " does not write sequences from left to right. Give a run of causal_lm, such as"
            " configs/prot_txl.py."
        )
    words = model.task.words
    prompt = words.encode(args.prompt.upper() if words.name == "protein" else args.prompt)
    if (prompt == UNK).any():
        raise UserError(
            f"--prompt {args.prompt!r} has a letter that is no token of the model's alphabet"
            f" ({words.name})."
        )
    if len(prompt) >= args.length:
        raise UserError(
            f"--prompt has {len(prompt)} tokens, and --length {args.length} leaves none to sample."
            " Give a larger --length."
        )
    sampler = Sampler(model, model.task, prompt, args.length, args.temperature, args.top_p)
    lines, bar = [], system_log.Progress("sample", args.num, "sequences")
    key = jax.random.key(args.seed)
    with stop_on_signals() as stop:
        for first in range(0, args.num, ROWS):
            rows = np.arange(first, first + min(ROWS, args.num))
            for row, (tokens, ended, likelihood) in zip(rows, sampler(key, rows), strict=True):
                if row < args.num:
                    lines.append(
                        record(
                            words,
                            f"sample_{row}",
                            np.concatenate([prompt, tokens]),
                            len(tokens) + ended,
                            ended,
                            likelihood,
                        )
                    )
            bar.update(min(first + ROWS, args.num) - first)
            if stop.is_set() and first + ROWS < args.num:
                log.info("stopped; nothing was written")
                return EXIT_STOPPED
    partial = args.out.with_name(args.out.name + ".partial")
    partial.write_text("".join(lines))
    os.replace(partial, args.out)
    log.info("wrote %s: %d sequences", args.out, args.num)
    return EXIT_DONE


def check(args: argparse.Namespace) -> None:
    """Checks the numbers among the arguments."""
    check_arguments(args, num=1, length=1)
    if args.temperature < 0:
        raise UserError(
            f"--temperature is {args.temperature}; it must be 0 (always the likeliest token) or"
            " more."
        )
    if not 0 < args.top_p <= 1:
        raise UserError(
            f"--top_p is {args.top_p}; it is a probability above 0, and 1 draws from all tokens."
        )


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
        prompt: np.ndarray,
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
        words, allowed = model.task.words, np.zeros(model.config.model.vocab_size, bool)
        allowed[
            (
                [words.ids[a] for a in AMINO_ACIDS]
                if words.name == "protein"
                else range(len(SPECIALS), len(words))
            )
        ] = True
        allowed[self._last] = True
        self._allowed = allowed
        self._run = jax.jit(self._sample)

    def __call__(self, key: Array, rows: np.ndarray) -> list[tuple[np.ndarray, bool, float]]:
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

    def _sample(self, params: Any, key: Array, rows: Array) -> tuple[Array, ...]:
        batch, m = len(rows), self._task.config.model
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        shape = (batch, m.num_layers, self._cache, m.embed_dim)
        carry = {"memory": jnp.zeros(shape, self._task.dtype), "valid": jnp.zeros(batch, jnp.int32)}
        prompt = jnp.broadcast_to(jnp.asarray(self._prompt), (batch, len(self._prompt)))
        logits, carry = self._task.next_logits(params, prompt, carry)
        zero = jnp.zeros(batch, jnp.int32)
        start = (
            0,
            logits[:, -1],
            carry,
            jnp.zeros((batch, self._most), jnp.uint8),
            zero,
            zero > 0,
            jnp.zeros(batch),
        )

        def unfinished(state: tuple) -> Array:
            return (state[0] < self._most) & ~state[5].all()

        def step(state: tuple) -> tuple:
            number, logits, carry, tokens, count, ended, likelihood = state
            here = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
            token = draw(here, logits, self._allowed, self._temperature, self._top_p)
            chance = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), token[:, None], 1)[:, 0]
            likelihood = likelihood + jnp.where(ended, 0.0, chance)
            tokens = tokens.at[:, number].set(token.astype(jnp.uint8))
            count = count + jnp.where(ended, 0, 1)
            logits, carry = self._task.next_logits(params, token[:, None], carry)
            return (
                number + 1,
                logits[:, -1],
                carry,
                tokens,
                count,
                ended | (token == self._last),
                likelihood,
            )

        _, _, _, tokens, count, ended, likelihood = lax.while_loop(unfinished, step, start)
        return tokens, count, ended, likelihood


def draw(
    keys: Array, logits: Array, allowed: np.ndarray, temperature: float, top_p: float
) -> Array:
    """Draws a token of each row.

    Args:
      keys: (rows,) one a row.
      logits: (rows, vocab).
      allowed: (vocab,) bool, tokens that may come at all.
      temperature: by which logits are divided; 0 = the likeliest.
      top_p: nucleus sampling (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751): the fewest
        likeliest tokens whose probabilities sum to at least this.

    Returns:
      (rows,) int32.
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
    words: Any, name: str, tokens: np.ndarray, drawn: int, ended: bool, likelihood: float
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
    errors.exit_on_user_error(lambda: main(sys.argv[1:]))
