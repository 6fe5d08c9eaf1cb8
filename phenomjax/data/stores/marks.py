"""Marks of folders: objects of zero bytes whose name ends with "/", as consoles and other programs
leave them. obstore lists them without the "/", under a name that no object has.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore import ObjectMeta

    from phenomjax.data.stores.clients import Client

ASKED = 16  # at a time


def folder_marks(client: "Client", listed: "Sequence[ObjectMeta]") -> set[str]:
    """Names in a list that are marks of folders: each object of zero bytes is asked for."""
    import obstore

    def is_mark(path: str) -> bool:
        try:
            obstore.head(client, path)
        except FileNotFoundError:
            return True
        except Exception:  # whoever reads it gets this error
            return False
        return False

    empty = [meta["path"] for meta in listed if not meta["size"]]
    if not empty:
        return set()
    with ThreadPoolExecutor(min(ASKED, len(empty))) as pool:
        return {path for path, mark in zip(empty, pool.map(is_mark, empty), strict=True) if mark}
