"""What a task reads of another catalog around its cell."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sciplat.io.catalog_store import ROW_GROUP
from sciplat.lazy.concat import Concat
from sciplat.lazy.map import uses_functions
from sciplat.lazy.node import Node, OverOne, Scan
from sciplat.sky.align import common_ranges, meeting_pairs
from sciplat.sky.cell import MAX_ORDER, Cell, cell_area
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.tasks.quote import Cost
from sciplat.tasks.task import Task

_MAP_ORDER = 8  # of the sky maps of stores
_ROWS_NEAR = 10  # on average in the cells in which a catalog counts as having rows near


def cells_around(node: Node, ranges: Ranges, around: Coverage) -> list[Cell]:
    """Return the cells of a node that touch a coverage, given the cells as ranges."""
    _, near = meeting_pairs(around.ranges, ranges)
    return [node.cells[place] for place in np.unique(near).tolist()]


def tasks_around(node: Node, ranges: Ranges, around: Coverage) -> tuple[Task, ...]:
    """Return the tasks that give the rows in a coverage, in the order of the sky; some beyond it may come along."""
    return tuple(node.task(cell, around) for cell in cells_around(node, ranges, around))


def cost_around(node: Node, ranges: Ranges, around: Coverage) -> Cost:
    """Return the cost of reading a node's rows in a coverage, one cell after the other."""
    cells, total, largest = cells_around(node, ranges, around), Cost(), 0.0
    parts = [around.clipped(near.start, near.stop) for near in cells]
    ends = np.cumsum([len(part) for part in parts])
    before = np.append(0.0, np.cumsum(node.rows_in(np.concatenate([np.empty((0, 2), np.int64), *parts]))))
    for near, inside, end in zip(cells, parts, ends.tolist(), strict=True):
        whole, rows = node.cost(near), float(before[end] - before[end - len(inside)])
        kept = min(rows / whole.rows, 1.0) if whole.rows else 1.0
        # row groups are read as a whole; a function is given whole cells
        slack = 2 * len(inside) * ROW_GROUP / whole.rows if whole.rows else 1.0
        read = 1.0 if uses_functions(node) else min(kept + slack, 1.0)
        size = whole.size * (read if uses_functions(node) else kept)
        largest = max(largest, (whole.memory - whole.size) * read)
        total = Cost(
            read=total.read + whole.read * read,
            requests=total.requests + whole.requests * read,
            rows=total.rows + whole.rows * kept,
            places=total.places + whole.places * kept,
            size=total.size + size,
            seconds=total.seconds + whole.seconds * read,
        )
    return replace(total, memory=total.size + largest)


def leaves(node: Node) -> list[Scan]:
    """Return the stores that a plan's rows come from: those of its first input, and of what is put beside it."""
    if isinstance(node, Scan):
        return [node]
    if isinstance(node, Concat):
        return [*leaves(node.inner), *leaves(node.other)]
    return leaves(node.inner) if isinstance(node, OverOne) else []


def stored_rows(node: Node) -> tuple[float, float]:
    """Return how many rows the stores of a plan have, and how many square degrees these rows cover.

    Neither depends on the cells of the stores.
    """
    rows, ranges = 0.0, [np.empty((0, 2), np.int64)]
    for scan in leaves(node):
        rows += scan.store.rows
        ranges.append(_covered_by(replace(scan, cover=None)).ranges)
    if rows == 0:
        return float(node.rows_in(np.array([[0, Cell(0, 11).stop]])).sum()), 12 * cell_area(0)
    return rows, Coverage.from_ranges(np.concatenate(ranges)).area


def rows_coverage(node: Node) -> Coverage:
    """Return where a plan's stores have rows near: cells that are just fine enough to hold some on average."""
    scans = leaves(node)
    if not scans:
        return Coverage.from_cells(list(node.cells))
    found = [_covered_by(scan).ranges for scan in scans]
    return Coverage.from_ranges(np.concatenate(found))


def _covered_by(scan: Scan) -> Coverage:
    if not scan.store.has_digests:  # what another writer says of it may be anything
        return Coverage.from_cells(list(scan.cells))
    order, counts = _MAP_ORDER, scan.store.sky_map
    while order > 0 and counts.sum() < _ROWS_NEAR * np.count_nonzero(counts):
        order, counts = order - 1, counts.reshape(-1, 4).sum(axis=1)
    inside = _pixel_ranges(np.flatnonzero(counts), order)
    return inside if scan.cover is None else Coverage(common_ranges(inside.ranges, scan.cover.ranges))


def _pixel_ranges(pixels: NDArray[np.int64], order: int) -> Coverage:
    shift = 2 * (MAX_ORDER - order)
    return Coverage.from_ranges(np.stack([pixels << shift, (pixels + 1) << shift], axis=1))


def united(parts: Iterable[Coverage]) -> Coverage:
    """Return the union of coverages."""
    return Coverage.from_ranges(np.concatenate([np.empty((0, 2), np.int64), *(part.ranges for part in parts)]))
