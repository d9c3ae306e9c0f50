"""How a catalog's rows are spread over the sky: the rows before some order-29 indices, in steps of equal rows.

Finer than any map where the sources are dense, and small where they are not.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sciplat.sky.coverage import Ranges

DENSITY = "density.parquet"
_MOST_KNOTS = 2_000_000


@dataclass(frozen=True, eq=False)
class Density:
    """The rows before each of some order-29 indices; between two of them rows are spread evenly.

    Parameters
    ----------
    index, before : ndarray of int64, shape (k,)
        Both ascending.
    """

    index: NDArray[np.int64]
    before: NDArray[np.int64]

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the expected rows in each of some half-open ranges of order-29 indices; (n, 2) to (n,)."""
        if len(self.index) == 0:
            return np.zeros(len(ranges))
        # np.interp would take order-29 indices for floats, of which neighbours are 512 apart
        place = np.clip(np.searchsorted(self.index, ranges) - 1, 0, len(self.index) - 2)
        width = np.maximum(self.index[place + 1] - self.index[place], 1)
        share = np.clip((ranges - self.index[place]) / width, 0, 1)
        before = self.before[place] + share * (self.before[place + 1] - self.before[place])
        rows: NDArray[np.float64] = before[:, 1] - before[:, 0]
        return rows

    def knots(self, start: int, stop: int, first_row: int, rows: int) -> NDArray[np.int64]:
        """Return the steps of one cell, as its writer gave them; shape (k, 2).

        Parameters
        ----------
        start, stop : int
            Of the cell.
        first_row, rows : int
            Rows of the catalog before the cell, and in it.
        """
        first, last = np.searchsorted(self.index, start), np.searchsorted(self.index, stop, side="right")
        before = np.clip(self.before[first:last] - first_row, 0, rows)
        inside = np.stack([self.index[first:last], before], axis=1)
        # a catalog of very many cells keeps only some of their steps
        ends = [[start, 0]] if not len(inside) or before[0] else []
        tail = [[stop, rows]] if not len(inside) or before[-1] != rows else []
        return np.array([*ends, *inside.tolist(), *tail], dtype=np.int64).reshape(-1, 2)


def encode_density(knots: Sequence[NDArray[np.int64]]) -> bytes:
    """Return the density of a whole catalog as a Parquet file.

    Parameters
    ----------
    knots : sequence of ndarray of int64, shape (k, 2)
        Of each cell: indices, and the rows of the cell before them.
    """
    cells = sorted((part for part in knots if len(part)), key=lambda part: int(part[0, 0]))
    starts = np.cumsum([0, *(int(part[-1, 1]) for part in cells)])
    parts = [part + np.array([0, start]) for part, start in zip(cells, starts, strict=False)]
    joined = np.concatenate([np.empty((0, 2), np.int64), *parts])
    step = max(-(-len(joined) // _MOST_KNOTS), 1)
    kept = np.unique(np.append(np.arange(0, len(joined), step), max(len(joined) - 1, 0)))[: len(joined)]
    sink = pa.BufferOutputStream()
    table = pa.table({"_healpix_29": joined[kept, 0], "before": joined[kept, 1]})
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, column_encoding="DELTA_BINARY_PACKED")
    return bytes(sink.getvalue())


def parse_density(data: bytes) -> Density:
    """Return the density in the bytes of a Parquet file."""
    table = pq.read_table(io.BytesIO(data), use_threads=False)
    return Density(table["_healpix_29"].to_numpy(), table["before"].to_numpy())
