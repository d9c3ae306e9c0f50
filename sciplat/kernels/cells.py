"""The rows of a sorted catalog in the cells around a place.

A table of the first row of each cell of one order, with about one row in each, tells where the rows of a cell stand; it
covers a part of the sky, and what lies beyond is found by bisection. A box in the plane of a HEALPix face meets a few
cells of that order, or of a coarser one where the box is larger; cells with many rows are cut, as deep as it takes.
What is still to be looked at is written down: for each cell the part of the box that it belongs to, the logarithm of
its width in order-29 cells, its place in these widths, and its first row and the one after its last.
"""

import math

from sciplat.kernels._jit import kernel
from sciplat.kernels.healpix import PARTS, join_index, split_index, unfold

# Degrees: two places are nowhere nearer on the sky than this times their distance along x or y in the plane, in widths
# of a face; so a cell of order k is nowhere narrower, from edge to opposite edge, than this / 2**k. Cells are unit
# squares of a plane (Calabretta and Roukema 2007, MNRAS 381, 865) whose edges are pi/2 / 2**k apart along x + y and
# x - y. On the sky these grow fastest at the poles, along the meridians 0, 90, 180 and 270 degrees: by
# sqrt(3/2 + 3 pi**2 / 8) for each radian. The quotient is 0.68877 rad, 0.673 of the square root of the cell's area.
NARROWEST = 39.46
_SIZE = 1 << 29  # order-29 cells along a face
STEP = NARROWEST / _SIZE
LEAF = 16  # rows of a cell that are looked at one by one
CELLS = (160, 6)  # shape of what is written down: four cells at each depth, and those around
BOX = (PARTS, 5)


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
def box_size(reach):
    """Return how far, in order-29 cells along x and y, a place within `reach` degrees may lie."""
    return math.ceil(reach / STEP) + 2


@kernel
def space_near(left_index, table, base, width):
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
def own_rows(left_index, size, table, base, width):
    """Return the span of rows in the cell of a left row if its box lies inside and they are few; else first is -1."""
    _, x, y = split_index(left_index)
    cell = (left_index - base) >> 2 * width
    inside = (x - size) >> width == (x + size) >> width and (y - size) >> width == (y + size) >> width
    if inside and 0 <= cell < table.shape[0] - 1 and table[cell + 1] - table[cell] <= LEAF:
        return int(table[cell]), int(table[cell + 1])
    return -1, -1


@kernel
def root_cells(left_index, size, index, table, base, width, box, cells):
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
    count, own = 0, -1
    for part in range(parts):
        for b in range(box[part, 3] >> shift, ((box[part, 4] - 1) >> shift) + 1):
            for a in range(box[part, 1] >> shift, ((box[part, 2] - 1) >> shift) + 1):
                start = join_index(box[part, 0], a << shift, b << shift)
                first = _first_row(index, start, table, base, width)
                last = _first_row(index, start + (1 << 2 * shift), table, base, width)
                if first < last:
                    own = count if box[part, 0] == face and a == x >> shift and b == y >> shift else own
                    write_cell(cells, count, part, shift, a, b, first, last)
                    count += 1
    if own >= 0:  # it is looked at first
        _swap_cells(cells, own, count - 1)
    return count


@kernel
def _first_row(index, start, table, base, width):
    """Return the first row of the cell that begins at `start`, or of those after it."""
    cell = (start - base) >> 2 * width
    if 0 <= cell < table.shape[0]:
        return int(table[cell])
    return bisect(index, start, 0, index.shape[0])


@kernel
def write_cell(cells, count, part, shift, x, y, first, last):
    """Write down a cell at `count`."""
    cells[count, 0], cells[count, 1], cells[count, 2], cells[count, 3] = part, shift, x, y
    cells[count, 4], cells[count, 5] = first, last


@kernel
def sort_cells(cells, count):
    """Put the cells into the opposite order of their rows: the last one is looked at first."""
    for i in range(1, count):
        for j in range(i, 0, -1):
            if cells[j - 1, 4] >= cells[j, 4]:
                break
            _swap_cells(cells, j - 1, j)


@kernel
def _swap_cells(cells, i, j):
    for k in range(cells.shape[1]):
        cells[i, k], cells[j, k] = cells[j, k], cells[i, k]


@kernel
def cut_cell(index, box, cells, count, near):
    """Replace the cell at `count` by those of its four parts that have rows and meet the box; return the new count.

    The part `near` comes last, so that it is looked at first, and the one beyond it first.
    """
    part, shift, x, y = cells[count, 0], cells[count, 1] - 1, 2 * cells[count, 2], 2 * cells[count, 3]
    start = join_index(box[part, 0], x << shift, y << shift)
    first, last = cells[count, 4], cells[count, 5]
    middle = bisect(index, start + (2 << 2 * shift), first, last)
    before = bisect(index, start + (1 << 2 * shift), first, middle)
    after = bisect(index, start + (3 << 2 * shift), middle, last)
    ends = (first, before, middle, after, last)
    for step in range(3, -1, -1):
        quarter = step ^ near
        a, b = x + (quarter & 1), y + (quarter >> 1)
        meets = (a << shift) < box[part, 2] and ((a + 1) << shift) > box[part, 1]
        meets = meets and (b << shift) < box[part, 4] and ((b + 1) << shift) > box[part, 3]
        if meets and ends[quarter] < ends[quarter + 1]:
            write_cell(cells, count, part, shift, a, b, ends[quarter], ends[quarter + 1])
            count += 1
    return count


@kernel
def near_quarter(left_index, shift, x, y):
    """Return which part of a cell is nearest to a left row on the same face."""
    _, left_x, left_y = split_index(left_index)
    east = left_x >= (2 * x + 1) << (shift - 1)
    north = left_y >= (2 * y + 1) << (shift - 1)
    return (1 if east else 0) + (2 if north else 0)


@kernel
def sticks_out(cells, count, box):
    """Return whether a cell has places outside the box."""
    part, shift, x, y = cells[count, 0], cells[count, 1], cells[count, 2], cells[count, 3]
    along_x = (x << shift) < box[part, 1] or ((x + 1) << shift) > box[part, 2]
    return along_x or (y << shift) < box[part, 3] or ((y + 1) << shift) > box[part, 4]


@kernel
def bisect(values, value, low, high):
    """Return the first of some sorted values, from place `low` on, that is at least `value`."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low
