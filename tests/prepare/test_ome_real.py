"""OME-Zarr plates as labs have them, from the shared cases: what each becomes, by its own note."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from phenomjax.data.images import opening
from tests.prepare.test_images import prepare

pytestmark = pytest.mark.shared_data


@pytest.fixture
def case(shared, tmp_path, request):
    """Prepares a case; gives its folder, the bank, the exit code, and what the screen said."""

    def run(name, **options):
        folder = shared.parent / "cases" / "images" / name / "in"
        options = {"intensity": "keep"} | options
        code = prepare(folder, tmp_path / "b.zarr", "ome-zarr", **options)
        return folder, opening.open_bank(tmp_path / "b.zarr"), code

    return run


def rows_of(bank):
    names = ("plate", "well", "site")
    return [tuple(row[name] for name in names) for row in bank.metadata.to_pylist()]


def test_swapped_channels_are_put_in_order(case):
    folder, bank, code = case("ome_swapped")
    assert code == 0 and bank.channels == ("DNA", "ER")
    assert rows_of(bank) == [("p1", "A01", "0"), ("p2", "A01", "0")]
    for index, (plate, order) in enumerate((("p1", [0, 1]), ("p2", [1, 0]))):
        expected = zarr.open_array(str(folder / f"{plate}.zarr/A/1/0/0"), mode="r")[:]
        np.testing.assert_array_equal(bank.read(index), expected[order].transpose(1, 2, 0))


def test_rows_and_columns_that_count_from_zero(case):
    folder, bank, code = case("ome_zero_based")
    assert code == 0
    assert rows_of(bank) == [("zero", well, "0") for well in ("A01", "B01", "B02")]
    for index, well in enumerate(("0/0", "1/0", "1/1")):
        expected = zarr.open_array(str(folder / "zero.zarr" / well / "0/0"), mode="r")[:]
        np.testing.assert_array_equal(bank.read(index), expected.transpose(1, 2, 0))


def test_a_well_that_was_not_acquired(case):
    _, bank, code = case("ome_sparse")
    assert code == 0 and rows_of(bank) == [("sparse", "A01", "0"), ("sparse", "B01", "0")]
    (remark,) = pq.read_table(bank.path / "remarks.parquet").to_pylist()
    assert (remark["reason"], remark["well"]) == ("not_there", "A02")


def test_a_chunk_that_was_lost(case, caplog):
    _, bank, code = case("ome_missing_chunk")
    assert code == 0 and rows_of(bank) == [("chunk", "A01", "0"), ("chunk", "A02", "0")]
    (remark,) = pq.read_table(bank.path / "remarks.parquet").to_pylist()
    assert (remark["reason"], remark["well"]) == ("missing_chunks", "A01")
    assert "1 of 4 chunks of channel 1 (DNA) are not stored" in remark["detail"]
    assert "missing_chunks" in caplog.text


def test_suffixes_are_no_part_of_a_name(case, shared, tmp_path):
    table = shared.parent / "cases" / "images" / "ome_ome_zarr_name" / "meta.csv"
    _, bank, code = case("ome_ome_zarr_name", metadata=table)
    assert code == 0 and {row[0] for row in rows_of(bank)} == {"BR001"}
    assert bank.metadata["gene"].null_count == 0
