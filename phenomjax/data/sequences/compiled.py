"""The loops over bytes of `prepare sequences`, compiled by numba: per-record Python caps at 150
MB/s, these run at a few hundred.

They are compiled at their first use (some seconds) and cached beside this file, or in
NUMBA_CACHE_DIR. All release the GIL.
"""

import numpy as np
from numba import njit

# What the table of an alphabet says of bytes that are no token; vocabularies have at most 250 ids.
NEWLINE, BLANK, STOP, BAD = 252, 253, 254, 255
FIRST_SPECIAL = 252
# Outcomes of a record; those below TOO_SHORT are errors of the input, the others are wished by an
# option.
KEPT, ILLEGAL, INNER_STOP, EMPTY, NO_ID, NUCLEOTIDES, TOO_SHORT, TOO_LONG, AMBIGUOUS = range(9)
OUTCOMES = 9
# Shorter sequences of A, C, G and T may well be peptides.
NUCLEOTIDES_FROM, OTHERS_IN_NUCLEOTIDES = 40, 20  # letters; one in that many may be another one
PADDING = 16  # bytes behind the longest record that the scratch buffer needs

_OTHER = 255
_KINDS = np.zeros(256, np.uint8)  # of letters: a bit for A, C, G, T or U; N; others; 0 is no letter
for _byte in range(ord("A"), ord("Z") + 1):
    _kind = {65: 1, 67: 2, 71: 4, 84: 8, 85: 8, 78: 16}.get(_byte, _OTHER)
    _KINDS[_byte] = _KINDS[_byte + 32] = _kind

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SECOND = np.uint64(0xC2B2AE3D27D4EB4F)
_THIRD = np.uint64(0xD6E8FEB86659FD93)
_FINAL_1 = np.uint64(0xFF51AFD7ED558CCD)
_FINAL_2 = np.uint64(0xC4CEB9FE1A85EC53)
_0, _1 = np.uint64(0), np.uint64(1)
_31, _32, _33 = np.uint64(31), np.uint64(32), np.uint64(33)


@njit(cache=True, nogil=True)
def _finish(value):
    value ^= value >> _33
    value *= _FINAL_1
    value ^= value >> _33
    value *= _FINAL_2
    return value ^ (value >> _33)


@njit(cache=True, nogil=True)
def hash_words(words, size):
    """A 128-bit hash of `size` bytes that lie in uint64 `words`, zeros behind them: two lanes of
    multiply and mix.

    It has no salt and is part of the format: splits depend on it, so it must never change.
    """
    first = np.uint64(size) * _GOLDEN
    second = np.uint64(size) ^ _THIRD
    for i in range((size + 7) // 8):
        word = words[i]
        first = (first ^ word) * _GOLDEN
        first ^= first >> _32
        second ^= word * _SECOND
        second = ((second << _31) | (second >> _33)) * _THIRD
    first = _finish(first + second)
    return first, _finish(second ^ first)


@njit(cache=True, nogil=True)
def _line_start(data, at, last):
    """Where the letters of a line begin that begins at `at`: behind the number in front of them;
    at its end if it is a comment (;, #, !).
    """
    first = data[at]
    if first == 59 or first == 35 or first == 33:
        while at < last and data[at] != 10:
            at += _1
        return at
    place = at
    while place < last and (data[place] == 32 or data[place] == 9):
        place += _1
    digits = place
    while place < last and data[place] >= 48 and data[place] <= 57:
        place += _1
    if place > digits and place < last and (data[place] == 32 or data[place] == 9):
        return place
    return at


@njit(cache=True, nogil=True)
def _number_end(data, start, at, last):
    """Where a number ends that stands behind the letters of a line, at its end; `at` if there is
    none.
    """
    if at == start or (data[at - _1] != 32 and data[at - _1] != 9):
        return at
    place = at
    while place < last and data[place] >= 48 and data[place] <= 57:
        place += _1
    end = place
    while place < last and (data[place] == 32 or data[place] == 9 or data[place] == 13):
        place += _1
    return end if place == last or data[place] == 10 else at


@njit(cache=True, nogil=True)
def _is_nucleotides(data, place, end, size):
    """Whether over 95 % of the letters are A, C, G, T, U or N, and all four are there. A protein is
    told by its first letters.
    """
    others, allowed, seen = 0, size // OTHERS_IN_NUCLEOTIDES, 0
    for i in range(np.uint64(place), np.uint64(end)):
        kind = _KINDS[data[i]]
        if kind == _OTHER:
            others += 1
            if others > allowed:
                return False
        else:
            seen |= kind
    return seen & 15 == 15


@njit(cache=True, nogil=True)
def _encode(data, place, end, table, scratch, fasta):
    """Ids of data[place:end] into scratch; with `fasta` ends before a line that begins with '>',
    and leaves out comments and the numbers of lines.

    Returns: where it ended, the number of ids, the place of the first byte that is no token (-1:
    none), how many ids stand before the first '*' (-1: none).
    """
    bad, stop = -1, -1
    # Unsigned places spare the test for negative ones, which cost a third of the time.
    size, at, last = _0, np.uint64(place), np.uint64(end)
    start = at
    while at < last:
        # What is rare stands outside of the loop over letters, which is slower with it.
        if fasta and data[at] < 64:
            at = _line_start(data, at, last)
        while at < last:
            code = table[data[at]]
            scratch[size] = code
            size += _1
            at += _1
            if code >= FIRST_SPECIAL:
                size -= _1
                if code == NEWLINE:
                    if fasta and at < last and data[at] < 64:
                        break
                elif code == STOP:
                    if stop < 0:
                        stop = np.int64(size)
                elif code == BAD and bad < 0:
                    bad = np.int64(at - _1)
                    if fasta:
                        break
        if fasta and at < last and data[at] == 62 and data[at - _1] == 10:
            break
        if fasta and bad == np.int64(at - _1):
            end_of_number = _number_end(data, start, at - _1, last)
            if end_of_number >= at:
                at, bad = end_of_number, -1
    return np.int64(at), np.int64(size), bad, stop


@njit(cache=True, nogil=True)
def _judge(scratch, size, bad, stop, limits):
    if bad >= 0:
        return ILLEGAL
    if size == 0:
        return EMPTY
    if stop >= 0 and stop != size:
        return INNER_STOP
    if size < limits[0]:
        return TOO_SHORT
    if size > limits[1]:
        return TOO_LONG
    if limits[2] < 1:
        unknown = 0
        for i in range(size):
            unknown += scratch[i] == np.uint8(limits[3])
        if unknown > limits[2] * size:
            return AMBIGUOUS
    return KEPT


@njit(cache=True, nogil=True)
def _copy(source, start, out, place, size):
    """out[place:place + size] = source[start:start + size], which compiles four times as fast;
    returns place + size.
    """
    start, place, size = np.uint64(start), np.uint64(place), np.uint64(size)
    for i in range(size):
        out[place + i] = source[start + i]
    return np.int64(place + size)


@njit(cache=True, nogil=True)
def _keep(scratch, size, before, after, tokens, filled, hashes, row):
    for i in range(size, size + 8):
        scratch[i] = 0
    words = scratch.view(np.uint64)
    hashes[row, 0], hashes[row, 1] = hash_words(words, size)
    for token in before:
        tokens[filled] = token
        filled += 1
    filled = _copy(scratch, 0, tokens, filled, size)
    for token in after:
        tokens[filled] = token
        filled += 1
    return filled


@njit(cache=True, nogil=True)
def scan_fasta(
    data, start, end, table, limits, before, after, scratch, out, lengths, hashes, bad, counts
):
    """Reads whole FASTA records from data[start:end], which begins with '>'.

    Args:
      data: uint8.
      table: [256] uint8, the id of each byte or one of NEWLINE, BLANK, STOP, BAD.
      limits: float64 [5]: shortest, longest, largest share of unknown residues, their id; 1 if DNA
        and RNA are rejected.
      before, after: uint8, the boundary tokens.
      scratch: uint8, end - start + PADDING, aligned to 8 bytes.
      out: tokens, names, name_ends, texts, text_ends: uint8 [end - start] kept records end to end
        with their boundary tokens; their ids and descriptions as Arrow wants them, uint8 [end -
        start] and int32 [records + 1].
      lengths: int32 out [records], without boundary tokens.
      hashes: uint64 out [records, 2].
      bad: int64 out [records, 5]: beginning, outcome, place of the byte at fault, end of the id,
        end of the record.
      counts: int64 [OUTCOMES], added to.

    Returns:
      kept records, their tokens, rejected records, whether a header has bytes above 127.
    """
    tokens, names, name_ends, texts, text_ends = out
    place, kept, filled, rejected, high = start, np.int64(0), np.int64(0), np.int64(0), np.uint8(0)
    name_ends[0] = text_ends[0] = 0
    while place < end:
        record, at, last = place, np.uint64(place + 1), np.uint64(end)
        while at < last and (data[at] == 32 or data[at] == 9):  # a blank after '>'
            at += _1
        id_start = at
        name, text = np.uint64(name_ends[kept]), np.uint64(text_ends[kept])
        while at < last and data[at] > 32:
            high |= data[at]
            names[name] = data[at]
            name += _1
            at += _1
        id_end = np.int64(at)
        while at < last and (data[at] == 32 or data[at] == 9):
            at += _1
        while at < last and data[at] != 10:
            high |= data[at]
            texts[text] = data[at]
            text += _1
            at += _1
        while np.int64(text) > text_ends[kept] and texts[text - _1] <= 32:
            text -= _1
        place = np.int64(at) + 1
        body = place
        if place < end and data[place] == 62:  # a header without a sequence
            size, fault, stop = 0, -1, -1
        else:
            place, size, fault, stop = _encode(data, place, end, table, scratch, True)
        outcome = (
            NO_ID if id_end == np.int64(id_start) else _judge(scratch, size, fault, stop, limits)
        )
        if outcome == KEPT and limits[4] > 0 and size >= NUCLEOTIDES_FROM:
            outcome = NUCLEOTIDES if _is_nucleotides(data, body, place, size) else KEPT
        counts[outcome] += 1
        if outcome == KEPT:
            filled = _keep(scratch, size, before, after, tokens, filled, hashes, kept)
            lengths[kept] = size
            kept += 1
            name_ends[kept], text_ends[kept] = name, text
        elif outcome < TOO_SHORT:
            bad[rejected, 0], bad[rejected, 1], bad[rejected, 2] = record, outcome, fault
            bad[rejected, 3], bad[rejected, 4] = id_end, place
            rejected += 1
    return kept, filled, rejected, high > 127


@njit(cache=True, nogil=True)
def encode_records(
    data, starts, table, limits, before, after, scratch, tokens, outcomes, faults, lengths, hashes
):
    """Encodes records that are known already: record i is data[starts[i]:starts[i + 1]].

    Args: as of scan_fasta, and
      outcomes: int64 out [records].
      faults: int64 out [records]: place of the first byte that is no token, from the beginning of
        the record; -1: none.
      lengths, hashes: of kept records only, in order.

    Returns:
      kept records, their tokens.
    """
    kept, filled = np.int64(0), np.int64(0)
    for i in range(len(starts) - 1):
        _, size, fault, stop = _encode(data, starts[i], starts[i + 1], table, scratch, False)
        outcomes[i] = _judge(scratch, size, fault, stop, limits)
        looked_at = outcomes[i] == KEPT and limits[4] > 0 and size >= NUCLEOTIDES_FROM
        if looked_at and _is_nucleotides(data, starts[i], starts[i + 1], size):
            outcomes[i] = NUCLEOTIDES
        faults[i] = fault - starts[i] if fault >= 0 else -1
        if outcomes[i] == KEPT:
            filled = _keep(scratch, size, before, after, tokens, filled, hashes, kept)
            lengths[kept] = size
            kept += 1
    return kept, filled


@njit(cache=True, nogil=True)
def hash_spans(data, starts, stops, scratch, hashes):
    """Hashes of data[starts[i]:stops[i]] into hashes uint64 [n, 2]; scratch holds the longest and
    PADDING, aligned.
    """
    words = scratch.view(np.uint64)
    for i in range(len(starts)):
        size = stops[i] - starts[i]
        _copy(data, starts[i], scratch, 0, size)
        for k in range(size, size + 8):
            scratch[k] = 0
        hashes[i, 0], hashes[i, 1] = hash_words(words, size)


@njit(cache=True, nogil=True)
def first_of_each(hashes, table):
    """Which hashes [n, 2] were not seen before: uint8 [n]; `table` is int32 zeros, a power of 2
    above 2 n long.
    """
    mask = len(table) - 1
    new = np.zeros(len(hashes), np.uint8)
    for i in range(len(hashes)):
        slot = np.int64(hashes[i, 0] & np.uint64(mask))
        while True:
            other = table[slot] - 1
            if other < 0:
                table[slot] = i + 1
                new[i] = 1
                break
            if hashes[other, 0] == hashes[i, 0] and hashes[other, 1] == hashes[i, 1]:
                break
            slot = (slot + 1) & mask
    return new


@njit(cache=True, nogil=True)
def pack(tokens, sizes, wanted, split, out):
    """Copies those records of a split that lie end to end in `tokens` into `out`; returns how many
    tokens.

    Args:
      tokens: uint8.
      sizes: int32 [records], tokens of each record.
      wanted: uint8 [records], the split of each record.
      split: the one that is copied.
      out: uint8, as long as tokens.
    """
    place, filled = np.int64(0), np.int64(0)
    for i in range(len(sizes)):
        if wanted[i] == split:
            filled = _copy(tokens, place, out, filled, sizes[i])
        place += sizes[i]
    return filled


@njit(cache=True, nogil=True)
def order_by_bucket(hashes, bits, bounds, order):
    """A stable counting sort by the top `bits` of the second half: order int64 [n] out, bounds
    int64 [2**bits + 1] out.
    """
    shift = np.uint64(64 - bits)
    bounds[:] = 0
    for i in range(len(hashes)):
        bounds[(np.int64(hashes[i, 1] >> shift) if bits else 0) + 1] += 1
    for b in range(len(bounds) - 1):
        bounds[b + 1] += bounds[b]
    filled = bounds.copy()
    for i in range(len(hashes)):
        bucket = np.int64(hashes[i, 1] >> shift) if bits else 0
        order[filled[bucket]] = i
        filled[bucket] += 1
