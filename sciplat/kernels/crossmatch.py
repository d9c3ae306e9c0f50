"""Rows of two catalogs that lie near each other on the sky.

Both sides are sorted by their order-29 index, so the rows of any cell stand together. A table of the first row of each
cell of one order, with about one row in each, tells where; it goes as far as the left rows do, and what lies beyond is
found by bisection. Around each left row lies a box in the plane of its HEALPix face that holds everything within reach.
It meets a few cells of that order, or of a coarser one where the box is larger; cells with many rows are cut, as deep
as it takes. What remains is compared by declination first, and by haversine where that is not enough.

Rows at the very same place stand together and are one run, of which only the first row is measured.
"""

import math

from sciplat.kernels._jit import kernel
from sciplat.kernels.healpix import PARTS, join_index, split_index, unfold
from sciplat.kernels.separation import angle_of, square, square_of

# Degrees: two places are nowhere nearer on the sky than this times their distance along x or y in the plane, in widths
# of a face. See sky/surroundings.py.
NARROWEST = 39.46
_SIZE = 1 << 29  # order-29 cells along a face
_STEP = NARROWEST / _SIZE
_DIAMETER = 130.0 / _SIZE  # degrees: of no order-29 cell two places are farther apart; coarser ones in proportion
_LEAF = 16  # rows of a cell that are looked at one by one
_GROWTH = 4  # of the box around a left row, until the nearest right row is surely in it
CELLS = (160, 6)  # shape of the cells that a search has still to look at: four at each depth, and those around
BOX = (PARTS, 5)
_SURE = 1 + 1e-9  # more than rounding


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
def address(index, base, width, out_row):
    """Find the first row of each cell.

    Parameters
    ----------
    index : ndarray of int64, shape (n,)
        Sorted.
    base : int
        Index at which the first cell begins.
    width : int
        Logarithm of the width of a cell, in order-29 cells.
    out_row : ndarray of int32, shape (cells + 1,)
        The last one is the first row beyond.
    """
    cell, rows = 0, index.shape[0]
    for i in range(rows):
        beyond = min(((index[i] - base) >> 2 * width) + 1, out_row.shape[0])
        while cell < beyond:
            out_row[cell] = i
            cell += 1
    while cell < out_row.shape[0]:
        out_row[cell] = rows
        cell += 1


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
        Of the right rows.
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
    pairs, farthest, widest = 0, 0, 0.0
    for i in range(begin, left_index.shape[0]):
        worst = pairs + neighbours - 1
        if worst >= out_left.shape[0]:
            return i, pairs
        if i == begin or reach[i] != reach[i - 1]:
            farthest, widest = box_size(reach[i]), square_of(reach[i])
        size, count, limit, around = farthest, 0, widest, reach[i] * _SURE
        first, last = _own_rows(left_index[i], size, table, base, width)
        if first < 0:
            size = min(_space_near(left_index[i], table, base, width), farthest)
            count = _root_cells(left_index[i], size, index, table, base, width, box, cells)
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
                first, last = cells[count, 4], cells[count, 5]
                if last - first > _LEAF and cells[count, 1] > 0 and following[first] < last:
                    if _may_hold(cells[count, 1], first, left_ra[i], left_dec[i], ra, dec, limit):
                        count = _cut(index, box, cells, count)
                    first = last
                continue
            # all that is no farther than this lies in the box
            if size >= farthest or out_square[worst] < square_of(max(size - 3, 0) * _STEP):
                break
            size = min(size * _GROWTH, farthest)
            count = _root_cells(left_index[i], size, index, table, base, width, box, cells)
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
        first, last = _own_rows(left_index[i], size, table, base, width)
        if first < 0:
            count = _root_cells(left_index[i], size, index, table, base, width, box, cells)
            _sort_cells(cells, count)
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
                if last - first > _LEAF and following[first] < last and _sticks_out(cells, count, box):
                    count = _cut(index, box, cells, count)
                    first = last
        pairs = done
    return left_index.shape[0], pairs


@kernel
def box_size(reach):
    """Return how far, in order-29 cells along x and y, a place within `reach` degrees may lie."""
    return math.ceil(reach / _STEP) + 2


@kernel
def _space_near(left_index, table, base, width):
    """Return about how far apart the right rows around a left row are, in order-29 cells along x and y."""
    cell = (left_index - base) >> 2 * width
    rows, space = 0, 1 << width
    if 0 <= cell < table.shape[0] - 1:
        rows = table[cell + 1] - table[cell]
    while rows > 3 and space > 4:
        rows >>= 2
        space >>= 1
    return space


@kernel
def _own_rows(left_index, size, table, base, width):
    """Return the span of rows in the cell of a left row if its box lies inside and they are few; else first is -1."""
    _, x, y = split_index(left_index)
    cell = (left_index - base) >> 2 * width
    inside = (x - size) >> width == (x + size) >> width and (y - size) >> width == (y + size) >> width
    if inside and 0 <= cell < table.shape[0] - 1 and table[cell + 1] - table[cell] <= _LEAF:
        return int(table[cell]), int(table[cell + 1])
    return -1, -1


@kernel
def _root_cells(left_index, size, index, table, base, width, box, cells):
    """Write down the cells that the box around a left row meets, with the rows in them; return how many."""
    face, x, y = split_index(left_index)
    parts = 1
    if x >= size and y >= size and x + size < _SIZE and y + size < _SIZE:
        box[0, 0], box[0, 1], box[0, 2] = face, x - size, x + size + 1
        box[0, 3], box[0, 4] = y - size, y + size + 1
    else:
        parts = unfold(face, x - size, x + size + 1, y - size, y + size + 1, _SIZE, box)
    shift = width
    while shift < 29 and 1 << shift < 2 * size:
        shift += 1
    count = 0
    for part in range(parts):
        for b in range(box[part, 3] >> shift, ((box[part, 4] - 1) >> shift) + 1):
            for a in range(box[part, 1] >> shift, ((box[part, 2] - 1) >> shift) + 1):
                start = join_index(box[part, 0], a << shift, b << shift)
                first = _first_row(index, start, table, base, width)
                last = _first_row(index, start + (1 << 2 * shift), table, base, width)
                if first < last:
                    _write_cell(cells, count, part, shift, a, b, first, last)
                    count += 1
    return count


@kernel
def _first_row(index, start, table, base, width):
    """Return the first row of the cell that begins at `start`, or of those after it."""
    cell = (start - base) >> 2 * width
    if 0 <= cell < table.shape[0]:
        return int(table[cell])
    return _bisect(index, start, 0, index.shape[0])


@kernel
def _write_cell(cells, count, part, shift, x, y, first, last):
    cells[count, 0], cells[count, 1], cells[count, 2], cells[count, 3] = part, shift, x, y
    cells[count, 4], cells[count, 5] = first, last


@kernel
def _sort_cells(cells, count):
    """Put the cells into the opposite order of their rows: the last one is looked at first."""
    for i in range(1, count):
        for j in range(i, 0, -1):
            if cells[j - 1, 4] >= cells[j, 4]:
                break
            for k in range(cells.shape[1]):
                cells[j - 1, k], cells[j, k] = cells[j, k], cells[j - 1, k]


@kernel
def _cut(index, box, cells, count):
    """Replace the cell at `count` by those of its four parts that have rows and meet the box; return the new count."""
    part, shift, x, y = cells[count, 0], cells[count, 1] - 1, 2 * cells[count, 2], 2 * cells[count, 3]
    first, last = cells[count, 4], cells[count, 5]
    start = join_index(box[part, 0], x << shift, y << shift)
    for quarter in range(3, -1, -1):
        a, b = x + (quarter & 1), y + (quarter >> 1)
        begin = _bisect(index, start + (quarter << 2 * shift), first, last)
        meets = (a << shift) < box[part, 2] and ((a + 1) << shift) > box[part, 1]
        meets = meets and (b << shift) < box[part, 4] and ((b + 1) << shift) > box[part, 3]
        if meets and begin < last:
            _write_cell(cells, count, part, shift, a, b, begin, last)
            count += 1
        last = begin
    return count


@kernel
def _bisect(index, value, low, high):
    """Return the first row of some whose index is at least `value`."""
    while low < high:
        middle = (low + high) >> 1
        if index[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _sticks_out(cells, count, box):
    """Return whether a cell has places outside the box."""
    part, shift, x, y = cells[count, 0], cells[count, 1], cells[count, 2], cells[count, 3]
    along_x = (x << shift) < box[part, 1] or ((x + 1) << shift) > box[part, 2]
    return along_x or (y << shift) < box[part, 3] or ((y + 1) << shift) > box[part, 4]


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
