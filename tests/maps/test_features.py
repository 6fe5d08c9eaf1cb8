"""Which columns of a table are features: by their names as the field gives them, by what they hold,
and what is left out with a word.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from phenomjax.maps.tables.formats.features import by_name
from phenomjax.maps.tables.formats.numeric import as_numbers
from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.sources import Wanted
from phenomjax.system.errors import UserError

MEASURED = [
    "Cells_AreaShape_Area",
    "Cells_AreaShape_BoundingBoxMaximum_Y",
    "Nuclei_AreaShape_Zernike_3_1",
    "Nuclei_Children_Mito_Count",
    "Cells_Neighbors_FirstClosestDistance_Adjacent",
    "Cells_Neighbors_NumberOfNeighbors_5",
    "Image_Granularity_3_DNA",
    "Cytoplasm_RadialDistribution_MeanFrac_ER_4of4",
]
BOOKKEEPING = [
    *("ImageNumber", "ObjectNumber", "Nuclei_Number_Object_Number", "Cells_ObjectNumber"),
    *("Row", "Column", "row", "col", "Site", "field_id", "Plate", "well_row", "Well Column"),
    *("Cells_Location_Center_X", "Nuclei_Location_MaxIntensity_Y_DNA", "Location_Center_Z"),
    *("Cells_AreaShape_Center_X", "Nuclei_X", "y", "centroid-0", "centroid_x", "Position X [µm]"),
    *("Cells_Neighbors_SecondClosestObjectNumber_Adjacent", "bbox-2", "label", "TableNumber"),
    *("Cells_TrackObjects_Label_20", "Image_ExecutionTime_05Identify", "ExecutionTime_01Images"),
    *(
        "Image_Count_Cells",
        "Count_Nuclei",
        "cell_count",
        "num_cells",
        "Image_Height_DNA",
        "Cells_Count",
        "Hoechst_count",
    ),
    *("PathName_DNA", "Image_FileName_ER", "Unnamed: 0", "index", "pubchem_cid", "timestamp"),
    *("Concentration_uM", "dose [uM]", "replicate", "batch", "time_h", "Group_Index"),
]


def _names(columns, wanted=Wanted(), **told):  # noqa: B008
    return list(by_name(columns, Path("t"), wanted, **told).candidates)


@pytest.mark.parametrize(
    ("columns", "features"),
    [
        (["Metadata_Plate", "Metadata_dose", *MEASURED], MEASURED),
        (["Image_Metadata_Well", "Metadata_ImageNumber", *MEASURED], MEASURED),
        (["Metadata_Plate", "resnet_0", "resnet_1"], ["resnet_0", "resnet_1"]),
        (["well_id", "feature_0", "feature_1", "umap_0"], ["feature_0", "feature_1"]),
        (["Metadata_Plate", "Cells_Area", "feature_0000"], ["feature_0000"]),
        (["plate", "well", "gene", *MEASURED], MEASURED),
        (["ImageNumber", "AreaShape_Area", "Intensity_MeanIntensity_DNA", "who"],
         ["AreaShape_Area", "Intensity_MeanIntensity_DNA"]),
        (["well", "emb_0", "emb_1", "emb_2", "dose_1", "dose_2"], ["emb_0", "emb_1", "emb_2"]),
        (["plate", "0", "1", "2"], ["0", "1", "2"]),
        (["plate", "X1", "X2", "X3"], ["X1", "X2", "X3"]),
        (["plate", *(f"e{k}" for k in range(0, 30, 3))], [f"e{k}" for k in range(0, 30, 3)]),
        (["metadata_well", "cells_areashape_area", "image_count_cells"], ["cells_areashape_area"]),
        (["Metadata.Plate", "Cells.AreaShape.Area", "Nuclei.Location.Center.X"],
         ["Cells.AreaShape.Area"]),
        (["meta_plate", "emb_a", "emb_b"], ["emb_a", "emb_b"]),
    ],
)  # fmt: skip
def test_features_are_known_by_the_names_that_the_field_gives_them(columns, features):
    assert _names(columns) == features


def test_positions_and_bookkeeping_are_no_features():
    columns = ["Metadata_Plate", *MEASURED, *BOOKKEEPING]
    named = by_name(columns, Path("t"), Wanted())
    assert list(named.candidates) == MEASURED
    left_out = {*named.left_out, *named.unread}
    assert left_out == set(BOOKKEEPING) and named.notes[0].names == tuple(BOOKKEEPING)
    kept = Wanted(keep="Row|Column|Image_Count_.*")
    assert _names(columns, kept) == [*MEASURED, "Row", "Column", "Image_Count_Cells"]
    assert _names(columns, Wanted(features="Cells_.*|Row", keep="Row")) == [
        *(name for name in MEASURED if name.startswith("Cells_")),
        "Row",
    ]
    # a parent's number is bookkeeping among others, and a feature where a selection has kept it
    parent = "Cells_Parent_Nuclei"
    assert _names(["Metadata_Plate", *MEASURED, parent]) == [*MEASURED, parent]
    assert _names(["Metadata_Plate", *MEASURED, parent, "ImageNumber"]) == MEASURED
    # what our own tables say of themselves is not doubted
    assert _names(["Row", "Cells_Area"], recorded=["Row"]) == ["Row"]


def test_a_number_named_unlike_all_features_is_left_out_with_a_word(tmp_path, caplog):
    table = pd.DataFrame({f"Cells_Texture_{k}": [0.0, 1] for k in range(12)})
    table = table.assign(Metadata_Plate="P", mass=[3.5, 4], note=["a", "b"])
    table.to_csv(tmp_path / "p.csv", index=False)
    table.to_parquet(tmp_path / "p.parquet")
    for name in ("p.csv", "p.parquet"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            profiles = read(tmp_path / name)
        assert len(profiles.names) == 12 and profiles.metadata["mass"].tolist() == [3.5, 4]
        assert "numbers named unlike all others: mass (--keep_features" in caplog.text
        assert read(tmp_path / name, Wanted(keep="mass")).names[-1] == "mass"
    assert _names(["Metadata_Plate", "mass", "Cells_A"]) == ["mass", "Cells_A"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(), r"(?s)known to be a feature.*there are: Gene, Mito, Sum.*`features` REGEX"),
        (Wanted(features="("), r"`features` '\(' is no regular expression"),
        (Wanted(features="Mi(t)o", keep="["), r"`keep_features` '\[' is no regular"),
        (
            Wanted(features="gene"),
            "`features` 'gene' is the whole name of no column of t",
        ),
    ],
)
def test_tables_without_known_features_are_refused(wanted, said):
    with pytest.raises(UserError, match=said):
        by_name(["Gene", "Mito", "Sum"], Path("t"), wanted)
    with pytest.raises(UserError, match=r"positions or bookkeeping: Row.*`keep_features` REGEX"):
        by_name(["Metadata_Plate", "Row", "Site"], Path("t"), Wanted())


@pytest.mark.parametrize(
    ("texts", "values", "bad"),
    [
        (["1.5", "#DIV/0!", "-2", ""], [1.5, np.nan, -2, np.nan], 0),
        (["1.5", "off scale", "2"], [1.5, np.nan, 2], 1),
        (["1,5", "0,25", "-3", "N/A"], [1.5, 0.25, -3, np.nan], 0),
        (["1.234,5", "2.000", "0,5"], [1234.5, 2000, 0.5], 0),
        (["inf", "-Infinity", "1.#INF", "∞"], [np.inf, -np.inf, np.inf, np.inf], 0),
        (["1e-3", "\N{MINUS SIGN}2.5", " 7 "], [0.001, -2.5, 7], 0),
        ([1.5, None, "2"], [1.5, np.nan, 2], 0),
        (["True", "0.1", "0.2"], [np.nan, 0.1, 0.2], 1),
    ],
)
def test_numbers_in_columns_of_text(texts, values, bad):
    found, cells = as_numbers(pd.Series(texts, dtype=object))
    np.testing.assert_array_equal(found, values)
    assert cells.bad == bad


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_feature_with_a_text_in_a_cell_stays_a_feature(tmp_path, suffix, caplog):
    rows = 12
    table = pd.DataFrame(
        {
            "Metadata_Plate": "P1",
            "Cells_Good": np.arange(rows, dtype=float),
            "Cells_Broken": [*map(str, range(rows - 1)), "#DIV/0!"],
            "Cells_Odd": [*map(str, range(rows - 1)), "saturated"],
            "Cells_Notes": ["a", "b"] * (rows // 2),
        }
    )
    path = tmp_path / f"p.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    with caplog.at_level(logging.INFO):
        profiles = read(path)
    assert profiles.names == ("Cells_Good", "Cells_Broken", "Cells_Odd")
    expected = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 3, axis=1)
    expected[-1, 1:] = np.nan
    np.testing.assert_array_equal(profiles.features, expected)
    assert list(profiles.metadata) == ["Metadata_Plate", "Cells_Notes"]
    assert "2 cells of text in columns of numbers are missing values: Cells_Broken, Cells_Odd" in (
        caplog.text
    )
    assert "because they hold text: Cells_Notes" in caplog.text
    found = profiles.provenance["steps"][-1]["found"]
    assert {"found": "gaps", "columns": ["Cells_Broken", "Cells_Odd"], "count": 2,
            "example": "#DIV/0!"} in found  # fmt: skip
    with pytest.raises(UserError, match=r"matches 'Cells_Notes' of .*no numbers but texts as 'a'"):
        read(path, Wanted(features="Cells_.*"))


def test_plates_whose_features_differ_share_those_that_both_have(tmp_path, caplog):
    first = pd.DataFrame({"Metadata_Plate": "A", "Cells_P": [1.0], "Cells_Q": 2.0, "Cells_R": 3.0})
    second = pd.DataFrame({"Metadata_Plate": "B", "Cells_R": [6.0], "Cells_S": 7.0, "Cells_P": 5.0})
    first.to_csv(tmp_path / "a.csv", index=False)
    second.to_parquet(tmp_path / "b.parquet")
    paths = [tmp_path / "a.csv", tmp_path / "b.parquet"]
    with pytest.raises(UserError, match=r"1 only in the first \(Cells_Q\).* take the 2 features"
                       " that both have with `features` common"):  # fmt: skip
        read(paths)
    with caplog.at_level(logging.INFO):
        both = read(paths, Wanted(features="common"))
    assert both.names == ("Cells_P", "Cells_R")
    np.testing.assert_array_equal(both.features, [[1, 3], [5, 6]])
    assert "the 2 features that all files have; left out 1 of a.csv, 1 of b.parquet" in caplog.text
    pd.DataFrame({"Metadata_Plate": ["C"], "Nuclei_T": 1.0}).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(UserError, match="share no feature"):
        read([*paths, tmp_path / "c.csv"], Wanted(features="common"))
    with pytest.raises(UserError, match="these share none"):
        read([paths[0], tmp_path / "c.csv"])


@pytest.mark.parametrize("hold", [True, False])
def test_a_text_is_read_by_blocks(tmp_path, monkeypatch, hold):
    """Columns are told over all blocks: what is text in the last row is text in the first."""
    monkeypatch.setattr("phenomjax.maps.tables.scratch.BLOCK_VALUES", 15)  # three rows of five
    values = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    table = pd.DataFrame(values, columns=["Cells_A", "Cells_B"])
    table["Metadata_Plate"] = [*["7"] * 9, "007"]
    table["Metadata_dose"] = [*map(str, range(9)), "high"]
    table["Path"] = [*map(str, range(8)), "x", "y"]
    table.to_csv(tmp_path / "p.csv", index=False)
    profiles = read(tmp_path / "p.csv", Wanted(hold=hold))
    np.testing.assert_array_equal(profiles.features, values)
    assert profiles.metadata["Metadata_Plate"].tolist() == [*["7"] * 9, "007"]
    assert profiles.metadata["Metadata_dose"].tolist() == [*map(str, range(9)), "high"]
    assert profiles.metadata["Path"].tolist() == [*map(str, range(8)), "x", "y"]
