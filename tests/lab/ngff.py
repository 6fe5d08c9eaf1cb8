"""Writes small OME-Zarr plates for tests, as NGFF 0.4 (Zarr v2) and 0.5 (Zarr v3) say, and as
others do.
"""

import json

import tensorstore as ts


def write_plate(
    path,
    version,
    fields,
    channels=("DNA", "ER", "RNA"),
    axes="tczyx",
    plate=None,
    labels=None,
    acquisitions=None,
    **storage,
):
    """Writes a plate.

    Args:
      path: folder of the plate.
      version: "0.4" or "0.5".
      fields: {(well as "A/1", site): [channel, y, x], or an array with all axes}.
      channels: labels.
      axes: axes of the arrays; t and z have length 1 where the fields are [channel, y, x].
      plate: entries of the plate's metadata that shall be others.
      labels: {(well, site): labels} of fields that have others.
      acquisitions: {(well, site): number}.
      storage: of `write_array`.
    """
    wells = sorted({well for well, _ in fields})
    rows = sorted({well.split("/")[0] for well in wells})
    columns = sorted({well.split("/")[1] for well in wells}, key=int)
    listed = [
        {
            "path": well,
            "rowIndex": rows.index(well.split("/")[0]),
            "columnIndex": columns.index(well.split("/")[1]),
        }
        for well in wells
    ]
    described = {
        "rows": [{"name": name} for name in rows],
        "columns": [{"name": name} for name in columns],
        "wells": listed,
    }
    write_group(path, version, {"plate": described | (plate or {})})
    for well in wells:
        images = [
            {"path": site} | ({"acquisition": acquisitions[well, site]} if acquisitions else {})
            for other, site in fields
            if other == well
        ]
        write_group(path / well, version, {"well": {"images": images}})
    for (well, site), pixels in fields.items():
        folder = path / well / site
        own = (labels or {}).get((well, site), channels)
        write_group(folder, version, image_attributes(axes, own))
        if pixels.ndim != len(axes):
            sizes = dict(zip("cyx", pixels.shape, strict=True))
            pixels = pixels.reshape([sizes.get(axis, 1) for axis in axes])
        write_array(folder / "0", version, pixels, **storage)


def image_attributes(axes, channels):
    """The metadata of an image with one resolution, "0"."""
    units = [{"name": axis} | ({"unit": "micrometer"} if axis in "yx" else {}) for axis in axes]
    scale = [{"type": "scale", "scale": [0.65 if axis in "yx" else 1 for axis in axes]}]
    scales = [{"axes": units, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    labels = {"channels": [{"label": label} for label in channels]}
    return {"multiscales": scales, "omero": labels}


def write_array(folder, version, pixels, chunk=None, separator=None, shard=None):
    """Writes an array.

    Args:
      folder: of it.
      version: "0.4" or "0.5".
      pixels: of any shape.
      chunk: height and width of the chunks, which hold one plane each; None: TensorStore's.
      separator: "." or "/" in the names of chunks; None: the format's own.
      shard: height and width of the shards (0.5).
    """
    spec = {
        "driver": "zarr" if version == "0.4" else "zarr3",
        "kvstore": f"file://{folder}/",
        "create": True,
        "metadata": {},
    }
    whole = lambda size: [1] * (pixels.ndim - 2) + list(size)  # noqa: E731
    if version == "0.4":
        spec["metadata"] |= {"fill_value": 0, "dtype": pixels.dtype.str}
        spec["metadata"] |= {"dimension_separator": separator} if separator else {}
        spec["metadata"] |= {"chunks": whole(chunk)} if chunk else {}
    else:
        name = {"name": "default", "configuration": {"separator": separator}}
        spec["metadata"] |= {"chunk_key_encoding": name} if separator else {}
        outer = shard or chunk
        grid = {"name": "regular", "configuration": {"chunk_shape": whole(outer or (1, 1))}}
        spec["metadata"] |= {"chunk_grid": grid} if outer else {}
        inner = {
            "name": "sharding_indexed",
            "configuration": {"chunk_shape": whole(chunk or (1, 1))},
        }
        spec["metadata"] |= {"codecs": [inner]} if shard else {}
    opened = ts.open(spec, dtype=pixels.dtype.newbyteorder("="), shape=pixels.shape).result()
    opened.write(pixels).result()


def write_group(folder, version, attributes):
    """Writes the metadata of a group."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(attributes))
        return
    content = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"ome": {"version": version} | attributes},
    }
    (folder / "zarr.json").write_text(json.dumps(content))


def change(folder, edit):
    """Edits the attributes of a group: `edit` gets them, and changes them or returns others."""
    file = folder / "zarr.json" if (folder / "zarr.json").is_file() else folder / ".zattrs"
    content = json.loads(file.read_text())
    inside = content["attributes"]["ome"] if file.name == "zarr.json" else content
    changed = edit(inside)
    if changed is not None:
        inside.clear()
        inside.update(changed)
    file.write_text(json.dumps(content))
