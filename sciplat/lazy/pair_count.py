"""How many pairs of rows lie within an angle of each other, from the densities of both catalogs."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sciplat.lazy.node import Node
from sciplat.sky.cell import MAX_ORDER, Cell, cell_area
from sciplat.sky.coverage import Ranges

Indices = NDArray[np.int64]
FEW = 1e4  # pairs that do not matter, whatever the rows do
_STEPS = 1000  # in which the rows of a cell are known to be spread: smaller parts tell nothing more
_MOST_PARTS = 1 << 16  # that are looked at together
# the four squares of four cells around a cell, among it and its neighbours in the library's order: south, south-east,
# east, south-west, itself, north-east, west, north-west, north
_SQUARES = np.array([[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]])


def pair_count(
    left: Node,
    right: Node,
    cell: Cell,
    radius: float,
    near: float,
    there: Callable[[Indices], Indices] | None = None,
) -> float:
    """Return the expected number of pairs of rows within an angle of each other, rather too many than too few.

    The cell is cut into parts until four of these are as small as the circle around a row, or until they hold so few
    rows that it does not matter. Around each part, the four cells with the most right rows say how many are within the
    circle: spread evenly over them where they are larger than it, else all. So a pile of rows is seen where the
    densities of the catalogs show it, wherever cells end.

    Parameters
    ----------
    left, right : Node
    cell : Cell
        Of the left rows.
    radius : float
        Degrees, at most 10.
    near : float
        Right rows in the cell and around it.
    there : callable, optional
        Gives the order-29 indices that places have in the right catalog's frame, if it has another one.
    """
    circle = math.pi * radius**2
    # of the finest order of which four cells are as large as the circle
    last = min(int(math.log(4 * cell_area(0) / circle, 4)), MAX_ORDER - 1)
    parts, order, total = np.array([[cell.start, cell.stop]]), cell.order, 0.0
    few = max(float(left.rows_in(parts)[0]) / _STEPS, FEW / max(near, 1.0))
    while len(parts):
        mine = left.rows_in(parts)
        is_last = order > last or 4 * int((mine > few).sum()) > _MOST_PARTS
        done = (mine > 0) & (is_last | (mine <= few))
        places = _places(parts[done], there)
        its = _near(right, places, min(order, last), circle)
        if order > last:
            its = np.maximum(its, _near(right, places, last + 1, circle))
        total += float(mine[done] @ its)
        parts, order = _quartered(parts[~done & (mine > 0)]), order + 1
    return total


def _places(parts: Ranges, there: Callable[[Indices], Indices] | None) -> Indices:
    """Return the centres of cells, three quarters into their indices."""
    centres = parts[:, 0] + (parts[:, 1] - parts[:, 0]) // 4 * 3
    return centres if there is None or not len(parts) else there(centres)


def _near(right: Node, places: Indices, order: int, circle: float) -> NDArray[np.float64]:
    """Return the rows expected within a circle of so many square degrees around places, by cells of one order."""
    most = _rows_around(right, places, order)[:, _SQUARES].sum(axis=2).max(axis=1)
    # rows of one cell of the finest order are as good as at one place
    share = 1.0 if order == MAX_ORDER else min(circle / (4 * cell_area(order)), 1.0)
    return np.asarray(most * share)


def _rows_around(right: Node, places: Indices, order: int) -> NDArray[np.float64]:
    """Return the rows in the cells at places and in their eight neighbours, shape (n, 9)."""
    from cdshealpix.nested import neighbours

    if not len(places):
        return np.zeros((0, 9))
    shift = 2 * (MAX_ORDER - order)
    around = neighbours((places >> shift).astype(np.uint64), np.uint8(order), num_threads=1).astype(np.int64)
    cells, where = np.unique(around, return_inverse=True)  # -1: no corner, three cells meet
    rows = right.rows_in(np.stack([cells, cells + 1], axis=1) << shift)
    rows[cells < 0] = 0.0
    return np.asarray(rows[where].reshape(-1, 9))


def _quartered(parts: Ranges) -> Ranges:
    quarter = (parts[:, 1] - parts[:, 0])[:, np.newaxis] >> 2
    starts = parts[:, :1] + quarter * np.arange(4)
    return np.stack([starts.ravel(), (starts + quarter).ravel()], axis=1)
