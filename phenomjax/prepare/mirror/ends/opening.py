"""Which kind of place a location is."""

from pathlib import Path

from phenomjax.data import store
from phenomjax.prepare.mirror.ends.local import LocalPlace
from phenomjax.prepare.mirror.ends.places import Place
from phenomjax.prepare.mirror.ends.stores import StorePlace
from phenomjax.prepare.mirror.ends.web import WebPlace


def open_place(path: Path, single: str = "") -> Place:
    """A place on a disk or in a store.

    Args:
      path: a folder; or a file, if `single`.
      single: the key of the file.
    """
    if not store.is_remote(path):
        return LocalPlace(path, single)
    is_web = store.place(path)[0].startswith("http")
    return WebPlace(path, single) if is_web else StorePlace(path, single)
