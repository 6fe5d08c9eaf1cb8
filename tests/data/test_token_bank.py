"""Token banks and vocabularies: ids, boundaries, splits, chunks, damage, errors."""

import json

import numpy as np
import pytest
import zarr

from phenomjax.data.sequences import bank as sequences_bank
from phenomjax.data.sequences import vocabulary
from phenomjax.data.sequences.vocabulary import EOS, UNK
from phenomjax.system.errors import UserError

PROTEINS = {
    "train": [("a", "MKV"), ("b", "ACDEFGHIKLMNPQRSTVWY"), ("c", "XX")],
    "validation": [("d", "WW")],
}


@pytest.mark.parametrize("chunk_bytes", [64, 2**20])
def test_a_bank_gives_back_what_was_written(tmp_path, chunk_bytes):
    bank = sequences_bank.write_token_bank(tmp_path / "p.zarr", PROTEINS, chunk_bytes=chunk_bytes)
    words = bank.vocabulary
    texts = [text for rows in PROTEINS.values() for _, text in rows]
    assert [words.decode(bank.sequence(i)) for i in range(len(bank))] == texts
    assert all(bank.sequence(i)[-1] == EOS for i in range(len(bank)))
    assert bank.splits == {"train": (0, 3), "validation": (3, 4), "test": (4, 4)}
    assert bank.num_tokens("train") == 25 + 3 and bank.num_tokens("test") == 0
    assert bank.names([3, 0]) == ["d", "a"]
    stored = zarr.open_group(tmp_path / "p.zarr", mode="r")  # an independent reader
    np.testing.assert_array_equal(stored["tokens"][:], bank.tokens[:])
    np.testing.assert_array_equal(stored["offsets"][:], bank.offsets[:])


def test_flat_arrays_read_any_range_over_chunk_borders(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, 1000)
    writer = sequences_bank.FlatWriter(tmp_path / "x", "int64", chunk_bytes=8 * 64)
    for part in np.split(values, [3, 70, 71, 400]):
        writer.write(part)
    assert len(writer.finish()) == 17  # chunks and zarr.json
    array = sequences_bank.FlatArray(tmp_path / "x")
    for start, stop in [(0, 1000), (63, 65), (64, 128), (5, 5), (999, 1000), (10, 700)]:
        np.testing.assert_array_equal(array[start:stop], values[start:stop])
    assert array[64] == values[64]


def test_damage_is_found(tmp_path):
    path = tmp_path / "p.zarr"
    sequences_bank.write_token_bank(path, PROTEINS, chunk_bytes=16)
    assert sequences_bank.damaged_files(path) == []
    data = bytearray((path / "tokens/c.1").read_bytes())
    data[3] ^= 1
    (path / "tokens/c.1").write_bytes(data)
    (path / "offsets/c.0").write_bytes(b"")
    (path / "metadata.parquet").unlink()
    bad = sequences_bank.damaged_files(path)
    assert "tokens/c.1 (checksum differs)" in bad and "metadata.parquet (missing)" in bad
    with pytest.raises(UserError, match=r"offsets/c.0 is cut short"):
        sequences_bank.open_token_bank(path).sequence(0)


def test_smiles_tokens():
    split = vocabulary.smiles_tokens("[Na+].Clc1cc([C@@H](Br)O)ccc1[se]%12Sc")
    assert (
        " ".join(split) == "[ Na + ] . Cl c 1 c c ( [ C @@ H ] ( Br ) O ) c c c 1 [ se ] % 1 2 S c"
    )
    words = vocabulary.vocabulary("smiles")
    assert UNK not in words.encode("[13CH4]CC(=O)/C=C\\C#N") and words.encode("C?C")[1] == UNK


@pytest.mark.parametrize("name", vocabulary.ALPHABETS)
def test_vocabularies_fit_into_eight_bits(name):
    words = vocabulary.vocabulary(name)
    assert len(words) <= 256 and len(set(words.tokens)) == len(words)
    text = {"protein": "MKVLWX", "smiles": "CC(=O)[O-]", "bytes": "def f(x):\n\treturn 'ü€'"}[name]
    assert words.decode(words.encode(text)) == text


def test_errors(tmp_path):
    with pytest.raises(UserError, match=r"no alphabet 'protien'. Did you mean 'protein'"):
        vocabulary.vocabulary("protien")
    with pytest.raises(UserError, match=r"There is no bank at .*prepare sequences"):
        sequences_bank.open_token_bank(tmp_path / "none.zarr")
    sequences_bank.write_token_bank(tmp_path / "p.zarr", PROTEINS)
    path = tmp_path / "p.zarr" / "zarr.json"
    stored = json.loads(path.read_text())
    stored["attributes"]["phenomjax"]["vocabulary"]["tokens"][8] = "?"
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"its ids mean other tokens"):
        sequences_bank.open_token_bank(tmp_path / "p.zarr")
    stored["attributes"]["phenomjax"]["format"] = "image_bank"
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"is a bank of format image_bank, not a token bank"):
        sequences_bank.open_token_bank(tmp_path / "p.zarr")
