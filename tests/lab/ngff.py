"""Writes small OME-Zarr plates for tests, as NGFF 0.4 (Zarr v2) and 0.5 (Zarr v3) say."""

import json

import tensorstore as ts


def write_plate(path, version, fields, channels=("DNA", "ER", "RNA"), axes="tczyx"):
    """Writes a plate.

    Args:
      path: folder of the plate.
      version: "0.4" or "0.5".
      fields: {(well as "A/1", site): [channel, y, x]}.
      channels: labels.
      axes: axes of the arrays; t and z have length 1.
    """
    wells = sorted({well for well, _ in fields})
    _group(
        path,
        version,
        {"plate": {"wells": [{"path": well, "rowIndex": 0, "columnIndex": 0} for well in wells]}},
    )
    for well in wells:
        images = [{"path": site} for other, site in fields if other == well]
        _group(path / well, version, {"well": {"images": images}})
    for (well, site), pixels in fields.items():
        folder = path / well / site
        units = [{"name": axis} | ({"unit": "micrometer"} if axis in "yx" else {}) for axis in axes]
        scale = [{"type": "scale", "scale": [0.65 if axis in "yx" else 1 for axis in axes]}]
        scales = [{"axes": units, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
        labels = {"channels": [{"label": label} for label in channels]}
        _group(folder, version, {"multiscales": scales, "omero": labels})
        sizes = dict(zip("cyx", pixels.shape, strict=True))
        shape = [sizes.get(axis, 1) for axis in axes]
        spec = {
            "driver": "zarr" if version == "0.4" else "zarr3",
            "kvstore": f"file://{folder}/0/",
            "create": True,
        }
        ts.open(spec, dtype=pixels.dtype, shape=shape).result().write(
            pixels.reshape(shape)
        ).result()


def _group(folder, version, attributes):
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
