"""The banks that a command names, and what the disk says of the one that it writes."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

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
    twice = [path for place, path in enumerate(paths) if path in paths[:place]]
    if twice:
        raise UserError(f"`{setting}` names {twice[0]} twice. Name it once.")
    tokens = [path for path in paths if read_entry(path).get("format") == FORMAT]
    if not tokens:
        return "images", [bank for banks in open_image_banks(paths) for bank in banks]
    if len(tokens) < len(paths):
        other = next(path for path in paths if path not in tokens)
        raise UserError(
            f"`{setting}` names a bank of sequences, {tokens[0]}, and {other}, which is none: give"
            " banks of one kind."
        )
    return "sequences", [open_token_bank(path) for path in paths]


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
