"""What is known of a cell once its files are written, for the small files that describe the whole catalog."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sciplat.io import hats
from sciplat.io.publish import FileEntry
from sciplat.sky.cell import MAX_ORDER

_KNOTS = 1024  # of one cell's density: the rows in any part of it are known to a thousandth of it


@dataclass(frozen=True)
class CellReport:
    """What was written for one cell: small enough to travel from any worker.

    Parameters
    ----------
    files : tuple of FileEntry
    map_pixels, map_counts : ndarray of int64, shape (n,)
        HEALPix pixels of order 8 that hold rows, and how many.
    knots : ndarray of int64, shape (k, 2)
        Order-29 indices and the rows of the cell before each: how its rows are spread, in steps of equal rows.
    """

    files: tuple[FileEntry, ...]
    map_pixels: NDArray[np.int64]
    map_counts: NDArray[np.int64]
    knots: NDArray[np.int64]

    @classmethod
    def of(cls, files: Iterable[FileEntry], index: NDArray[np.int64]) -> "CellReport":
        """Return the report of a cell whose rows have these sorted order-29 indices."""
        pixels, counts = np.unique(index >> 2 * (MAX_ORDER - hats.MAP_ORDER), return_counts=True)
        return cls(tuple(files), pixels, counts.astype(np.int64), _knots(index))


def _knots(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every n-th index with the rows before it, and the end."""
    if len(index) == 0:
        return np.empty((0, 2), np.int64)
    before = np.arange(0, len(index), -(-len(index) // _KNOTS))
    return np.append(np.stack([index[before], before], axis=1), [[index[-1] + 1, len(index)]], axis=0)
