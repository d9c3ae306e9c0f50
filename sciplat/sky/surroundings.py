"""What lies around a cell: all cells that a step may look into when it looks beyond its own."""

import math

import numpy as np

from sciplat.errors import ArgumentError
from sciplat.sky.cell import MAX_ORDER, Cell
from sciplat.sky.coverage import Coverage, Squares

MAX_REACH = 10.0  # degrees: of what a step may ask for
_WIDEST = 22.0  # degrees: with motions, and what lies as far beyond; a ring of order 0
_FINEST_RING = 6  # orders below the cell's: 256 cells around it, which add 6 % to its area


def surroundings(cell: Cell, reach: float) -> Coverage:
    """Return a coverage that holds the cell and everything within `reach` of any place in it.

    One ring of cells that are nowhere narrower than `reach` is laid around the cell, or around its ancestor of their
    order where they are larger than the cell. Its area is below (1.04 a + 9 reach)**2, where a is the square root of
    the cell's area, for cells of order 23 or coarser: finer ones run out of orders for a thin ring. Of the ring's rows
    those within `reach` are few where it is small: squares follow the cell's edges at this distance.

    Parameters
    ----------
    cell : Cell
    reach : float
        Degrees, above 0 and at most 22.

    Raises
    ------
    ArgumentError
        If the reach is outside these limits.
    """
    from sciplat.kernels.cells import BOX, NARROWEST
    from sciplat.kernels.healpix import ring, split_index

    check_reach(reach, _WIDEST)
    order = min(math.floor(math.log2(NARROWEST / reach)), cell.order + _FINEST_RING, MAX_ORDER)
    inner = Cell(min(order, cell.order), cell.index >> 2 * max(cell.order - order, 0))
    shift, width = MAX_ORDER - order, 1 << (order - inner.order)
    face, x, y = split_index(inner.start)
    starts = np.empty(4 * width + 4, np.int64)
    count = ring(face, x >> shift, y >> shift, width, 1 << order, shift, np.empty(BOX, np.int64), starts)
    ranges = np.stack([starts[:count], starts[:count] + (1 << 2 * shift)], axis=1)
    around = Coverage.from_ranges(np.concatenate([[[inner.start, inner.stop]], ranges]))
    return Coverage(around.ranges, _grown(cell, reach))


def _grown(cell: Cell, reach: float) -> Squares:
    """Return the cell's square with a margin of `reach` on all sides, in parts on the faces that it lies on."""
    from sciplat.kernels.cells import BOX, box_size
    from sciplat.kernels.healpix import split_index, unfold

    face, x, y = split_index(cell.start)
    width, size = 1 << (MAX_ORDER - cell.order), 1 << MAX_ORDER
    margin, parts = box_size(reach), np.empty(BOX, np.int64)
    count = unfold(face, x - margin, x + width + margin, y - margin, y + width + margin, size, parts)
    return parts[:count]


def check_reach(reach: float, most: float = MAX_REACH) -> None:
    """Refuse a reach that no step may have.

    Raises
    ------
    ArgumentError
        If it is not above 0 and at most `most`; degrees.
    """
    if not 0 < reach <= most:
        raise ArgumentError(
            f"a step cannot look {reach:g} degrees beyond its cell",
            hint=f"the reach is above 0 and at most {most:g} degrees",
        )
