"""Splitting the sky into cells of at most so many rows, by counting rows and never by holding them."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from sciplat.sky.cell import MAX_ORDER, Cell
from sciplat.sky.coverage import Ranges

_DEEPEST = 6  # orders that are counted at once: on a cluster the ranges travel to the workers, and the counts back
_MOST_COUNTS = 100_000  # cells that are counted at once


def split_counted(
    roots: list[Cell], count: Callable[[Ranges], NDArray[np.int64]], rows_per_cell: int
) -> list[tuple[Cell, int]]:
    """Return the coarsest cells inside `roots` that hold at most `rows_per_cell` rows each.

    Parameters
    ----------
    roots : list of Cell
        Disjoint.
    count : callable
        Takes sorted, disjoint, half-open ranges of order-29 indices, shape (n, 2), and returns the rows in each,
        shape (n,). It is called a few times, with many ranges.
    rows_per_cell : int
        Limit; a cell of order 29 may exceed it, because its rows share one index.

    Returns
    -------
    list of (Cell, int)
        Non-empty cells in the order of the sky, with their rows.
    """
    found: list[tuple[Cell, int]] = []
    waiting = sorted(roots, key=lambda cell: cell.start)
    while waiting:
        levels = _levels(waiting)
        counts = count(_descendants(waiting, levels)).reshape(len(waiting), -1)
        found_here = (_coarsest(cell, rows, rows_per_cell) for cell, rows in zip(waiting, counts, strict=True))
        parts = [part for each in found_here for part in each]
        fits = [rows <= rows_per_cell or cell.order == MAX_ORDER for cell, rows in parts]
        found += [part for part, fit in zip(parts, fits, strict=True) if fit]
        waiting = [cell for (cell, _), fit in zip(parts, fits, strict=True) if not fit]
    return sorted(found, key=lambda part: part[0].start)


def _levels(cells: list[Cell]) -> int:
    """Return how many orders below these cells are counted at once."""
    affordable = int(np.log2(_MOST_COUNTS / len(cells)) // 2) if len(cells) < _MOST_COUNTS else 0
    return min(max(affordable, 1), _DEEPEST, MAX_ORDER - max(cell.order for cell in cells))


def _descendants(cells: list[Cell], levels: int) -> Ranges:
    """Return the ranges of all cells `levels` orders below; shape (len(cells) * 4**levels, 2)."""
    starts = np.array([cell.start for cell in cells], dtype=np.int64)
    steps = np.array([(cell.stop - cell.start) >> 2 * levels for cell in cells], dtype=np.int64)
    first = (starts[:, np.newaxis] + steps[:, np.newaxis] * np.arange(4**levels)).ravel()
    return np.stack([first, first + np.repeat(steps, 4**levels)], axis=1)


def _coarsest(cell: Cell, counts: NDArray[np.int64], limit: int) -> Iterator[tuple[Cell, int]]:
    """Yield the coarsest parts within the limit, and the finest counted ones that exceed it; none without rows."""
    before = np.concatenate([[0], np.cumsum(counts)])
    waiting = [(cell, 0, len(counts))]
    while waiting:
        part, first, size = waiting.pop()
        rows = int(before[first + size] - before[first])
        if rows == 0:
            continue
        if rows <= limit or size == 1:
            yield part, rows
        else:
            quarter = size // 4
            waiting.extend((child, first + i * quarter, quarter) for i, child in enumerate(part.children))
