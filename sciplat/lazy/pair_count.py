"""How many pairs of rows lie within an angle of each other, from the densities of both catalogs."""

import math

import numpy as np

from sciplat.lazy.node import Node
from sciplat.sky.cell import MAX_ORDER, Cell, cell_area
from sciplat.sky.coverage import Ranges

_FEW = 1e6  # pairs that a part may have whatever its rows do: it is not looked at more closely
_MOST_PARTS = 1 << 16  # that are looked at together


def pair_count(left: Node, right: Node, cell: Cell, reach: float) -> float:
    """Return the expected number of pairs of rows within `reach` degrees of each other, rather too many than too few.

    The cell is cut into parts until these are as small as the circle, or hold so few rows that it does not matter; in
    each, rows count as spread evenly. So a pile of rows is seen where the densities of the catalogs show it.

    Parameters
    ----------
    left, right : Node
    cell : Cell
        Of the left rows.
    reach : float
        Degrees.
    """
    circle = math.pi * reach**2
    total, order = 0.0, cell.order
    parts: Ranges = np.array([[cell.start, cell.stop]])
    while len(parts):
        mine, its = left.rows_in(parts), right.rows_in(parts)
        pairs = mine * its
        dense = pairs > _FEW
        is_last = order == MAX_ORDER or cell_area(order) <= circle or 4 * int(dense.sum()) > _MOST_PARTS
        done = np.ones(len(parts), bool) if is_last else ~dense
        total += float((pairs[done] * circle / cell_area(order)).sum())
        parts, order = _quartered(parts[~done]), order + 1
    return total


def _quartered(parts: Ranges) -> Ranges:
    quarter = (parts[:, 1] - parts[:, 0])[:, np.newaxis] >> 2
    starts = parts[:, :1] + quarter * np.arange(4)
    return np.stack([starts.ravel(), (starts + quarter).ravel()], axis=1)
