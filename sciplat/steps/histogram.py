"""Histograms of one or two columns, by the convention of `numpy.histogram`: bins are half open, the last is closed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.steps.bins import BinCounts, count_bins, merge_bins, numbers

Range = tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Numbers of rows in bins.

    Parameters
    ----------
    counts : ndarray of int64, shape (n,) or (nx, ny)
    edges : ndarray, shape (n + 1,), or a tuple of two, shapes (nx + 1,) and (ny + 1,)
        The last bin of each axis is closed, the others are half open.
    left_out : int
        Rows that lie outside, are null, or are not a number.
    """

    counts: NDArray[np.int64]
    edges: Any
    left_out: int


@dataclass(frozen=True, eq=False)
class HistogramCounts:
    """Counts the rows in each bin; bins of two columns are numbered ``x * ny + y``.

    Parameters
    ----------
    columns : tuple of str
    edges : tuple of ndarray
        Ascending, of each column.
    """

    columns: tuple[str, ...]
    edges: tuple[NDArray[np.generic], ...] = field(repr=False)
    row_bytes: ClassVar[int] = 60

    def __call__(self, table: pa.Table) -> BinCounts:
        """Return the rows in each bin that holds some."""
        present = np.ones(table.num_rows, bool)
        for name in self.columns:
            present &= table[name].is_valid().to_numpy()
        bins, inside = np.zeros(int(present.sum()), np.int64), np.ones(int(present.sum()), bool)
        for name, edges in zip(self.columns, self.edges, strict=True):
            place = _bin_of(numbers(table[name].filter(pa.array(present))), edges)
            inside &= (place >= 0) & (place < len(edges) - 1)
            bins = bins * (len(edges) - 1) + place
        return count_bins(bins[inside], table.num_rows)

    def merged(self, parts: Sequence[BinCounts]) -> BinCounts:
        """Add up counts."""
        return merge_bins(parts)


def _bin_of(values: NDArray[np.generic], edges: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the bin of each value, beyond the last or below 0 outside; NaN sorts beyond all."""
    place = np.searchsorted(edges, values, side="right") - 1
    place[values == edges[-1]] = len(edges) - 2
    return place


@dataclass(frozen=True)
class FiniteRanges:
    """Finds the smallest and the largest finite value of each column; None where there is none."""

    columns: tuple[str, ...]
    row_bytes: ClassVar[int] = 20

    def __call__(self, table: pa.Table) -> list[Range | None]:
        """Return the range of each column."""
        return [_finite_range(numbers(table[name])) for name in self.columns]

    def merged(self, parts: Sequence[list[Range | None]]) -> list[Range | None]:
        """Return the ranges of all parts together."""
        return [_common_range([found for found in ranges if found]) for ranges in zip(*parts, strict=True)]


def _finite_range(values: NDArray[np.generic]) -> Range | None:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (finite.min(), finite.max()) if len(finite) else None


def _common_range(ranges: list[Range]) -> Range | None:
    if not ranges:
        return None
    return min(low for low, _ in ranges), max(high for _, high in ranges)
