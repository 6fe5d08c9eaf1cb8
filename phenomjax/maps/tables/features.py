"""Which columns of a table are features.

Those matching --features REGEX; else those named as ours (feature_0000); else, in a table with
Metadata_ columns, all other numeric columns.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

OURS = re.compile(r"feature_\d+")


def feature_columns(
    frame: "pd.DataFrame", path: Path, features_regex: str | None, recorded: list[str] | None = None
) -> list[str]:
    """Which columns of a table are features.

    Raises:
      UserError: none are, or --features names a column that holds no numbers.
    """
    columns = [str(name) for name in frame.columns]
    numeric = set(frame.select_dtypes("number").columns)
    if features_regex is not None:
        try:
            chosen = [name for name in columns if re.fullmatch(features_regex, name)]
        except re.error as error:
            raise UserError(
                f"`features` {features_regex!r} is no regular expression ({error}). Example:"
                " `features` 'Cells_.*|Nuclei_.*'."
            ) from None
        text = [name for name in chosen if name not in numeric]
        if text:
            raise UserError(
                f"`features` {features_regex!r} matches '{text[0]}' of {path}, which holds no"
                " numbers. Write a narrower expression."
            )
    elif recorded and set(recorded) <= set(columns):
        chosen = recorded
    elif any(OURS.fullmatch(name) for name in columns):
        chosen = [name for name in columns if OURS.fullmatch(name)]
    elif any(name.startswith("Metadata_") for name in columns):
        chosen = [name for name in columns if not name.startswith("Metadata_") and name in numeric]
    else:
        chosen = []
    if not chosen:
        raise UserError(
            f"No column of {path} is known to be a feature: they are named neither feature_0000 …"
            " nor, beside Metadata_ columns, as of CellProfiler; there are:"
            f" {', '.join(columns[:12])}{' …' if len(columns) > 12 else ''}. Name them with"
            " `features` REGEX."
        )
    return chosen
