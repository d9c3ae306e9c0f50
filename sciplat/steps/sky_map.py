"""Rows gathered by the cell of a HEALPix map that they lie in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.sky.cell import MAX_ORDER
from sciplat.steps.aggregate import Aggregation, Groups, Measure
from sciplat.steps.bins import BinCounts, count_bins, merge_bins

_POSITION = "_healpix_29"


@dataclass(frozen=True)
class CellCounts:
    """Counts the rows in each cell of a nested map."""

    order: int
    row_bytes: ClassVar[int] = 60

    def __call__(self, table: pa.Table) -> BinCounts:
        """Return the rows in each cell that holds some."""
        return count_bins(_cells(table, self.order), table.num_rows)

    def merged(self, parts: Sequence[BinCounts]) -> BinCounts:
        """Add up counts."""
        return merge_bins(parts)


@dataclass(frozen=True)
class CellAggregation:
    """Aggregates the rows in each cell of a nested map; `key` names their column."""

    order: int
    measure: Measure

    @property
    def key(self) -> str:
        """Name of the cells' column."""
        return f"_healpix_{self.order}_cell"

    @property
    def aggregation(self) -> Aggregation:
        """The aggregation by cell."""
        return Aggregation((self.key,), (self.measure,))

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes at most while it is reduced, beside the rows themselves."""
        return 8 + self.aggregation.row_bytes

    def __call__(self, table: pa.Table) -> Groups:
        """Return the cells that hold rows."""
        return self.aggregation(table.append_column(self.key, pa.array(_cells(table, self.order))))

    def merged(self, parts: Sequence[Groups]) -> Groups:
        """Return the cells of all parts."""
        return self.aggregation.merged(parts)


def _cells(table: pa.Table, order: int) -> NDArray[np.int64]:
    return np.asarray(table[_POSITION].to_numpy()) >> 2 * (MAX_ORDER - order)
