"""Runs as laws of scaling see them, from the folders of runs or from anyone's table, and checked
here, so that what is fitted to them need not ask again.
"""

from phenomjax.scaling.observations.doubts import LossUnit
from phenomjax.scaling.observations.measures import chosen, is_table, of_table
from phenomjax.scaling.observations.runs import Curve, Observations
from phenomjax.scaling.observations.table import OnBad, columns_of, of_csv
from phenomjax.scaling.observations.workdirs import of_workdirs

__all__ = [
    "Curve",
    "LossUnit",
    "Observations",
    "OnBad",
    "chosen",
    "columns_of",
    "is_table",
    "of_csv",
    "of_table",
    "of_workdirs",
]
