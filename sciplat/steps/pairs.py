"""Pairs of rows near each other on the sky, from sorted positions; memory follows the pairs, never rows times rows.

Kernels are imported where they are called: plans are made without numba.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
_FEWEST = 1 << 16  # pairs that there is room for at once
_MOST = 4  # for each left row


@dataclass(frozen=True, eq=False)
class Points:
    """Positions sorted along the sky.

    Parameters
    ----------
    index : ndarray of int64, shape (n,)
        Sorted order-29 indices of the positions.
    ra, dec : ndarray of float64, shape (n,)
        Degrees.
    rank : ndarray of int64, shape (n,)
        Order among rows that are equally far: by index, then by their order in the store.
    """

    index: Indices
    ra: Floats
    dec: Floats
    rank: Indices

    def __len__(self) -> int:
        return len(self.index)

    def taken(self, rows: Indices) -> "Points":
        """Return some of the points, in another order only where they share an index."""
        return Points(self.index[rows], self.ra[rows], self.dec[rows], self.rank[rows])


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows, sorted by the left one.

    Parameters
    ----------
    left, right : ndarray of int64, shape (p,)
        Their places among the points.
    square : ndarray of float64, shape (p,)
        sin^2(d/2) of their distances d.
    """

    left: Indices
    right: Indices
    square: Floats

    def __len__(self) -> int:
        return len(self.left)

    @classmethod
    def none(cls) -> "Pairs":
        """Return no pairs."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def kept(self, chosen: NDArray[np.bool_] | Indices) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(self.left[chosen], self.right[chosen], self.square[chosen])


def pairs_within(left: Points, right: Points, reach: float | Floats) -> Pairs:
    """Return all pairs within reach, those of one left row in the order of the right ones.

    Parameters
    ----------
    left, right : Points
    reach : float or ndarray of float64, shape (n,)
        Degrees, at most 10, perhaps for each left row; the limit is included.
    """
    from sciplat.kernels.crossmatch import within

    return joined(_in_parts(within, left, right, reach))


def nearest_pairs(left: Points, right: Points, reach: float | Floats, neighbours: int = 1) -> Pairs:
    """Return for each left row the pairs with its nearest right rows within reach, the nearest first.

    Parameters
    ----------
    left, right : Points
        Of rows that are equally far, the one of lower rank is nearer.
    reach : float or ndarray of float64, shape (n,)
        Degrees, at most 10, perhaps for each left row; the limit is included.
    neighbours : int
        How many right rows each left row may have.
    """
    from sciplat.kernels.crossmatch import nearest

    order = _by_declination(right)
    if order is not None:
        right = right.taken(order)
    found = joined(_in_parts(nearest, left, right, reach, right.rank, neighbours, most=neighbours))
    return found if order is None else replace(found, right=order[found.right])


def _in_parts(
    search: Callable[..., tuple[int, int]],
    left: Points,
    right: Points,
    reach: float | Floats,
    *more: Any,
    most: int = 1,
) -> Iterator[Pairs]:
    """Yield the pairs that a kernel lists; at first there is room for `most` pairs of each left row, within limits."""
    begin, size = 0, max(_FEWEST, len(left) * min(most, _MOST), most)
    sides = (left.index, left.ra, left.dec, _each(reach, left), right.index, right.ra, right.dec, _runs(right))
    found = (*_table(left, right), *_scratch(), *more)
    while True:
        i, j, square = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size)
        end, count = search(begin, *sides, *found, i, j, square)
        if count or end == len(left):
            yield Pairs(i[:count], j[:count], square[:count])
        if end == len(left):
            return
        size *= 2 if end == begin else 1  # the pairs of one row did not fit
        begin = end


def joined(parts: Iterable[Pairs]) -> Pairs:
    """Return pairs that were listed in parts, one part after the other."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    columns = ([getattr(part, name) for part in found] for name in ("left", "right", "square"))
    return Pairs(*(np.concatenate(column) for column in columns))


def separations(square: Floats) -> Floats:
    """Return the distances in degrees of which sin^2(d/2) are given."""
    from sciplat.kernels.separation import angles_of

    angle = np.empty(len(square))
    angles_of(square, angle)
    return angle


def _by_declination(points: Points) -> Indices | None:
    """Return the order by declination of rows that share an index, None if there are but few of them anywhere."""
    from sciplat.kernels.cells import LEAF

    if not (points.index[LEAF:] == points.index[:-LEAF]).any():
        return None
    order: Indices = np.lexsort([points.rank, points.ra, points.dec, points.index])
    return order


def _table(left: Points, right: Points) -> tuple[NDArray[np.int32], int, int]:
    """Return the first right rows of cells as far as the left rows go, where they begin and how wide they are."""
    from sciplat.kernels.cells import address

    if not len(left):
        return np.zeros(1, np.int32), 0, 0
    first, last = int(left.index[0]), int(left.index[-1])
    width = 0
    while width < 29 and (last >> 2 * width) - (first >> 2 * width) > 2 * len(right) + 1:
        width += 1
    base = (first >> 2 * width) << 2 * width
    table = np.empty((last >> 2 * width) - (first >> 2 * width) + 2, np.int32)
    address(right.index, base, width, table)
    return table, base, width


def _scratch() -> tuple[Indices, Indices]:
    from sciplat.kernels.cells import BOX, CELLS

    return np.empty(CELLS, np.int64), np.empty(BOX, np.int64)


def _runs(points: Points) -> Indices:
    from sciplat.kernels.crossmatch import mark_runs

    following = np.empty(len(points), np.int64)
    mark_runs(points.index, points.ra, points.dec, following)
    return following


def squares(angle: Floats) -> Floats:
    """Return sin^2(d/2) of distances d in degrees, as pairs have it."""
    from sciplat.kernels.separation import squares_of

    square = np.empty(len(angle))
    squares_of(angle, square)
    return square


def _each(reach: float | Floats, points: Points) -> Floats:
    return np.full(len(points), reach) if np.ndim(reach) == 0 else np.ascontiguousarray(reach)
