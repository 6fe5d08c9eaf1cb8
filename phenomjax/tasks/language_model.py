"""What the language-model tasks share: banks, lanes, cross entropy, perplexity, and a picture of what is predicted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from phenomjax import cluster
from phenomjax.data import simulated_families, staging
from phenomjax.data.lanes import LaneLoader
from phenomjax.data.token_bank import TokenBank, open_token_bank
from phenomjax.data.vocabulary import SPECIALS, vocabulary
from phenomjax.errors import UserError
from phenomjax.models import layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LanguageModel:
    """Base of the language-model tasks; a subclass adds the model and its objective.

    Args:
      config: reads `model.*`, `data.*`, `seed` and `global_batch_size`.
    """

    def __init__(self, config: ConfigDict):
        self.config = config

    @staticmethod
    def resolve(config: ConfigDict, workdir: Path) -> ConfigDict:
        """Simulates the banks if that is asked for, and fills `data.banks` and `model.vocab_size`.

        Raises:
          UserError: the vocabulary of a bank is larger than `model.vocab_size`.
        """
        with config.copy_and_resolve_references().unlocked() as config:
            if not config.data.banks:
                config.data.banks = (str(simulate_bank(config, workdir)),)
            for path in config.data.banks:
                needed = len(open_token_bank(path).vocabulary)
                config.model.vocab_size = config.model.vocab_size or needed
                if needed > config.model.vocab_size:
                    raise UserError(
                        f"config.model.vocab_size is {config.model.vocab_size}, but the bank {path} has {needed} tokens. Set "
                        f"--config.model.vocab_size={needed}, or 0 to take it from the banks."
                    )
        return config.lock()

    @property
    def dtype(self) -> Any:
        """The compute type; asks for the backend."""
        return layers.compute_dtype(self.config.model.dtype)

    def banks(self) -> list[TokenBank]:
        """The configured banks, staged if that is asked for."""
        folder = self.config.data.staging
        return [
            open_token_bank(staging.stage(Path(path), Path(folder)) if folder else path)
            for path in self.config.data.banks
        ]

    def loader(self, split: str, process_index: int, process_count: int) -> Any:
        """The lanes of "train" or "val"; None for "val" if no bank has a validation split."""
        banks, data = self.banks(), self.config.data
        if split == "val" and not any(bank.num_tokens("validation") > 1 for bank in banks):
            return None
        return self.make_loader(
            banks,
            split={"train": "train", "val": "validation"}[split],
            segment_len=data.segment_len if split == "train" else data.eval_segment_len or data.segment_len,
            seed=self.config.seed,
            global_batch_size=self.config.global_batch_size,
            random_offset=data.random_offset,
            process_index=process_index,
            process_count=process_count,
            prefetch_batches=data.prefetch_batches,
        )

    def make_loader(self, banks: Sequence[TokenBank], **options: Any) -> Any:
        """The loader of these banks; the tasks on lanes share this one."""
        return LaneLoader(banks, **options)

    def derive(self, means: Mapping[str, float]) -> dict[str, float]:
        """Perplexity per token."""
        return {"perplexity": float(np.exp(min(means["loss"], 700.0)))}

    def figures(self, arrays: Mapping[str, np.ndarray], names: Sequence[str] = ()) -> dict[str, "Figure"]:
        """Draws what `figure_arrays` computed: `probability` (rows, positions, vocab) and the true `target` (rows, positions)."""
        from phenomjax.sequence_figures import predictions  # here, because it imports matplotlib

        words = open_token_bank(self.config.data.banks[0]).vocabulary
        return {"predictions": predictions(arrays["probability"], arrays["target"], words.tokens, len(SPECIALS), names)}


def cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Negative log-likelihood in nats and whether the likeliest token is right, both float32.

    Args:
      logits: (…, vocab), any float type; the softmax is float32.
      targets: (…) integers.
    """
    logits = logits.astype(jnp.float32)
    true = jnp.take_along_axis(logits, targets[..., None].astype(jnp.int32), -1)[..., 0]
    # Not argmax == target: a tie would count by position in the vocabulary.
    return jax.nn.logsumexp(logits, -1) - true, (true >= logits.max(-1)).astype(jnp.float32)


def simulate_bank(config: ConfigDict, workdir: Path) -> Path:
    """Writes (process 0) or awaits the simulated families of `data.simulate`, in the workdir."""
    path, s = workdir / "simulated.zarr", config.data.simulate
    if cluster.is_main():
        settings = simulated_families.FamilyConfig(
            seed=config.seed, families=s.families, members=s.members, length=s.length
        )
        simulated_families.write_families(path, settings)
    cluster.barrier("simulated families")
    return path


def vocabulary_of(config: ConfigDict) -> Any:
    """The vocabulary that a resolved config's model reads, from its first bank, or proteins where that is gone."""
    path = Path(config.data.banks[0]) if config.data.banks else None
    return open_token_bank(path).vocabulary if path and path.is_dir() else vocabulary("protein")
