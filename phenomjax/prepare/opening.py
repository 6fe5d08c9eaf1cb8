"""The banks that a command names, and what the disk says of the one that it writes."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from phenomjax.data import store
from phenomjax.data.images.bank import ImageBank
from phenomjax.data.images.opening import open_banks as open_image_banks
from phenomjax.data.sequences.bank import FORMAT, TokenBank, open_token_bank
from phenomjax.data.zarr_files import read_entry
from phenomjax.system.errors import EXIT_FAILED, UserError


def open_banks(paths: Sequence[Path], setting: str) -> tuple[str, list[ImageBank | TokenBank]]:
    """Opens banks of one kind: ("images" or "sequences", the banks).

    Args:
      paths: of them, or of an index of image banks.
      setting: the option that names them.

    Raises:
      UserError: none, one twice, or of both kinds.
    """
    if not paths:
        raise UserError(f"`{setting}` names no bank. Give at least one, NAME.zarr.")
    tokens = [path for path in paths if read_entry(path).get("format") == FORMAT]
    if not tokens:
        banks: list[ImageBank | TokenBank] = [
            bank for found in open_image_banks(paths) for bank in found
        ]
        refuse_twice(banks, setting)
        return "images", banks
    if len(tokens) < len(paths):
        other = next(path for path in paths if path not in tokens)
        raise UserError(
            f"`{setting}` names a bank of sequences, {tokens[0]}, and {other}, which is none: give"
            " banks of one kind."
        )
    tokens_of: list[ImageBank | TokenBank] = [open_token_bank(path) for path in paths]
    refuse_twice(tokens_of, setting)
    return "sequences", tokens_of


def refuse_twice(banks: Sequence[ImageBank | TokenBank], setting: str) -> None:
    """Raises UserError for a bank that is there twice: by other paths, or in an index too."""
    seen = dict[str, Path]()
    for bank in banks:
        remote = store.is_remote(bank.path)
        place = str(bank.path) if remote else os.path.realpath(bank.path)
        if place in seen:
            raise UserError(
                f"`{setting}` names {store.url(bank.path)} twice"
                f"{'' if seen[place] == bank.path else f', also as {seen[place]}'}. Name it once."
            )
        seen[place] = bank.path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tells what the disk refuses while something is written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error} ({error.filename or path})."
            " What was whole still is. Make room, or get the right to write there, and run the same"
            " command again.",
            EXIT_FAILED,
        ) from error
