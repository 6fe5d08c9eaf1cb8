"""Which columns of a table count cells."""

import re
from collections.abc import Iterable

THINGS = r"(cells?|nuclei|nucleus|objects?)"
COUNTS = re.compile(
    rf"(image_)?(metadata_)?(count_{THINGS}|{THINGS}_(count|number)s?|{THINGS}counts?|"
    rf"(num|n|no|number|number_of|num_of)_?{THINGS}|site_count_{THINGS}|"
    r"(hoechst|dapi|dna|draq)\w*_count)",
    re.IGNORECASE,
)


def cell_counts(names: Iterable[object]) -> list[str]:
    """The columns that count cells, or nuclei, of a well, as CellProfiler, pycytominer, JUMP,
    DeepProfiler and `maps structure` name them (Metadata_Object_Count, Count_Nuclei,
    Metadata_Count_Cells, num_cells, Hoechst_count …); those of cells first.
    """
    found = [str(name) for name in names if COUNTS.fullmatch(str(name))]
    return sorted(found, key=lambda name: "cell" not in name.lower())
