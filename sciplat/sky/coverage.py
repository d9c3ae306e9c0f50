"""Coverages: sets of cells of mixed order, kept as sorted ranges of order-29 indices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciplat.sky.cell import MAX_ORDER, Cell, cell_area, cell_ranges

if TYPE_CHECKING:
    from mocpy import MOC

Ranges = NDArray[np.int64]
Squares = NDArray[np.int64]
Positions = NDArray[np.float64]
_FIRST_CODES = np.int64(4) << 2 * np.arange(MAX_ORDER + 1)  # the first NUNIQ code of every order
CELL_RADIUS = 65.0  # degrees: no cell of order k reaches farther than this / 2**k from its centre
_MANY_CELLS = 2000
_STRIDE = 3  # orders by which a region is refined at once
_CELL_WIDTH = 58.6  # degrees: a cell of order k is about this / 2**k wide
_REGION_CELLS = 16  # cells across a cone or box
_OUTLINE_CELLS = 32  # cells across a polygon: fine enough to follow it, coarse enough to stay small


@dataclass(frozen=True, eq=False)
class Coverage:
    """A part of the sky made of whole cells (a MOC), perhaps cut to squares that follow its border more closely.

    Parameters
    ----------
    ranges : ndarray of int64, shape (n, 2)
        Half-open ranges of order-29 indices, sorted, disjoint and not touching.
    squares : ndarray of int64, shape (m, 5), optional
        Face of HEALPix, x0, x1, y0, y1 of boxes of order-29 cells, half open: what lies in none of them is outside.
        Only `contains` knows of them, for all else the ranges are the coverage.
    """

    ranges: Ranges
    squares: Squares | None = None

    @classmethod
    def from_moc(cls, moc: "MOC") -> "Coverage":
        """Return the coverage of a mocpy MOC."""
        return cls(np.asarray(moc.to_depth29_ranges).astype(np.int64).reshape(-1, 2))

    @classmethod
    def from_ranges(cls, ranges: Ranges) -> "Coverage":
        """Return the union of ranges, shape (n, 2), in any order."""
        return cls(_merged(ranges))

    @classmethod
    def from_cells(cls, cells: list[Cell]) -> "Coverage":
        """Return the union of `cells`."""
        return cls.from_ranges(cell_ranges(cells))

    @classmethod
    def from_uniq(cls, uniq: ArrayLike) -> "Coverage":
        """Return the union of cells in MOC's NUNIQ coding, 4 * 4**order + index."""
        codes = np.asarray(uniq, dtype=np.int64)
        order = np.searchsorted(_FIRST_CODES, codes, side="right") - 1
        shift = 2 * (MAX_ORDER - order)
        index = codes - (np.int64(4) << (2 * order))
        return cls.from_ranges(np.stack([index << shift, (index + 1) << shift], axis=1))

    def to_uniq(self) -> NDArray[np.int64]:
        """Return the fewest cells that make this coverage, in NUNIQ coding, sorted by position on the sky."""
        codes = []
        for first, last in self.ranges.tolist():
            start = first
            while start < last:
                level = _largest_step(start, last - start)
                codes.append((4 << 2 * (MAX_ORDER - level)) + (start >> 2 * level))
                start += 1 << 2 * level
        return np.array(codes, dtype=np.int64)

    @property
    def cells(self) -> list[Cell]:
        """The fewest cells that make this coverage, in the order of the sky."""
        found = []
        for code in self.to_uniq().tolist():
            order = (code.bit_length() - 3) // 2
            found.append(Cell(order, code - (4 << 2 * order)))
        return found

    def degraded(self, order: int) -> "Coverage":
        """Return the union of all cells of `order` that this coverage touches."""
        shift = 2 * (MAX_ORDER - order)
        first, last = self.ranges[:, 0] >> shift, -(-self.ranges[:, 1] >> shift)
        return Coverage.from_ranges(np.stack([first << shift, last << shift], axis=1))

    def contains(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each order-29 index whether it lies inside; shape (n,)."""
        # an index is inside when more ranges have begun than have ended
        begun = np.searchsorted(self.ranges[:, 0], index, side="right")
        ended = np.searchsorted(self.ranges[:, 1], index, side="right")
        inside: NDArray[np.bool_] = begun > ended
        if self.squares is not None:
            from sciplat.kernels.coverage import cut_to_squares

            cut_to_squares(index, self.squares, inside)
        return inside

    def clipped(self, start: int, stop: int, *, limit: int = 64) -> Ranges:
        """Return the ranges inside [start, stop), at most `limit` of them: the smallest gaps are filled."""
        first = np.searchsorted(self.ranges[:, 1], start, side="right")
        last = np.searchsorted(self.ranges[:, 0], stop, side="left")
        inside = np.clip(self.ranges[first:last], start, stop)
        if len(inside) <= limit:
            return inside
        gaps = inside[1:, 0] - inside[:-1, 1]
        kept = np.sort(np.argsort(gaps, kind="stable")[len(gaps) - limit + 1 :])
        return np.stack(
            [inside[np.concatenate([[0], kept + 1]), 0], inside[np.concatenate([kept, [len(inside) - 1]]), 1]], axis=1
        )

    def meets(self, start: int, stop: int) -> bool:
        """Return whether any order-29 index in [start, stop) lies inside."""
        place = int(np.searchsorted(self.ranges[:, 1], start, side="right"))
        return place < len(self.ranges) and bool(self.ranges[place, 0] < stop)

    @property
    def length(self) -> int:
        """How many order-29 cells there are."""
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())

    @property
    def area(self) -> float:
        """Square degrees."""
        return self.length * cell_area(MAX_ORDER)


def outline_coverage(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Coverage:
    """Return a superset of the polygon with the given vertices, its smaller side.

    The cells are 1/32 of the polygon's size and one ring of neighbours is added, because neither the true
    outline between two vertices nor the edges of cells are great circles.

    Parameters
    ----------
    ra, dec : ndarray, shape (n,)
        Vertices in order, degrees.
    """
    import astropy.units as u
    from mocpy import MOC

    from sciplat.sky.frame import unit_vectors

    vectors = unit_vectors(ra, dec)
    size = float(np.degrees(np.linalg.norm(vectors.max(axis=0) - vectors.min(axis=0))))
    moc = MOC.from_polygon(ra * u.deg, dec * u.deg, max_depth=_order_of_width(size / _OUTLINE_CELLS))
    return Coverage.from_moc(moc.add_neighbours())


def cells_near(near: Callable[[Positions, Positions, float], NDArray[np.bool_]], width: float) -> Coverage:
    """Return cells that hold a region, refined as far as they may touch it.

    Parameters
    ----------
    near : callable
        Takes positions (degrees, shape (n,)) and a reach in degrees below 90; returns for each whether the region
        may come as near.
    width : float
        Degrees; the cells are about a sixteenth of it, or larger where they would be too many.
    """
    from cdshealpix.nested import healpix_to_lonlat

    finest = _order_of_width(width / _REGION_CELLS)
    first = finest % _STRIDE
    index = np.arange(12 * 4**first, dtype=np.int64)
    for order in range(first, finest + 1, _STRIDE):  # a call of the library takes as long as hundreds of cells
        lon, lat = healpix_to_lonlat(index.astype(np.uint64), np.uint8(order), num_threads=1)
        index = index[near(lon.deg, lat.deg, CELL_RADIUS / 2**order)]
        if order == finest or len(index) > _MANY_CELLS:
            break
        index = (4**_STRIDE * index[:, np.newaxis] + np.arange(4**_STRIDE)).ravel()
    shift = 2 * (MAX_ORDER - order)
    return Coverage.from_ranges(np.stack([index << shift, (index + 1) << shift], axis=1))


def _order_of_width(width: float) -> int:
    """Return the coarsest order whose cells are at most `width` degrees wide, as far as 28."""
    return int(np.clip(np.ceil(np.log2(_CELL_WIDTH / max(width, 1e-9))), 0, MAX_ORDER - 1))


def _merged(ranges: Ranges) -> Ranges:
    """Return the ranges sorted, with those that overlap or touch made one."""
    if len(ranges) < 2:
        return ranges
    ordered = ranges[np.argsort(ranges[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1])
    opens = np.flatnonzero(np.concatenate([[True], ordered[1:, 0] > reach[:-1]]))
    closes = np.concatenate([opens[1:] - 1, [len(ordered) - 1]])
    return np.stack([ordered[opens, 0], reach[closes]], axis=1)


def _largest_step(start: int, length: int) -> int:
    """Return the largest level whose cells (4**level indices) fit at `start` within `length`."""
    aligned = (start & -start).bit_length() - 1 if start else 2 * MAX_ORDER
    return min(aligned // 2, (length.bit_length() - 1) // 2, MAX_ORDER)
