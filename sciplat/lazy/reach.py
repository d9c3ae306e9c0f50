"""How far from a place the rows that a match finds there may stand: how far they move, how large their errors are."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.io.extremes import read_extremes
from sciplat.lazy.concat import Concat
from sciplat.lazy.node import Node, OverOne, Scan
from sciplat.sky.align import meeting_pairs
from sciplat.sky.cell import cell_ranges
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.sky.epoch import years_of
from sciplat.steps.crossmatch import Side
from sciplat.steps.motion import AU_PER_YEAR, displacement

Floats = NDArray[np.float64]
Extremes = tuple[Ranges, dict[str, Floats]]  # disjoint cells, and the smallest and largest values there
_AT_ONCE = 16  # footers that are read: storage far away takes its time for each
_ROUNDING = 1e-12  # degrees, of positions that are moved


@dataclass(frozen=True, eq=False)
class Far:
    """The largest distance in each of some cells.

    Parameters
    ----------
    ranges : ndarray of int64, shape (n, 2)
        Sorted and disjoint cells.
    degrees : ndarray of float64, shape (n,)
    """

    ranges: Ranges
    degrees: Floats

    def most(self, around: Coverage | None = None) -> float:
        """Return the largest distance of all, or of the cells that touch a coverage."""
        if around is None:
            return float(self.degrees.max(initial=0.0))
        _, near = meeting_pairs(around.ranges, self.ranges)
        return float(self.degrees[near].max(initial=0.0))


_NOWHERE = Far(np.empty((0, 2), np.int64), np.empty(0))


def far_moves(node: Node, side: Side) -> Far:
    """Return how far rows move at most until the common epoch.

    Raises
    ------
    ArgumentError
        If that is not known before the plan has run.
    """
    moving = side.moving
    if moving is None:
        return _NOWHERE
    ranges, most = _largest(node, moving.columns, side.name)
    pm = np.hypot(most[moving.pmra[0]] * moving.pmra[1], most[moving.pmdec[0]] * moving.pmdec[1])
    radial = np.zeros(len(pm))
    if moving.parallax is not None and moving.rv is not None:
        radial = most[moving.parallax[0]] * moving.parallax[1] * most[moving.rv[0]] * moving.rv[1] / AU_PER_YEAR
    if isinstance(moving.epoch, tuple):
        years = _longest(node, moving.epoch, moving.target, side.name)
    else:
        years = np.full(len(pm), abs(moving.target - moving.epoch))
    return Far(ranges, displacement(pm, -radial, years) + _ROUNDING)


def far_errors(node: Node, side: Side) -> Far:
    """Return the largest standard deviation in any direction.

    Raises
    ------
    ArgumentError
        If that is not known before the plan has run.
    """
    errors = side.errors
    if errors is None:
        return _NOWHERE
    ranges, most = _largest(node, errors.names, side.name)
    ra, dec = (most[name] * unit for name, unit in (errors.ra, errors.dec))
    # along the long axis of an ellipse the variance is at most the sum of both
    return Far(ranges, np.maximum(ra, dec) if errors.corr is None else np.hypot(ra, dec))


def _largest(node: Node, columns: Sequence[str], what: str) -> tuple[Ranges, dict[str, Floats]]:
    """Return the largest magnitude of columns in each cell."""
    ranges, spans = _extremes(node, tuple(columns), what)
    return ranges, {name: np.nan_to_num(np.abs(span).max(axis=1)) for name, span in spans.items()}


def _longest(node: Node, epoch: tuple[str, str], target: float, what: str) -> Floats:
    """Return the longest time in years from the epochs in a column to the target, in each cell."""
    name, unit = epoch
    _, spans = _extremes(node, (name,), what)
    years = [np.abs(target - years_of(ends, unit)) for ends in spans[name].T]
    return np.nan_to_num(np.maximum(*years))


def _extremes(node: Node, columns: tuple[str, ...], what: str) -> Extremes:
    """Return the smallest and largest values of columns in each cell of the stores that they come from."""
    if isinstance(node, Scan):
        return _stored_extremes(node, columns)
    if isinstance(node, Concat):
        return _united(_extremes(node.inner, columns, what), _extremes(node.other, columns, what))
    if isinstance(node, OverOne) and node.keeps(columns):
        return _extremes(node.inner, columns, what)
    raise ArgumentError(
        f"how far the rows of {what} move or scatter is not known before its plan has run",
        found=f"{', '.join(columns)} of {type(node).__name__.lower()}",
        hint=".write(...) it to a store and match that",
    )


def _united(mine: Extremes, its: Extremes) -> Extremes:
    """Return the extremes of two catalogs together, in parts of the cells of both."""
    edges = np.unique(np.concatenate([mine[0].ravel(), its[0].ravel()]))
    spans = {}
    for name in mine[1]:
        one, two = (_spans_at(edges[:-1], cells, known[name]) for cells, known in (mine, its))
        spans[name] = np.stack([np.fmin(one[:, 0], two[:, 0]), np.fmax(one[:, 1], two[:, 1])], axis=1)
    return np.stack([edges[:-1], edges[1:]], axis=1), spans


def _spans_at(index: NDArray[np.int64], ranges: Ranges, spans: Floats) -> Floats:
    """Return what is known of the cells in which indices lie, nan where there is none; shape (n, 2)."""
    place = np.searchsorted(ranges[:, 0], index, side="right") - 1
    inside = np.flatnonzero(place >= 0)
    inside = inside[index[inside] < ranges[place[inside], 1]]
    found = np.full((len(index), 2), np.nan)
    found[inside] = spans[place[inside]]
    return found


def _stored_extremes(scan: Scan, columns: tuple[str, ...]) -> Extremes:
    chosen = set(scan.cells)
    entries = [entry for entry in scan.store.entries if entry.cell in chosen]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda entry: read_extremes(scan.store.storage, entry.file, columns), entries))
    spans = {name: np.array([each[name] for each in found], np.float64).reshape(-1, 2) for name in columns}
    for name, (low, high) in scan.bounds:  # the operations above leave out what lies beyond
        if name in spans:
            spans[name] = np.clip(spans[name], low, high)
    return cell_ranges([entry.cell for entry in entries]), spans
