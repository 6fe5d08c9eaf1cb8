"""Numbers that others published, for the reports: who says so, and on which test set.

All are of models that were pretrained on other data than a run here, and of heads that were trained
on the whole training sets. Methods stand here because they are of the same three families, or
because every reader knows them.
"""

from typing import Any

PROTTRANS = (
    "README of agemagician/ProtTrans, for Elnaggar et al. 2021"
    " (https://doi.org/10.1109/TPAMI.2021.3095381), accuracy in whole percent; "
)
_NETSURFP = PROTTRANS + "heads trained on NetSurfP-2.0's training set"
_DEEPLOC = PROTTRANS + "heads trained on DeepLoc's training set"
_SEQVEC = (
    "README of Rostlab/SeqVec, for Heinzinger et al. 2019"
    " (https://doi.org/10.1186/s12859-019-3220-8), +- 1 percent point"
)
_TAPE = "README of songlab-cal/tape, for Rao et al. 2019 (https://arxiv.org/abs/1906.08230)"
_SURVEY = (
    "Elnaggar et al. 2021 as the notes of trislaz/biofm-survey transcribe it; not checked against"
    " the paper"
)
_LIGHT = (
    "README of HannesStark/protein-localization, for Stärk et al. 2021"
    " (https://doi.org/10.1093/bioadv/vbab035)"
)
_CLEAN = (
    "README of tttianhao/CLEAN, for Yu et al. 2023 (https://doi.org/10.1126/science.adf2465), of"
    " pairs by maximum separation"
)

# quantity: (metric, [(method, {test set: value}, source)])
_TABLES: dict[str, tuple[str, list[tuple[str, dict[str, float], str]]]] = {
    "q3": (
        "accuracy",
        [
            ("ProtTXL", {"CASP12": 0.71, "TS115": 0.76, "CB513": 0.74}, _NETSURFP),
            ("ProtTXL-BFD", {"CASP12": 0.72, "TS115": 0.75, "CB513": 0.77}, _NETSURFP),
            ("ProtXLNet", {"CASP12": 0.73, "TS115": 0.81, "CB513": 0.78}, _NETSURFP),
            ("SeqVec", {"NetSurfP-2.0 set": 0.79}, _SEQVEC),
            ("ProtT5-XL-U50", {"CASP12": 0.81, "TS115": 0.87, "CB513": 0.86}, _NETSURFP),
            ("ProtT5-XL-U50", {"NEW364": 0.848}, _SURVEY),
            ("NetSurfP-2.0 (alignments)", {"NEW364": 0.843}, _SURVEY),
        ],
    ),
    "q8": (
        "accuracy",
        [
            ("ProtTXL", {"CASP12": 0.59, "TS115": 0.64, "CB513": 0.59}, _NETSURFP),
            ("ProtTXL-BFD", {"CASP12": 0.60, "TS115": 0.65, "CB513": 0.60}, _NETSURFP),
            ("ProtXLNet", {"CASP12": 0.62, "TS115": 0.69, "CB513": 0.63}, _NETSURFP),
            ("SeqVec", {"NetSurfP-2.0 set": 0.68}, _SEQVEC),
            ("ProtT5-XL-U50", {"CASP12": 0.70, "TS115": 0.77, "CB513": 0.74}, _NETSURFP),
        ],
    ),
    "tape_q3": (
        "accuracy",
        [
            ("TAPE LSTM", {"TAPE test": 0.75}, _TAPE),
            ("TAPE Transformer", {"TAPE test": 0.73}, _TAPE),
            ("UniRep", {"TAPE test": 0.73}, _TAPE),
            ("one-hot (TAPE)", {"TAPE test": 0.69}, _TAPE),
        ],
    ),
    "disorder": (
        "mcc",
        [("SeqVec", {"NetSurfP-2.0 set": 0.59}, _SEQVEC.replace("+- 1 percent point", "+- 0.03"))],
    ),
    "q10": (
        "accuracy",
        [
            ("ProtTXL", {"DeepLoc test": 0.66}, _DEEPLOC),
            ("ProtTXL-BFD", {"DeepLoc test": 0.65}, _DEEPLOC),
            ("ProtXLNet", {"DeepLoc test": 0.68}, _DEEPLOC),
            ("SeqVec", {"DeepLoc test": 0.68}, _SEQVEC),
            ("ProtT5-XL-U50", {"DeepLoc test": 0.81}, _DEEPLOC),
            ("ProtT5, light attention", {"DeepLoc test": 0.8601}, _LIGHT),
            ("DeepLoc (alignments)", {"DeepLoc test": 0.7797}, _LIGHT),
        ],
    ),
    "q2": (
        "accuracy",
        [
            ("ProtTXL", {"DeepLoc test": 0.85}, _DEEPLOC),
            ("ProtTXL-BFD", {"DeepLoc test": 0.86}, _DEEPLOC),
            ("ProtXLNet", {"DeepLoc test": 0.87}, _DEEPLOC),
            ("SeqVec", {"DeepLoc test": 0.87}, _SEQVEC),
            ("ProtT5-XL-U50", {"DeepLoc test": 0.91}, _DEEPLOC),
        ],
    ),
    "remote_homology": (
        "accuracy",
        [
            ("TAPE LSTM", {"TAPE fold hold-out": 0.26}, _TAPE),
            ("UniRep", {"TAPE fold hold-out": 0.23}, _TAPE),
            ("TAPE Transformer", {"TAPE fold hold-out": 0.21}, _TAPE),
            ("one-hot (TAPE)", {"TAPE fold hold-out": 0.09}, _TAPE),
        ],
    ),
    "stability": (
        "spearman",
        [
            ("best of TAPE", {"TAPE test": 0.73}, _TAPE),
            ("one-hot (TAPE)", {"TAPE test": 0.19}, _TAPE),
        ],
    ),
    "ec": ("f1_samples", [("CLEAN", {"New-392": 0.497}, _CLEAN)]),
}


def rows(
    quantity: str, task: str, label: str, tests: dict[str, str] | None = None
) -> tuple[dict[str, Any], ...]:
    """Rows for suite.Suite.published.

    Args:
      quantity: a name in `_TABLES`: "q3", "q8", "tape_q3", "disorder", "q10", "q2",
        "remote_homology", "stability" or "ec".
      task: of the suite.
      label: of the task.
      tests: {published test set: test of the suite} where the two hold the same proteins. Numbers
        of other test sets keep the name of theirs, and the report sets them apart.
    """
    metric, table = _TABLES[quantity]
    return tuple(
        {
            "task": task,
            "label": label,
            "split": (tests or {}).get(test, test),
            "metric": metric,
            "method": method,
            "value": value,
            "source": source,
        }
        for method, values, source in table
        for test, value in values.items()
    )
