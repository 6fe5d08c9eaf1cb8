"""What the commands write is as the schemas say: each description, each file, each column; and the
schemas have a word for every version that the code reads.
"""

import fnmatch
import json
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest

from docs.generate import formats
from phenomjax.convert.described import about
from phenomjax.data import selections
from phenomjax.data.images import archive, bank
from phenomjax.data.images.metadata import METADATA_SCHEMA
from phenomjax.data.sequences import bank as token_bank
from phenomjax.export import __main__ as export
from phenomjax.inference import rows
from phenomjax.maps.build import align
from phenomjax.prepare import index
from phenomjax.prepare.subsets import command as subset
from tests.lab.doors import run_as_door

SCHEMAS = formats.schemas()


def of_group(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["phenomjax"]


def of_table(path):
    return json.loads(pq.read_schema(path).metadata[b"phenomjax"])


@pytest.fixture(scope="module")
def things(shelf, tmp_path_factory):
    """A folder with one thing of each format, by its name."""
    folder = tmp_path_factory.mktemp("things")
    names = {"image_bank.zarr": "plates.zarr", "token_bank.zarr": "proteins.zarr", "run": "mae"}
    names |= {"embeddings.zarr": "embeddings.zarr", "raw.parquet": "profiles.parquet"}
    for name, thing in names.items():
        shelf.put(thing, folder / name)
    plates = folder / "image_bank.zarr"
    where = ["--where", 'plate == "P01"']
    run_as_door(subset, ["--bank", plates, *where, "--out", folder / "selection.parquet"])
    run_as_door(index, [plates, "--out", folder / "image_bank_index.parquet"])
    words = ["--profiles", folder / "raw.parquet", "--align", "center_scale"]
    run_as_door(align, [*words, "--out", folder / "profiles.parquet"])
    words = ["--checkpoint", folder / "run", "--format", "release", "--licence", "MIT"]
    run_as_door(export, [*words, "--name", "tiny", "--out", folder / "release"])
    return folder


DESCRIPTIONS = {
    **{name: (f"{name}.zarr", of_group) for name in ("image_bank", "token_bank", "embeddings")},
    **{
        name: (f"{name}.parquet", of_table)
        for name in ("selection", "image_bank_index", "profiles")
    },
    **{
        name: (name, lambda path: json.loads((path / "config.json").read_text()))
        for name in ("run", "release")
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_command_wrote_is_as_its_schema_says(name, things):
    schema, (place, read) = SCHEMAS[name], DESCRIPTIONS[name]
    path = things / place
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    content = read(path)
    assert [error.message for error in validator.iter_errors(content)] == []
    if name != "run":  # whose keys the page of the configuration has
        assert content.keys() <= schema["properties"].keys()
    for key in schema["required"]:
        less = {other: value for other, value in content.items() if other != key}
        assert not validator.is_valid(less)
    if path.is_dir():
        files = [str(one.relative_to(path)) for one in path.rglob("*") if one.is_file()]
        strange = [
            one for one in files if not any(fnmatch.fnmatch(one, p) for p in schema["x-files"])
        ]
        assert files and strange == []


def test_columns_are_those_of_the_tables(things):
    for name, columns in (
        ("image_bank", METADATA_SCHEMA.names),
        ("token_bank", token_bank.METADATA_SCHEMA.names),
    ):
        assert list(SCHEMAS[name]["x-columns"]["metadata.parquet"]) == columns
    for name in ("selection", "image_bank_index"):
        told = SCHEMAS[name]["x-columns"]["NAME.parquet"]
        known = {one for columns in told for one in columns.split(", ")}
        assert set(pq.read_schema(things / f"{name}.parquet").names) <= known


def test_every_version_that_the_code_reads_has_a_history():
    code = {
        "image_bank": range(1, bank.VERSION + 1),
        "token_bank": (token_bank.VERSION, token_bank.TABLES_VERSION),
        "image_bank_index": (archive.VERSION,),
        "selection": range(1, selections.VERSION + 1),
        "embeddings": (rows.VERSION,),
        "release": (about.VERSION,),
    }
    for name, versions in code.items():
        schema = SCHEMAS[name]
        of = schema["properties"]["version"]
        assert [str(one) for one in versions] == list(schema["x-history"])
        assert of.get("enum", [of.get("const")]) == list(versions)


def test_the_page_has_all():
    page = formats.page()
    both = SCHEMAS | formats.schemas(formats.OBJECTS)
    assert {path.stem for path in Path(formats.FOLDER).glob("*.json")} == both.keys()
    for name, schema in both.items():
        assert f"{{ #{name} }}" in page
        assert [key for key in schema["properties"] if f"| `{key}` |" not in page] == []
    assert "| `bit_depth` | `8` or `16` | Of the stored pixels: 8 or 16. |" in page
