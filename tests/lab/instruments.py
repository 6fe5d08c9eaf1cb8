"""Small plates as instruments write them: an index of each kind, and images of 16 pixels."""

import zlib

import numpy as np
import tifffile

BTS = 'xmlns:bts="http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"'
HARMONY = {
    1: "http://www.perkinelmer.com/PEHH/HarmonyV1",
    5: "http://www.perkinelmer.com/PEHH/HarmonyV5",
    6: "http://www.perkinelmer.com/PEHH/HarmonyV6",
    7: "43B2A954-E3C3-47E1-B392-6635266B0DD3/HarmonyV7",
}
GUID = "CE3E6C84-D4FE-C301-5EE0-B99975F3AE17"
LABELS = {1: "HOECHST 33342", 2: "Alexa 488"}


def pixels(name):
    """The pixels that write_image gives a file of that name."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(1, 4000, (16, 16), "uint16")


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels(path.name))


def harmony_name(row, column, field=1, plane=1, channel=1, time=0):
    return f"r{row:02}c{column:02}f{field:02}p{plane:02}-ch{channel}sk{time + 1}fk1fl1.tiff"


def harmony_images(wells=((1, 1), (2, 3)), fields=(1,), planes=(1,), channels=(1, 2), times=(0,)):
    """(row, column, field, plane, channel, time) of each image."""
    return [
        (*well, field, plane, channel, time)
        for well in wells
        for field in fields
        for plane in planes
        for channel in channels
        for time in times
    ]


def harmony_index(
    images,
    version=5,
    plates=(("BR1", "BR1", ((1, 1), (2, 3))),),
    labels=LABELS,
    url=harmony_name,
    more="",
):
    """The text of an Index.idx.xml; channels stand in the images up to V5, in a map from V6.

    Args:
      images: of harmony_images.
      plates: (PlateID, Name, wells) of each.
      url: (row, column, field, plane, channel, time) -> where the file lies.
      more: elements of each image.
    """

    def channel_texts(channel):
        return (
            f"<ChannelName>{labels[channel]}</ChannelName><ImageType>Signal</ImageType>"
            '<ImageResolutionX Unit="m">5.9799999999999E-07</ImageResolutionX>'
            f"<MaxIntensity>{65535 + (version > 5)}</MaxIntensity>"
        )

    first = 0 if version < 6 else 1
    listed = "".join(
        f'<Image Version="1"><id>{row:02}{column:02}K{time + 1}F{field}P{plane}R{channel}</id>'
        f"<State>Ok</State><URL>{url(row, column, field, plane, channel, time)}</URL>"
        f"<Row>{row}</Row><Col>{column}</Col><FieldID>{field}</FieldID><PlaneID>{plane}</PlaneID>"
        f"<TimepointID>{time + first}</TimepointID><ChannelID>{channel}</ChannelID>"
        f"{channel_texts(channel) if version < 6 else ''}{more}"
        "<OrientationMatrix>[[1,0,0,0]]</OrientationMatrix></Image>\n"
        for row, column, field, plane, channel, time in images
    )
    maps = "".join(
        f'<Entry ChannelID="{channel}">{channel_texts(channel)}</Entry>' for channel in labels
    )
    flat = "".join(
        f'<Entry ChannelID="{channel}"><FlatfieldProfile>{{}}</FlatfieldProfile></Entry>'
        for channel in labels
    )
    wells = "".join(
        f"<Well><id>{row:02}{column:02}</id><Row>{row}</Row><Col>{column}</Col>"
        f'<Image id="{row:02}{column:02}K1F1P1R1" /></Well>'
        for _, _, ids in plates
        for row, column in ids
    )
    titles = "".join(
        f"<Plate><PlateID>{number}</PlateID><MeasurementID>{GUID.lower()}</MeasurementID>"
        f"<Name>{name}</Name><PlateRows>8</PlateRows><PlateColumns>12</PlateColumns>"
        + "".join(f'<Well id="{row:02}{column:02}" />' for row, column in ids)
        + "</Plate>"
        for number, name, ids in plates
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<EvaluationInputData'
        ' xmlns:xsd="http://www.w3.org/2001/XMLSchema" Version="1"'
        f' xmlns="{HARMONY[version]}"><User>me</User>\n<Plates>{titles}</Plates>\n'
        f"<Wells>{wells}</Wells>\n<Maps><Map>{flat}</Map>"
        f"{'<Map>' + maps + '</Map>' if version > 5 else ''}</Maps>\n"
        f"<Images>\n{listed}</Images></EvaluationInputData>"
    )


def write_harmony(folder, images=None, name="Index.idx.xml", version=5, **options):
    """A measurement: PLATE/Images with its index; returns the folder of the images."""
    images = harmony_images() if images is None else images
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        write_image(folder / harmony_name(*image))
    (folder / name).write_text(harmony_index(images, version, **options), encoding="utf-8")
    return folder


def write_metaxpress(folder, names, stem="P1", waves=("DAPI", "FITC"), lines=(), where=""):
    """A plate: `names` relative to the folder, and its .HTD with more `lines`."""
    for name in names:
        write_image(folder / name)
    text = ['"HTSInfoFile", Version 1.0', '"Description", "first, 20\xb5m"', '"XWells", 3']
    text += ['"YWells", 2', *lines, '"Waves", TRUE', f'"NWavelengths", {len(waves)}']
    text += [f'"WaveName{i}", "{wave}"' for i, wave in enumerate(waves, 1)]
    text += [f'"WaveCollect{i}", 1' for i in range(1, len(waves) + 1)]
    path = folder / where / f"{stem}.HTD"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\r\n".join([*text, '"EndFile"', ""]).encode("latin-1"))
    return path


def voyager_name(plate, row, column, field=1, z=1, channel=1, time=1):
    well = f"{'ABCDEFGH'[row - 1]}{column:02}"
    return f"{plate}_{well}_T{time:04}F{field:03}L01A01Z{z:02}C{channel:02}.tif"


def write_cellvoyager(
    folder, records, plate="1053601756", targets=("DNA", "ER"), bits=16, extra=""
):
    """A measurement of `records`: (row, column, field, z, channel, time)."""
    lines = []
    for row, column, field, z, channel, time in records:
        name = voyager_name(plate, row, column, field, z, channel, time)
        write_image(folder / name)
        lines.append(
            f'<bts:MeasurementRecord bts:Type="IMG" bts:Column="{column}" bts:Row="{row}"'
            f' bts:TimePoint="{time}" bts:FieldIndex="{field}" bts:ZIndex="{z}"'
            f' bts:TimelineIndex="1" bts:ActionIndex="1" bts:Action="2D" bts:X="-1.5" bts:Y="2.0"'
            f' bts:Z="-8.5" bts:Ch="{channel}">{name}</bts:MeasurementRecord>'
        )
    write_image(folder / "SC_BP445-45_20x_M01_CH01.tif")
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    (folder / "MeasurementData.mlf").write_text(
        f'{head}<bts:MeasurementData bts:Version="1.0" {BTS}>'
        + "\n".join([*lines, extra])
        + "</bts:MeasurementData>"
    )
    channels = "".join(
        f'<bts:MeasurementChannel bts:Ch="{i}" bts:HorizontalPixelDimension="0.65"'
        f' bts:VerticalPixelDimension="0.65" bts:CameraNumber="1" bts:InputBitDepth="{bits}"'
        ' bts:ShadingCorrectionSource="SC_BP445-45_20x_M01_CH01.tif" />'
        for i in range(1, len(targets) + 1)
    )
    (folder / "MeasurementDetail.mrf").write_text(
        f'{head}<bts:MeasurementDetail bts:Title="t" bts:MeasurementSettingFileName="a.mes" {BTS}>'
        f'<bts:MeasurementSamplePlate bts:Name="{plate}" bts:WellPlateFileName="p.wpi" />'
        f"{channels}</bts:MeasurementDetail>"
    )
    settings = "".join(
        f'<bts:Channel bts:Ch="{i}" bts:Target="{target}" bts:Fluorophore=""'
        f' bts:Acquisition="BP{400 + 80 * i}/45"><bts:LightSourceName>x</bts:LightSourceName>'
        "</bts:Channel>"
        for i, target in enumerate([*targets, "not used"], 1)
    )
    (folder / "a.mes").write_text(
        f"{head}<bts:MeasurementSetting {BTS}><bts:ChannelList>{settings}</bts:ChannelList>"
        "</bts:MeasurementSetting>"
    )


def incell_name(row, column, field, wave):
    return f"{'ABCDEFGH'[row - 1]} - {column}(fld {field} wv {wave}).tif"


def write_incell(folder, records, waves=(("UV", "DAPI"), ("Blue", "FITC")), binning=1, plate=""):
    """A plate of `records`: (row, column, field, wave from 0)."""
    listed = []
    for row, column, field, wave in records:
        name = incell_name(row, column, field, " - ".join(waves[wave]))
        write_image(folder / name)
        listed.append(
            f'<Image acquisition_time_ms="1" filename="{name}"><Well label="x"><Row'
            f' number="{row}"/><Column number="{column}"/></Well><Identifier'
            f' field_index="{field - 1}" time_index="0" wave_index="{wave}" z_index="0"/></Image>'
        )
    listed_waves = "".join(
        f'<Wavelength index="{i}" show="true"><ExcitationFilter name="{exciting}" unit="nm"/>'
        f'<EmissionFilter name="{emission}" unit="nm"/></Wavelength>'
        for i, (exciting, emission) in enumerate(waves)
    )
    own = f' PlateID="{plate}"' if plate else ""
    (folder / "Screen 1.xdce").write_bytes(
        (
            '<?xml version="1.0" encoding="ISO-8859-1" standalone="no"?>\n'
            f'<ImageStack{own}><AutoLeadAcquisitionProtocol name="p"><ObjectiveCalibration'
            ' pixel_width="0.3250" unit="\xb5m"/><Camera><Binning'
            f' value="{binning} X {binning}"/></Camera><Plate name="Greiner 384" rows="16"/>'
            f"<Wavelengths>{listed_waves}</Wavelengths></AutoLeadAcquisitionProtocol>"
            f"<Images>{''.join(listed)}</Images></ImageStack>"
        ).encode("latin-1")
    )
