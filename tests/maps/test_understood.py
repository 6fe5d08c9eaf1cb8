"""What is understood of tables as many labs write them: columns, roles of wells."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from phenomjax.maps.benchmark import command as benchmark
from phenomjax.maps.benchmark.measures import same_target_pairs
from phenomjax.maps.build import aggregate
from phenomjax.maps.tables import input
from phenomjax.maps.tables.columns import Columns
from phenomjax.maps.tables.metadata import roles
from phenomjax.maps.tables.metadata.detection import detect
from phenomjax.maps.tables.metadata.tidying import tidied
from phenomjax.maps.tables.names import entities, targets_of
from phenomjax.maps.tables.options import TableOptions
from phenomjax.maps.tables.profiles import Profiles
from phenomjax.maps.tables.reading import read
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door
from tests.lab.plates import TOLD, screen


def _detected(table, **told) -> Columns:
    return detect(tidied(pd.DataFrame(table)), TableOptions(profiles=(), **told).columns)


RXRX3 = {
    "well_id": ["gene-001_1_AA01", "gene-001_1_AA02", "compound-004_1_AA01", "compound-004_1_B02"],
    "experiment_name": ["gene-001", "gene-001", "compound-004", "compound-004"],
    "plate": [1, 1, 1, 1],
    "address": ["AA01", "AA02", "AA01", "B02"],
    "gene": ["EMPTY_control", "MTOR", None, None],
    "treatment": ["EMPTY_control", "MTOR_guide_1", "Torin", "EMPTY_control"],
    "concentration": [np.nan, np.nan, 2.5, np.nan],
    "perturbation_type": ["CRISPR", "CRISPR", "COMPOUND", "COMPOUND"],
    "cell_type": "HUVEC",
}
LINCS = {
    "Metadata_Plate_Map_Name": "C-7161-01",
    "Metadata_Plate": "SQ00014812",
    "Metadata_Well": ["A01", "A02", "A03", "A04"],
    "Metadata_broad_sample": ["DMSO", "BRD-1", "BRD-2", "BRD-3"],
    "Metadata_mmoles_per_liter": [0.0, 10.0, 3.3, 20.0],
    "Metadata_pert_type": ["control", "trt", "trt", "control"],
    "Metadata_moa": [None, "kinase inhibitor", "vehicle", "proteasome inhibitor"],
    "Metadata_target": [None, "MTOR|PIK3CA", "EGFR", "PSMB5"],
    "Metadata_cell_id": "A549",
}
IDR = {
    "Plate": ["P1", "P1", "P1"],
    "Well": ["a1", "a2", "a3"],
    "Gene Symbol": [None, "PLK1", "AURKB"],
    "siRNA Identifier": ["s0", "s1", "s2"],
    "Control Type": ["negative control", "positive control", "not control"],
    "Characteristics [Cell Line]": ["HeLa", "HeLa", "U2OS"],
}
CYTOTABLE = {
    "Image_Metadata_Plate": ["Plate_2"] * 4,
    "Image_Metadata_Well": ["B1", "B2", "B3", "B4"],
    "Metadata_genotype": ["WT", "Null", "WT", "Null"],
    "Metadata_gene_name": ["NF1"] * 4,
    "Metadata_Time_Point": ["24h", "24h", "48h", "48h"],
}
DEEP = {
    "Metadata_Plate": [101, 101],
    "Metadata_Well": ["a01", "a02"],
    "Metadata_Site": [1, 1],
    "Treatment": ["DMSO@NA", "taxol@1"],
    "Compound": ["DMSO", "taxol"],
    "Concentration": [0, 1.5],
}
JUMP = {
    "Metadata_Source": ["source_4", "source_4", "source_7", "source_7"],
    "Metadata_Batch": ["B1", "B1", "B1", "B1"],
    "Metadata_Plate": ["1", "1", "1", "2"],
    "Metadata_Well": ["A01", "A02", "A01", "A02"],
    "Metadata_JCP2022": ["JCP2022_033924", "JCP2022_000001", "JCP2022_037716", "JCP2022_999999"],
}
PERISCOPE = {
    "Metadata_Foci_Barcode_MatchedTo_GeneCode": ["nontargeting", "TP53", "MDM2"],
    "Metadata_Foci_Barcode_MatchedTo_Barcode": ["AAC", "AAG", "AAT"],
}


@pytest.mark.parametrize(
    ("table", "expected", "counted"),
    [
        (
            RXRX3,
            {
                "batch": ("experiment_name", "plate"),
                "plate": "plate",
                "well": "address",
                "perturbation": "treatment",
                "gene": "gene",
                "kind": "perturbation_type",
                "dose": "concentration",
                "control": 'treatment == "EMPTY_control"',
            },
            (2, 0, 2),
        ),
        (
            LINCS,
            {
                "batch": ("Metadata_Plate",),
                "perturbation": "Metadata_broad_sample",
                "gene": "Metadata_target",
                "dose": "Metadata_mmoles_per_liter",
                "control": 'Metadata_broad_sample == "DMSO"',
                "kind": "",
                "apart": (),
            },
            (1, 0, 2),
        ),
        (
            IDR,
            {
                "plate": "Plate",
                "gene": "Gene Symbol",
                "control": '`Control Type` == "negative control"',
                "apart": ("Characteristics [Cell Line]",),
            },
            (1, 1, 1),
        ),
        (
            CYTOTABLE,
            {
                "batch": ("Image_Metadata_Plate",),
                "well": "Image_Metadata_Well",
                "gene": "Metadata_gene_name",
                "apart": ("Metadata_Time_Point",),
            },
            (0, 0, 4),
        ),
        (
            DEEP,
            {
                "plate": "Metadata_Plate",
                "perturbation": "Treatment",
                "dose": "Concentration",
                "control": 'Compound == "DMSO"',
            },
            (1, 0, 1),
        ),
        (
            JUMP,
            {
                "batch": ("Metadata_Source", "Metadata_Plate"),
                "perturbation": "Metadata_JCP2022",
                "gene": "",
                "control": 'Metadata_JCP2022 == "JCP2022_033924"',
                "treatment": 'Metadata_JCP2022 != "JCP2022_999999"',
            },
            (1, 1, 1),
        ),
        (
            PERISCOPE,
            {
                "batch": (),
                "perturbation": "Metadata_Foci_Barcode_MatchedTo_Barcode",
                "gene": "Metadata_Foci_Barcode_MatchedTo_GeneCode",
                "control": 'Metadata_Foci_Barcode_MatchedTo_GeneCode == "nontargeting"',
            },
            (1, 0, 2),
        ),
    ],
    ids=["rxrx3", "lincs", "idr", "cytotable", "deepprofiler", "jump", "periscope"],
)
def test_columns_and_roles_are_detected(table, expected, counted):
    columns = _detected(table)
    assert {name: getattr(columns, name) for name in expected} == expected
    found = roles.counts(tidied(pd.DataFrame(table)), columns)
    assert (found["control"], found["positive"], found["study"]) == counted


def test_columns_of_cpjump1_are_detected_and_a_flag_wins():
    table = screen(plates=2).filter(like="Metadata_")
    columns = _detected(table)
    assert columns == replace(
        TOLD,
        positive='Metadata_control_type == "poscon_cp"',
        treatment='Metadata_pert_type != "control"',
    )
    assert roles.counts(table, columns) == {
        **{"control": 48, "positive": 16, "study": 128, "neither": 0}
    }
    lower = table.rename(columns=lambda name: name.removeprefix("Metadata_").lower())
    assert roles.counts(lower, _detected(lower)) == roles.counts(table, columns)
    told = _detected(
        table,
        perturbation="Metadata_pert_iname",
        batch="Metadata_Well,Metadata_gene",
        positive="none",
    )
    assert (told.perturbation, told.batch, told.positive) == (
        *("Metadata_pert_iname", ("Metadata_Well", "Metadata_gene"), ""),
    )


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("Metadata_is_negcon", ["Y", "N", "n"]),
        ("negative_control", ["yes", "no", None]),
        ("is_control", [1.0, 0.0, np.nan]),
        ("Control", ["TRUE", "FALSE", "false"]),
        ("Metadata_negcon_txt", ["yes", "no", "no"]),
        ("pert_type", ["ctl_vehicle", "trt_cp", "trt_cp"]),
        ("WellType", ["Negative Control", "Sample", "sample"]),
        ("Metadata_role", ["DMSO", "compound", "compound"]),
        ("control_type", ["negcon", "", "poscon"]),
        ("Metadata_compound", ["DMSO", "a", "b"]),
        ("Metadata_compound", ["0.1% DMSO", "a", "b"]),
        ("gene_symbol", ["Non-targeting_0007", "PC", "NEG"]),
        ("pert", ["control", "a", "b"]),
        ("ASSAY_WELL_ROLE", ["mock", "treated", "treated"]),
        ("Compound", ["Dimethyl sulfoxide (DMSO)", "a", "b"]),
        ("sirna", ["siCtrl #2", "siNTF3", "siNCOR1"]),
        ("gene", ["NTC", "PC", "NEG"]),
        ("Metadata.Control.Type", ["negcon", "trt", "trt"]),
        ("Ctrl", ["yes", "no", "no"]),
        ("type", ["DMSO", "compound", "compound"]),
    ],
)
def test_a_negative_control_is_told_in_many_ways(column, values):
    table = pd.DataFrame({"plate": "1", "drug_id": ["a", "b", "c"], column: values})
    columns = _detected(table)
    assert columns.controls(table).tolist() == [True, False, False]


def test_a_flag_that_names_no_column_is_an_error():
    with pytest.raises(
        UserError, match=r"no column 'Metadata_gen', .* Did you mean 'Metadata_gene'"
    ):
        _detected(screen(plates=1), gene="Metadata_gen")


def test_is_control_of_all_kinds_leaves_the_positive_ones_out():
    table = pd.DataFrame(
        {
            "perturbation": ["DMSO", "taxol", "x"],
            "is_control": [True, True, False],
            "control_type": ["negcon", "poscon", None],
        }
    )
    columns = _detected(table)
    assert columns.controls(table).tolist() == [True, False, False]
    assert columns.positives(table).tolist() == [False, True, False]


def test_positive_controls_are_never_the_negative_ones():
    """CPJUMP1 calls both kinds "control" in one column, and its plates may lack the negative."""
    table = screen(plates=1)
    only = table[table["Metadata_control_type"] != "negcon"]
    assert _detected(only).control == ""
    table.loc[table["Metadata_control_type"] == "negcon", "Metadata_control_type"] = None
    found = _detected(table.assign(Metadata_pert_iname="x"))
    assert found.controls(table).sum() == 24 and found.positives(table).sum() == 8
    assert not (found.controls(table) & found.positives(table)).any()


@pytest.mark.parametrize(
    "name, apart",
    [
        *((name, True) for name in ("Metadata_Time_hrs", "hours_post_treatment", "CellLineName")),
        *((name, True) for name in ("Metadata_pert_itime", "Incubation Time (h)", "donor_id")),
        *((name, False) for name in ("time_delay", "Metadata_timestamp", "Metadata_Cells")),
    ],
)
def test_names_of_time_points_and_cells(name, apart):
    table = screen(plates=2).assign(**{name: ["24 h"] * 96 + ["48 h"] * 96})
    assert _detected(table).apart == ((name,) if apart else ())


@pytest.mark.parametrize(
    "name", ["pert_idose", "Molar concentration", "dose_level", "log10_conc", "Metadata_Dose (uM)"]
)
def test_names_of_doses(name):
    assert _detected(screen(plates=1).assign(**{name: 1.0})).dose == name


@pytest.mark.parametrize("yes", [1, 1.0, "yes", True])
def test_is_control_of_all_kinds_beside_is_positive_control(yes):
    no = {1: 0, "yes": "no"}.get(yes, False)
    table = pd.DataFrame(
        {
            "compound": ["DMSO", "taxol", "x"],
            "is_control": [yes, yes, no],
            "is_positive_control": [no, yes, no],
        }
    ).astype({"is_control": object if yes == "yes" else type(yes)})
    columns = _detected(table)
    assert columns.controls(table).tolist() == [True, False, False]
    assert columns.positives(table).tolist() == [False, True, False]


def test_wells_that_are_named_empty_or_positive_are_not_under_study():
    names = ["DMSO", "EMPTY", "positive control", "x", "POS-07", "NC-12"]
    table = pd.DataFrame({"compound": names})
    table = table.assign(DMSO_percent=1.0, vehicle_volume=1)  # which tell no controls
    found = roles.counts(table, _detected(table))
    assert found == {"control": 1, "positive": 1, "study": 3, "neither": 1}


def test_wells_of_nothing_but_the_solvent_are_controls():
    table = pd.DataFrame(
        {
            "Metadata_broad_sample": [None, "BRD-1", None],
            "Metadata_solvent": ["DMSO", "DMSO", None],
        }
    )
    columns = _detected(table)
    assert columns.control == 'Metadata_broad_sample.isna() and Metadata_solvent == "DMSO"'
    assert columns.controls(table).tolist() == [True, False, False]
    spaced = table.rename(columns=lambda name: name.replace("_", " "))
    assert _detected(spaced).controls(spaced).tolist() == [True, False, False]


def test_the_best_of_several_columns_of_doses():
    doses = {
        "Metadata_mg_per_ml": [1.5, 3.0],
        "Metadata_mmoles_per_liter": [3.3331, 3.3329],
        "Metadata_dose_recode": [5, 5],
    }
    assert _detected(doses).dose == "Metadata_dose_recode"
    doses["Metadata_dose_recode"] = [None, None]
    assert _detected(doses).dose == "Metadata_mmoles_per_liter"
    assert _detected({"Image_Metadata_CPD_MMOL_CONC": [1.0]}).dose == "Image_Metadata_CPD_MMOL_CONC"


def test_what_an_error_of_controls_suggests():
    """Only a value that means a negative control is suggested, and the suggestion works."""
    table = pd.DataFrame({"kind_of": ["library", "DMSO", "other"], "state": ["a", "b", "c"]})
    with pytest.raises(UserError, match="`control` 'kind_of == \"DMSO\"'"):
        Columns(control="kind_of").controls(table)
    assert Columns(control='kind_of == "DMSO"').controls(table).tolist() == [False, True, False]
    with pytest.raises(UserError, match="which is neither yes nor no") as error:
        Columns(control="state").controls(table)
    assert "==" not in str(error.value)


def test_ids_that_became_fractions_are_texts_again():
    table = tidied(
        pd.DataFrame(
            {
                "Metadata_NCBI_Gene_ID": [42.0, np.nan, 7157.0],
                "Metadata_Plate": [1.0, 2.0, np.nan],
                "dose": [1.0, 2.0, np.nan],
                "gene": pd.Categorical(["A", None, "B"]),
            }
        )
    )
    assert table["Metadata_NCBI_Gene_ID"].tolist() == ["42", None, "7157"]
    assert table["Metadata_Plate"].tolist() == ["1", "2", None]
    assert table["dose"].dtype == float and table["gene"].tolist() == ["A", None, "B"]


def test_texts_lose_blanks_and_texts_of_nothing_are_missing(caplog):
    caplog.set_level("INFO", logger="phenomjax")
    table = tidied(
        pd.DataFrame({"compound": ["x ", "x", "nan", ""], "kept": ["NA", "a b", None, True]})
    )
    assert table["compound"].tolist() == ["x", "x", None, None]
    assert table["kept"].tolist() == ["NA", "a b", None, True]
    assert "blanks around texts are removed in compound (1)" in caplog.text
    assert "texts such as 'nan' are missing values in compound (1)" in caplog.text


def _files(tmp_path, table, name="wells.parquet"):
    table.to_parquet(tmp_path / name)
    return tmp_path / name


def test_dry_run_shows_the_table_and_stops(tmp_path, capsys):
    path = _files(tmp_path, screen(plates=2))
    out = tmp_path / "map.parquet"
    with pytest.raises(SystemExit) as stopped:
        run_as_door(aggregate, ["--profiles", path, "--out", out, "--dry_run"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and not out.exists()
    assert "192 rows, 24 features" in said
    assert "perturbation         Metadata_broad_sample  66: CMP-" in said
    assert 'negative controls by Metadata_control_type == "negcon"' in " ".join(said.split())
    assert "roles: 48 negative controls, 16 positive controls, 128 under study" in said


def test_a_plate_is_always_part_of_a_well(tmp_path):
    """--batch names a whole experiment; wells of one name on its plates are not averaged."""
    table = screen(plates=3).assign(Metadata_Batch="one")
    path = _files(tmp_path, table)
    out = tmp_path / "out.parquet"
    words = ["--profiles", path, "--out", out, "--batch", "Metadata_Batch"]
    run_as_door(aggregate, [*words, "--to", "well"])
    assert len(pd.read_parquet(out)) == len(table) == 288
    known = read([out]).provenance["understood"]
    assert known["columns"]["plate"] == "Metadata_Plate"
    assert known["roles"] == {"control": 72, "positive": 24, "study": 192, "neither": 0}
    table["Metadata_Experiment"] = "E" + table["Metadata_Plate"].str[-1]
    table["Metadata_Plate"] = "1"  # of each experiment
    _files(tmp_path, table)
    run_as_door(aggregate, [*words, "--to", "well"])
    assert len(pd.read_parquet(out)) == 288


def test_files_without_plates_are_plates(tmp_path):
    """A01 of one file is not A01 of the other."""
    table = screen(plates=2)
    words = ["--out", tmp_path / "out.parquet", "--to", "well", "--profiles"]
    for plate, rows in table.groupby("Metadata_Plate"):
        words.append(_files(tmp_path, rows.drop(columns="Metadata_Plate"), f"{plate}.parquet"))
    run_as_door(aggregate, words)
    wells = pd.read_parquet(tmp_path / "out.parquet")
    assert len(wells) == len(table) and set(wells["Metadata_Plate"]) == set(table["Metadata_Plate"])


def test_files_of_plates_of_the_same_names_are_runs(tmp_path, caplog):
    """Two batches that number their plates alike, and do not say which batch they are."""
    caplog.set_level("INFO", logger="phenomjax")
    tables = [screen(plates=2, seed=seed) for seed in (0, 1)]
    paths = []
    for name, table in zip("ab", tables, strict=True):
        (tmp_path / name).mkdir()
        paths.append(_files(tmp_path / name, table))
    words = ["--out", tmp_path / "out.parquet", "--to", "well", "--profiles"]
    run_as_door(aggregate, [*words, *paths])
    wells = pd.read_parquet(tmp_path / "out.parquet")
    assert len(wells) == 384 and set(wells["Metadata_Run"]) == {"a/wells", "b/wells"}
    assert "each file is a run of its own, by its name: a/wells, b/wells" in caplog.text
    # What tells them apart already stays; a copy, or a part, is still refused.
    told = [_files(tmp_path / n, t.assign(batch=n)) for n, t in zip("ab", tables, strict=True)]
    assert "Metadata_Run" not in read(told).metadata
    with pytest.raises(UserError, match="10 of 202 rows are there twice"):
        part = _files(tmp_path / "b", tables[0].iloc[5:15])
        run_as_door(aggregate, [*words, _files(tmp_path / "a", tables[0]), part])
    with pytest.raises(UserError, match="192 of 384 rows are there twice"):
        copy = _files(tmp_path / "b", tables[0])
        run_as_door(aggregate, [*words, _files(tmp_path / "a", tables[0]), copy])
    # Sites of the same wells in two files are no runs.
    site = [_files(tmp_path / n, tables[k].assign(site=k)) for k, n in enumerate("ab")]
    assert "Metadata_Run" not in read(site).metadata


def test_time_points_stay_apart_unless_told(tmp_path, caplog):
    caplog.set_level("INFO", logger="phenomjax")
    late = screen(plates=1, seed=2).assign(Metadata_Time=48, Metadata_Density=80)
    table = pd.concat([screen(plates=1).assign(Metadata_Time=24, Metadata_Density=100), late])
    path = _files(tmp_path, table.reset_index(drop=True))
    out, features = tmp_path / "out.parquet", list(table.columns[7:9])
    words = ["--profiles", path, "--out", out]
    run_as_door(aggregate, [*words, "--to", "well"])
    assert len(pd.read_parquet(out)) == 192
    run_as_door(aggregate, words)
    apart = pd.read_parquet(out).set_index(["Metadata_broad_sample", "Metadata_Time"])
    assert len(apart) == 128
    caplog.clear()
    run_as_door(aggregate, [*words, "--apart", "none"])
    together = pd.read_parquet(out).set_index("Metadata_broad_sample")
    assert len(together) == 64
    assert "averaged although they differ" in caplog.text
    assert "Metadata_Time (96), Metadata_Density (96)" in caplog.text
    mean = apart.groupby(level=0)[features].mean()
    np.testing.assert_allclose(together[features], mean, rtol=1e-5)
    run_as_door(aggregate, [*words, "--where", "Metadata_Time == 24"])
    one = pd.read_parquet(out).set_index("Metadata_broad_sample")
    np.testing.assert_array_equal(one[features], apart.xs(24, level=1)[features])
    # A benchmark's map has one row a perturbation; both mends that the error offers work.
    words = ["--profiles", path, "--out", tmp_path / "report", "--draws", "20", "--probe", "none"]
    with pytest.raises(UserError, match=r"2 values of 'Metadata_Time' \(24, 48\)") as error:
        run_as_door(benchmark, words)
    assert "--where 'Metadata_Time == 24'; or average over them: --apart none" in str(error.value)
    assert run_as_door(benchmark, [*words, "--apart", "none"]) == 0
    with pytest.raises(UserError, match="true of none of the 192 rows"):
        run_as_door(benchmark, [*words, "--where", "Metadata_Time == 72"])


@pytest.mark.parametrize(
    ("doses", "expected"),
    [
        ([9.98, 10.01, 3.3331, 3.3329, 0, 9.97], [10, 10, 3.333, 3.333, 0, 10]),
        ([float(np.float32(0.3)), 0.3, np.nan, 12.5], [0.3, 0.3, np.nan, 12.5]),
        ([100.0, 101.0, 102.0], [100, 101, 102]),  # whole numbers are what they are
        ([1 + k / 100 + 1e-3 for k in range(20)], None),  # as many doses as there are wells
    ],
)
def test_doses_that_are_meant_to_be_one(tmp_path, caplog, doses, expected):
    caplog.set_level("INFO", logger="phenomjax")
    table = screen(plates=1).iloc[: len(doses)].assign(Metadata_mmoles_per_liter=doses)
    profiles, _ = input.load(TableOptions(profiles=(str(_files(tmp_path, table)),)))
    found = profiles.metadata["Metadata_mmoles_per_liter"].tolist()
    np.testing.assert_allclose(found, doses if expected is None else expected, rtol=1e-12)
    said = "differ by less than 2 % from others" in caplog.text
    assert said == (expected is not None and len(set(doses)) > len(set(expected)))


def test_doses_stay_apart_unless_told(tmp_path, caplog):
    caplog.set_level("INFO", logger="phenomjax")
    table = screen(plates=2).assign(Metadata_mmoles_per_liter=1.5)
    table.loc[table["Metadata_Plate"] == "BR00000002", "Metadata_mmoles_per_liter"] = 3.0
    path, out = _files(tmp_path, table), tmp_path / "out.parquet"
    for words, expected in (([], 128), (["--doses", "together"], 64)):
        run_as_door(aggregate, ["--profiles", path, "--out", out, *words])
        assert len(pd.read_parquet(out)) == expected
        assert ("the doses of 64 perturbations are averaged" in caplog.text) == (expected == 64)
    run_as_door(aggregate, ["--profiles", path, "--out", out])
    profiles, columns = input.load(TableOptions(profiles=(str(out),)))
    assert {"CMP-000 1.5 mM", "CMP-000 3 mM"} <= set(entities(profiles, columns)["name"])


def test_wells_that_hold_several_perturbations_are_told(tmp_path, caplog):
    table = screen(plates=2)
    table["Metadata_Well"] = table["Metadata_Well"].str[0]  # a row of the plate, not a well
    path = _files(tmp_path, table)
    run_as_door(aggregate, ["--profiles", path, "--to", "well", "--out", tmp_path / "o.parquet"])
    assert "16 of 16 wells by Metadata_Plate, Metadata_Well hold several values of" in caplog.text


def test_lists_of_targets_are_sets():
    column = ["A|B", "['B', 'C']", "D, A ", None, "", "E"]
    profiles = Profiles(np.zeros((6, 1), np.float32), pd.DataFrame({"gene": column}), ("f",))
    targets = targets_of(profiles, Columns())
    assert targets.tolist() == [{"A", "B"}, {"B", "C"}, {"A", "D"}, set(), set(), {"E"}]
    nothing = profiles.metadata.assign(gene=["-", "unknown", "N/A", "none|A", "?", "NONO"])
    known = targets_of(replace(profiles, metadata=nothing), Columns())
    assert known.tolist() == [set(), set(), set(), {"A"}, set(), {"NONO"}]
    whole = targets_of(profiles, Columns(separators=""))
    assert whole.tolist()[:1] == [{"A|B"}]
    held = tidied(pd.DataFrame({"gene": [["A", "B"], np.array(["C"]), None]}))  # of Parquet
    assert held["gene"].tolist() == ["A|B", "C", None]
    pairs, shared = same_target_pairs(targets)
    assert pairs.tolist() == [[0, 2], [0, 1]] and shared.tolist() == ["A", "B"]
    twice = np.array([{"A", "B"}, {"B", "A"}, {"A"}], object)
    pairs, shared = same_target_pairs(twice)  # two shared targets are one pair
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]] and shared.tolist() == ["A"] * 3


def test_a_list_of_targets_counts_for_each_in_the_benchmark(tmp_path):
    """Siblings, known pairs and the map of genes see each target of a list."""
    table = screen(plates=2)
    lists = table["Metadata_gene"].where(table["Metadata_gene"].isna(), None).astype(object)
    has = table["Metadata_gene"].notna()
    lists[has] = "OWN" + table["Metadata_broad_sample"][has] + "|" + table["Metadata_gene"][has]
    table["Metadata_target_list"] = lists
    path = _files(tmp_path, table)
    known = tmp_path / "known.csv"
    known.write_text("entity1,entity2\nGENE00,GENE01\nOWNCMP-004,GENE07\n")
    words = ["--profiles", path, "--draws", "20", "--probe", "none", "--relationships", known]
    found = {}
    for gene in ("Metadata_gene", "Metadata_target_list"):
        run_as_door(benchmark, [*words, "--gene", gene, "--out", tmp_path / gene])
        found[gene] = json.loads((tmp_path / gene / "benchmark.json").read_text())
    one, lists = found.values()
    assert one["sibling.recall"]["count"] == lists["sibling.recall"]["count"] == 32
    assert one["sibling.recall"]["value"] == lists["sibling.recall"]["value"]
    assert (one["recall.known"]["count"], lists["recall.known"]["count"]) == (1, 2)
