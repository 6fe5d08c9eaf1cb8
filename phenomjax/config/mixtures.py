"""The keys of how banks are mixed, of images and of sequences, and their checks."""

from ml_collections import ConfigDict

from phenomjax.config.ranges import Section, several
from phenomjax.data.mixture import Shares
from phenomjax.system.errors import UserError


def add_keys(data: Section) -> None:
    """Adds them to `config.data`."""
    # share of what is read from each bank, in their order; () = by how much there is of each
    data.weights = several(float, least=0)
    # (step, share of each bank) from which on the shares are these, e.g. ((5000, 3.0, 1.0),); a
    # bank may have 0 for a while
    data.weights_later = several(float, least=0, depth=2)


def check(c: ConfigDict) -> None:
    """Checks the keys that `add_keys` adds, as far as one can without the banks."""
    d, before = c.data, 0.0
    for row in d.weights_later:
        if len(row) < 2 or row[0] != int(row[0]) or row[0] <= before:
            raise UserError(
                f"config.data.weights_later is {tuple(map(tuple, d.weights_later))}; each row is a"
                " step, higher than that of the row before and than 0, and then the share of each"
                ' bank. Set --config.data.weights_later="((5000, 3.0, 1.0), (8000, 0.0, 1.0))" for'
                " two banks, say."
            )
        before = row[0]


def stages(data: ConfigDict) -> Shares:
    """(step, shares) from which on banks are mixed so; without shares, by how much there is of
    each. () = they never are anything else.
    """
    later = [(int(step), shares) for step, *shares in data.weights_later]
    return [(0, tuple(data.weights)), *later] if later or data.weights else ()
