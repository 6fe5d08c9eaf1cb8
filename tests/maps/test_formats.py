"""Profiles as they are published, each read with no word but its path: pycytominer, CytoTable,
CellProfiler's objects, DeepProfiler, OpenPhenom, AnnData; and tables with odd columns.
"""

import logging

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from phenomjax.maps.tables.reading import read
from phenomjax.maps.tables.sources import Wanted
from phenomjax.system.errors import UserError
from tests.lab import plates
from tests.lab.maps import run

AREAS = [[10.0, 20.0, 60.0], [1.0, 3.0], [5.0], [7.0, 8.0, 9.0, 100.0]]  # cells of four wells
WELLS = [("P1", "A01"), ("P1", "A02"), ("P2", "A01"), ("P2", "A02")]


def _cells() -> pd.DataFrame:
    """A row a cell, as CellProfiler has them; two images of each well take its cells in turn."""
    rows = [
        {
            "ImageNumber": 2 * well + k % 2 + 1,
            "ObjectNumber": k // 2 + 1,
            "AreaShape_Area": area,
            "AreaShape_Center_X": 3.5,
            "Intensity_MeanIntensity_DNA": area / 100,
            "Location_Center_X": 4.0,
            "Number_Object_Number": k // 2 + 1,
            "Parent_Nuclei": k // 2 + 1,
        }
        for well, areas in enumerate(AREAS)
        for k, area in enumerate(areas)
    ]
    return pd.DataFrame(rows).sort_values("ImageNumber", kind="stable", ignore_index=True)


def _images() -> pd.DataFrame:
    wells = [WELLS[image // 2] for image in range(8)]
    return pd.DataFrame(
        {
            "ImageNumber": np.arange(1, 9),
            "Metadata_Plate": [plate for plate, _ in wells],
            "Metadata_Well": [well for _, well in wells],
            "Metadata_Site": np.arange(8) % 2 + 1,
            "Count_Cells": 3,
            "FileName_DNA": "x.tif",
        }
    )


def _wells(profiles, plate="Metadata_Plate", well="Metadata_Well") -> dict:
    """Features and count of each well."""
    table = profiles.metadata
    return {
        key: (*row, count)
        for key, row, count in zip(
            zip(table[plate], table[well], strict=True),
            profiles.features.tolist(),
            table["Metadata_Object_Count"],
            strict=True,
        )
    }


def _expected(average, columns=1) -> dict:
    found = {}
    for key, areas in zip(WELLS, AREAS, strict=True):
        values = [float(np.float32(average(np.divide(areas, by)))) for by in (1, 100)]
        found[key] = (*values[:columns], len(areas))
    return found


def test_pycytominer(tmp_path):
    screen = plates.screen(plates=2, dim=6)
    screen.insert(3, "Metadata_Site_Count", 9)
    names = tuple(plates.feature_names(6))
    screen.to_csv(tmp_path / "P_normalized.csv.gz")  # with an index, a column without a name
    screen.to_parquet(tmp_path / "P_normalized.parquet.gzip", compression="gzip")
    for name in ("P_normalized.csv.gz", "P_normalized.parquet.gzip"):
        profiles = read(tmp_path / name)
        assert profiles.names == names
        np.testing.assert_allclose(profiles.features, screen[list(names)], rtol=1e-6)
        assert profiles.metadata["Metadata_Plate"].tolist() == screen["Metadata_Plate"].tolist()


def test_openphenom_and_other_embeddings_of_one_row_a_well(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    table = pd.DataFrame(values, columns=[f"feature_{k}" for k in range(4)])
    wells = ["gene-001_1_AA02", "gene-001_1_AA03", "compound-001_1_AA02"]
    table.assign(well_id=wells).to_parquet(tmp_path / "e.parquet")
    table.set_index(pd.Index(wells, name="well_id")).to_parquet(tmp_path / "i.parquet")
    pd.DataFrame({"well_id": wells, "embedding": list(values)}).to_parquet(tmp_path / "v.parquet")
    names = {"v": tuple(f"embedding_{k}" for k in range(4))}
    for name in ("e", "i", "v"):
        profiles = read(tmp_path / f"{name}.parquet")
        assert profiles.names == names.get(name, tuple(table.columns))
        np.testing.assert_array_equal(profiles.features, values)
        assert profiles.metadata["well_id"].tolist() == wells
    ragged = pd.DataFrame({"well_id": wells, "embedding": [[1.0, 2, 3], [4.0, 5, 6], [7]]})
    ragged.to_parquet(tmp_path / "r.parquet")
    with pytest.raises(UserError, match=r"'embedding' are of different lengths \(3 and 1\)"):
        read(tmp_path / "r.parquet")


@pytest.mark.parametrize("how", ["mean", "median"])
def test_cells_of_cellprofiler_become_wells(tmp_path, how, caplog):
    """Plates and wells are in the table of images; without it, the error says so."""
    cells = _cells()
    lost = cells.iloc[[-1]].assign(ObjectNumber=99, AreaShape_Area=np.nan)
    cells = pd.concat([cells, lost], ignore_index=True)
    cells.to_csv(tmp_path / "MyExpt_Cells.csv", index=False)
    with pytest.raises(UserError, match=r"row for each object.*MyExpt_Image\.csv beside"):
        read(tmp_path / "MyExpt_Cells.csv")
    _images().to_csv(tmp_path / "MyExpt_Image.csv", index=False)
    with caplog.at_level(logging.INFO):
        profiles = read(tmp_path / "MyExpt_Cells.csv", Wanted(objects=how))
    assert profiles.names == ("Cells_AreaShape_Area", "Cells_Intensity_MeanIntensity_DNA")
    expected = _expected(getattr(np, how), columns=2)
    found = _wells(profiles)
    assert found[WELLS[3]][2] == 5 and found[WELLS[3]][0] == expected[WELLS[3]][0]
    assert {k: found[k] for k in WELLS[:3]} == {k: expected[k] for k in WELLS[:3]}
    assert "ImageNumber" not in profiles.metadata and "Metadata_Site" not in profiles.metadata
    assert f"11 objects (cells) to wells (Metadata_Plate, Metadata_Well), by their {how}" in (
        caplog.text
    )
    assert "plates and wells of objects are those of MyExpt_Image.csv" in caplog.text
    apart = read(tmp_path / "MyExpt_Cells.csv", Wanted(objects="apart"))
    assert len(apart) == 11 and apart.metadata["Metadata_Well"].notna().all()


TEXTURE = "Texture_Contrast_DNA_3_00_256"  # CellProfiler's names may end in numbers


def test_cells_and_nuclei_of_cellprofiler_stand_side_by_side(tmp_path):
    cells = _cells()
    for name, factor in (("Cells", 1), ("Nuclei", 2)):
        scaled = cells.assign(AreaShape_Area=factor * cells["AreaShape_Area"])
        scaled = scaled.rename(columns={"Intensity_MeanIntensity_DNA": TEXTURE})
        scaled.to_csv(tmp_path / f"{name}.csv", index=False)
    _images().to_csv(tmp_path / "Image.csv", index=False)
    both = read([tmp_path / "Cells.csv", tmp_path / "Nuclei.csv"])
    own = ("AreaShape_Area", TEXTURE)
    assert both.names == tuple(f"{o}_{name}" for o in ("Cells", "Nuclei") for name in own)
    mean = _expected(np.mean)
    areas = {k: (well[0], well[2], well[-1]) for k, well in _wells(both).items()}
    assert areas == {k: (area, 2 * area, n) for k, (area, n) in mean.items()}
    assert [s["path"] for s in both.provenance["sources"]] == ["Cells.csv", "Nuclei.csv"]


def test_objects_of_cellprofiler_in_one_table_with_two_lines_of_names(tmp_path):
    joined = _cells().merge(_images().drop(columns=["Count_Cells", "FileName_DNA"]))
    bare = ("ImageNumber", "ObjectNumber")
    owners = ["Image" if n in bare or n.startswith("Metadata_") else "Cells" for n in joined]
    lines = [",".join(owners), joined.to_csv(index=False)]
    (tmp_path / "MyExpt_objects.csv").write_text("\n".join(lines))
    profiles = read(tmp_path / "MyExpt_objects.csv")
    assert profiles.names == ("Cells_AreaShape_Area", "Cells_Intensity_MeanIntensity_DNA")
    assert _wells(profiles) == _expected(np.mean, columns=2)


def test_joined_cells_of_cytotable_become_wells(tmp_path):
    cells = _cells()
    images = _images().set_index("ImageNumber").loc[cells["ImageNumber"]]
    table = pd.DataFrame(
        {
            "Metadata_ImageNumber": cells["ImageNumber"],
            "Image_Metadata_Plate": images["Metadata_Plate"].to_numpy(),
            "Image_Metadata_Well": images["Metadata_Well"].to_numpy(),
            "Image_FileName_DNA": "x.tif",
            "Metadata_ObjectNumber": cells["ObjectNumber"],
            "Metadata_Cytoplasm_Parent_Cells": cells["ObjectNumber"],
            "Metadata_ObjectNumber_1": cells["ObjectNumber"],
            "Metadata_Nuclei_Number_Object_Number": cells["ObjectNumber"],
            "Cytoplasm_AreaShape_Area": cells["AreaShape_Area"],
            "Cells_AreaShape_Center_Y": 1.0,
            "Nuclei_Location_CenterMassIntensity_X_DNA": 2.0,
            "Nuclei_AreaShape_Area": cells["AreaShape_Area"] / 100,
        }
    )
    table.to_parquet(tmp_path / "plate.parquet", row_group_size=3)
    profiles = read(tmp_path / "plate.parquet")
    assert profiles.names == ("Cytoplasm_AreaShape_Area", "Nuclei_AreaShape_Area")
    found = _wells(profiles, "Image_Metadata_Plate", "Image_Metadata_Well")
    assert found == _expected(np.mean, columns=2)
    # wells of their own, with an object's number that pycytominer averaged, are no objects
    wells = table.groupby(["Image_Metadata_Plate", "Image_Metadata_Well"], as_index=False).first()
    wells.to_parquet(tmp_path / "wells.parquet")
    assert len(read(tmp_path / "wells.parquet")) == 4


@pytest.mark.parametrize("layout", ["{plate}/{well}/{site}.npz", "{plate}/{well}_{site}.npz"])
def test_deep_profiler(tmp_path, layout):
    rng = np.random.default_rng(0)
    features = {}
    for plate, well in WELLS:
        cells = [rng.normal(size=(n, 3)).astype(np.float32) for n in (2, 0, 5)]
        features[plate, well] = np.concatenate(cells)
        for site, some in enumerate(cells, 1):
            path = tmp_path / "features" / layout.format(plate=plate, well=well, site=site)
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = np.array({"Metadata_Model": "efficientnet"}, dtype=object)
            np.savez(path, features=some, metadata=metadata, locations=np.zeros((len(some), 2)))
    profiles = read(tmp_path / "features")
    assert profiles.names == ("DP_0", "DP_1", "DP_2")
    for row, (plate, well) in enumerate(
        zip(profiles.metadata["Metadata_Plate"], profiles.metadata["Metadata_Well"], strict=True)
    ):
        cells = features[plate, well]
        np.testing.assert_allclose(profiles.features[row], cells.mean(0), rtol=1e-5)
        assert profiles.metadata["Metadata_Object_Count"][row] == len(cells) == 7
    assert len(read(tmp_path / "features" / "P1")) == 2  # the folder of one plate
    assert len(read(tmp_path / "features", Wanted(objects="apart"))) == 28
    np.savez(tmp_path / "features" / "P1" / "A01_9.npz", features=np.zeros((1, 4), np.float32))
    with pytest.raises(UserError, match="are of two models"):
        read(tmp_path / "features")


def _annotated(**arrays) -> anndata.AnnData:
    obs = pd.DataFrame(
        {"Metadata_Plate": pd.Categorical(["P1", "P1", "P2"]), "Metadata_Well": ["A1", "A2", "A1"]},
        index=["x-1", "x-2", "x-3"],
    )
    return anndata.AnnData(obs=obs, **arrays)


VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("sparse", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, np.asarray])
def test_annotated_data(tmp_path, sparse):
    var = pd.DataFrame(index=["Cells_A", "ImageNumber", "Cells_B", "Cells_A"])
    values = VALUES.copy()
    values[:, 3] = values[:, 0]
    layers = {"scaled": 2 * values}
    with pytest.warns(UserWarning, match="not unique"):
        data = _annotated(X=sparse(values.astype(np.float64)), var=var, layers=layers)
    data.write_h5ad(tmp_path / "a.h5ad")
    profiles = read(tmp_path / "a.h5ad")
    assert profiles.names == ("Cells_A", "Cells_B")
    np.testing.assert_array_equal(profiles.features, values[:, [0, 2]])
    assert profiles.metadata["ImageNumber"].tolist() == values[:, 1].tolist()
    assert profiles.metadata["Metadata_Plate"].tolist() == ["P1", "P1", "P2"]
    assert profiles.metadata["obs_name"].tolist() == ["x-1", "x-2", "x-3"]
    np.testing.assert_array_equal(
        read(tmp_path / "a.h5ad", Wanted(layer="scaled")).features, 2 * values[:, [0, 2]]
    )
    values_only = pd.DataFrame({"Metadata_Plate": ["P"], "Cells_A": 1.0})
    values_only.to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(UserError, match=r"`layer` scaled is of an AnnData .* b\.csv\. Leave it"):
        read(tmp_path / "b.csv", Wanted(layer="scaled"))
    with pytest.raises(UserError, match=r"has no layer 'scale'. Did you mean 'scaled'"):
        read(tmp_path / "a.h5ad", Wanted(layer="scale"))


def test_annotated_data_with_empty_x(tmp_path, caplog):
    data = _annotated(obsm={"X_vit": VALUES, "X_umap": VALUES[:, :2]})
    data.write_h5ad(tmp_path / "one.h5ad")
    with caplog.at_level(logging.INFO):
        profiles = read(tmp_path / "one.h5ad")
    assert "X is empty; the features are those of obsm X_vit" in caplog.text
    assert profiles.names == ("vit_0", "vit_1", "vit_2", "vit_3")
    np.testing.assert_array_equal(profiles.features, VALUES)
    frame = pd.DataFrame(VALUES + 1, columns=list("abcd"), index=data.obs_names)
    data.obsm["named"] = frame
    data.write_h5ad(tmp_path / "two.h5ad")
    with pytest.raises(UserError, match="Choose what the features are: `obsm` X_vit, `obsm` named"):
        read(tmp_path / "two.h5ad")
    chosen = read(tmp_path / "two.h5ad", Wanted(obsm="named"))
    assert chosen.names == tuple("abcd")
    np.testing.assert_array_equal(chosen.features, VALUES + 1)
    _annotated(obsm={"X_umap": VALUES[:, :2]}).write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(UserError, match="is empty, and no layer and no array of obsm"):
        read(tmp_path / "none.h5ad")


def test_columns_of_one_name(tmp_path, caplog):
    """Once where the values are the same; apart, with a word, where they are not."""
    (tmp_path / "t.csv").write_text(
        "Metadata_Plate,Metadata_Plate,Cells_A,Cells_A,Cells_B,Cells_B\nP,P,1,1,2,3\nP,P,4,4,5,6\n"
    )
    columns = [pa.array(v) for v in (["P", "P"], ["P", "P"], [1, 4], [1, 4], [2.0, 5], [3.0, 6])]
    names = ["Metadata_Plate", "Metadata_Plate", "Cells_A", "Cells_A", "Cells_B", "Cells_B"]
    pq.write_table(pa.table(columns, names=names), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            profiles = read(tmp_path / name)
        assert profiles.names == ("Cells_A", "Cells_B", "Cells_B#2")
        np.testing.assert_array_equal(profiles.features, [[1, 2, 3], [4, 5, 6]])
        assert list(profiles.metadata) == ["Metadata_Plate"]
        assert "the same column twice: Metadata_Plate#2, Cells_A#2" in caplog.text
        assert "other values, called apart: Cells_B#2" in caplog.text


def test_types_of_parquet(tmp_path):
    table = pa.table(
        {
            "Metadata_Plate": pa.array(["P1", "P2"]).dictionary_encode(),
            "Metadata_Control": pa.array([True, None]),
            "Cells_Int": pa.array([1, None], pa.int64()),
            "Cells_Half": pa.array(np.array([1.5, 2.5], np.float16)),
            "Cells_Decimal": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
            "Cells_Text": pa.array(["0.5", "1.5"]).dictionary_encode(),
            "Cells_Large": pa.array([1e300, 2.0]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    profiles = read(tmp_path / "t.parquet")
    assert profiles.names == tuple(table.column_names[2:])
    expected = [[1, 1.5, 1, 0.5, np.inf], [np.nan, 2.5, 2, 1.5, 2]]
    np.testing.assert_array_equal(profiles.features, expected)
    assert profiles.metadata["Metadata_Plate"].tolist() == ["P1", "P2"]


def test_files_of_several_formats_name_plates_alike(tmp_path):
    values = pd.DataFrame({"Cells_A": [1.0, 2.0]})
    values.assign(Metadata_Plate=[7, 8], Metadata_dose=[0.5, np.nan]).to_csv(
        tmp_path / "a.csv", index=False
    )
    values.assign(Metadata_Plate=["7", "x"], Metadata_dose=[1, 2]).to_parquet(
        tmp_path / "b.parquet"
    )
    both = read([tmp_path / "a.csv", tmp_path / "b.parquet"])
    assert both.metadata["Metadata_Plate"].tolist() == ["7", "8", "7", "x"]
    np.testing.assert_array_equal(both.metadata["Metadata_dose"], [0.5, np.nan, 1, 2])


def test_wells_that_are_named_by_row_and_column(tmp_path, caplog):
    table = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Row": ["a", "H", "27", "3", None],
            "Metadata_Col": [1, 12, 48, 5, 6],
            "Cells_A": np.arange(5.0),
        }
    )
    table.to_csv(tmp_path / "p.csv", index=False)
    with caplog.at_level(logging.INFO):
        wells = read(tmp_path / "p.csv").metadata["Metadata_Well"]
    assert wells.tolist() == ["A01", "H12", "AA48", "C05", None]
    assert "wells are named by their row and column: Metadata_Row, Metadata_Col" in caplog.text
    table.assign(Metadata_Well="X9").to_csv(tmp_path / "p.csv", index=False)
    assert set(read(tmp_path / "p.csv").metadata["Metadata_Well"]) == {"X9"}


def test_published_tables_go_through_the_door_with_no_word_but_profiles(tmp_path):
    """Cells of CytoTable, with a plate map that tells their compounds; plates that share features,
    by the words that the error offers.
    """
    wells, names = plates.screen(plates=2, dim=4), plates.feature_names(4)
    cells = wells.loc[wells.index.repeat(2)].reset_index(drop=True)
    cells[names] += np.tile([[-1.0], [1.0]], (len(wells), 1))
    table = pd.DataFrame({"Metadata_ImageNumber": np.arange(len(cells)) // 2 + 1})
    table["Image_Metadata_Plate"] = cells["Metadata_Plate"]
    table["Image_Metadata_Well"] = cells["Metadata_Well"]
    table["Metadata_ObjectNumber"] = np.arange(len(cells)) % 2 + 1
    table[names] = cells[names]
    table.to_parquet(tmp_path / "cells.parquet")
    known = wells[:96].drop(columns=[*names, "Metadata_Plate"])
    known.to_csv(tmp_path / "platemap.csv", index=False)
    out = tmp_path / "wells.parquet"
    words = ["--metadata", tmp_path / "platemap.csv", "--to", "well", "--out", out]
    assert run("aggregate", "--profiles", tmp_path / "cells.parquet", *words) == 0
    done = read(out)
    assert len(done) == len(wells) and set(done.metadata["Metadata_Object_Count"]) == {2}
    done = done.metadata.assign(**dict(zip(names, done.features.T, strict=True)))
    done = done.set_index(["Image_Metadata_Plate", "Image_Metadata_Well"]).sort_index()
    expected = wells.set_index(["Metadata_Plate", "Metadata_Well"]).sort_index()
    np.testing.assert_allclose(done[names], expected[names], atol=1e-6)
    assert (
        done["Metadata_gene"].fillna("").tolist() == expected["Metadata_gene"].fillna("").tolist()
    )

    wells[:96].drop(columns=names[0]).to_csv(tmp_path / "P1.csv.gz", index=False)
    wells[96:].drop(columns=names[1]).to_parquet(tmp_path / "P2.parquet")
    words = ["--profiles", tmp_path / "P1.csv.gz", tmp_path / "P2.parquet", "--to", "well"]
    words += ["--out", out]
    with pytest.raises(UserError, match="2 features that both have with --features common"):
        run("aggregate", *words)
    assert run("aggregate", *words, "--features", "common") == 0
    assert read(out).names == tuple(names[2:])


def test_a_table_that_is_cut_off_is_told(tmp_path, caplog):
    caplog.set_level("INFO", logger="phenomjax")
    text = plates.screen(plates=1).to_csv(index=False)
    for rest, cut in ((text, False), (text.rstrip("\n"), False), (text[: -len(text) // 3], True)):
        (tmp_path / "wells.csv").write_text(rest)
        caplog.clear()
        read(tmp_path / "wells.csv")
        assert ("the last line of wells.csv has fewer columns" in caplog.text) == cut


def test_files_of_one_name_in_folders_are_the_plates_of_these(tmp_path):
    table = pd.DataFrame({"well": ["A01", "A02"], "emb_0": [1.0, 2], "emb_1": 3.0, "emb_2": 4.0})
    paths = [tmp_path / plate / "wells.csv" for plate in ("P1", "P2")]
    for k, path in enumerate(paths):
        path.parent.mkdir()
        table.assign(emb_0=float(k)).to_csv(path, index=False)
    assert set(read(paths).metadata["plate"]) == {"P1/wells", "P2/wells"}
