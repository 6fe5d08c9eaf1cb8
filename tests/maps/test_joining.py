"""Tables that know more of the same wells: joined by their common columns, row by row; and gene
symbols brought to current ones.
"""

import openpyxl
import pandas as pd
import pytest

from phenomjax.maps.build import aggregate
from phenomjax.maps.relations.relationships import read_relationships
from phenomjax.maps.tables.input import load
from phenomjax.maps.tables.metadata import roles, symbols
from phenomjax.maps.tables.metadata.joining import join
from phenomjax.maps.tables.options import TableOptions
from phenomjax.system.errors import UserError
from tests.lab.doors import run_as_door
from tests.lab.plates import screen

PLATES = ["BR00000001", "BR00000002"]


def _tables(folder, **tables):
    """Writes tables as CSV; returns their paths."""
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"{name}.csv")
        pd.DataFrame(table).to_csv(paths[-1], index=False)
    return paths


def _bare(columns=("Metadata_Plate", "Metadata_Well"), plates=2):
    """A screen that knows its plates and wells alone, and the whole of it."""
    whole = screen(plates=plates)
    features = [name for name in whole.columns if not name.startswith("Metadata_")]
    return whole[[*columns, *features]], whole


def test_tables_as_jump_publishes_them_in_any_order(tmp_path):
    bare, whole = _bare()
    source = {"Metadata_Source": "source_4"}
    bare = bare.assign(**source)
    ids = whole["Metadata_broad_sample"].fillna("DMSO")
    ids = ids.map({name: f"JCP2022_{k:06d}" for k, name in enumerate(ids.unique())})
    compounds = pd.DataFrame({"Metadata_JCP2022": ids, "Metadata_InChIKey": "K" + ids})
    names = pd.DataFrame({"Metadata_JCP2022": ids, "Metadata_Name": whole["Metadata_pert_iname"]})
    control = {"DMSO": "negcon", "POS-0": "poscon", "POS-1": "poscon"}
    names["Metadata_pert_type"] = names["Metadata_Name"].map(control)
    names = names[names["Metadata_pert_type"].notna()].drop_duplicates()
    tables = _tables(
        tmp_path,
        perturbation_control=names,
        crispr={"Metadata_JCP2022": ["JCP2022_805264"], "Metadata_Symbol": ["PLK1"]},
        compound=compounds.drop_duplicates(),
        plate={
            **source,
            "Metadata_Plate": PLATES,
            "Metadata_Batch": "B",
            "Metadata_PlateType": "T",
        },
        well=bare[["Metadata_Plate", "Metadata_Well"]].assign(Metadata_JCP2022=ids, **source)[::-1],
    )
    bare.to_parquet(tmp_path / "wells.parquet")
    profiles, columns = load(
        TableOptions(profiles=(str(tmp_path / "wells.parquet"),), metadata=tuple(map(str, tables)))
    )
    assert profiles.metadata["Metadata_JCP2022"].tolist() == ids.tolist()
    assert profiles.metadata["Metadata_InChIKey"].tolist() == ("K" + ids).tolist()
    assert "Metadata_Symbol" not in profiles.metadata  # the table of guides knows none of them
    assert columns.kind == "Metadata_perturbation_type"
    assert set(profiles.metadata[columns.kind]) == {"compound"}
    counted = roles.counts(profiles.metadata, columns)
    assert (counted["control"], counted["positive"], counted["study"]) == (48, 16, 128)
    steps = [step for step in profiles.provenance["steps"] if step["command"] == "join"]
    matched = {step["table"].split("/")[-1]: step["matched"] for step in steps}
    assert matched["crispr.csv"] == 0 and matched["perturbation_control.csv"] == 64


def test_pycytominers_chain_of_tables(tmp_path):
    """Barcodes to layouts, layouts to samples by position, samples to what they are."""
    bare, whole = _bare()
    one = whole[whole["Metadata_Plate"] == PLATES[0]]
    samples = one["Metadata_broad_sample"]
    layout = {
        "plate_map_name": "map_1",
        "well_position": [f"{well[0]}{int(well[1:])}" for well in one["Metadata_Well"]],  # A1
        "broad_sample": samples,
        "mmoles_per_liter": 5.0,
    }
    sheet = pd.DataFrame({"broad_sample": samples, "target": one["Metadata_gene"]}).dropna()
    tables = _tables(
        tmp_path,
        external=sheet.drop_duplicates(),
        platemap=layout,
        barcode_platemap={"Assay_Plate_Barcode": PLATES, "Plate_Map_Name": "map_1"},
    )
    metadata, done = join(bare.filter(like="Metadata_"), tables)
    assert metadata["Metadata_broad_sample"].fillna("").tolist() == (
        whole["Metadata_broad_sample"].fillna("").tolist()
    )
    assert metadata["Metadata_target"].fillna("").tolist() == (
        whole["Metadata_gene"].fillna("").tolist()
    )
    assert set(metadata["Metadata_mmoles_per_liter"]) == {5.0}
    assert [d.by for d in done] == [
        ("Metadata_Plate",),
        ("Metadata_Plate_Map_Name", "Metadata_Well"),
        ("Metadata_broad_sample",),
    ]


def test_one_table_by_well_id_by_well_or_of_one_plate(tmp_path):
    rxrx = pd.DataFrame({"well_id": ["e_1_A01", "e_1_A02", "e_2_A01"]})
    known = {
        "well_id": ["e_2_A01", "e_1_A02", "e_1_A01"],
        "plate": [2, 1, 1],
        "treatment": ["y", "x", "EMPTY_control"],
    }
    metadata, _ = join(rxrx, _tables(tmp_path, metadata_rxrx=known))
    assert metadata["treatment"].tolist() == ["EMPTY_control", "x", "y"]
    assert metadata["plate"].tolist() == [1, 1, 2]
    plates = pd.DataFrame({"Metadata_Plate": ["7", "7", "8"], "Metadata_Well": ["A1", "a02", "A1"]})
    for place in ({"Well": ["A01", "A02"]}, {"Row": ["A", "A"], "Column": [1, 2]}):
        layout = {**place, "Drug": ["p", "q"]}
        metadata, _ = join(plates, _tables(tmp_path, layout=layout))
        assert metadata["Metadata_Drug"].tolist() == ["p", "q", "p"]
    book = openpyxl.Workbook()
    for row in (("Plate", "Well", "Gene"), ("007", "A01", "TP53"), (8, "A01", "MDM2")):
        book.active.append(row)
    book.save(tmp_path / "book.xlsx")
    metadata, _ = join(plates, [tmp_path / "book.xlsx"])
    assert metadata["Metadata_Gene"].fillna("").tolist() == ["TP53", "", "MDM2"]
    # A plate map that only its file's name gives to a plate is of this plate alone.
    (file,) = _tables(tmp_path, **{"8": {"Well": ["A1"], "Drug": ["r"]}})
    metadata, _ = join(plates, [file])
    assert metadata["Metadata_Drug"].fillna("").tolist() == ["", "", "r"]


def test_rows_are_never_multiplied(tmp_path):
    wells = pd.DataFrame({"Metadata_Plate": ["1", "1"], "Metadata_Well": ["A01", "A02"]})
    wells["Metadata_compound"] = ["x", "y"]
    several = {"compound": ["x", "x", "y", "x"], "target": ["A", "B", "C", "A"], "kind_of": "drug"}
    metadata, _ = join(wells, _tables(tmp_path, targets=several))
    assert metadata["Metadata_target"].tolist() == ["A|B", "C"]
    assert metadata["Metadata_kind_of"].tolist() == ["drug", "drug"]
    twice = {"Plate": ["1"] * 3, "Well": ["A01", "A01", "A02"], "Drug": ["p", "q", "r"]}
    with pytest.raises(UserError, match=r"several rows for one Plate, Well .*1 / A01.*differ in D"):
        join(wells, _tables(tmp_path, twice=twice))
    same = {"Plate": ["1"] * 3, "Well": ["A01", "A01", "A02"], "Drug": ["p", "p", "r"]}
    metadata, _ = join(wells, _tables(tmp_path, same=same))
    assert metadata["Metadata_Drug"].tolist() == ["p", "r"]
    # A compound at two doses is told apart by what else both tables have.
    doses = {
        "compound": ["x", "x", "y"],
        "concentration": [1, 3, 1],
        "moa": ["weak", "strong", "-"],
    }
    metadata, done = join(
        wells.assign(Metadata_concentration=[3.0, 1.0]), _tables(tmp_path, moa=doses)
    )
    assert metadata["Metadata_moa"].tolist() == ["strong", "-"]
    assert done[0].by == ("Metadata_compound", "Metadata_concentration")


def test_wells_of_other_plates_may_be_there_several_times(tmp_path):
    """Plate 2 is of two sources; the profiles are of plate 1 and do not say of which."""
    wells = pd.DataFrame({"Metadata_Plate": ["1"], "Metadata_Well": ["A01"]})
    table = {
        "Metadata_Source": ["source_1", "source_2", "source_3"],
        "Metadata_Plate": ["2", "2", "1"],
        "Metadata_Well": "A01",
        "Metadata_JCP2022": ["x", "y", "z"],
    }
    paths = _tables(tmp_path, well=table)
    metadata, _ = join(wells, paths)
    assert metadata["Metadata_JCP2022"].tolist() == ["z"]
    with pytest.raises(UserError, match="several rows for one Metadata_Plate, Metadata_Well"):
        join(wells.assign(Metadata_Plate="2"), paths)


def test_joined_ids_are_texts_though_some_rows_have_none(tmp_path):
    table, _ = _bare(("Metadata_Plate", "Metadata_Well", "Metadata_broad_sample"), plates=1)
    table.to_parquet(tmp_path / "profiles.parquet")
    names = sorted(table["Metadata_broad_sample"].dropna().unique())[:3]
    for write, ids in (("to_csv", [7, 8, 9]), ("to_parquet", ["7.0", "8.0", "9.0"])):
        path = tmp_path / ("genes.csv" if write == "to_csv" else "genes.parquet")
        genes = pd.DataFrame({"Metadata_broad_sample": names, "NCBI_Gene_ID": ids})
        getattr(genes, write)(path, index=False)
        options = TableOptions(
            profiles=(str(tmp_path / "profiles.parquet"),), metadata=(str(path),)
        )
        profiles, columns = load(options)
        assert sorted(profiles.metadata[columns.gene].dropna().unique()) == ["7", "8", "9"]


def test_what_the_profiles_say_stays_and_gaps_are_filled(tmp_path, caplog):
    wells = pd.DataFrame({"compound": ["x", "y", "z"], "gene": ["A", None, "C"]})
    first = {
        "compound": ["x", "y", "z"],
        "gene": ["OTHER", "B", "C"],
        "type": ["trt", "trt", "trt"],
    }
    caplog.set_level("INFO", logger="phenomjax")
    tables = _tables(tmp_path, first=first, later={"compound": ["x"], "type": ["negcon"]})
    metadata, _ = join(wells, tables)
    assert metadata["gene"].tolist() == ["A", "B", "C"]
    assert metadata["type"].tolist() == ["negcon", "trt", "trt"]  # of tables, the later one
    assert "says otherwise of gene (1); the profiles' own stay" in caplog.text


def test_tables_that_do_not_fit_are_errors(tmp_path):
    wells = pd.DataFrame({"Metadata_Plate": ["1", "2"], "Metadata_Well": ["A01", "A02"]})
    cases = [
        ({"other": ["a"]}, "no column in common.*It has other; the profiles have Metadata_Plate"),
        (
            {"Plate": ["X"], "gene": ["A"]},
            "knows none of the 2 rows by Metadata_Plate: .*1, 2 in the profiles and X in the table",
        ),
    ]
    for table, said in cases:
        with pytest.raises(UserError, match=said):
            join(wells, _tables(tmp_path, table=table))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        join(wells, [tmp_path / "cut.parquet"])
    with pytest.raises(UserError, match="no table at"):
        join(wells, [tmp_path / "none.csv"])


HGNC = {
    "hgnc_id": ["HGNC:1", "HGNC:2", "HGNC:3", "HGNC:4"],
    "symbol": ["CARS1", "SEPTIN9", "TP53", "NEWER"],
    "alias_symbol": ["MGC:11246|SHARED", "MSF", "p53|LFS1|NEWER", "SHARED"],
    "prev_symbol": ["CARS", "SEPT9", None, "MSF"],
}


def test_symbols_are_brought_to_current_ones(tmp_path):
    (path,) = _tables(tmp_path, hgnc=HGNC)
    aliases = symbols.read_aliases(path)
    # previous before alias; NEWER is current; SHARED is of two genes
    assert aliases == {
        **{"CARS": "CARS1", "SEPT9": "SEPTIN9", "MSF": "NEWER"},
        **{"MGC:11246": "CARS1", "p53": "TP53", "LFS1": "TP53"},
    }
    genes = pd.Series(["CARS", "SEPT9|TP53; LFS1", None, "SHARED", "sept9"])
    found, changed = symbols.with_current(genes, aliases, "|;,")
    assert found.fillna("").tolist() == ["CARS1", "SEPTIN9|TP53; TP53", "", "SHARED", "SEPTIN9"]
    assert changed == {**{"CARS": "CARS1", "SEPT9": "SEPTIN9"}, "LFS1": "TP53", "sept9": "SEPTIN9"}
    (path,) = _tables(tmp_path, two={"old": ["A"], "new": ["B"]})
    assert symbols.read_aliases(path) == {"A": "B"}
    (path,) = _tables(tmp_path, capitals={"old": ["FLJ10706"], "new": ["C1orf112"]})
    found, _ = symbols.with_current(pd.Series(["C1ORF112"]), symbols.read_aliases(path), "|")
    assert found.tolist() == ["C1orf112"]
    (path,) = _tables(tmp_path, nameless={"was": ["A"], "is": ["B"]})
    assert symbols.read_aliases(path) == {"A": "B"}
    (path,) = _tables(tmp_path, wrong={"a": ["A"], "b": ["B"], "c": ["C"]})
    with pytest.raises(UserError, match=r"`aliases` .* neither HGNC's columns"):
        symbols.read_aliases(path)


def test_aliases_rename_known_pairs(tmp_path):
    pairs = {"entity1": ["OLD", "A", "OLD", "NEW"], "entity2": ["A", "NEW", "B", "OLD"]}
    (path,) = _tables(tmp_path, pairs=pairs)
    renamed = read_relationships(path).renamed({"OLD": "NEW"})
    assert renamed.pairs.tolist() == [["A", "NEW"], ["B", "NEW"]]
    assert (renamed.self_pairs, renamed.duplicates) == (1, 1)


def test_aliases_rename_genes_and_their_knockouts(tmp_path, caplog):
    table = screen(plates=2)
    old = table["Metadata_gene"] == "GENE00"
    table.loc[old, "Metadata_gene"] = "OLD"
    table["Metadata_pert"] = table["Metadata_gene"].fillna("DMSO")
    table = table.drop(columns="Metadata_broad_sample")
    table.to_parquet(tmp_path / "wells.parquet")
    (path,) = _tables(tmp_path, aliases={"alias": ["OLD", "UNUSED"], "symbol": ["NEW", "X"]})
    caplog.set_level("INFO", logger="phenomjax")
    words = ["--profiles", tmp_path / "wells.parquet", "--aliases", path]
    out = tmp_path / "map.parquet"
    run_as_door(aggregate, [*words, "--out", out])
    made = pd.read_parquet(out)
    assert {"NEW", "GENE01"} <= set(made["Metadata_pert"]) and "OLD" not in set(
        made["Metadata_pert"]
    )
    assert "1 gene symbols of 4 rows are brought to current ones: OLD is NEW" in caplog.text
