"""Whose turn it is in a mixture of thousands of banks, compiled by numba."""

from numba import njit


@njit(cache=True, nogil=True)
def turn(index, shares, total):
    """The bank that has place `index` in the mixture, and how often it had its turn before.

    The banks are taken out one by one: of any places in a row that are left, the next bank has the
    share that it has of the banks that are left, rounded. These are the turns of
    `grain.MapDataset.mix`.

    Args:
      index: from 0 on.
      shares: int64, of each bank.
      total: their sum.
    """
    here, behind, left = index, index + 1, total
    for bank in range(len(shares)):
        others = left - shares[bank]
        next_here, next_behind = here * others // left, behind * others // left
        taken = behind - next_behind
        if here - next_here != taken:
            return bank, taken - 1
        here, behind, left = next_here, next_behind, others
    return -1, -1
