"""Cells: HEALPix pixels in the nested scheme, and the order-29 index that sorts every catalog.

A cell of order k is the range [index << 2(29 - k), (index + 1) << 2(29 - k)) of order-29 indices: everything
that asks which cells meet is arithmetic on such ranges.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciplat.config import settings
from sciplat.errors import PositionError, RegionError

MAX_ORDER = 29
_MANY_POSITIONS = 100_000
_SKY_DEG2 = 41252.96124941927


@dataclass(frozen=True, order=True)
class Cell:
    """One HEALPix pixel of the nested scheme.

    Parameters
    ----------
    order : int
        0 (twelve cells on the sky) to 29.
    index : int
        0 to 12 * 4**order - 1.

    Raises
    ------
    RegionError
        If no such cell exists.
    """

    order: int
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.order <= MAX_ORDER or not 0 <= self.index < 12 * 4**self.order:
            raise RegionError(
                f"there is no cell {self.order}/{self.index}",
                hint=f"orders are 0 to {MAX_ORDER}, indices 0 to 12 * 4**order - 1",
            )

    def __str__(self) -> str:
        return f"{self.order}/{self.index}"

    @property
    def start(self) -> int:
        """First order-29 index inside."""
        return self.index << 2 * (MAX_ORDER - self.order)

    @property
    def stop(self) -> int:
        """First order-29 index beyond."""
        return (self.index + 1) << 2 * (MAX_ORDER - self.order)

    @property
    def children(self) -> tuple["Cell", "Cell", "Cell", "Cell"]:
        """The four cells of the next order."""
        first = 4 * self.index
        return (
            Cell(self.order + 1, first),
            Cell(self.order + 1, first + 1),
            Cell(self.order + 1, first + 2),
            Cell(self.order + 1, first + 3),
        )


def cell_ranges(cells: list[Cell]) -> NDArray[np.int64]:
    """Return the order-29 ranges of `cells`, shape (n, 2), half open."""
    return np.array([(cell.start, cell.stop) for cell in cells], dtype=np.int64).reshape(-1, 2)


def index_ranges(order: NDArray[np.integer], index: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the order-29 ranges of many cells given by their orders and indices, shape (n, 2), half open."""
    first, shift = index.astype(np.int64), 2 * (MAX_ORDER - order.astype(np.int64))
    return np.stack([first << shift, (first + 1) << shift], axis=1)


def cell_area(order: int) -> float:
    """Return the area of one cell of `order` in square degrees."""
    return _SKY_DEG2 / float(12 * 4**order)


def healpix_29(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """Return the order-29 nested index of positions.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Degrees; any longitude is accepted, it wraps.

    Raises
    ------
    PositionError
        If a position is not finite or a declination lies beyond +-90.
    """
    import astropy.units as u
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    lon, lat = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
    wrong = ~(np.isfinite(lon) & (np.abs(lat) <= 90))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise PositionError(
            f"{int(wrong.sum())} of {lon.size} positions are not on the sphere",
            found=f"ra {lon[first]}, dec {lat[first]} in row {first}",
            hint="remove the rows, or ingest with bad='skip'",
        )
    # the library holds Python's lock: threads of its own are the only way to use more than one core
    threads = settings().threads if lon.size > _MANY_POSITIONS else 1
    cells = lonlat_to_healpix(Longitude(lon, u.deg), Latitude(lat, u.deg), np.uint8(MAX_ORDER), num_threads=threads)
    return np.asarray(cells).astype(np.int64)


def positions_29(index: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return right ascension and declination, degrees, of the centres of order-29 cells; shape (n,)."""
    from cdshealpix.nested import healpix_to_lonlat

    lon, lat = healpix_to_lonlat(index.astype(np.uint64), np.uint8(MAX_ORDER), num_threads=1)
    return lon.deg, lat.deg


def split_cells(index: NDArray[np.int64], rows_per_cell: int) -> list[tuple[Cell, int, int]]:
    """Return the coarsest cells that hold at most `rows_per_cell` rows each, with their rows.

    Parameters
    ----------
    index : ndarray of int64, shape (n,)
        Sorted order-29 indices.
    rows_per_cell : int
        Limit; a cell of order 29 may exceed it, because its rows share one index.

    Returns
    -------
    list of (Cell, int, int)
        Non-empty cells in the order of the sky, with the slice [first, last) of their rows.
    """
    found: list[tuple[Cell, int, int]] = []
    waiting = [Cell(0, base) for base in reversed(range(12))]
    while waiting:
        cell = waiting.pop()
        first, last = np.searchsorted(index, [cell.start, cell.stop])
        if first == last:
            continue
        if last - first <= rows_per_cell or cell.order == MAX_ORDER:
            found.append((cell, int(first), int(last)))
        else:
            waiting.extend(reversed(cell.children))
    return found
