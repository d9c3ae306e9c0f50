"""Rows of two catalogs that lie near each other on the sky.

Both sides are sorted by their order-29 index, so the rows of any cell stand together. Around each left row lies a box
in the plane of its HEALPix face that holds everything within reach; see `kernels/cells.py` for the cells that it meets.
Their rows are compared by declination first, and by haversine where that is not enough.

Rows at the very same place stand together and are one run, of which only the first row is measured.
"""

import math

from sciplat.kernels._jit import kernel
from sciplat.kernels.cells import (
    LEAF,
    STEP,
    bisect,
    box_size,
    cut_cell,
    near_quarter,
    own_rows,
    root_cells,
    sort_cells,
    space_near,
    sticks_out,
    write_cell,
)
from sciplat.kernels.separation import angle_of, square, square_of

_DIAMETER = 130.0 / (1 << 29)  # degrees: of no order-29 cell two places are farther apart; coarser ones in proportion
_GROWTH = 4  # of the box around a left row, until the nearest right row is surely in it
_SURE = 1 + 1e-9  # more than rounding
_ROUNDING = 1e-13  # degrees
_BY_DEC = -1  # in the place of a cell's width: rows of one order-29 cell, sorted by declination


@kernel
def mark_runs(index, ra, dec, out_next):
    """Find the rows at the very same place.

    Parameters
    ----------
    index : ndarray of int64, shape (n,)
        Sorted.
    ra, dec : ndarray of float64, shape (n,)
    out_next : ndarray of int64, shape (n,)
        For each row the first one after it that lies elsewhere.
    """
    last = index.shape[0] - 1
    for i in range(last, -1, -1):
        alike = i < last and index[i] == index[i + 1] and ra[i] == ra[i + 1] and dec[i] == dec[i + 1]
        out_next[i] = out_next[i + 1] if alike else i + 1


@kernel
def nearest(
    begin, left_index, left_ra, left_dec, reach, index, ra, dec, following, table, base, width, cells, box,
    rank, neighbours, out_left, out_right, out_square,
):  # fmt: skip
    """List the nearest right rows of each left row, the nearest first.

    Parameters
    ----------
    begin : int
        First left row that is looked at.
    left_index, left_ra, left_dec : ndarray, shape (n,)
        Sorted order-29 indices, and positions in degrees.
    reach : ndarray of float64, shape (n,)
        Degrees, at most 10; the limit is included.
    index, ra, dec : ndarray, shape (m,)
        Of the right rows. Where many share an index, `nearest` wants them sorted by declination.
    following : ndarray of int64, shape (m,)
        From `mark_runs`.
    table, base, width
        From `address`.
    cells, box : ndarray of int64, shapes `CELLS` and `BOX`
        What a search writes down on its way.
    rank : ndarray of int64, shape (m,)
        Of two rows that are equally far the one of lower rank is nearer. Ascending in each run.
    neighbours : int
        The right rows that a left row may have.
    out_left, out_right : ndarray of int64, shape (p,)
    out_square : ndarray of float64, shape (p,)
        sin^2(d/2) of their distances d.

    Returns
    -------
    end, pairs : int
        The left rows before `end` have all their pairs in the output; those of the next one may not fit.
    """
    pairs, farthest, widest, before = 0, 0, 0.0, 0
    for i in range(begin, left_index.shape[0]):
        worst = pairs + neighbours - 1
        if worst >= out_left.shape[0]:
            return i, pairs
        if i == begin or reach[i] != reach[i - 1]:
            farthest, widest = box_size(reach[i]), square_of(reach[i])
        elif left_index[i] == left_index[i - 1] and left_ra[i] == left_ra[i - 1] and left_dec[i] == left_dec[i - 1]:
            first, before = before, pairs  # what the row before it has found
            for place in range(first, before):
                out_left[pairs], out_right[pairs], out_square[pairs] = i, out_right[place], out_square[place]
                pairs += 1
            continue
        before = pairs
        size, count, limit, around = farthest, 0, widest, reach[i] * _SURE
        first, last = own_rows(left_index[i], size, table, base, width)
        if first < 0:
            size = min(space_near(left_index[i], table, base, width), farthest)
            count = root_cells(left_index[i], size, index, table, base, width, box, cells)
        out_square[pairs : worst + 1] = math.inf
        while True:
            while first < last:
                after = following[first]
                if abs(dec[first] - left_dec[i]) <= around:
                    near = square(left_ra[i], left_dec[i], ra[first], dec[first])
                    if near <= limit:
                        if neighbours > 1:
                            for j in range(first, min(after, first + neighbours)):
                                _insert(j, near, rank, pairs, worst, out_right, out_square)
                        elif near < out_square[pairs] or rank[first] < rank[out_right[pairs]]:
                            out_right[pairs], out_square[pairs] = first, near
                        if out_square[worst] < limit and (after < last or count > 0):
                            limit = out_square[worst]
                            around = angle_of(limit) * _SURE
                first = after
            if count > 0:
                count -= 1
                shift, first, last = cells[count, 1], cells[count, 4], cells[count, 5]
                if last - first <= LEAF or following[first] >= last:
                    continue
                if shift == 0 or shift == _BY_DEC:
                    first, last, count = _slice(left_dec[i], around, dec, following, cells, count)
                    continue
                if _may_hold(shift, first, left_ra[i], left_dec[i], ra, dec, limit):
                    quarter = near_quarter(left_index[i], shift, cells[count, 2], cells[count, 3])
                    count = cut_cell(index, box, cells, count, quarter)
                first = last
                continue
            # all that is no farther than this lies in the box
            if size >= farthest or out_square[worst] < square_of(max(size - 3, 0) * STEP):
                break
            size = min(size * _GROWTH, farthest)
            count = root_cells(left_index[i], size, index, table, base, width, box, cells)
            out_square[pairs : worst + 1] = math.inf
            limit, around = widest, reach[i] * _SURE
        while pairs <= worst and out_square[pairs] < math.inf:
            out_left[pairs] = i
            pairs += 1
    return left_index.shape[0], pairs


@kernel
def within(
    begin, left_index, left_ra, left_dec, reach, index, ra, dec, following, table, base, width, cells, box,
    out_left, out_right, out_square,
):  # fmt: skip
    """List the right rows within reach of each left row, in their order.

    Parameters
    ----------
    begin, left_index, left_ra, left_dec, reach, index, ra, dec, following, table, base, width, cells, box, out_left,
    out_right, out_square
        As for `nearest`.

    Returns
    -------
    end, pairs : int
        As `nearest` returns them.
    """
    pairs, size, limit = 0, 0, 0.0
    for i in range(begin, left_index.shape[0]):
        if i == begin or reach[i] != reach[i - 1]:
            size, limit = box_size(reach[i]), square_of(reach[i])
        count, done, farthest = 0, pairs, reach[i] * _SURE
        first, last = own_rows(left_index[i], size, table, base, width)
        if first < 0:
            count = root_cells(left_index[i], size, index, table, base, width, box, cells)
            sort_cells(cells, count)
        while first < last or count > 0:
            while first < last:
                after = following[first]
                if abs(dec[first] - left_dec[i]) <= farthest:
                    near = square(left_ra[i], left_dec[i], ra[first], dec[first])
                    if near <= limit:
                        if done + after - first > out_left.shape[0]:
                            return i, pairs
                        for j in range(first, after):
                            out_left[done], out_right[done], out_square[done] = i, j, near
                            done += 1
                first = after
            if count > 0:
                count -= 1
                first, last = cells[count, 4], cells[count, 5]
                if last - first > LEAF and following[first] < last and sticks_out(cells, count, box):
                    count = cut_cell(index, box, cells, count, 0)
                    first = last
        pairs = done
    return left_index.shape[0], pairs


@kernel
def _slice(left_dec, around, dec, following, cells, count):
    """Take the rows next to a left row in declination from those at `count`, which are sorted by it.

    Returns
    -------
    first, last, count : int
        These rows, and the new count: those farther north and south, within `around` degrees, wait for their turn.
    """
    south = bisect(dec, left_dec - around - _ROUNDING, cells[count, 4], cells[count, 5])
    north = bisect(dec, left_dec + around + _ROUNDING, south, cells[count, 5])
    middle = bisect(dec, left_dec, south, north)
    first, last = max(middle - LEAF, south), min(middle + LEAF, north)
    if first > south:  # rows of one place stay together
        first = bisect(dec, dec[first], south, first)
    if last > first:
        last = following[last - 1]
    for begin, end in ((last, north), (south, first)):
        if begin < end:
            write_cell(cells, count, 0, _BY_DEC, 0, 0, begin, end)
            count += 1
    return first, last, count


@kernel
def _may_hold(shift, first, left_ra, left_dec, ra, dec, nearer):
    """Return whether a cell may hold a row as near as `nearer`, by its first row and its size."""
    gap = angle_of(square(left_ra, left_dec, ra[first], dec[first])) - _DIAMETER * (1 << shift)
    return gap <= 0 or square_of(gap) <= nearer * _SURE


@kernel
def _insert(j, near, rank, begin, worst, out_right, out_square):
    """Put a right row among the nearest ones, if it belongs there; these end at `worst`."""
    k = worst + 1
    while k > begin and near <= out_square[k - 1]:
        if near == out_square[k - 1] and rank[j] > rank[out_right[k - 1]]:
            break
        k -= 1
    for place in range(worst, k, -1):
        out_right[place], out_square[place] = out_right[place - 1], out_square[place - 1]
    if k <= worst:
        out_right[k], out_square[k] = j, near
