"""Which cells, coverages and images meet: arithmetic on sorted ranges of order-29 indices."""

import numpy as np
from numpy.typing import NDArray

from sciplat.sky.cell import MAX_ORDER, Cell, cell_ranges
from sciplat.sky.coverage import Coverage, Ranges


def meeting_pairs(left: Ranges, right: Ranges) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of ranges that share an index.

    Parameters
    ----------
    left : ndarray of int64, shape (n, 2)
        Half-open ranges in any order; they may overlap each other.
    right : ndarray of int64, shape (m, 2)
        Half-open ranges, sorted and disjoint.

    Returns
    -------
    left_index, right_index : ndarray of int64
        One entry for each pair, ordered by left, then right.
    """
    first = np.searchsorted(right[:, 1], left[:, 0], side="right")
    last = np.searchsorted(right[:, 0], left[:, 1], side="left")
    counts = np.maximum(last - first, 0)
    left_index = np.repeat(np.arange(len(left)), counts)
    offsets = np.arange(len(left_index)) - np.repeat(np.cumsum(counts) - counts, counts)
    return left_index, np.repeat(first, counts) + offsets


def common_ranges(left: Ranges, right: Ranges) -> Ranges:
    """Return the parts of the left ranges that lie in the right ones, which are sorted and disjoint; shape (n, 2)."""
    i, j = meeting_pairs(left, right)
    return np.stack([np.maximum(left[i, 0], right[j, 0]), np.minimum(left[i, 1], right[j, 1])], axis=1)


def joined_cells(left: list[Cell], right: list[Cell]) -> list[Cell]:
    """Return cells that cover both sides, each a part of at most one cell of either.

    Where a cell of one side holds finer ones of the other, these are taken, and of the coarse one what remains.

    Parameters
    ----------
    left, right : list of Cell
        Those of one side are disjoint.

    Returns
    -------
    list of Cell
        Disjoint, in the order of the sky.
    """
    cells = sorted({*left, *right}, key=lambda cell: (cell.start, cell.order))
    ranges = cell_ranges(cells)
    # a cell that holds finer ones is followed by the first of them
    is_coarse = np.append(ranges[1:, 0] < ranges[:-1, 1], False)[: len(cells)]
    taken = ranges[~is_coarse]
    gaps = np.stack([np.append(0, taken[:, 1]), np.append(taken[:, 0], Cell(0, 11).stop)], axis=1)
    remains = common_ranges(gaps[gaps[:, 0] < gaps[:, 1]], Coverage.from_ranges(ranges).ranges)
    finest = [cell for cell, coarse in zip(cells, is_coarse.tolist(), strict=True) if not coarse]
    return sorted([*finest, *Coverage.from_ranges(remains).cells], key=lambda cell: cell.start)


def added_cells(cells: list[Cell], others: list[Cell]) -> list[Cell]:
    """Return disjoint cells and the parts of others that lie in none of them, in the order of the sky."""
    ranges = Coverage.from_ranges(cell_ranges(cells)).ranges
    gaps = np.stack([np.append(0, ranges[:, 1]), np.append(ranges[:, 0], Cell(0, 11).stop)], axis=1)
    beside = common_ranges(gaps[gaps[:, 0] < gaps[:, 1]], Coverage.from_ranges(cell_ranges(others)).ranges)
    return sorted([*cells, *Coverage.from_ranges(beside).cells], key=lambda cell: cell.start)


def common_cells(cells: list[Cell], coverage: Coverage, order: int) -> list[tuple[Cell, int]]:
    """Return the parts of `cells` that may touch `coverage`, none coarser than `order`.

    Parameters
    ----------
    cells : list of Cell
        Disjoint, in the order of the sky.
    coverage : Coverage
    order : int
        A cell coarser than this is cut into cells of this order; a finer one is kept whole.

    Returns
    -------
    list of (Cell, int)
        Disjoint cells in the order of the sky, each with the index of the cell it is part of.
    """
    touched = coverage.degraded(order).ranges
    ranges = cell_ranges(cells)
    size = 1 << 2 * (MAX_ORDER - order)
    parts: list[tuple[Cell, int]] = []
    for whole, part in zip(*meeting_pairs(ranges, touched), strict=True):
        cell = cells[whole]
        if cell.order >= order:
            if not parts or parts[-1][1] != whole:
                parts.append((cell, int(whole)))
            continue
        start = max(cell.start, int(touched[part, 0]))
        stop = min(cell.stop, int(touched[part, 1]))
        parts.extend((Cell(order, place // size), int(whole)) for place in range(start, stop, size))
    return parts
