"""Which kind of place a location is."""

from pathlib import Path

from phenomjax.data import store
from phenomjax.prepare.mirror.ends.local import LocalPlace
from phenomjax.prepare.mirror.ends.places import Place
from phenomjax.prepare.mirror.ends.stores import StorePlace


def open_place(path: Path, single: str = "") -> Place:
    """A place on a disk or in a store.

    Args:
      path: a folder; or a file, if `single`.
      single: the key of the file.
    """
    return StorePlace(path, single) if store.is_remote(path) else LocalPlace(path, single)
