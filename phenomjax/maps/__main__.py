"""Profiles to maps, ours or anyone's (Parquet, CSV, AnnData): aligned, aggregated, related, judged.

python -m phenomjax.maps align --profiles embeddings.zarr --out aligned.parquet
python -m phenomjax.maps benchmark --profiles aligned.parquet --align none --out report
"""

from collections.abc import Sequence

from phenomjax.system.errors import exit_on_user_error
from phenomjax.system.options import run_chosen

COMMANDS = {  # name: (module, what it does)
    "intensity": (
        "phenomjax.maps.baselines.intensity",
        "hand-made intensity features of images, a baseline of every embedding",
    ),
    "structure": (
        "phenomjax.maps.baselines.structure",
        "cell counts and areas by a simple threshold, another baseline",
    ),
    "align": (
        "phenomjax.maps.build.align",
        "remove what differs between batches: PCA and centre-scale, TVN, sphering, Harmony",
    ),
    "aggregate": (
        "phenomjax.maps.build.aggregate",
        "crops to wells to perturbations: mean, median or MAD-weighted",
    ),
    "filter": (
        "phenomjax.maps.build.filters",
        "consistency, activity (mAP) and magnitude of perturbations, with p-values and FDR",
    ),
    "relate": (
        "phenomjax.maps.relations.relate",
        "the cosines between all perturbations: nearest neighbours, quantiles, p-values",
    ),
    "query": (
        "phenomjax.maps.relations.query",
        "the nearest neighbours of one gene or compound, similar and opposite",
    ),
    "proximity": (
        "phenomjax.maps.arm_bias.proximity",
        "chromosome-arm proximity bias: score it, correct it, before and after",
    ),
    "benchmark": (
        "phenomjax.maps.benchmark.command",
        "recall of known relationships, consistency, mAP, siblings, probe, with intervals",
    ),
    "compare": (
        "phenomjax.maps.benchmark.compare",
        "what each method of align does to batches and to biology",
    ),
    "blocks": (
        "phenomjax.maps.benchmark.blocks",
        "which encoder block separates perturbations best, by a linear probe",
    ),
    "pictures": (
        "phenomjax.maps.views.draw",
        "heat map of chosen genes, UMAP, recall curves, chromosome-order heat map",
    ),
    "explore": ("phenomjax.maps.views.explore", "one interactive HTML page of the whole map"),
    "export": (
        "phenomjax.maps.exchange.command",
        "profiles as they are for scanpy (.h5ad), SpatialData (.zarr, with images) and tables",
    ),
    "demo": ("phenomjax.maps.demo.command", "a simulated screen from images to an explored map"),
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Imports the module of the command that was asked for, and runs it."""
    return run_chosen(COMMANDS, "python -m phenomjax.maps", __doc__ or "", argv)


if __name__ == "__main__":
    exit_on_user_error(main)
