"""What the language-model tasks share: banks, lanes, cross entropy, and a picture of what is
predicted.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Shaped
from ml_collections import ConfigDict

from phenomjax.cluster import messages
from phenomjax.config import batches, mixtures
from phenomjax.data import node_cache
from phenomjax.data.selections import choose
from phenomjax.data.sequences import staging
from phenomjax.data.sequences.bank import BOUNDARIES, TokenBank, open_token_bank
from phenomjax.data.sequences.corpus import Corpus
from phenomjax.data.sequences.lanes import LaneLoader
from phenomjax.data.sequences.vocabulary import SPECIALS, Vocabulary, vocabulary
from phenomjax.data.simulated import families
from phenomjax.data.staging import folder_of
from phenomjax.models import layers
from phenomjax.system.errors import UserError
from phenomjax.system.types import Batch, Carry, Figure, Params
from phenomjax.tasks import pictures
from phenomjax.tasks.protocol import Loader, Sums, reading

Tokens = Integer[Array, "rows directions seq"]
Features = Float[Array, "rows directions seq dim"]


class LanguageModel:
    """Base of the language-model tasks; a subclass adds the model and its objective.

    Args:
      config: reads `model.*`, `data.*`, `seed` and `global_batch_size`.

    A trained model is used through `inference_carry`, `embed` and `segment_log_probs`
    (phenomjax/inference/sequences/segments.py). They read segments (rows, directions, seq) of
    framed sequences, one after the other, in *reading order*: in direction 1, if there is one, the
    sequence is turned around. Padding comes last and changes nothing.

    Attributes:
      directions: 1, or 2 for a model that also reads backwards.
      scoring: "sequence", likelihoods of whole sequences by `segment_log_probs`; "masked", of
        single tokens by `masked_log_probs`.
      axis_label: what the positions of a picture are.
      next_command: see `Task`.
    """

    directions = 1
    scoring = "sequence"
    axis_label = "position"
    next_command = (
        "python -m phenomjax.embed --checkpoint {workdir} --source proteins.fasta"
        " --out embeddings.zarr"
    )

    @property
    def words(self) -> Vocabulary:
        """The vocabulary that the model reads; its banks may be gone."""
        return vocabulary_of(self.config)

    @property
    def rare(self) -> str:
        """What the banks did with rare letters, a name in encode.RARE_RULES."""
        return self.config.model.rare or "x"

    @property
    def num_feature_layers(self) -> int:
        """Layers that `embed` can be asked for."""
        return self.config.model.num_layers + 1

    def __init__(self, config: ConfigDict):
        self.config = config

    @staticmethod
    def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
        """Simulates the banks if that is asked for, and fills `data.banks`, `model.vocab_size` and
        what else the model must know of them.

        Raises:
          UserError: the vocabulary of a bank is larger than `model.vocab_size`.
        """
        with config.copy_and_resolve_references().unlocked() as config:
            if not config.data.banks:
                config.data.banks = (str(simulate_bank(config, workdir)),)
            node_cache.use(config.data.cache, config.data.cache_gb)
            for path in config.data.banks:
                needed = len(open_token_bank(path).vocabulary)
                config.model.vocab_size = config.model.vocab_size or needed
                if needed > config.model.vocab_size:
                    raise UserError(
                        f"config.model.vocab_size is {config.model.vocab_size}, but the bank {path}"
                        f" has {needed} tokens. Set --config.model.vocab_size={needed}, or 0 to"
                        " take it from the banks."
                    )
            bank, m = open_token_bank(config.data.banks[0]), config.model
            if "cutoffs" in m and max(m.cutoffs, default=0) >= m.vocab_size:
                raise UserError(
                    f"config.model.cutoffs {tuple(m.cutoffs)}: a cluster begins at"
                    f" {max(m.cutoffs)}, and there are tokens 0 to {m.vocab_size - 1} alone, so"
                    ' nothing would be in it. Set --config.model.cutoffs="()", or lower ones.'
                )
            prepared = bank.attributes["options"].get("prepare") or {}
            m.alphabet, m.boundary, m.rare = (
                bank.vocabulary.name,
                bank.boundary,
                prepared.get("rare", "x"),
            )
        return config.lock()

    @property
    def dtype(self) -> jnp.dtype:
        """The compute type; asks for the backend."""
        return layers.compute_dtype(self.config.model.dtype)

    def banks(self) -> list[TokenBank]:
        """The configured banks, staged if that is asked for."""
        node_cache.use(self.config.data.cache, self.config.data.cache_gb)
        setting = self.config.data.staging
        folder = folder_of(setting) if setting else None
        return [
            open_token_bank(staging.stage(Path(path), folder) if folder else path)
            for path in self.config.data.banks
        ]

    def loader(self, split: str, process_index: int, process_count: int) -> Loader | None:
        """The lanes of "train" or "val"; None for "val" if no bank has a validation split."""
        banks, data = self.banks(), self.config.data
        chosen = choose(data.selection, banks)
        rows, seed = reading(self.config, split)
        if split == "val" and Corpus(banks, "validation", chosen).num_tokens < 2:
            return None
        return self.make_loader(
            banks,
            split={"train": "train", "val": "validation"}[split],
            segment_len=(
                data.segment_len if split == "train" else data.eval_segment_len or data.segment_len
            ),
            seed=seed,
            global_batch_size=rows,
            stages=batches.stages(self.config) if split == "train" else (),
            random_offset=data.random_offset,
            once=split == "val" and not self.config.eval.num_batches,
            process_index=process_index,
            process_count=process_count,
            prefetch_batches=data.prefetch_batches,
            chosen=chosen,
            subset=data.subset,
            weights=mixtures.stages(data),
        )

    @property
    def make_loader(self) -> Callable[..., Loader]:
        """Makes the loader of banks; the tasks on lanes share this one."""
        return LaneLoader

    def next_probabilities(self, params: Params, batch: Batch) -> dict[str, Array]:
        """What a picture shows: the `probability` (rows, positions, vocab) of every token and the
        true `target` (rows, positions).
        """
        raise NotImplementedError

    def figure(self, params: Params, batch: Batch, names: Sequence[str]) -> dict[str, Figure]:
        """The probabilities of the first rows."""
        arrays = pictures.computed(self.next_probabilities, params, batch, len(names))
        if not messages.is_main():
            return {}
        from phenomjax.figures.sequences import predictions

        words = vocabulary_of(self.config).tokens
        probability, target = arrays["probability"], arrays["target"]
        drawn = predictions(
            probability, target, words, len(SPECIALS), names=names, axis_label=self.axis_label
        )
        return {"predictions": drawn}

    @property
    def boundary(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens before and after a sequence, as it stands in the training text."""
        before, after = BOUNDARIES[self.config.model.boundary or "eos"]
        # Where a bank ends sequences only, what stands before one is the end of another.
        return before or after, after or before

    @property
    def inference_segment_len(self) -> int:
        """Tokens of a segment at inference, unless the user says otherwise: as in evaluation."""
        return self.config.data.eval_segment_len or self.config.data.segment_len

    def inference_carry(self, rows: int, *, whole: bool) -> Carry:
        """What the first segment of sequences starts from; `whole`: there will be no second."""
        raise NotImplementedError

    def embed(
        self, params: Params, batch: Batch, carry: Carry = (), layer: int | None = None
    ) -> tuple[Features, Carry]:
        """Features of the next segment.

        Args:
          params: parameters.
          batch: `tokens` (rows, directions, seq) ids, all segments of a sequence but the last full;
            `lengths` (rows,) tokens of each row that are no padding.
          carry: of `inference_carry` or of the segment before; () where nothing comes before and
            nothing after.
          layer: 0 = the embedding, then the layers; None = what is usually taken.
        """
        raise NotImplementedError

    def segment_log_probs(
        self, params: Params, tokens: Tokens, targets: Tokens, carry: Carry
    ) -> tuple[Float[Array, "rows directions seq"], Carry]:
        """Log-likelihood in nats of the token that follows each, `targets` (rows, directions, seq);
        and the next carry.
        """
        raise NotImplementedError

    def masked_log_probs(
        self,
        params: Params,
        tokens: Integer[Array, "rows seq"],
        positions: Integer[Array, "rows number"],
    ) -> Float[Array, "rows number vocab"]:
        """Log-probabilities (rows, number, vocab) of every token at `positions` (rows, number),
        each from all others of its row.
        """
        raise NotImplementedError


def cross_entropy(
    logits: Float[Array, "*axes vocab"], targets: Integer[Array, "*axes"]
) -> tuple[Float[Array, "*axes"], Float[Array, "*axes"]]:
    """Negative log-likelihood in nats and whether the likeliest token is right, both float32.

    Args:
      logits: (…, vocab), any float type; the softmax is float32.
      targets: (…) integers.
    """
    logits = logits.astype(jnp.float32)
    true = jnp.take_along_axis(logits, targets[..., None].astype(jnp.int32), -1)[..., 0]
    # Not argmax == target: a tie would count by position in the vocabulary.
    return jax.nn.logsumexp(logits, -1) - true, (true >= logits.max(-1)).astype(jnp.float32)


def token_sums(
    nll: Float[Array, "*axes"],
    right: Float[Array, "*axes"],
    weight: Shaped[Array, "*axes"],
) -> Sums:
    """The sums of an evaluation over tokens of a weight; the perplexity's are the loss's."""
    weight = weight.astype(jnp.float32)
    loss = ((nll * weight).sum(), weight.sum())
    return {"loss": loss, "perplexity": loss, "accuracy": ((right * weight).sum(), weight.sum())}


def simulate_bank(config: ConfigDict, workdir: Path) -> Path:
    """Writes (process 0) or awaits the simulated families of `data.simulate`, in the workdir."""
    path, s = workdir / "simulated.zarr", config.data.simulate
    if messages.is_main():
        settings = families.FamilyConfig(
            seed=config.seed, families=s.families, members=s.members, length=s.length
        )
        families.write_families(path, settings)
    messages.barrier("simulated families")
    return path


def vocabulary_of(config: ConfigDict) -> Vocabulary:
    """The vocabulary that a resolved config's model reads; its banks may be gone."""
    return vocabulary(config.model.alphabet or "protein")
