"""Samples new sequences from a trained causal language model, token by token; or fills masked
positions of sequences with XLNet, in any order.

python -m phenomjax.sample --checkpoint runs/prot_txl --num 10 --length 200 --temperature 1.0
  --top_p 0.95 --seed 0 --out samples.fasta
python -m phenomjax.sample --checkpoint runs/prot_xlnet --fill MKT__IAKQ --num 5 --out filled.fasta

A sequence ends where the model says so, or is cut at --length (end=cut). Sequence i depends on the
model, --seed and i only. The log-likelihood, in nats, is that of the drawn tokens under the model
as it is, without temperature, top_p and top_k.

--fill takes a sequence, or a file of them (FASTA, or one a line), in which `_` stands for each
position to fill (--mask names another sign). Each position is predicted from the known residues and
those filled before it; the log-likelihood is the sum over them, and OUT.positions.csv lists each
with its step and log-probability. Filling i of a record depends on the model, the record, --seed
and i only. Exit codes: 0 done; 2 a mistake in the arguments; 75
stopped by a signal.
"""

import json
import logging
import math
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8
from tyro.conf import arg

from phenomjax.data.sequences.vocabulary import UNK, Vocabulary
from phenomjax.inference.options import Checkpoint, check_numbers_and_folder
from phenomjax.inference.sequences import infilling, templates
from phenomjax.inference.sequences.drawing import draw, letters
from phenomjax.system import ending, files
from phenomjax.system import log as system_log
from phenomjax.system.errors import EXIT_DONE, EXIT_STOPPED, UserError, exit_on_user_error
from phenomjax.system.options import run_command
from phenomjax.system.outputs import Overwrite
from phenomjax.system.processes import stop_on_signals
from phenomjax.system.types import Carry, Params
from phenomjax.tasks.causal_lm import CausalLM
from phenomjax.tasks.permutation_lm import PermutationLM
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel

log = logging.getLogger("phenomjax")
TABLES = (".csv", ".tsv", ".parquet", ".xlsx", ".zarr", ".h5", ".npz")  # that are not written
ROWS = 64  # sequences at a time
FILL_TOKENS = 2**14  # of the sequences that are filled at a time
Count = Annotated[int, arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Options(Overwrite):
    """Of `python -m phenomjax.sample`."""

    GROUPS: ClassVar[dict[str, str]] = {"temperature": "sampling", "fill": "fill", "out": ""}

    checkpoint: Checkpoint
    """workdir of a causal run (its newest checkpoint; `fill`: of XLNet), or one of its
    checkpoints/STEP folders"""
    num: Count = 10
    """sequences; `fill`: of each record"""
    length: Count = 200
    """the most tokens of a sequence, prompt included; `fill`: as its records are"""
    temperature: Annotated[float, arg(metavar="T")] = 1.0
    """below 1 likelier tokens are drawn more often; 0 always takes the likeliest"""
    top_p: Annotated[float, arg(metavar="P")] = 1.0
    """draw only from the likeliest tokens that together have probability P; 1: from all"""
    top_k: Count = 0
    """draw only from the N likeliest tokens; 0: from all"""
    seed: int = 0
    """of the draws"""
    prompt: Annotated[str, arg(metavar="TEXT")] = ""
    """how every sequence begins, for instance MKV"""
    fill: Annotated[str, arg(metavar="TEXT|FILE")] = ""
    """a sequence with masked positions, such as MKT__IAKQ, or a file with such sequences"""
    mask: Annotated[str, arg(metavar="SIGN")] = "_"
    """what stands for a position to fill, one character"""
    order: infilling.Order = "random"
    """in which masked positions are filled: random (by the seed), left_to_right, or confident (the
    position next whose likeliest residue is the likeliest)"""
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
    # what is filled is compared by its likelihood, as `score` computes it
    model = opening.load_sequences(options.checkpoint, "float32" if options.fill else "")
    _check_ending(options.out, model.task.words.name)
    lines: list[str] = []
    with stop_on_signals() as stop:
        if options.fill:
            table = _fill(options, model, lines, stop)
        else:
            table = None
            _sample(options, model, lines, stop)
        if stop.is_set() and not lines:
            log.info("stopped; nothing was written")
            return EXIT_STOPPED
    if table is not None:
        files.write_text(_positions(options.out), table)
    files.write_text(options.out, "".join(lines))
    ending.wrote(options.out, system_log.counted(len(lines), "sequence"))
    if model.task.words.name == "protein":
        ending.then(
            "embed them",
            "python -m phenomjax.embed sequences --checkpoint {} --source {} --out samples.zarr",
            options.checkpoint,
            options.out,
        )
    return EXIT_DONE


def _sample(
    options: Options, model: SequenceModel, lines: list[str], stop: threading.Event
) -> None:
    """Adds sampled records to `lines`; leaves none if it was stopped."""
    prompt = _prompt(options, model)
    assert isinstance(model.task, CausalLM)
    words = model.task.words
    how = options.temperature, options.top_p, options.top_k
    sampler = Sampler(model, model.task, prompt, options.length, *how)
    bar = system_log.Progress("sample", options.num, "sequences")
    key = jax.random.key(options.seed)
    for first in range(0, options.num, ROWS):
        rows = np.arange(first, first + min(ROWS, options.num))
        for row, (tokens, ended, likelihood) in zip(rows, sampler(key, rows), strict=True):
            if row < options.num:
                whole, drawn = np.concatenate([prompt, tokens]), len(tokens) + ended
                lines.append(record(words, f"sample_{row}", whole, drawn, ended, likelihood))
        bar.update(min(first + ROWS, options.num) - first)
        if stop.is_set() and first + ROWS < options.num:
            lines.clear()
            return


def _fill(options: Options, model: SequenceModel, lines: list[str], stop: threading.Event) -> str:
    """Adds filled records to `lines`, none if it was stopped; returns the table of positions.

    Raises:
      UserError: the model cannot fill, or there is nothing to fill.
    """
    task = model.task
    if not isinstance(task, PermutationLM):
        raise UserError(
            f"`checkpoint` {options.checkpoint} holds a model of task '{model.config.task}', which"
            " cannot fill positions between known ones: it predicts in one direction. Give a run of"
            " permutation_lm, such as configs/prot_xlnet.py."
        )
    texts = templates.read(options.fill, task.words.name)
    wanted = [
        infilling.template(task.words, task.rare, name, text, options.mask) for name, text in texts
    ]
    how = options.temperature, options.top_p, options.top_k
    filler = infilling.Filler(model, task, options.order, *how)
    table = ["id,step,position,token,log_probability"]
    bar = system_log.Progress("fill", len(wanted) * options.num, "sequences")
    key = jax.random.key(options.seed)
    for template in wanted:
        most = min(ROWS, max(FILL_TOKENS // len(template.tokens), 1))
        for first in range(0, options.num, most):
            rows = range(first, min(first + most, options.num))
            for row, filled in zip(rows, filler(key, template, rows), strict=True):
                name = f"{template.name}_{row}"
                lines.append(templates.record(task.words, name, filled, options.order))
                table += templates.positions(task.words, name, filled)
            bar.update(len(rows))
            if stop.is_set():
                lines.clear()
                return ""
    return "\n".join(table) + "\n"


def _positions(out: Path) -> Path:
    return out.with_name(f"{out.name}.positions.csv")


def check(options: Options) -> None:
    """Raises UserError for numbers that cannot be honoured."""
    check_numbers_and_folder(options, options.out, num=1, length=1, top_k=0)
    if options.fill and options.out.exists() and str(options.out) == options.fill:
        raise UserError(f"`out` {options.out} is what is read: give another name.")
    if not 0 <= options.seed < 2**32:
        raise UserError(f"`seed` is {options.seed}; it is a number from 0 to 4294967295.")
    if options.fill and options.prompt:
        raise UserError(
            "`prompt` begins new sequences, and `fill` fills those that are given: give one of the"
            " two."
        )
    for name, usual in (("mask", "_"), ("order", "random")):
        if not options.fill and getattr(options, name) != usual:
            raise UserError(f"`{name}` goes with `fill`, which names what is to be filled.")
    if len(options.mask) != 1 or options.mask in ">*" or options.mask.isspace():
        raise UserError(
            f"`mask` is {options.mask!r}; it is one sign that stands for a position, such as _ or"
            " X."
        )
    if not 0 <= options.temperature < math.inf:
        raise UserError(
            f"`temperature` is {options.temperature}; it must be 0 (always the likeliest token) or"
            " more."
        )
    if not 0 < options.top_p <= 1:
        raise UserError(
            f"`top_p` is {options.top_p}; it is a probability above 0, and 1 draws from all tokens."
        )


def _check_ending(out: Path, alphabet: str) -> None:
    """Raises UserError for a name that says that the file is something else than it will be."""
    others = (".jsonl", ".json") if alphabet == "protein" else (".fasta", ".fa", ".faa")
    if out.suffix.lower() in (*TABLES, *others):
        what, end = ("FASTA", ".fasta") if alphabet == "protein" else ("JSON lines", ".jsonl")
        raise UserError(
            f"`out` {out} would be {what}, and its name ends in {out.suffix}. Give a name such as"
            f" {out.with_suffix(end).name}."
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
            " configs/prot_txl.py; or name what an XLNet is to fill with `fill`."
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
      temperature, top_p, top_k: see `draw`.
    """

    def __init__(
        self,
        model: SequenceModel,
        task: CausalLM,
        prompt: UInt8[np.ndarray, " tokens"],
        length: int,
        temperature: float,
        top_p: float,
        top_k: int = 0,
    ):
        self._task, self._params = task, model.params
        (self._first,), (self._last,) = task.boundary
        self._prompt = np.concatenate([[self._first], prompt]).astype(np.int32)
        self._most = length - len(prompt)
        self._how = temperature, top_p, top_k
        # As far back as a token of training could see; in a shorter sequence everything.
        seen = task.inference_segment_len + task.mem_len("val")
        self._cache = min(len(prompt) + self._most + 1, seen)
        self._allowed = letters(model.task.words, model.config.model.vocab_size)
        self._allowed[self._last] = True
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
            token = draw(here, logits, self._allowed, *self._how)
            chance = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), token[:, None], 1)[:, 0]
            likelihood = likelihood + jnp.where(ended, 0.0, chance)
            tokens = tokens.at[:, number].set(token.astype(jnp.uint8))
            count = count + jnp.where(ended, 0, 1)
            logits, carry = self._task.next_logits(params, token[:, None], carry)
            ended = ended | (token == self._last)
            return _Drawn(number + 1, logits[:, -1], carry, tokens, count, ended, likelihood)

        end = lax.while_loop(unfinished, step, start)
        return end.tokens, end.count, end.ended, end.likelihood


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
