"""What `prepare sequences` does for terabytes, on small files: hashes that are merged, tables of
the metadata, parts that no process can read.
"""

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from phenomjax.data import store
from phenomjax.data.divisible import divisible
from phenomjax.data.sequences.bank import damaged_files, open_token_bank
from phenomjax.engine.local import Pool
from phenomjax.prepare import publishing
from phenomjax.prepare.sequences import command, division
from phenomjax.prepare.sequences.assembly.duplicates import count_opens
from phenomjax.prepare.sequences.pieces import PIECE_BYTES, SHELF_PIECES
from phenomjax.system.errors import EXIT_DONE, EXIT_FAILED, UserError
from tests.prepare.test_sequences import SMALL, contents, fasta, made_up, prepare, rejected, stored


def test_files_of_hashes_that_are_opened(tmp_path, monkeypatch):
    """Many pieces and buckets cost no pieces x buckets opens, and the bank is the same."""
    source = tmp_path / "a.fasta"
    source.write_text(fasta(made_up(600, 3)))
    opened, found, real = [0], {}, Path.open

    def counting(self, *given, **named):
        # merged files are written under a hidden name
        opened[0] += self.name == "hashes" or self.parent.name.endswith(("merged", "duplicates"))
        return real(self, *given, **named)

    pieces, buckets = -(-source.stat().st_size // SMALL["piece_bytes"]), 16
    for shelf in (64, 4):
        opened[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", counting)
            sizes = SMALL | {"shelf_pieces": shelf, "bucket_bits": 4}
            assert prepare(tmp_path / f"{shelf}.zarr", source, sizes=sizes) == EXIT_DONE
        # each piece opens its own once, to write it
        found[shelf] = opened[0] - pieces
        assert found[shelf] == count_opens(pieces, buckets, shelf)
    assert pieces > 40 and found[64] > 2 * pieces * buckets and found[4] < found[64] / 3
    assert contents(tmp_path / "4.zarr") == contents(tmp_path / "64.zarr")
    ten_terabytes = -(-(10 * 10**12) // PIECE_BYTES)
    assert count_opens(ten_terabytes, 4096, ten_terabytes) > 600e6
    assert count_opens(ten_terabytes, 4096, SHELF_PIECES) < 10e6


def test_tables_of_the_metadata(tmp_path):
    source = tmp_path / "a.fasta"
    source.write_text(fasta(made_up(200, 5)))
    prepare(tmp_path / "one.zarr", source, sizes=SMALL)
    prepare(tmp_path / "many.zarr", source, sizes=SMALL | {"table_rows": 50})
    one, many = (open_token_bank(tmp_path / f"{name}.zarr") for name in ("one", "many"))
    assert one.tables == ["metadata.parquet"] and one.attributes["version"] == 1
    assert len(many.tables) == 4 and many.attributes["version"] == 2
    assert many.metadata.equals(one.metadata) and many.names([3, 120]) == one.names([3, 120])
    assert np.array_equal(many.tokens[:], one.tokens[:]) and not damaged_files(many.path)
    (many.path / many.tables[2]).unlink()
    assert damaged_files(many.path) == ["metadata-2.parquet (missing)"]


@pytest.mark.parametrize("packed", [False, True])
def test_what_no_process_can_read_is_named(tmp_path, monkeypatch, packed):
    source, out = tmp_path / "a.fasta", tmp_path / "b.zarr"
    source.write_text(fasta(made_up(100, 4)))
    name = "piece-0-3"
    if packed:
        monkeypatch.setattr(
            "phenomjax.data.sequences.sources.SequenceFile.divided", property(lambda self: False)
        )
        name = "file-0"

    class Deadly(Pool):
        def run(self, work, function, units, stop, *, aside=None, at_most=None):
            for unit in units:
                if unit.name == name:
                    assert aside(unit, "killed 5 processes") is None
                else:
                    yield from super().run(work, function, [unit], stop)

    @contextlib.contextmanager
    def executor(options, folder):
        yield Deadly(1)

    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(command.choose, "executor", executor)
        prepare(out, source, sizes=SMALL)
    where = "after byte 0 of its text" if packed else "that begin at bytes 2,100 to 2,800 of"
    assert error.value.exit_code == EXIT_FAILED
    assert f"{source}, " in str(error.value) and where in str(error.value)
    assert "1 part of the files could not be read" in str(error.value)
    assert prepare(out, source, sizes=SMALL) == EXIT_DONE
    straight = tmp_path / "straight.zarr"
    prepare(straight, source, sizes=SMALL)
    assert contents(out) == contents(straight)


def bgzf(data, block=900):
    """As bgzip writes it, in blocks of so many bytes, with the empty block at the end."""
    parts = [data[i : i + block] for i in range(0, len(data), block)]
    return b"".join(map(_block, [*parts, b""]))


def _block(part):
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(part) + packer.flush()
    head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
    return head + body + struct.pack("<II", zlib.crc32(part), len(part))


def seekable(data, frame=1500):
    """Zstandard frames and the table of them."""
    parts = [data[i : i + frame] for i in range(0, len(data), frame)]
    packed = [zstandard.ZstdCompressor().compress(part) for part in parts]
    table = b"".join(struct.pack("<II", len(a), len(b)) for a, b in zip(packed, parts, strict=True))
    table += struct.pack("<IBI", len(parts), 0, 0x8F92EAB1)
    return b"".join(packed) + struct.pack("<II", 0x184D2A5E, len(table)) + table


@pytest.mark.parametrize("pack", [bgzf, seekable])
def test_compressed_files_that_are_divided(tmp_path, monkeypatch, caplog, pack):
    """The same pieces, bank and lists as of the plain file, from any number of units."""
    monkeypatch.setattr(division, "RANGE_BYTES", 2000)  # of packed bytes that a unit looks at
    text = (fasta(made_up(300, 6)) + ">bad\nM4\n" + fasta(made_up(90, 8))).encode()
    plain, packed = tmp_path / "a.fasta", tmp_path / "packed" / "a.fasta"
    plain.write_bytes(text)
    packed.parent.mkdir()
    packed.write_bytes(pack(text))
    assert divisible(packed) == {bgzf: "bgzf", seekable: "zstd"}[pack] and not divisible(plain)
    caplog.set_level("INFO", "phenomjax")
    for source in (plain, packed):
        assert prepare(source.with_suffix(".zarr"), source, sizes=SMALL) == EXIT_FAILED
    assert f"divided into {-(-len(text) // SMALL['piece_bytes'])} pieces" in caplog.text
    one, other = contents(tmp_path / "a.zarr"), contents(tmp_path / "packed" / "a.zarr")
    for name in ("zarr.json", "sources.json"):  # path and sha256 of the file
        assert one.pop(name) != other.pop(name)
    lists = [bank.pop("rejected.parquet") for bank in (one, other)]
    rows = [pq.read_table(pa.BufferReader(part)).drop(["file"]).to_pylist() for part in lists]
    assert one == other and rows[0] == rows[1] and rows[0][0]["offset"] == text.index(b">bad")


def test_divided_files_that_are_damaged(tmp_path):
    records = made_up(400, 6)
    data = bgzf(fasta(records).encode())
    names, found = {name for name, _, _ in records}, {}
    for kind in ("cut", "flipped"):
        path = tmp_path / f"{kind}.fasta"
        path.write_bytes(data[: len(data) * 2 // 3] if kind == "cut" else data)
        if kind == "flipped":  # in the middle of a block: the others can be read
            packed = bytearray(data)
            packed[data.index(b"\x1f\x8b\x08\x04", len(data) // 3) + 100] ^= 16
            path.write_bytes(packed)
        options = {"keep_duplicates": True, "sizes": SMALL}
        assert prepare(tmp_path / f"{kind}.zarr", path, **options) == EXIT_FAILED
        found[kind] = set(stored(tmp_path / f"{kind}.zarr"))
        reasons = {row["reason"] for row in rejected(tmp_path / f"{kind}.zarr")}
        assert found[kind] < names and reasons == {"truncated"}
    assert len(found["cut"]) > 200 and len(found["flipped"]) > 350


def test_files_in_a_store(s3, tmp_path, monkeypatch):
    """Read by ranges, divided as on a disk."""
    s3.use(monkeypatch)
    there = "s3://bank/sequences"
    text = (fasta(made_up(150, 2)) + ">bad\nM4\n").encode()
    names = {"a.fasta": text, "b.fasta.gz": bgzf(text), "c.fasta.zst": zstandard.compress(text)}
    for name, content in names.items():
        (tmp_path / name).write_bytes(content)
        store.write_bytes(f"{there}/{name}", content)
    kept = {"sizes": SMALL, "keep_duplicates": True}
    prepare(tmp_path / "disk.zarr", *(tmp_path / name for name in names), **kept)
    out = tmp_path / "store.zarr"
    remote = [f"{there}/{name}" for name in names]
    assert prepare(out, *remote, **kept) == EXIT_FAILED
    assert {row["file"] for row in rejected(out)} == set(remote)
    made, same = (contents(tmp_path / f"{name}.zarr") for name in ("store", "disk"))
    for name in ("zarr.json", "sources.json", "rejected.parquet"):
        assert made.pop(name) != same.pop(name)
    assert made == same
    assert prepare(out, *remote, **kept) == EXIT_FAILED  # is finished
    store.write_bytes(remote[0], text.replace(b"MK", b"MW"))
    with pytest.raises(UserError, match=rf"changed since: {there}/a.fasta .its content: sha256"):
        prepare(out, *remote, **kept)
    with pytest.raises(UserError, match=rf"no file {there}/d\.fasta\. In {there}: a\.fasta"):
        prepare(out, f"{there}/d.fasta", **kept)
    monkeypatch.chdir(tmp_path)
    out = Path(f"{there}/x.zarr")
    assert prepare(out, *remote, **kept) == EXIT_FAILED
    found = {one.name: store.read_bytes(out / one.name) for one in store.list_files(out)}
    assert found == contents(publishing.made_here(out))
