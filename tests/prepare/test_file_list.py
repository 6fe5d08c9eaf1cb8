"""Images named by a table: the columns it may have, and files found by the end of their path."""

import pytest

from phenomjax.prepare.images.records import FileStatus, ImageKey
from phenomjax.prepare.images.sources import file_list
from phenomjax.system.errors import UserError

LISTING = {
    name: FileStatus(1, 1)
    for name in ("P1/a.tif", "P1/b.tif", "P2/a.tif", "P2/b.tif", "P1/notes.csv", "P1/stack.tif")
}


def read(tmp_path, text, listing=LISTING, **rename):
    table = tmp_path / "list.csv"
    table.write_text(text)
    names = {old: new for new, old in rename.items()}
    return file_list.read(tmp_path / "src", table, names, listing, (".tif",))


def rows(found):
    return [(p.file, p.page, p.key, p.channel, p.label, p.z, p.t) for p in found.planes]


def test_a_row_a_file(tmp_path):
    found = read(
        tmp_path,
        "path,Metadata_Plate,well,site,channel,z,t\n"
        "P1/a.tif,007,a1,01,1,2,\nP1/b.tif,007,A01,1,2,1.0,3\n",
    )
    key = ImageKey(None, "007", "A01", "1")
    assert rows(found) == [
        ("P1/a.tif", 0, key, "1", None, 2, None),
        ("P1/b.tif", 0, key, "2", None, 1, 3),
    ]
    assert sorted((one.reason, one.file) for one in found.remarks) == [
        ("not_in_list", "P1/stack.tif"),
        ("not_in_list", "P2/a.tif"),
        ("not_in_list", "P2/b.tif"),
    ]
    assert "2 of 2 files are there" in found.told[0] and "3 images" in found.told[1]


@pytest.mark.parametrize("orig", ["Orig", ""])
def test_load_data_of_another_machine(tmp_path, orig):
    head = f"Metadata_Plate;Metadata_Well;Metadata_Site;FileName_{orig}DNA;PathName_{orig}DNA"
    head += f";FileName_{orig}ER;PathName_{orig}ER;FileName_IllumDNA;PathName_IllumDNA\n"
    folder = "/home/ubuntu/bucket/2020/P1"
    found = read(
        tmp_path, head + f"BR1;A01;3;a.tif;{folder};b.tif;{folder}/;IllumDNA.npy;{folder}\n"
    )
    key = ImageKey(None, "BR1", "A01", "3")
    assert rows(found) == [
        ("P1/a.tif", 0, key, "1", "DNA", None, None),
        ("P1/b.tif", 0, key, "2", "ER", None, None),
    ]
    assert "separated by semicolons" in found.told[0]


def test_urls_and_pages(tmp_path):
    found = read(tmp_path, "URL_DNA,Frame_DNA,Well\ns3://bucket/x/P1/stack.tif,2,B02\n")
    assert rows(found) == [
        ("P1/stack.tif", 2, ImageKey(None, None, "B02", "1"), "1", "DNA", None, None)
    ]


def test_renamed_columns(tmp_path):
    found = read(tmp_path, "img,pos\nP2/b.tif,C03\n", path="img", well="pos")
    assert rows(found)[0][:3] == ("P2/b.tif", 0, ImageKey(None, None, "C03", "1"))


def test_a_file_that_is_not_there_is_listed_and_the_others_kept(tmp_path):
    found = read(tmp_path, "path,well\nP1/a.tif,A01\nP3/a.tif,A02\n")
    assert len(found.planes) == 1  # P3/a.tif is neither P1's nor P2's
    bad = found.rejected[0]
    assert (bad.reason, bad.file, bad.key) == (
        "missing_file",
        "P3/a.tif",
        ImageKey(None, None, "A02", "1"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,gene\nP1/a.tif,X\n", r"no column 'well'.*--rename 'gene=well'"),
        ("img,well\nP1/a.tif,A01\n", r"no column of paths.*--rename 'img=path'"),
        ("path,well\na.tif,A01\n", r"line 2: 'a.tif' fits P1/a.tif and P2/a.tif alike"),
        ("path,well\nP9/z.tif,A01\n", r"None of the 1 files .* for instance 'P9/z.tif'"),
        ("path,file,well\nP1/a.tif,P1/a.tif,A01\n", r"'path' and 'file' both look like 'path'"),
        ("path,well\nP1/a.tif,A01\nx/P1/a.tif,A02\n", r"line 3: .*earlier row gives to another"),
        ("path,well\nP1/a.tif,\n", r"line 2: the well is empty"),
        ("path,well,z\nP1/a.tif,A01,top\n", r"line 2: z 'top' is no whole number"),
    ],
)
def test_errors(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
