"""Tables and texts as published: what is told of a file, and what is read from it."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from phenomjax.data import compressed, tables, text_files
from phenomjax.data.numbers import decimal_sign, parse_number
from phenomjax.system.errors import UserError

TEXT = "plate,well,gene\nP1,A01,TP53\nP1,A02,MYC\n"
ROWS = [("P1", "A01", "TP53"), ("P1", "A02", "MYC")]
PACKERS = {
    "gz": gzip.compress,
    "bgz": lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]) + gzip.compress(b""),
    "zst": lambda data: zstandard.compress(data[:20]) + zstandard.compress(data[20:]),
    "bz2": lambda data: bz2.compress(data[:20]) + bz2.compress(data[20:]),
    "xz": lambda data: lzma.compress(data[:20]) + b"\0" * 4 + lzma.compress(data[20:]),
}


def read(tmp_path, content, name="m.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tables.read_table(path, **options)


def workbook(path, sheets):
    """A workbook of {title: rows}."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("name", ["m.csv", "m"])
def test_compression_is_told_by_the_bytes(tmp_path, packing, name):
    table = read(tmp_path, PACKERS[packing](TEXT.encode()), name)
    assert table.columns == ("plate", "well", "gene") and table.rows == ROWS
    assert table.lines == [2, 3] and table.where(1).endswith(", line 3")
    assert table.said == {"gz": "gzip", "bgz": "gzip", "zst": "zstd"}.get(packing, packing)
    with pytest.raises(UserError, match=r"is damaged: its \w+ data (end after|are broken)"):
        read(tmp_path, PACKERS[packing](TEXT.encode() * 50)[:-12])


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16 (big endian)"),
        ("utf-32", "UTF-32"),
        ("utf-32-be", "UTF-32 (big endian)"),
        ("cp1252", "Windows-1252 (as in 'µM “x”')"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, said, end):
    text = "well,perturbation\nA01,3 µM “x”\nA02,é\n".replace("\n", end)
    table = read(tmp_path, text.encode(encoding))
    assert table.columns == ("well", "perturbation") and table.said == said
    assert table.rows == [("A01", "3 µM “x”"), ("A02", "é")]


def test_an_encoding_is_told_by_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "HEAD_BYTES", 1000)
    rows = "A01,x\n" * 1000
    late = f"well,gene\n{rows}".encode() + "A02,µ\n".encode("cp1252")
    table = read(tmp_path, late)
    assert table.said == "Windows-1252" and table.rows[-1] == ("A02", "µ")
    with tables_closed(tables.open_rows(tmp_path / "m.csv")) as streamed:
        rows = list(streamed.rows)
    assert rows[-1].line == 1002 and not rows[0].fault
    assert "byte 0xb5 at character 5 cannot be read as UTF-8" in rows[-1].fault
    mixed = "well,gene\nA01,µ\n".encode() + b"A02,\xb5\n"
    with pytest.raises(UserError, match=r"line 3: byte 0xb5 at character 5 cannot be read as UTF"):
        read(tmp_path, mixed)


class tables_closed:
    """Closes rows that were not read to their end."""

    def __init__(self, rows):
        self.rows = rows

    def __enter__(self):
        return self.rows

    def __exit__(self, *_):
        self.rows.rows.close()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.csv", "plate;well;gene\nP1;A01;TP53\nP1;A02;MYC\n", "separated by semicolons"),
        ("m.csv", "sep=;\nplate;well;gene\nP1;A01;TP53\nP1;A02;MYC\n", "separated by semicolons"),
        ("m.tsv", TEXT, "separated by commas"),
        ("m.csv", TEXT.replace(",", "\t"), "separated by tabs"),
        ("m.txt.gz", TEXT.replace(",", "|"), "separated by bars (|)"),
        ("m.txt", TEXT.replace(",", " "), "separated by blanks"),
        ("m.csv", "# of the robot\n#\n" + TEXT, "2 lines of comments before the header"),
        ("m.csv", "Plate map of May\n\n" + TEXT, "1 line of title before the header"),
        ("m.csv", "Plate map of May,,\n" + TEXT, "1 line of title before the header"),
        ("m.csv", "#" + TEXT, ""),
        ("m.csv", "\n" + TEXT.replace("\n", "\n\n").replace("P1", " P1 ") + ",,\n\x1a", ""),
        ("m.csv", TEXT.replace("\n", ",\n").replace("gene,\n", "gene\n"), ""),
        ("m.csv", TEXT.replace("\n", ",,\n"), ""),
    ],
)
def test_separators_and_what_stands_before_the_header(tmp_path, name, text, said):
    table = read(tmp_path, text, name)
    assert (table.columns, table.rows, table.said) == (("plate", "well", "gene"), ROWS, said)


def test_row_names_of_r(tmp_path):
    table = read(tmp_path, 'well gene\n"1" "A 1" "x"\n"2" "A2" NA\n', "m.txt")
    assert table.columns == ("", "well", "gene")
    assert table.rows == [("1", "A 1", "x"), ("2", "A2", None)]
    assert "row names" in table.said and table.missing == {"gene": {"NA": 1}}
    assert read(tmp_path, ",well\n0,A1\n").columns == ("", "well")
    with pytest.raises(UserError, match="line 2: 3 fields where the first line names 2 columns"):
        read(tmp_path, "well,gene\nA1,x,y\nA2,x,z\n")


def test_missing_values_are_counted_and_can_be_kept(tmp_path):
    text = "a,b\nNA,-\n#N/A,Na\nnull,1\n,NaN\n"
    table = read(tmp_path, text)
    assert table.column("a") == [None] * 4 and table.column("b") == ["-", "Na", "1", None]
    assert table.missing == {"a": {"NA": 1, "#N/A": 1, "null": 1}, "b": {"NaN": 1}}
    assert read(tmp_path, text, missing=()).column("a") == ["NA", "#N/A", "null", None]
    assert read(tmp_path, "CCO,x\nCC,y\n", header=False).columns == ("1", "2")
    assert read(tmp_path, "CCO,x\nCC,y\n", header=False).column("1") == ["CCO", "CC"]


def test_quotes_and_their_faults(tmp_path):
    table = read(tmp_path, 'a,b\n"two\nlines","a ""b"", c"\n1,2\n')
    assert table.rows == [("two\nlines", 'a "b", c'), ("1", "2")] and table.lines == [2, 4]
    faulty = 'a,b\n1,"open\n2,x\n3,x,y\n4,"x"y\n5,ok\n'
    (tmp_path / "m.csv").write_text(faulty)
    rows = list(tables.open_rows(tmp_path / "m.csv").rows)
    assert [row.line for row in rows] == [2, 3, 4, 5, 6]
    assert [bool(row.fault) for row in rows] == [True, False, True, True, False]
    assert "opened and not closed" in rows[0].fault or "in the middle" in rows[0].fault
    assert rows[2].fault.startswith("3 fields where the first line names 2 columns")
    assert rows[1].values == ("2", "x") and rows[4].values == ("5", "ok")
    with pytest.raises(UserError, match=r"m.csv, line 2: a quote"):
        tables.read_table(tmp_path / "m.csv")


def test_columns_are_asked_for_by_name(tmp_path):
    table = read(tmp_path, "a,b,a\n1,2,3\n")
    assert table.column("b") == ["2"]
    with pytest.raises(UserError, match=r"has 2 columns named 'a'. Rename or remove all but one"):
        table.column("a")
    with pytest.raises(UserError, match=r"has no column 'B'.*It has: a, b, a"):
        table.column("B")


def test_parquet(tmp_path):
    table = pa.table(
        {"plate": [1.0, 2.0, None], "well": ["A01", " A02", "NA"], "dose": [1e-5, 0.5, 3.0]}
    )
    pq.write_table(table, tmp_path / "m.data")
    read_back = tables.read_table(tmp_path / "m.data")
    assert read_back.rows == [("1", "A01", "1e-05"), ("2", "A02", "0.5"), (None, None, "3")]
    packed = gzip.compress((tmp_path / "m.data").read_bytes())
    assert read(tmp_path, packed).rows == read_back.rows
    assert read(tmp_path, packed).where(0).endswith("m.csv, row 1")
    with pytest.raises(UserError, match=r"begins like a Parquet table, but cannot be read"):
        read(tmp_path, (tmp_path / "m.data").read_bytes()[:-30])


def test_workbooks(tmp_path):
    rows = [["Table S1. All wells"], [], [None, "plate", "well", "gene"], [None, 1, "A01", "NA"]]
    path = workbook(tmp_path / "b.xlsx", {"Notes": [], "Wells": [*rows, [], [None, 2, "A02", "x"]]})
    table = tables.read_table(path)
    assert table.columns == ("plate", "well", "gene")
    assert table.rows == [("1", "A01", None), ("2", "A02", "x")] and table.lines == [4, 6]
    assert "sheet 'Wells' (not 'Notes')" in table.said
    assert tables.read_table(tmp_path / "b.xlsx#Wells").rows == table.rows
    with pytest.raises(UserError, match=r"no sheet 'Wels'. Did you mean 'Wells'\? It has: Notes"):
        tables.read_table(tmp_path / "b.xlsx#Wels")
    with pytest.raises(UserError, match="is empty"):
        tables.read_table(tmp_path / "b.xlsx#Notes")
    path = workbook(tmp_path / "f.xlsx", {"S": [["well", "gene"], ["A01", '="TP"&53']]})
    with pytest.raises(UserError, match=r"cell B2 holds a formula .* never computed"):
        tables.read_table(path)
    with pytest.raises(UserError, match="begins like an Excel workbook, but cannot be read"):
        read(tmp_path, path.read_bytes()[:-100], "cut.xlsx")


def test_merged_cells_of_a_workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    rows = [["All plates", None], ["plate", "well"], ["P1", "A01"], [None, "A02"], ["P2", "A01"]]
    path = workbook(tmp_path / "m.xlsx", {"S": rows})
    book = openpyxl.load_workbook(path)
    for cells in ("A1:B1", "A3:A4"):
        book["S"].merge_cells(cells)
    book.save(path)
    table = tables.read_table(path)
    assert table.columns == ("plate", "well") and "title 'All plates'" in table.said
    assert table.rows == [("P1", "A01"), ("P1", "A02"), ("P2", "A01")]


def test_without_openpyxl(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(UserError, match=r"pip install 'phenomjax\[excel\]'"):
        read(tmp_path, b"PK\x03\x04", "b.xlsx")


def _zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("wells.csv", TEXT)
    return file.getvalue()


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("wells.csv")
        info.size = len(TEXT)
        archive.addfile(info, io.BytesIO(TEXT.encode()))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_zip(), "is a zip archive of 1 file, wells.csv, not a table .*: unpack it"),
        (_tar(), "is a tar archive, not a table .*: unpack it"),
        (gzip.compress(_tar(), mtime=0), "is a tar archive, not a table .*: unpack it"),
        (
            gzip.compress(gzip.compress(b"x", mtime=0), mtime=0),
            "compressed twice .*: unpack it once",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "old or protected Office file.*\\.xlsx"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
        (b"\x80\x04\x95" + bytes(9), "is a Python pickle"),
        (b"II*\0" + bytes(99), "is an image"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF"),
        (bytes(range(256)) * 9, "is no text"),
        (b"<!DOCTYPE html><html>", "is a web page, not .*: download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS.*'git lfs pull'"),
        (b"", "is empty"),
        (b"<?xml version='1.0'?><?mso-application progid='Excel.Sheet'?>", "save it as .xlsx"),
        (b"<?xml version='1.0'?><Plate/>", "is XML, not a table"),
        (b">sp|P1|A\nMKV\n", "is FASTA, not a table"),
        (b'{"a": 1}\n', "is JSON, not a table"),
        (b"\xef\xbb\xbf\n \n", "is empty"),
        (b"a,b\n1,2\0\n" + b"3,4\n" * 99, "line 2: character 4 is a NUL"),
    ],
)
def test_what_is_no_table_is_said_in_one_sentence(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def test_what_is_no_file(tmp_path):
    (tmp_path / "wells.csv").write_text(TEXT)
    (tmp_path / "link.csv").symlink_to("nothing")
    for name, message in [
        ("wels.csv", r"There is no file at .*wels.csv. Did you mean .*/wells.csv\?"),
        (".", "is a folder"),
        ("link.csv", "is a link to nothing, which is not there"),
        ("wells.csv#Sheet", "is no workbook, so it has no sheet 'Sheet'"),
        ("a\0b", "cannot be opened|There is no file"),
    ]:
        with pytest.raises(UserError, match=message):
            tables.read_table(tmp_path / name)


@pytest.mark.parametrize(
    ("texts", "sign", "numbers"),
    [
        (["1,5", "0,1", "1e-5"], ",", [1.5, 0.1, 1e-5]),
        (["1,500", "0.5"], ".", [1500, 0.5]),
        (["1.500", "0,5"], ",", [1500, 0.5]),
        (["1.500", "0.5", "0,5"], "both", [None, 0.5, 0.5]),
        (["1.000,5", "1.500"], ",", [1000.5, 1500]),
        (["1,500", "2"], "", [None, 2]),
        (["1.500", "\N{MINUS SIGN}2", "1 000"], "", [1.5, -2, 1000]),
        (["x", "1_0", "inf", "1,2,3"], "", [None] * 4),
    ],
)
def test_numbers_as_people_write_them(texts, sign, numbers):
    assert decimal_sign(texts) == sign
    for text, number in zip(texts, numbers, strict=True):
        if number is None:
            with pytest.raises(ValueError, match=r"not a number|two ways"):
                parse_number(text, sign)
        else:
            assert parse_number(text, sign) == number


def test_decimal_commas_are_told(tmp_path):
    table = read(tmp_path, "well;dose\nA1;0,5\nA2;1,25\n")
    assert table.said == "separated by semicolons, decimal commas"
    assert table.decimal_sign("dose") == ","


def test_lines_of_a_text(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("a\r\nµ\rb".encode("utf-16"))
    assert list(text_files.lines(text_files.look(path))) == ["a\n", "µ\n", "b"]
    path.write_bytes(b"a\n\xc3\xa9\n\xff\n")
    with pytest.raises(UserError, match=r"t.txt, line 3: byte 0xff at character 1 cannot be read"):
        list(text_files.lines(text_files.look(path)))


def test_a_bzip2_bomb_stays_small(tmp_path):
    (tmp_path / "b").write_bytes(bz2.compress(bytes(4 * 10**7)))
    total, buffer = 0, memoryview(bytearray(2**20))
    with compressed.Stream(tmp_path / "b") as stream:
        while count := stream.readinto(buffer):
            total += count
            assert len(stream._ready) <= compressed.UNPACKED_BYTES
    assert total == 4 * 10**7 and np.frombuffer(buffer, np.uint8).sum() == 0
