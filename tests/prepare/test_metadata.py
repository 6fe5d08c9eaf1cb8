"""Tables of an experiment joined to images: how labs and public screens write them, and what is
said of those that cannot be.
"""

import gzip
import logging
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenomjax.data.images import opening
from phenomjax.prepare.images import metadata
from phenomjax.prepare.images.records import ImageKey
from phenomjax.system.errors import UserError
from tests.data.test_tables import workbook
from tests.prepare.test_images import prepare, write_rxrx1

PLATE = "SQ00015195"
KEYS = [ImageKey(None, PLATE, well, "1") for well in ("A01", "A02")]


def joiner(tmp_path, text, rename=None, name="m.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return metadata.Joiner(tmp_path / name, rename or {})


def joined(tables, keys=KEYS, rename=None):
    """The columns that hold anything, of two images."""
    found = metadata.Joiner(tables, rename or {})
    found.check([key[:2] for key in keys], lambda: iter(keys))
    columns, _ = metadata.describe(keys, found, {})
    return {name: column for name, column in columns.items() if any(v is not None for v in column)}


def mended(tables, keys=KEYS, match="", rename=None):
    """Runs into an error, does what its --rename says, and joins again."""
    with pytest.raises(UserError, match=match) as error:
        joined(tables, keys, rename)
    words = shlex.split(re.search(r"--rename .*", str(error.value))[0].rstrip("."))
    pair = words[1].rstrip(",;")
    pairs = metadata.parse_pairs([pair], "--rename", metadata.TARGETS)
    return joined(tables, keys, {**(rename or {}), **pairs})


GENES = {"gene": ["TP53", "MYC"]}
CONTROLLED = {
    "perturbation_type": ["control", None],
    "gene": [None, "MYC"],
    "is_control": [True, False],
}
CASES = {
    "caps.csv": GENES,
    "floats.csv": GENES | {"concentration": [1e-5, 0.1]},
    "latin1.csv": {"perturbation": ["drug 1 µM", "drug 3 µM"]},
    "noplate_other.csv": {"gene": ["TP53", None]},
    "platemap.txt": {"perturbation": ["BRD-1", "BRD-2"]},
    "roles.csv": CONTROLLED,
    "rowcol.csv": GENES,
    "semicolon.csv": GENES,
    "short.csv": GENES,
    "spaces.csv": GENES,
    "types.csv": CONTROLLED,
    "utf16.txt": GENES,
    "well.csv.gz": {"perturbation": ["JCP2022_1", "JCP2022_2"]},
    "wide.csv": {"perturbation": ["TP53", "MYC"]},
    "zeroname.csv": {"gene": ["TP53", None]},
}


@pytest.mark.shared_data
def test_tables_as_labs_have_them(shared):
    folder = shared.parent / "cases" / "images" / "tables" / "in"
    there = {path.name for path in folder.iterdir()}
    assert there == {*CASES, "book.xlsx", "na.csv"}
    for name, expected in CASES.items():
        assert joined(folder / name) == expected, name
    with pytest.raises(UserError, match=r"cannot be read as one|pip install"):  # its magic only
        joined(folder / "book.xlsx")
    with pytest.raises(UserError, match=r"No row of .* are like P1/A01, .* images' like SQ0001519"):
        joined(folder / "na.csv")
    keys = [key._replace(plate="P1") for key in KEYS]
    assert joined(folder / "na.csv", keys) == {"gene": ["TP53", None], "concentration": [1.5, None]}


def test_metadata_joins_by_plate_and_well(tmp_path):
    table = "Plate,Well,dose,control\n01,a1,0.5,-1\n01,B2,,0\n"
    found = joiner(tmp_path, table)
    keys = [("E", "1", "A01", "1"), ("E", "1", "B02", "1"), ("E", "2", "B02", "1")]
    columns, unmatched = metadata.describe(
        keys, found, {"perturbation_type": "compound", "cell_type": "U2OS"}
    )
    assert unmatched == keys[2:] and found.rows.keys() == {found.row_key(key) for key in keys[:2]}
    assert columns["concentration"] == [0.5, None, None]
    assert columns["is_control"] == [True, False, None]
    assert columns["perturbation_type"] == ["control", "compound", "compound"]
    assert columns["cell_type"] == ["U2OS"] * 3
    pq.write_table(
        pa.table({"row": [1.0], "column": [1], "gene": ["TP53"]}), tmp_path / "m.parquet"
    )
    rows = metadata.Joiner(tmp_path / "m.parquet", {})
    assert rows.find((None, "7", "A01", "3"))["gene"] == "TP53"
    with pytest.raises(UserError, match="has no column 'plate' but the images come from 2 plates"):
        rows.check([(None, "1"), (None, "2")], lambda: iter(()))


@pytest.mark.parametrize(
    ("plates", "images", "found"),
    [
        (["1.0", "2.0"], ["1", "2"], ["1.0", "2.0"]),
        (["01", "02"], ["1", "2"], ["01", "02"]),
        (["1", "2"], ["01", "02"], ["1", "2"]),
        (["007", "7"], ["7", "007"], ["7", "007"]),
        (["7"], ["7", "007"], ["7", None]),
        (["7", "007"], ["7"], ["7"]),
        (["sq1"], ["SQ1"], ["sq1"]),
        (["'007"], ["007"], ["'007"]),
        (['="007"', "7"], ["007", "7"], ['="007"', "7"]),
        (["P__2016-05-25T16_25_21-Measurement 1"], ["P"], ["P__2016-05-25T16_25_21-Measurement 1"]),
        (["P"], ["P__2016-05-25T16_25_21-Measurement 1"], ["P"]),
        (["07", "007"], ["7"], "has plates 007 and 07, the images come from 7: which is meant"),
        (["7.0"], ["07", "007"], "has plate 7.0, the images come from 007 and 07: which is meant"),
        (["P__2016-05-25T16", "P__2017-05-25T16"], ["P"], "which is meant is not certain"),
    ],
)
def test_plates_are_found_by_name_and_else_where_one_is_meant(tmp_path, plates, images, found):
    rows = "".join(f"{plate},A1,of {plate}\n" for plate in plates)
    (tmp_path / "m.csv").write_text("plate,well,gene\n" + rows)
    keys = [ImageKey(None, plate, "A01", "1") for plate in images]
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            joined(tmp_path / "m.csv", keys)
        return
    genes = [name and f"of {name}" for name in found]
    assert joined(tmp_path / "m.csv", keys) == {"gene": genes}


def test_no_row_fits(tmp_path):
    table = _write(tmp_path, "Metadata_Plate,well,gene\nP1,A1,TP53\nP1,A2,MYC\n")
    assert mended(table, match="No plate is the same. If P1 is SQ00015195, leave") == GENES
    table = _write(tmp_path, "plate,well,gene\nP1,A1,TP53\nP2,A2,MYC\n")
    with pytest.raises(UserError, match=r"No plate is the same. Correct the table"):
        joined(table)
    rows = f"1,{PLATE},A1,TP53\n2,{PLATE},A2,MYC\n"
    table = _write(tmp_path, "Plate,Bar Code,well,gene\n" + rows)
    assert mended(table, match="No plate is the same. The column Bar Code has some: ") == GENES
    table = _write(tmp_path, f"plate,well,gene\n{PLATE},B1,TP53\n")
    with pytest.raises(UserError, match=r"images' like SQ00015195/A01/1 .*No well is the same. Co"):
        joined(table)


def test_all_spellings_of_a_well(tmp_path):
    for well in ("a2", "A2", "A02", "A-02", "A 2", "A_2", "A002", "a/2", "r1c2", "1/2"):
        assert joined(_write(tmp_path, f"well,gene\n{well},MYC\n")) == {"gene": [None, "MYC"]}
    table = _write(tmp_path, "Well,Row,Column,gene\n1,A,1,TP53\n2,A,2,MYC\n")
    assert joined(table) == GENES
    for row, column in (("A", "2"), ("a", "02"), ("1", "2.0"), ("1.0", "2")):
        table = _write(tmp_path, f"Metadata_Row,Col,gene\n{row},{column},MYC\n")
        assert joined(table) == {"gene": [None, "MYC"]}


def _write(tmp_path, text, name="m.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("Metadata_Plate,Metadata_Well,Metadata_Symbol", "{},A01,TP53", {"gene": "TP53"}),
        ("Assay_Plate_Barcode,well_position,broad_sample", "{},A01,B", {"perturbation": "B"}),
        ("Plate ID,WellID,Compound Name", "{},A1,aspirin", {"perturbation": "aspirin"}),
        ("Barcode,WELL,sirna_id,sirna", "{},A1,1138,s2", {"perturbation": "1138"}),
        ("PLATE,Well Position,Gene Symbol,Cell Line", "{},A1,a,b", {"gene": "a", "cell_type": "b"}),
        # RxRx3, whose well_id names experiment and plate too
        (
            "well_id,plate,address,gene,treatment,SMILES,concentration,perturbation_type,cell_type",
            "c-004_1_A01,{},A01,,aspirin,CC,2.5,COMPOUND,HUVEC",
            {
                "perturbation": "aspirin",
                "concentration": 2.5,
                "perturbation_type": "compound",
                "cell_type": "HUVEC",
            },
        ),
        # CPJUMP1 calls the kind of library "Perturbation"
        (
            "Assay_Plate_Barcode,Well,Perturbation,pert_iname",
            "{},A01,compound,aspirin",
            {"perturbation": "aspirin", "perturbation_type": "compound"},
        ),
        ("plate,well,Concentration (nM)", "{},A1,500", {"concentration": 0.5}),
        ("plate,well,dose_uM", "{},A1,10", {"concentration": 10.0}),
        ("plate,well,mmoles_per_liter", "{},A1,5", {"concentration": 5000.0}),
        ("plate,well,pert_dose,pert_dose_unit", "{},A1,20,nM", {"concentration": 0.02}),
        ("plate,well,concentration", "{},A1,10 µM", {"concentration": 10.0}),
        ("plate,well,concentration", "{},A1,10 \u03bcM", {"concentration": 10.0}),
        ("plate,well,concentration", "{},A1,250nmol/L", {"concentration": 0.25}),
        ("plate;well;concentration", "{};A1;0,5", {"concentration": 0.5}),
        ("plate;well;concentration", "{};A1;1,5 mM", {"concentration": 1500.0}),
        ("plate,well,is_control", "{},A1,negcon", {"is_control": True}),
        ("plate,well,gene,extra", "{},A1,TP53,NA", {"gene": "TP53"}),
        ("plate,well,treatment", "{},A1,compound1\nP,A1,DMSO", {"perturbation": "compound1"}),
    ],
)
def test_columns_are_found_by_the_fields_names(tmp_path, header, row, expected, caplog):
    table = _write(tmp_path, f"{header}\n{row.format(PLATE)}\n")
    with caplog.at_level(logging.INFO, "phenomjax"):
        found = joined(table, KEYS[:1])
    found = {name: column[0] for name, column in found.items()}
    found.pop("perturbation_type" if "is_control" in expected else "", None)
    assert found == expected
    if "Barcode" in header:
        assert "as plate" in caplog.text


@pytest.mark.parametrize(
    ("columns", "rows", "controls", "types"),
    [
        ("well_type", ["negative_control", "positive_control"], [True, False], ["control"] * 2),
        ("well_type", ["treatment", "negative_control"], [False, True], [None, "control"]),
        ("control_type", ["negcon", "poscon_diverse"], [True, False], ["control"] * 2),
        ("control_type", ["", "NegCon"], [None, True], [None, "control"]),
        ("pert_type,control_type", ["control,negcon", "trt,"], [True, False], ["control", None]),
        (
            "pert_type,control_type",
            ["control,poscon_cp", "control,negcon"],
            [False, True],
            ["control"] * 2,
        ),
        ("pert_type", ["ctl_vehicle", "trt_cp"], [True, False], ["control", None]),
        ("pert_type", ["control", "compound"], [True, False], ["control", "compound"]),
        ("role", ["DMSO", "empty"], [True, False], ["control", None]),
        ("Control", ["1", "0"], [True, False], ["control", None]),
        ("Metadata_control_type", ["negcon1", "what"], [True, None], ["control", None]),
        ("sample type", ["untreated", "sample"], [True, False], ["control", None]),
        ("Metadata_pert_type", ["ctrl1", "trt"], [True, False], ["control", None]),
        ("condition", ["DMSO", "treated"], [True, False], ["control", None]),
    ],
)
def test_controls_by_the_words_of_roles(tmp_path, columns, rows, controls, types, caplog):
    lines = [f"{PLATE},{key.well},g,{row}\n" for key, row in zip(KEYS, rows, strict=True)]
    with caplog.at_level(logging.INFO, "phenomjax"):
        found = joined(_write(tmp_path, f"plate,well,gene,{columns}\n" + "".join(lines)))
    assert found.get("is_control") == controls
    assert found.get("perturbation_type", [None, None]) == types
    assert "roles of wells by" in caplog.text or "as is_control" in caplog.text


def test_plate_maps_are_joined_by_barcode(tmp_path, caplog):
    platemap = _write(
        tmp_path,
        "plate_map_name\twell_position\tbroad_sample\tsolvent\n"
        "C-1\tA01\tBRD-1\tDMSO\nC-1\tA02\t\tDMSO\nC-2\tA01\tBRD-3\tDMSO\nC-2\tA02\tBRD-4\tDMSO\n",
        "platemap.txt",
    )
    barcodes = _write(
        tmp_path,
        "Assay_Plate_Barcode,Plate_Map_Name\nBR1,C-1\nBR2,C-1\nBR3,C-2\nBR9,C-9\n",
        "barcode_platemap.csv",
    )
    samples = _write(
        tmp_path,
        "broad_sample\tgene\tpert_type\tcontrol_type\nBRD-1\tTP53\ttrt\t\nBRD-3\tMYC\tcontrol\t"
        "poscon_cp\nBRD-4\tDMSO\tcontrol\tnegcon\n",
        "samples.tsv",
    )
    keys = [ImageKey(None, f"BR{p}", well, "1") for p in (1, 2, 3) for well in ("A01", "A02")]
    expected = {
        "perturbation": ["BRD-1", None, "BRD-1", None, "BRD-3", "BRD-4"],
        "gene": ["TP53", None, "TP53", None, "MYC", "DMSO"],
        "perturbation_type": [None, None, None, None, "control", "control"],
        "is_control": [False, None, False, None, False, True],
    }
    for order in ([platemap, barcodes, samples], [samples, barcodes, platemap]):
        with caplog.at_level(logging.INFO, "phenomjax"):
            assert joined(order, keys) == expected
    assert "joined by plate_map_name; 4 of 4 rows" in caplog.text
    assert "joined by broad_sample; 4 of 6 rows of platemap.txt with barcode" in caplog.text
    with pytest.raises(UserError, match=r"a second, different row for well A01 .*barcode_platemap"):
        joined(platemap, keys)
    first = _write(tmp_path, "plate_map_name,well,gene\nC-1,A01,x\n", "one.csv")
    with pytest.raises(UserError, match=r"no column 'plate' .* 3 plates.*barcode_platemap.csv"):
        joined(first, keys)
    second = _write(tmp_path, "plate_map_name,well,gene\nC-2,A01,y\n", "two.csv")
    found = joined([first, second, barcodes], keys)
    assert found == {"gene": ["x", None, "x", None, "y", None]}


@pytest.mark.parametrize("second", ["well_position\tbroad_sample\tsolvent\n", "well\tcompound\n"])
def test_plate_maps_are_known_by_the_names_of_their_files(tmp_path, second):
    """JUMP's barcode_platemap.csv names files, and no column of theirs says which they are."""
    one = _write(tmp_path, "well_position\tbroad_sample\tsolvent\nA01\tB1\tDMSO\n", "C-1.txt")
    rest = "\tDMSO" if "solvent" in second else ""
    two = _write(
        tmp_path, f"{second}A01\tB2{rest}\n".replace("compound", "broad_sample"), "C-2.tsv"
    )
    barcodes = _write(
        tmp_path,
        "Assay_Plate_Barcode,Plate_Map_Name\nBR1,C-1\nBR2,C-2\nBR3,C-1\n",
        "barcode_platemap.csv",
    )
    keys = [ImageKey(None, f"BR{plate}", "A01", "1") for plate in (1, 2, 3)]
    assert joined([barcodes, one, two], keys) == {"perturbation": ["B1", "B2", "B1"]}
    grid = _write(tmp_path, ",1,2\nA,x,y\n", "grid.csv")
    with pytest.raises(UserError, match=r"--metadata BARCODES.csv, its plate_map grid.csv"):
        joined([grid], keys)
    added = _write(tmp_path, "barcode,plate_map\nBR1,grid.csv\nBR2,grid\nBR3,Grid\n", "b.csv")
    with pytest.raises(UserError, match=r"the file of each plate map as b.csv does: grid.csv"):
        joined([grid, added], keys)
    added.write_text(added.read_text().replace("Grid", "grid").replace("grid.csv", "grid"))
    assert joined([grid, added], keys) == {"perturbation": ["x", "x", "x"]}


def test_truth_in_the_language_of_the_office(tmp_path):
    table = _write(tmp_path, f"plate,well,is_control\n{PLATE},A01,WAHR\n{PLATE},A02,FALSCH\n")
    assert joined([table])["is_control"] == [True, False]


def test_concentrations_below_zero(tmp_path):
    """-666 is the missing value of the Connectivity Map; others are logarithms or mistakes."""
    text = f"plate,well,pert_id,pert_dose\n{PLATE},A01,DMSO,-666\n{PLATE},A02,B,1.5\n"
    table = _write(tmp_path, text)
    assert joined([table])["concentration"] == [None, 1.5]
    table.write_text(text.replace("-666", "-6.5"))
    assert "concentration" not in mended([table], match="'-6.5' is below 0")


def test_jump_is_joined_from_its_four_tables(tmp_path):
    def write(name, text):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        return tmp_path / name

    tables = [
        write("plate.csv.gz", "Metadata_Source,Metadata_Batch,Metadata_Plate,Metadata_PlateType\n"
              f"source_4,B1,{PLATE},CRISPR\nsource_4,B1,other,CRISPR\n"),
        write("well.csv.gz", "Metadata_Source,Metadata_Plate,Metadata_Well,Metadata_JCP2022\n"
              f"source_4,{PLATE},A01,J1\nsource_4,{PLATE},A02,J2\nsource_4,other,A01,J2\n"),
        write("crispr.csv.gz", "Metadata_JCP2022,Metadata_NCBI_Gene_ID,Metadata_Symbol\n"
              "J1,1,A2M\nJ2,,non-targeting\n"),
        write("perturbation_control.csv", "Metadata_JCP2022,Metadata_pert_type,Metadata_Name\n"
              "J2,negcon,non-targeting\n"),
    ]  # fmt: skip
    assert joined(tables) == {
        "perturbation": ["J1", "J2"],
        "gene": ["A2M", "non-targeting"],
        "is_control": [None, True],
        "perturbation_type": [None, "control"],
    }


@pytest.mark.parametrize(
    ("text", "match", "expected"),
    [
        (
            f"plate,Barcode,well,gene\n{PLATE},x,A01,TP53\n{PLATE},y,A02,MYC\n",
            None,
            GENES,
        ),
        (
            f"Assay_Plate_Barcode,Barcode,well,gene\n{PLATE},x,A01,TP53\n{PLATE},y,A02,MYC\n",
            "Assay_Plate_Barcode, Barcode may each be the plate, and they differ",
            GENES,
        ),
        (
            "well,gene,guide,guide\nA1,TP53,a,b\nA2,MYC,c,d\n",
            "two columns are named 'guide'",
            GENES,
        ),
        (
            f"Plate,Metadata_Plate,well,gene\n{PLATE},x,A01,TP53\n{PLATE},y,A02,MYC\n",
            "Plate, Metadata_Plate may each be the plate",
            GENES,
        ),
        (
            "position,gene\nA01,TP53\nA02,MYC\n",
            None,
            GENES,
        ),
        (
            "Where,gene\nA01,TP53\nA02,MYC\n",
            "no column 'well'.*--rename Where=well",
            GENES,
        ),
        (
            "well,gen\nA1,x\nA2,y\n",
            "has none of the columns .*--rename gen=perturbation",
            {"perturbation": ["x", "y"]},
        ),
        (
            "well,gene,concentration\nA1,TP53,5 mg/ml\nA2,MYC,1\n",
            "line 2: concentration '5 mg/ml' has the unit 'mg/ml', and only pM, nM, uM",
            GENES,
        ),
        (
            "well,gene,Final Conc\nA1,TP53,5 mg/ml\nA2,MYC,1\n",
            r"line 2: .* leave the column out: --rename 'Final Conc=ignore'",
            GENES,
        ),
        (
            "well,gene,concentration\nA1,TP53,high\nA2,MYC,1\n",
            "line 2: concentration 'high' is not a number",
            GENES,
        ),
        (
            'well,gene,concentration\nA1,TP53,"1,500"\nA2,MYC,1\n',
            "line 2: concentration '1,500' can be read in two ways",
            GENES,
        ),
        (
            "well,gene,dose\nA1,TP53,1\nA01,TP53,2\nA2,MYC,1\n",
            r"line 3: a second, different row for well A01 .*m.csv, line 2.; they differ in conc",
            None,
        ),
        (
            "well,gene,control_type\nA1,TP53,negcon\nA2,MYC,control\n",
            "line 3: 'control' .control_type. is neither negative nor positive",
            GENES,
        ),
        (
            "well,gene,well_type,control_type\nA1,TP53,negative_control,poscon\nA2,MYC,trt,\n",
            "line 2: 'negative_control' and 'poscon' .* make one well a negative and a positive",
            GENES | {"is_control": [False, None], "perturbation_type": ["control", None]},
        ),
        (
            "well,gene,is_control,control_type\nA1,TP53,0,negcon\nA2,MYC,0,trt\n",
            "line 2: the well is a negative control by control_type and none by is_control",
            GENES | {"is_control": [False, False]},
        ),
        (
            ",1,2\nA,0.5,1\nB,2,3\n",
            "shaped like a plate .rows A to B, columns 1 to 2., and its values are numbers",
            {"concentration": [0.5, 1.0]},
        ),
    ],
)
def test_what_is_not_clear_is_asked_for_and_the_answer_mends_it(tmp_path, text, match, expected):
    table = _write(tmp_path, text)
    if match is None:
        assert joined(table) == expected
    elif expected is None:
        with pytest.raises(UserError, match=match):
            joined(table)
    else:
        assert mended(table, match=match) == expected


def test_a_second_column_is_left_out_by_ignore(tmp_path):
    table = _write(tmp_path, "well,gene,dose\nA1,TP53,1\nA01,TP53,2\nA2,MYC,1\n")
    assert joined(table, rename={"dose": "ignore"}) == GENES
    table = _write(tmp_path, "well,gene,kind\nA1,TP53,negcon\nA2,MYC,trt\n")
    found = joined(table, rename={"kind": "role"})
    assert found["is_control"] == [True, False]
    table = _write(tmp_path, "well,control_type\nA1,negcon\nA2,control\n")
    assert joined(table, rename={"control_type": "is_control"})["is_control"] == [True, True]


@pytest.mark.parametrize(
    ("text", "rename", "message"),
    [
        ("well,gene\nA1,x\n", {"gane": "gene"}, "has no column 'gane'. Did you mean 'gene'"),
        ("well,is_control\nA1,maybe\n", {}, "line 2: is_control 'maybe' is neither true"),
        ("well,perturbation_type\nA1,crispy\n", {}, "'crispy' is unknown. Did you mean 'crispr'"),
        ("well,gene\nA1,x\nA01,y\n", {}, "line 3: a second, different row for well A01"),
        ("well,gene\nA1,x,y\n", {}, "line 2: 3 fields where the first line names 2 columns"),
        ("well,gene\n", {}, "has a header .well, gene. and no rows"),
        ("", {}, "is empty"),
        (f"{PLATE},A01,TP53\n{PLATE},A02,MYC\n", {}, "first line seems to hold values and no nam"),
        ("broad_sample,gene\nB,x\n", {}, "None of them holds wells such as A01.*--metadata WELLS"),
        ("well,gene,gene\nA1,x,y\n", {}, "two columns are named 'gene'"),
        (",1,2\nA,x,y\nA,z,w\n", {}, "shaped like a plate, and has row A twice"),
        (",1,2\nA,x,y\n\nDose,1,2\nA,z,w\n", {}, "shaped like a plate, and has more below it"),
        ("From,Plate,n,Name\nS1,P,1,x\n", {}, "--rename From=well"),
        ("Row,Col,n,Which,Name\nA,1,3,x,y\n", {}, "--rename Which=perturbation"),
        ("Platte,Well,Name\nP,A01,x\n", {}, "--rename Name=perturbation"),
        (b"PK\x03\x04" + bytes(40), {}, "is a zip archive.*unpack it"),
    ],
)
def test_errors_of_metadata(tmp_path, text, rename, message):
    with pytest.raises(UserError, match=message):
        joiner(tmp_path, text, rename)
    with pytest.raises(UserError, match=r"no metadata table at .*n.csv. In .*: m.csv"):
        metadata.Joiner(tmp_path / "n.csv", {})


def test_tables_that_do_not_belong_together(tmp_path):
    wells = _write(tmp_path, f"plate,well,compound\n{PLATE},A01,a\n{PLATE},A02,b\n", "w.csv")
    for text, message in [
        ("drug,gene\na,x\n", "no column is shared with .*w.csv"),
        ("compound,gene\nc,x\n", "shares the column compound .* but no value of it: there 'a'"),
        ("compound,gene\na,x\na,y\n", "line 3: a second, different row for compound a"),
        ("compound,well,gene\na,A02,x\n", None),
    ]:
        other = _write(tmp_path, text, "o.csv")
        if message:
            with pytest.raises(UserError, match=message):
                joined([wells, other])
    table = _write(tmp_path, "compound,plate,gene\na,other,x\nb,other,y\n", "o.csv")
    assert mended([wells, table], match="say different things of the same row: plate is") == {
        "perturbation": ["a", "b"],
        "gene": ["x", "y"],
    }
    none = _write(tmp_path, "compound,gene\na,x\n", "n.csv")
    with pytest.raises(UserError, match="None of the tables has a column 'well'"):
        joined([none, table])


def test_the_command_takes_several_tables_and_knows_them_again(tmp_path, caplog):
    write_rxrx1(tmp_path / "raw", channels=2)
    rows = [["Plate", "Well", "drug"], [1.0, "A1", "x"], [None, "A2", "y"], [1.0, "B1", "y"]]
    workbook(tmp_path / "b.xlsx", {"Notes": [["x"]], "Wells": rows})
    options = {"metadata": [f"{tmp_path}/b.xlsx#Wells", _write(tmp_path, "drug,gene\nx,TP53\n")]}
    with caplog.at_level(logging.INFO, "phenomjax"):
        assert prepare(tmp_path / "raw", tmp_path / "b.zarr", **options) == 0
        assert prepare(tmp_path / "raw", tmp_path / "b.zarr", **options) == 0
    assert "Nothing to do" in caplog.text and "1 rows name no plate" in caplog.text
    columns = opening.open_bank(tmp_path / "b.zarr").metadata
    assert columns["gene"].to_pylist() == ["TP53", None, None, None]
    assert columns["perturbation"].to_pylist() == ["x", None, "y", None]
    _write(tmp_path, "drug,gene\nx,MYC\n")
    with pytest.raises(UserError, match="made with other settings"):
        prepare(tmp_path / "raw", tmp_path / "b.zarr", **options)


def test_two_tables_of_wells(tmp_path, caplog):
    genes = _write(tmp_path, f"plate,well,gene\n{PLATE},A01,TP53\n", "g.csv")
    others = _write(tmp_path, f"plate,row,col,gene,well_type\n{PLATE},1,2,MYC,negcon\n", "o.csv")
    expected = GENES | {"is_control": [None, True], "perturbation_type": [None, "control"]}
    with caplog.at_level(logging.INFO, "phenomjax"):
        assert joined([genes, others]) == expected and joined([others, genes]) == expected
    assert "1 rows of other wells put below" in caplog.text
    cells = _write(tmp_path, "well_position,cell_type\nA1,U2OS\nA2,U2OS\nB1,U2OS\n", "c.csv")
    assert joined([others, cells]) == {
        **{"gene": [None, "MYC"], "is_control": [None, True]},
        **{"perturbation_type": [None, "control"], "cell_type": [None, "U2OS"]},
    }
    dose = _write(tmp_path, f"Plate,Well,dose\n{PLATE},A1,1\n{PLATE},A2,2\n", "d.csv")
    assert joined([genes, dose]) == {"gene": ["TP53", None], "concentration": [1, 2]}
    wrong = _write(tmp_path, f"plate,well,gene,dose\n{PLATE},A1,MYC,1\n", "w.csv")
    with pytest.raises(UserError, match="say different things of the same row: gene is 'TP53' and"):
        joined([genes, wrong])


def test_a_row_without_a_name_is_that_of_the_wells_without_one(tmp_path, caplog):
    """CPJUMP1 has no broad_sample for DMSO, in the plate map as in the table of compounds."""
    wells = _write(tmp_path, "well_position,broad_sample\nA01,\nA02,BRD-1\n", "w.csv")
    text = "broad_sample,pert_type,control_type\n,control,negcon\nBRD-1,trt,\n"
    samples = _write(tmp_path, text, "s.csv")
    with caplog.at_level(logging.INFO, "phenomjax"):
        found = joined([wells, samples])
    assert found["is_control"] == [True, False] and "its row without one" in caplog.text
    samples = _write(tmp_path, text + ",control,poscon\n", "s.csv")
    assert joined([wells, samples])["is_control"] == [None, False]


def test_experiments(tmp_path):
    table = _write(tmp_path, "experiment,plate,well,gene\nE,1,A01,x\nF,1,A01,y\n")
    keys = [ImageKey(name, "1", "A01", "1") for name in ("E", "F")]
    assert joined(table, keys) == {"gene": ["x", "y"]}
    nameless = [ImageKey(None, "1", "A01", "1")]
    with pytest.raises(UserError, match=r"rows of 2 experiments .E, F. .*--experiment E"):
        joined(table, nameless)
    one = _write(tmp_path, "experiment,plate,well,gene\nE,1,A01,x\n")
    assert joined(one, nameless) == {"gene": ["x"]}
    without = _write(tmp_path, "plate,well,gene\n1,A01,x\n")
    with pytest.raises(UserError, match=r"plate 1 is in 2 experiments .E, F., so its rows are"):
        joined(without, keys)


def test_sites_that_change_nothing_are_no_key(tmp_path):
    rows = [f"{PLATE},A01,{field},TP53" for field in (11, 12)] + [f"{PLATE},A02,11,MYC"]
    table = _write(tmp_path, "plate,well,field,gene\n" + "\n".join(rows) + "\n")
    assert joined(table) == GENES
    table = _write(tmp_path, f"plate,well,site,gene\n{PLATE},A01,1,TP53\n{PLATE},A01,2,MYC\n")
    keys = [ImageKey(None, PLATE, "A01", site, time) for site, time in (("1", "1"), ("2", None))]
    assert joined(table, keys) == GENES


def test_workbooks_and_excels_dates(tmp_path, caplog):
    rows = [["Plate", "Well", "Gene"], [7.0, "A1", "2-Sep"], [7.0, "A2", "MYC"]]
    workbook(tmp_path / "b.xlsx", {"Info": [], "Layout": rows, "Other": [["x"], ["y"]]})
    keys = [ImageKey(None, "7", well, "1") for well in ("A01", "A02")]
    with caplog.at_level(logging.INFO, "phenomjax"):
        assert joined(tmp_path / "b.xlsx", keys) == {"gene": ["2-Sep", "MYC"]}
        assert joined(Path(f"{tmp_path}/b.xlsx#Layout"), keys) == {"gene": ["2-Sep", "MYC"]}
    assert "sheet 'Layout' (not 'Info', 'Other')" in caplog.text
    assert "1 names in Gene look like dates that Excel made of genes (2-Sep)" in caplog.text
    name, sums = metadata.recorded([tmp_path / "b.xlsx#Layout"]).values()
    assert name.endswith("b.xlsx#Layout") and len(sums) == 64
    assert len(metadata.recorded([tmp_path / "b.xlsx"] * 2)["metadata"]) == 2


def test_what_did_not_meet_is_listed(tmp_path):
    rows = f"{PLATE},A01,TP53\n{PLATE},H12,NA\nother,A01,x\nother,A02,y\n"
    found = joiner(tmp_path, "plate,well,gene\n" + rows)
    found.check([key[:2] for key in KEYS], lambda: iter(KEYS))
    remarks = found.unmatched(KEYS)
    assert [(one.reason, one.key[1:3]) for one in remarks] == [
        ("no_row", (PLATE, "A02")),
        ("no_image", (PLATE, "H12")),
        ("no_plate", ("other",)),
    ]
    assert "m.csv, line 3" in remarks[1].detail and "has 2 rows for this plate" in str(remarks[2])


def test_what_is_kept_of_doses_and_rows_without_a_plate_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    table = tmp_path / "t.csv"
    table.write_text("Plate,well,gene,Dose (nM)\nP1,A01,TP53,500\n,A02,MYC,50\n")
    joiner = metadata.Joiner([table], {})
    assert joiner.find(ImageKey(None, "P1", "A01", "1"))["concentration"] == 0.5
    assert "Dose (nM) is kept in uM" in caplog.text
    offered = re.search(r"one plate: --rename '?(.*?)=ignore", caplog.text)[1]
    joiner = metadata.Joiner([table], {offered: "ignore"})
    keys = [ImageKey(None, "P1", "A01", "1"), ImageKey(None, "P1", "A02", "1")]
    joiner.check([key[:2] for key in keys], lambda: iter(keys))
    assert joiner.find(ImageKey(None, "P1", "A02", "1"))["gene"] == "MYC"
    table.write_text("plate,well,dose\nP1,A01,3\n")
    metadata.Joiner([table], {})
    assert "dose is kept as it stands, for no unit is said" in caplog.text


def test_a_workbook_whose_first_sheet_is_a_note(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    book.active["A1"] = "of May"
    for row in (["plate", "well", "gene"], ["P1", "A01", "TP53"]):
        (book["Layout"] if "Layout" in book else book.create_sheet("Layout")).append(row)
    book.save(tmp_path / "book.xlsx")
    with pytest.raises(UserError, match=r"not 'Layout'.*: name another as .*book.xlsx#SHEET"):
        metadata.Joiner([tmp_path / "book.xlsx"], {})
    found = metadata.Joiner([tmp_path / "book.xlsx#Layout"], {})
    assert found.find(ImageKey(None, "P1", "A01", "1"))["gene"] == "TP53"
