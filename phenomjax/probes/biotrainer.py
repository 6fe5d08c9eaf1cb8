"""Checkpoints as embedders of biotrainer (1.4): its protocols and its autoeval run on our vectors.

biotrainer's own training, with the options of its config file; `embedder_name` is left out:
  python -m phenomjax.probes.biotrainer --checkpoint runs/prot_txl --config config.yml
Its benchmarks, which it downloads, or finds below --data; pgym scores mutations by likelihood, as
`phenomjax.score` does:
  python -m phenomjax.probes.biotrainer --checkpoint runs/prot_txl --autoeval pbc --out autoeval
Only vectors, where biotrainer lives in another environment (it needs transformers >= 5.4); name
them there as `embeddings_file`:
  python -m phenomjax.probes.biotrainer --checkpoint runs/prot_txl --source proteins.fasta
    --per residue --out embeddings.h5

Vectors are those of `python -m phenomjax.embed`, whose files biotrainer finds under the hash of
each sequence. In a program, with `biotrainer.embedders` and `biotrainer.bioengineer`:
  EmbeddingService(embedder=phenomjax.probes.biotrainer.embedder("runs/prot_txl"))
  BioEngineer.from_custom_model(phenomjax.probes.biotrainer.engineer("runs/prot_txl"))

The same command goes on where it was stopped. Exit codes: 0 done; 2 a mistake in the options or the
input; 75 stopped by a signal. biotrainer is imported when it is used.
"""

import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import h5py
from tyro.conf import arg

from phenomjax import embed
from phenomjax.data import store
from phenomjax.data.sequences.streams import Stream
from phenomjax.inference.variants import likelihood, table
from phenomjax.system import outputs
from phenomjax.system.errors import EXIT_DONE, EXIT_STOPPED, UserError, exit_on_user_error
from phenomjax.system.options import run_command
from phenomjax.trained import opening
from phenomjax.trained.model import SequenceModel


def sequence_hash(sequence: str) -> str:
    """The name of a sequence in biotrainer's embedding files: SHA-256 of its letters and its
    length.
    """
    return hashlib.sha256(f"{sequence}_{len(sequence)}".encode()).hexdigest()


def name_of(model: SequenceModel) -> str:
    """What biotrainer calls a model; another training has another name, as biotrainer keeps results
    by name.
    """
    run = model.path.parent.parent if model.path.parent.name == "checkpoints" else model.path
    return f"{run.name}-{model.step}-{model.fingerprint[:8]}"


def write(
    checkpoint: str | Path,
    sequences: Iterable[str],
    per: str,
    out: Path,
    overwrite: bool = True,
) -> Path:
    """Writes the file that biotrainer reads as `embeddings_file`; what is there already and fits is
    kept, what was stopped is continued.

    Args:
      checkpoint: workdir of a run, or one of its checkpoints.
      sequences: as they stand in the FASTA file.
      per: "protein" (biotrainer's sequence_to_* protocols), float32 [dim], or "residue"
        (residue_to_* and residues_to_*), float32 [length, dim].
      out: NAME.h5.
      overwrite: other vectors that are there are replaced.

    Raises:
      UserError: a sequence that the model cannot read, or other vectors are there.
      KeyboardInterrupt: it was stopped by a signal; the same call goes on.
    """
    wanted = {sequence_hash(sequence): sequence for sequence in sequences}
    if _there(out, wanted, per, checkpoint):
        return out
    outputs.refuse(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    if not wanted:  # a benchmark without tasks of this kind
        h5py.File(out, "w").close()
        return out
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "sequences.fasta"
        fasta.write_text("".join(f">{key}\n{sequence}\n" for key, sequence in wanted.items()))
        flags = {"checkpoint": checkpoint, "source": fasta, "per": per, "out": out}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        if embed.main(words) == EXIT_STOPPED:
            raise KeyboardInterrupt
    with h5py.File(out) as file:
        missing = [sequence for key, sequence in wanted.items() if key not in file]
    if missing:
        out.unlink()
        raise UserError(
            f"{len(missing)} of {len(wanted)} sequences cannot be read by the model of"
            f" {checkpoint}, the first '{missing[0][:40]}'; the lines above say why. Remove or mend"
            " them in the input of biotrainer."
        )
    return out


def _there(out: Path, wanted: dict[str, str], per: str, checkpoint: str | Path) -> bool:
    """Whether the file holds exactly these vectors."""
    if not out.is_file():
        return False
    with h5py.File(out) as file:
        if set(file) != set(wanted) or file.attrs.get("per", per) != per:
            return False
        return (
            not wanted
            or file.attrs.get("checkpoint_fingerprint")
            == opening.load_sequences(checkpoint).fingerprint
        )


def embedder(checkpoint: str | Path) -> Any:
    """A biotrainer `EmbedderInterface` that gives [length, dim] float32 tensors, of sequences of
    any length.

    It reads letters as training did, so biotrainer's own replacement of rare residues is not made,
    and it makes batches of its own, so `batch_size` is not used.
    """
    interfaces, torch = _import("biotrainer.embedders.interfaces"), importlib.import_module("torch")

    class PhenomjaxEmbedder(interfaces.EmbedderInterface):
        name = name_of(opening.load_sequences(checkpoint))
        _device = torch.device("cpu")  # of the tensors; the model runs where JAX does

        def _embed_single(self, sequence: str) -> Any:
            return next(self.embed_many([sequence]))

        def embed_many(
            self, sequences: Iterable[str], batch_size: int | None = None
        ) -> Iterator[Any]:
            ordered = list(sequences)
            with tempfile.TemporaryDirectory() as folder:
                path = write(checkpoint, ordered, "residue", Path(folder) / "embeddings.h5")
                with h5py.File(path) as file:
                    for sequence in ordered:
                        yield torch.from_numpy(file[sequence_hash(sequence)][:])

    return PhenomjaxEmbedder()


def train(checkpoint: str | Path, config: str | Path) -> dict:
    """`biotrainer train --config`, with our vectors in its embedding step; returns what biotrainer
    writes as out.yml.

    Raises:
      UserError: biotrainer is missing, or the config names another embedder or fine-tuning.
    """
    cli, trainers = _import("biotrainer.utilities.cli"), _import("biotrainer.trainers")
    steps, protocols = _import("biotrainer.trainers.steps"), _import("biotrainer.protocols")
    if not Path(config).is_file():
        raise UserError(
            f"There is no file {config} (`config`).{store.beside(config)} Give a config file of"
            " biotrainer."
        )
    model_name = name_of(opening.load_sequences(checkpoint))

    class Embedding(steps.EmbeddingStep):
        def process(self, context: Any) -> Any:
            given = context.config
            if given.get("embedder_name", "custom_embeddings") != "custom_embeddings" or given.get(
                "embeddings_file"
            ):
                raise UserError(
                    f"{config} names an embedder of its own, and `checkpoint` gives another. Leave"
                    " embedder_name and embeddings_file out, or run `biotrainer train`."
                )
            if given.get("finetuning_config"):
                raise UserError(
                    f"{config} asks for fine-tuning, which biotrainer can do only with models of"
                    " PyTorch. Leave finetuning_config out; our models are fine-tuned by `python"
                    " -m phenomjax.main`."
                )
            whole = given["protocol"] in protocols.Protocol.using_per_sequence_embeddings()
            out = Path(given["output_dir"]) / f"{model_name}_{'protein' if whole else 'residue'}.h5"
            sequences = [record.seq for record in context.input_data]
            given["embeddings_file"] = str(
                write(checkpoint, sequences, "protein" if whole else "residue", out)
            )
            context.output_manager.add_derived_values({"phenomjax_model": model_name})
            return super().process(context)

    pipeline = (
        trainers.DefaultPipeline({}).with_custom_steps(custom_embedding_step=Embedding()).pipeline
    )
    return cli.train_with_custom_pipeline(str(config), pipeline)


def autoeval(
    checkpoint: str | Path,
    framework: str,
    out: Path,
    data: Path | None = None,
    min_length: int = 0,
    max_length: int = 2000,
) -> Any:
    """Runs a benchmark of biotrainer; what is finished below `out` is not run again.

    Args:
      checkpoint: workdir of a run, or one of its checkpoints.
      framework: "pbc", "flip" or "pgym".
      out: folder of biotrainer's report and models.
      data: folder with the framework's own folder (PBC, FLIP or PGYM); None = biotrainer's cache,
        into which it downloads.
      min_length, max_length: of sequences, in residues (not pgym).

    Returns:
      biotrainer's AutoEvalReport.
    """
    package = _import("biotrainer.autoeval")
    name = name_of(opening.load_sequences(checkpoint))
    arguments: dict[str, Any] = {"custom_storage_path": data, "output_dir": out}
    if framework.lower() == "pgym":
        scores = engineer(checkpoint)
        wrapper = _import("biotrainer.bioengineer").BioEngineer
        arguments["custom_bioengineer"] = wrapper.from_custom_model(scores)
        arguments["zero_shot_method"] = scores.supported_methods()[0]
    else:
        _, residue, protein = package.get_unique_framework_sequences(
            framework, min_length, max_length, data
        )
        for per, records, option in (
            ("residue", residue, "per_residue"),
            ("protein", protein, "per_sequence"),
        ):
            file = f"embeddings_{min_length}_{max_length}_{per}.h5"
            path = Path(out) / name / framework.upper() / file
            sequences = [record.seq for record in records.values()]
            arguments[f"precomputed_{option}_embeddings"] = write(checkpoint, sequences, per, path)
        arguments |= {"min_seq_length": min_length, "max_seq_length": max_length}
    report = None
    for state in package.autoeval_pipeline(name, framework, **arguments):
        report = state.final_report or report
    return report


def engineer(checkpoint: str | Path) -> Any:
    """A `BioEngineerModelWrapper`, biotrainer's scorer of mutations, with our scores: nats, higher
    is fitter, as `phenomjax.score` has them.

    biotrainer knows four methods; a family has the one that is its own. XLNet: MASKED_MARGINALS,
    each mutated residue hidden alone in the wild type. Transformer-XL and ELMo: PERPLEXITY, here
    the difference of the whole sequence's log-likelihood to the wild type's.
    """
    package = _import("biotrainer.bioengineer")
    inner = _import("biotrainer.bioengineer.bioengineer_data_classes")
    model = opening.load_sequences(checkpoint, "float32")
    if model.task.words.name != "protein":
        raise UserError(
            f"`checkpoint` {checkpoint} reads {model.task.words.name}, and mutations are of"
            " proteins."
        )
    masked, name = model.task.scoring == "masked", name_of(model)
    method = inner.ZeroShotMethod.MASKED_MARGINALS if masked else inner.ZeroShotMethod.PERPLEXITY

    def score(wild_type: str, mutations: list[str], one_indexed: bool) -> list[Any]:
        parsed = [table.parse(text, wild_type, 0 if one_indexed else -1) for text in mutations]
        values = likelihood.variant_scores(model, wild_type, parsed).sum(1)
        variants = [
            inner.Variant.parse(text, one_indexed=one_indexed, wt_sequence=wild_type)
            for text in mutations
        ]
        return [
            inner.VariantScore.from_total_score(variant, float(value), name, method)
            for variant, value in zip(variants, values, strict=True)
        ]

    class PhenomjaxEngineer(package.BioEngineerModelWrapper):
        @classmethod
        def detect(cls, embedder_name: str, device: Any) -> None:
            return None  # it is given, never looked up by name

        def supported_methods(self) -> list[Any]:
            return [method]

        def zero_shot_masked_marginals(
            self, wt_sequence: str, mutations: list[str], one_indexed: bool = True
        ) -> Any:
            return score(wt_sequence, mutations, one_indexed) if masked else self._no()

        def zero_shot_perplexity(
            self,
            wt_sequence: str,
            mutations: list[str],
            one_indexed: bool = True,
            subtract_wt: bool = True,
        ) -> Any:
            return (
                self._no()
                if masked or not subtract_wt
                else score(wt_sequence, mutations, one_indexed)
            )

        def _no(self, *_: Any) -> Any:
            raise NotImplementedError(
                f"{name} scores variants against the wild type, by {method.name} alone"
            )

        _model_forward_fn = _get_log_probabilities = _get_masked_log_probabilities = _no
        _compute_pseudoperplexity = _compute_perplexity = _no

    return PhenomjaxEngineer(name, None, None, None)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"biotrainer cannot be imported ({error}). Install it beside phenomjax: pip install"
            " 'biotrainer>=1.4,<2'. Where it must live in another environment, write the vectors"
            " with --source FASTA --per residue|protein --out NAME.h5, and give them to"
            " `biotrainer train` as embeddings_file."
        ) from error


def read_fasta(path: Path) -> list[str]:
    """The sequences of a FASTA file as they stand, lines joined; plain, gzip or Zstandard."""
    if not path.is_file():
        raise UserError(f"There is no file {path} (`source`).{store.beside(path)}")
    buffer, parts = bytearray(2**20), []
    with Stream(path) as stream:
        while size := stream.readinto(memoryview(buffer)):
            parts.append(bytes(buffer[:size]))
    sequences: list[list[str]] = []
    for line in b"".join(parts).decode("utf-8", "replace").split("\n"):
        if line.startswith(">"):
            sequences.append([])
        elif sequences:
            sequences[-1].append(line.strip())
    return [text for lines in sequences if (text := "".join(lines))]


@dataclass(frozen=True)
class Options(outputs.Overwrite):
    """Of `python -m phenomjax.probes.biotrainer`."""

    RESULT: ClassVar[str] = ""  # vectors that fit are kept

    checkpoint: Annotated[str, arg(metavar="DIR")]
    """workdir of a run, or one of its checkpoints/STEP folders"""
    config: Annotated[Path | None, arg(metavar="YML")] = None
    """train a head by biotrainer's config file"""
    autoeval: Literal["pbc", "flip", "pgym"] | None = None
    """run a benchmark of biotrainer"""
    source: Annotated[Path | None, arg(metavar="FASTA")] = None
    """write the vectors only; biotrainer is not needed"""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """of a benchmark: folder, by default autoeval_output; of vectors: NAME.h5"""
    per: Literal["protein", "residue"] | None = None
    """of vectors: what one stands for"""
    data: Annotated[Path | None, arg(metavar="DIR")] = None
    """of a benchmark: where PBC, FLIP or PGYM lies; by default biotrainer's cache"""
    min_seq_length: Annotated[int, arg(metavar="N")] = 0
    """of a benchmark: leave shorter proteins out"""
    max_seq_length: Annotated[int, arg(metavar="N")] = 2000
    """of a benchmark: leave longer ones out"""


def run(options: Options) -> int:
    """Does the one that is asked for; returns the exit code.

    Raises:
      UserError: a mistake in the options or the input.
    """
    asked = [options.config, options.autoeval, options.source]
    if sum(one is not None for one in asked) != 1:
        raise UserError("Give one of `config`, `autoeval` and `source`: they are three tasks.")
    # biotrainer's heads need the same accelerator
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        if options.config:
            train(options.checkpoint, options.config)
        elif options.autoeval:
            autoeval(
                options.checkpoint,
                options.autoeval,
                options.out or Path("autoeval_output"),
                options.data,
                options.min_seq_length,
                options.max_seq_length,
            )
        elif options.source:
            out = options.out
            if not options.per or out is None or out.suffix not in (".h5", ".hdf5"):
                raise UserError("`source` needs `per` protein or residue, and `out` NAME.h5.")
            write(
                options.checkpoint, read_fasta(options.source), options.per, out, options.overwrite
            )
    except KeyboardInterrupt:
        return EXIT_STOPPED
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command line; returns the exit code.

    Raises:
      UserError: a mistake in the options or the input.
    """
    return run_command(Options, run, "python -m phenomjax.probes.biotrainer", __doc__ or "", argv)


if __name__ == "__main__":
    exit_on_user_error(main)
