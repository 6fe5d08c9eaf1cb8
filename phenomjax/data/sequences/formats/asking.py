"""For commands that have flags for it: what a user may say of a file of sequences."""

import contextlib
from collections.abc import Iterator

from phenomjax.data.sequences.formats.recognise import Unclear
from phenomjax.system.errors import UserError


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Ends the error of a file that is not clear with the flags --format, --column or --gaps."""
    try:
        yield
    except Unclear as error:
        if error.after:
            text = f"{error} Then name {error.after}, with {error.flags}."
        elif ", " in error.flags:
            text = f"{error} Say which format it has: {error.flags}."
        elif error.flags:
            text = f"{error} If it is that, say so: {error.flags}"
        else:
            text = str(error)
        raise UserError(text, error.exit_code) from None
