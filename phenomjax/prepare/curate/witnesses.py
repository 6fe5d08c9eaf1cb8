"""What a model saw of the images: its embeddings, as rows of wells.

A witness is one folder of `phenomjax.embed`, or of several banks the folder of such folders that it
wrote. Rows are read experiment by experiment and averaged to wells; of crops and sites only those
take part whose image has not been dropped.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int

from phenomjax.data import store
from phenomjax.data.embeddings import embeddings_record, open_array, stored_blocks
from phenomjax.data.images.bank import ImageBank
from phenomjax.prepare.curate.wells import KEY, NONE, Wells, distinct
from phenomjax.statistics.groups import rows_of_groups
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    import tensorstore

log = logging.getLogger("phenomjax")
AT_ONCE = 2**24  # numbers that are read at once
DENSE = 4  # rows are read with what lies between them, if that is at most so many times as much


@dataclass(frozen=True)
class Part:
    """The embeddings of one bank.

    Attributes:
      path: of the folder.
      array: [rows, dim], lazily.
      image: row of the image of each embedding, among the images of all banks; NONE of wells.
      well: of each embedding; NONE where the banks have none like it.
    """

    path: Path
    array: "tensorstore.TensorStore"
    image: Int[np.ndarray, " rows"]
    well: Int[np.ndarray, " rows"]


@dataclass(frozen=True)
class Witness:
    """A model.

    Attributes:
      name: by which results call it.
      parts: one a bank.
      described: what made them.
    """

    name: str
    parts: tuple[Part, ...]
    described: dict

    @property
    def by_image(self) -> bool:
        """Whether it saw images, or only wells as a whole."""
        return all((part.image != NONE).all() for part in self.parts)

    def seen(self, wells: Wells) -> Bool[np.ndarray, " rows"]:
        """Which of the images it has embeddings of, their own or of their well."""
        found, of_wells = np.zeros(len(wells.of_row), bool), np.zeros(len(wells), bool)
        for part in self.parts:
            found[part.image[part.image != NONE]] = True
            of_wells[part.well[(part.image == NONE) & (part.well != NONE)]] = True
        return found | of_wells[wells.of_row]

    def blocks(
        self, block_of_well: Int[np.ndarray, " wells"], alive: Bool[np.ndarray, " rows"]
    ) -> Iterator[tuple[int, Int[np.ndarray, " some"], Float64[np.ndarray, "some dim"]]]:
        """The wells of each block and their embeddings, block by block.

        Args:
          block_of_well: NONE of wells that are not wanted.
          alive: images that take part.
        """
        rows, damaged, good_ones = [], 0, 0
        for part in self.parts:
            blocks = np.where(part.well == NONE, NONE, block_of_well[part.well])
            blocks[(part.image != NONE) & ~alive[part.image]] = NONE
            grouped = rows_of_groups(blocks + 1, int(block_of_well.max(initial=NONE)) + 2)
            rows.append(grouped[1:])
        for block in range(len(rows[0])):
            wells = np.unique(
                np.concatenate([p.well[r[block]] for p, r in zip(self.parts, rows, strict=True)])
            )
            if not len(wells):
                continue
            sums = np.zeros((len(wells), self.parts[0].array.shape[1]))
            counts = np.zeros(len(wells))
            for part, mine in zip(self.parts, rows, strict=True):
                for some, values in _read(part.array, mine[block]):
                    good = np.isfinite(values).all(1)
                    damaged += len(some) - int(good.sum())
                    good_ones += int(good.sum())
                    some, values = some[good], values[good].astype(np.float64)
                    if not len(some):
                        continue
                    places = np.searchsorted(wells, part.well[some])
                    order = np.argsort(places, kind="stable")
                    there, starts = np.unique(places[order], return_index=True)
                    sums[there] += np.add.reduceat(values[order], starts, axis=0)
                    counts += np.bincount(places, minlength=len(wells))
            there = counts > 0
            yield block, wells[there], sums[there] / counts[there, None]
        if damaged and not good_ones:
            raise UserError(
                f"No embedding of {self.described['path']} is a number: the training of its model"
                " has diverged. Embed with an earlier checkpoint or another model, or leave"
                " these `embeddings` out."
            )
        if damaged:
            log.warning(
                "%d embeddings of %s are no numbers and take no part: has its training diverged?",
                damaged,
                self.name,
            )


def _read(
    array: "tensorstore.TensorStore", rows: Int[np.ndarray, " some"]
) -> Iterator[tuple[Int[np.ndarray, " some"], np.ndarray]]:
    """Rising rows and their values, some at a time."""
    step = max(AT_ONCE // array.shape[1], 1)
    start = 0
    while start < len(rows):
        stop = min(start + step, len(rows))
        some = rows[start:stop]
        first, last = int(some[0]), int(some[-1]) + 1
        if last - first <= DENSE * len(some):
            yield some, array[first:last].read().result()[some - first]
        else:
            yield some, array[some].read().result()
        start = stop


def open_witnesses(paths: Sequence[Path], wells: Wells, block: int | None) -> list[Witness]:
    """Opens the embeddings of each model.

    Raises:
      UserError: no embeddings, of other banks, or a model twice.
    """
    found = list[Witness]()
    for path, name in zip(paths, _names(paths), strict=True):
        parts, described = list[Part](), {}
        for number, (bank, folder) in enumerate(_folders(path, wells.banks)):
            record = embeddings_record(folder)
            _check_bank(folder, record, bank)
            parts.append(_open_part(folder, record, wells, number, block))
            described = {
                key: record[key]
                for key in ("checkpoint", "checkpoint_fingerprint", "step", "level", "block")
                if key in record
            }
        widths = {part.array.shape[1] for part in parts}
        if len(widths) > 1:
            raise UserError(
                f"{path} holds embeddings of {' and '.join(map(str, sorted(widths)))} numbers: of"
                " two models. Embed all banks with one."
            )
        found.append(Witness(name, tuple(parts), {"path": str(path), **described}))
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """What tells the models apart: the names of the files, or of the folders that hold them."""
    for names in ([p.stem for p in paths], [p.absolute().parent.name for p in paths]):
        if len(set(names)) == len(names):
            return names
    if len({path.absolute() for path in paths}) < len(paths):
        raise UserError("`embeddings` names a folder twice. Name each model's once.")
    return [f"{path.absolute().parent.name}/{path.stem}" for path in paths]


def _folders(path: Path, banks: Sequence[ImageBank]) -> list[tuple[ImageBank, Path]]:
    """The embeddings of each bank.

    Raises:
      UserError: there are none of a bank.
    """
    if store.is_remote(path):
        raise UserError(
            f"`embeddings` {store.url(path)} are in a store, and are read from a disk. Bring them"
            f" with `python -m phenomjax.prepare mirror {store.url(path)} {path.name}`."
        )
    if not path.is_dir():
        raise UserError(
            f"`embeddings` {path} {'is a file' if path.exists() else 'is not there'}. Name a folder"
            " that `python -m phenomjax.embed --checkpoint RUN --bank"
            f" {store.url(banks[0].path)} --level site --out NAME.zarr` wrote."
        )
    if (path / "zarr.json").is_file():
        if len(banks) == 1:
            return [(banks[0], path)]
        bank = embeddings_record(path).get("bank")
        raise UserError(
            f"`embeddings` {path} is of one bank, {bank}, and `bank` names {len(banks)}. Embed them"
            " together, `python -m phenomjax.embed --checkpoint RUN --bank"
            f" {' '.join(store.url(bank.path) for bank in banks[:3])} --level site --out FOLDER`,"
            " and name the folder; or curate each bank for itself."
        )
    folders = [(bank, path / f"{bank.path.stem}.zarr") for bank in banks]
    for bank, folder in folders:
        if not folder.is_dir():
            there = sorted(one.name for one in path.glob("*.zarr"))
            raise UserError(
                f"`embeddings` {path} has no {folder.name}, the embeddings of the bank"
                f" {store.url(bank.path)}."
                f" It has: {', '.join(there[:6]) or 'none'}. Embed that bank too, into the same"
                " folder."
            )
    return folders


def _check_bank(folder: Path, record: dict, bank: ImageBank) -> None:
    before = [one.get("before") for one in bank.attributes.get("appended", ())]
    if "bank_fingerprint" in record and record["bank_fingerprint"] not in (
        bank.fingerprint,
        *before,
    ):
        raise UserError(
            f"{folder} holds the embeddings of another bank than {store.url(bank.path)}: of"
            f" {record.get('bank')}, or of before it was prepared again. Its rows would mean other"
            f" images. Embed this one, with `python -m phenomjax.embed --checkpoint RUN --bank"
            f" {store.url(bank.path)} --level site --out NAME.zarr`."
        )


def _open_part(folder: Path, record: dict, wells: Wells, number: int, block: int | None) -> Part:
    there = stored_blocks(folder)
    if there == [None] and block is not None and list(record.get("blocks", [block])) != [block]:
        raise UserError(
            f"{folder} holds the embeddings of block {record.get('blocks')}, not of {block}. Leave"
            " `block` out, or embed again."
        )
    if len(there) > 1 and block not in there:
        raise UserError(
            f"{folder} holds the blocks {', '.join(map(str, there))}. Choose one: `block`"
            f" {there[-1]}."
        )
    name = "embeddings" if there == [None] else f"embeddings_block_{block or there[0]}"
    array = open_array(folder / name)
    try:
        with pq.ParquetFile(folder / "metadata.parquet") as file:
            table = file.read([*(n for n in KEY if n in file.schema_arrow.names), "image"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} is damaged ({str(error)[:150]}). Run its phenomjax.embed again."
        ) from None
    if len(table) != array.shape[0]:
        raise UserError(
            f"{folder}: embeddings of shape {tuple(array.shape)}, but {len(table)} rows of"
            " metadata. It is incomplete or damaged: run its phenomjax.embed again."
        )
    if record.get("level") != "well":
        image = (table["image"].to_numpy() + wells.first[number]).astype(np.int32)
        return Part(folder, array, image, wells.of_row[image])
    codes = []
    for name in KEY:
        known = {text: code for code, text in enumerate(wells.columns[name].texts)}
        if name not in table.column_names:
            codes.append(np.full(len(table), NONE))
            continue
        column = table[name].combine_chunks().dictionary_encode()
        numbers = np.array([*(known.get(t, NONE) for t in column.dictionary.to_pylist()), NONE])
        codes.append(numbers[column.indices.fill_null(len(numbers) - 1).to_numpy()])
    mine = np.unique(wells.of_row[wells.first[number] : wells.first[number + 1]])
    keys = np.stack([wells.columns[name].codes[mine] for name in KEY])
    return Part(
        folder, array, np.full(len(table), NONE, np.int32), _looked_up(np.stack(codes), keys, mine)
    )


def _looked_up(
    wanted: Int[np.ndarray, "columns rows"],
    keys: Int[np.ndarray, "columns wells"],
    wells: Int[np.ndarray, " wells"],
) -> Int[np.ndarray, " rows"]:
    """The well of each row by its key; NONE where there is none."""
    codes = distinct(np.concatenate([keys, wanted], axis=1))
    place = np.full(codes.max(initial=0) + 1, NONE, np.int32)
    place[codes[: len(wells)]] = wells
    return place[codes[len(wells) :]]
